# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured. A subject runs in rounds; in a round each of its movers has its
turn, so that they share whatever the machine does to them meanwhile."""

import contextlib
import time

from gwtest import godwit, netns, proc, ram
from gwtest.guest_process import ProcessGuest, empty_file

from . import bed as beds
from . import host, image, layout, memory, tool
from .movers import (GodwitMover, QemuMover, expect_done, throughput_points,
                     wait_exit)

GIB = 1 << 30
MIB = 1 << 20
NS = 1e9
# Making and filling memory to send from takes longer than sending.
RAW_BYTES_MAX = 2 * GIB


def _precopy_movers():
    return [QemuMover("qemu"), *(QemuMover(f"qemu-multifd-{n}", channels=n)
                                 for n in (1, 2, 4)),
            GodwitMover("godwit", "precopy")]


def _postcopy_movers():
    return [QemuMover("qemu-postcopy", postcopy=True),
            QemuMover("qemu-postcopy-preempt", postcopy=True, preempt=True),
            GodwitMover("godwit", "postcopy")]


def _compress_movers():
    word = beds.adaptive_compression()
    return [GodwitMover("godwit-none", "precopy", compress="none"),
            GodwitMover(f"godwit-{word}", "precopy", compress=word)]


class MoveSubject:
    """A QEMU guest moved by each of the movers.

    kind    of the memory image
    busy    the guest touches pages all the time
    memory  at the destination: "warm", all of it taken and mapped beforehand (what
            QEMU's post-copy drops, and takes anew); "cold", none of it. That with
            pages of 4 KiB on both sides: a hypervisor takes back larger ones that are
            free, and then their first touch is all that is measured
    raw     plain sockets have their turn too
    """

    def __init__(self, name, what, movers, kind="random", busy=False,
                 memory="warm", raw=False):
        self.name = name
        self.what = what
        self._movers = movers
        self.kind = kind
        self.busy = busy
        self.memory = memory
        self.raw = raw

    def memory_key(self, huge):
        """Subjects with the same one share filled RAM files."""
        return ("never" if self.memory != "warm" else huge), self.kind

    def rounds(self, run, store, count):
        run.bed.use(self.kind, self.memory_key(run.huge)[0])
        movers = self._movers()
        for number in range(count):
            for mover in movers:
                run.attempt(f"{self.name}, {mover.name}",
                            lambda mover=mover: self._one(run, store, mover, number))
            if self.raw:
                run.attempt(f"{self.name}, raw", lambda: self._raw(run, store))

    def _one(self, run, store, mover, number):
        behaviour = layout.BEHAVIOUR_TOUCH if self.busy else layout.BEHAVIOUR_IDLE
        outcome = run.bed.run(mover, self.kind, behaviour,
                              self.memory != "warm", number == 0)
        entry = store.entry(self.name, mover.name,
                            {**mover.labels, "pages": self.kind,
                             "channels": outcome.moved.channels,
                             "guest": "touches pages" if self.busy else "idle",
                             "destination": self.memory})
        store.complain(f"{self.name}, {mover.name}", outcome.disturbed)
        self._note(run, store, entry, mover, outcome)

    def _note(self, run, store, entry, mover, outcome):
        moved = outcome.moved
        since = moved.stopped if mover.postcopy else moved.began
        size = run.bed.size
        store.add(entry, throughput=size / (moved.ended - since),
                  total=moved.ended - moved.began,
                  cpu=outcome.cpu_seconds / (size / GIB),
                  blackout=(moved.resumed - moved.stopped) * NS)
        if moved.progress:
            entry.series.append({
                "name": f"throughput, {self.name}, {mover.name}", "labels": entry.labels,
                "unit": "bytes/s", "points": throughput_points(moved.progress)})
        if self.busy and mover.postcopy:
            self._note_stalls(run, store, entry, outcome)
        elif self.busy:
            self._note_touches(store, entry, outcome.touched_before,
                               moved.stopped - moved.began)

    @staticmethod
    def _note_touches(store, entry, touches, seconds):
        store.add(entry, touch_rate=touches.count / seconds,
                  touch_p99=touches.percentile(99))
        store.add_histogram(entry, "touches of a page while its memory moves", touches)

    def _note_stalls(self, run, store, entry, outcome):
        """What the guest saw of post-copy: `touched_after` is all since its memory
        began to come."""
        touches = outcome.touched_after
        self._note_touches(store, entry, touches,
                           outcome.moved.ended - outcome.moved.resumed)
        stalls = touches.at_least(run.bed.calibration.miss_ns)
        if not stalls.count:
            raise tool.ToolError("the guest missed no page: nothing to measure")
        store.add(entry, stall_mean=stalls.mean, stall_p50=stalls.percentile(50),
                  stall_p99=stalls.percentile(99), stall_max=stalls.highest)
        store.add_histogram(entry, "touches of a page that was missing", stalls)

    def _raw(self, run, store):
        """As many plain streams as godwit had, into the same memory."""
        mine = store.find(self.name, "godwit")
        channels = mine.labels["channels"] if mine else 2
        file = run.bed.destination_file
        results = tool.bench(run.workspace, "raw", "--channels", channels, "--transport",
                             "tcp", "--pages", "random", "--repeat", 1, "--size",
                             min(RAW_BYTES_MAX, run.bed.size), "--ram", file.path)
        entry = store.entry(self.name, "raw", {"by": "raw sockets", "channels": channels})
        store.add(entry, throughput=tool.one(results, "raw", "throughput")["median"])
        for result in tool.pick(results, "raw", "cpu"):
            store.add(entry, cpu=result["median"])
        if mine:
            mine.ceilings["throughput"] = (f"raw sockets, {channels} streams",
                                           entry.median("throughput"))


class ProcessMove:
    """A plain process with one RAM file, moved by godwit; ended and compared."""

    def __init__(self, workspace, here, there, network=None):
        self.workspace = workspace
        self.network = network
        self.files = here, there
        self.peak = {}
        self.seconds = 0.0
        self.stats = {}

    def run(self, **options):
        first = len(self.workspace.processes)
        try:
            self._move(options)
        finally:
            for process in self.workspace.processes[first:]:
                process.kill()
        if difference := ram.compare(*self.files):
            raise beds.WrongPages(str(difference))
        return self

    def _move(self, options):
        here, there = (self.network.a, self.network.b) if self.network else (None, None)
        source = ProcessGuest(self.workspace, "source", [self.files[0]], netns=here)
        destination = ProcessGuest(self.workspace, "destination", [self.files[1]],
                                   waits=True, netns=there)
        listen = (f"{self.network.address4[there]}:0" if self.network
                  else "127.0.0.1:0")
        receiver = godwit.receive(self.workspace, destination, listen, netns=there)
        began = time.time()
        sender = godwit.send(self.workspace, source, receiver.listens_at, netns=here,
                             **options)
        self.seconds = wait_exit(sender.process, beds.RUN_SECONDS,
                                 lambda: self._look(sender, receiver)) - began
        expect_done(sender)
        wait_exit(receiver.process, beds.RUN_SECONDS)
        expect_done(receiver)
        self.stats = {"send": sender.stats, "receive": receiver.stats}

    def _look(self, *commands):
        """The most that each has taken: its own and page tables, but not the guest
        memory that it has mapped."""
        for command in commands:
            use = proc.memory(command.pid)
            self.peak[command.verb] = max(self.peak.get(command.verb, 0),
                                          use["anonymous"] + use["page_tables"])


class SparseSubject:
    """The same data in a small guest and in one of 1 TiB that is nearly all holes."""

    name = "sparse"
    what = "1 TiB of holes with 1 GiB of data against 2 GiB with as much"
    SIZES = {"2 GiB": 2 * GIB, "1 TiB": 1024 * GIB}
    DATA = GIB
    PIECE = 2 * MIB

    def memory_key(self, _huge):
        return "never", "sparse"

    def _make(self, path, size, data, seed):
        """`data` bytes, spread evenly."""
        block = image.block_of("random", seed)
        pieces = data // self.PIECE
        with open(empty_file(path, size), "r+b") as file:
            for number in range(pieces):
                at = number * self.PIECE % image.BLOCK
                file.seek(number * (size // pieces))
                file.write(memoryview(block)[at:at + self.PIECE])

    def rounds(self, run, store, count):
        data = min(self.DATA, run.bed.size // 2)
        with run.bed.folder(3 * data + beds.SPARE_BYTES) as folder:
            for name, size in self.SIZES.items():
                self._make(folder / name, size, data, run.seed)
            for _ in range(count):
                for name, size in self.SIZES.items():
                    run.attempt(f"sparse, {name}",
                                lambda name=name, size=size: self._one(
                                    run, store, folder, name, size))

    def _one(self, run, store, folder, name, size):
        # what the last run left is given back first: memory stays warm
        there = empty_file(folder / "destination", size)
        move = ProcessMove(run.workspace, folder / name, there).run(mode="precopy")
        entry = store.entry("sparse", name, {"by": "godwit", "size": name})
        # of the side that takes more
        peak, bitmaps = max((move.peak[verb], stats["bitmap_bytes"])
                            for verb, stats in move.stats.items())
        store.add(entry, total=move.seconds, memory=peak, bitmaps=bitmaps)


class LinkSubject:
    """Memory that compresses 2:1, over a link of 1 Gb/s, with and without LZ4."""

    name = "compress-link"
    what = "2:1 data over a link of 1 Gb/s, with and without compression"
    RATE = "1gbit"
    SIZE = GIB

    def memory_key(self, _huge):
        return "never", "link"

    def rounds(self, run, store, count):
        if reason := netns.unavailable():
            raise tool.ToolError(reason)
        size = min(self.SIZE, run.bed.size)
        words = ("none", beds.adaptive_compression())
        with run.bed.folder(2 * size + beds.SPARE_BYTES) as folder, \
                netns.NetnsPair(self.RATE) as network:
            files = _text_pair(folder, size, run.seed)
            for _ in range(count):
                for word in words:
                    run.attempt(f"compress-link, {word}",
                                lambda word=word: self._one(run, store, files, network,
                                                            size, word))

    def _one(self, run, store, files, network, size, word):
        empty_file(files[1], size)
        move = ProcessMove(run.workspace, *files, network)
        move.run(mode="precopy", compress=word)
        entry = store.entry(self.name, f"godwit-{word}",
                            {"by": "godwit", "compress": word, "rate": self.RATE})
        store.add(entry, throughput=size / move.seconds, total=move.seconds)


def _text_pair(folder, size, seed):
    """A file of text, and the path of an empty one."""
    here, there = folder / "source", folder / "destination"
    with contextlib.closing(memory.RamFile(here, size)) as file:
        text = image.Image("text", size, seed)
        text.fill(file)
        text.stamp(file, 0)
    return here, there


class FaultSubject:
    """What one missing page costs, with its ceiling."""

    name = "fault"
    what = "one remote fault, nothing else going on (godwit bench)"
    SIZE = GIB

    def memory_key(self, _huge):
        return "never", "none"

    def rounds(self, run, store, count):
        with run.bed.folder(beds.SPARE_BYTES):
            run.attempt(self.name, lambda: self._measure(run, store, count))

    def _measure(self, run, store, count):
        results = tool.bench(run.workspace, "fault", "--repeat", count, "--size",
                             min(self.SIZE, run.bed.size))
        # as a thread of the guest sees it, and not the engine
        result = tool.one(results, "fault", "p50", push="idle", seen="guest")
        if not result["ceiling"]:
            raise tool.ToolError("godwit bench fault gave no ceiling")
        entry = store.entry("fault", "godwit", {"by": "godwit", **result["labels"]})
        store.add_all(entry, "p50", result["runs"])
        entry.ceilings["p50"] = (result["ceiling"]["what"], result["ceiling"]["median"])


class DirtySubject:
    """What a scan costs that finds a page in a thousand written."""

    name = "dirty"
    what = "finding 0.1 % of written pages (godwit bench)"
    SIZE = 16 * GIB
    # 16 GiB go with a guest of 4
    OF_GUEST = 4

    def memory_key(self, _huge):
        return "never", "none"

    def rounds(self, run, store, count):
        # the RAM files are given back first: there would not be room for both
        with run.bed.folder(beds.SPARE_BYTES):
            run.attempt(self.name, lambda: self._measure(run, store, count))

    def _measure(self, run, store, count):
        size = min(self.SIZE, self.OF_GUEST * run.bed.size)
        while size > host.available_bytes() * 3 // 4:
            size //= 2
        results = tool.bench(run.workspace, "dirty", "--repeat", count, "--size", size)
        result = tool.one(results, "dirty", "scan")
        entry = store.entry("dirty", "godwit", {"by": "godwit", "size": size})
        store.add_all(entry, "scan", result["runs"])


def all_subjects():
    """Every subject by its name, in the order they are best run in."""
    subjects = [
        MoveSubject("precopy-random", "incompressible memory, destination warm",
                    _precopy_movers, raw=True),
        MoveSubject("precopy-touched", "the same while the guest touches pages",
                    _precopy_movers, busy=True),
        MoveSubject("compress-random", "incompressible memory, compression on and off",
                    _compress_movers),
        MoveSubject("postcopy-random", "post-copy under a guest that touches pages",
                    _postcopy_movers, busy=True),
        MoveSubject("postcopy-idle", "post-copy of a guest that sleeps",
                    _postcopy_movers),
        MoveSubject("precopy-half", "half of memory is zero pages", _precopy_movers,
                    kind="half"),
        MoveSubject("postcopy-half", "post-copy, half of memory is zero pages",
                    _postcopy_movers, kind="half", busy=True),
        MoveSubject("precopy-text", "memory that compresses 2:1", _precopy_movers,
                    kind="text"),
        MoveSubject("compress-text", "2:1 memory, compression on and off",
                    _compress_movers, kind="text"),
        MoveSubject("precopy-cold", "incompressible memory, destination taken anew in "
                    "4 KiB pages", _precopy_movers, memory="cold"),
        MoveSubject("postcopy-cold", "post-copy under a guest that touches pages, "
                    "destination empty, 4 KiB pages", _postcopy_movers, busy=True,
                    memory="cold"),
        LinkSubject(),
        SparseSubject(),
        FaultSubject(),
        DirtySubject(),
    ]
    return {subject.name: subject for subject in subjects}
