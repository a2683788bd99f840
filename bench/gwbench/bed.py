# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the subjects run: RAM files that are kept warm, a source and a destination
for each run, and a look at the memory that arrived."""

import contextlib
import dataclasses
import subprocess

from gwtest import godwit, qemu

from . import guest, host, image, layout, memory
from .guest import BareQemu, Calibration, Results
from .hist import Histogram

RUN_SECONDS = 60
# Everything is compared up to this size, beyond it the stamp of each page.
COMPARE_ALL_MAX = 1 << 30
COMPARE_CHUNK = 16 << 20
# `godwit bench raw` makes one of its own, to send from.
FILES_OF_SIZE = 3
SPARE_BYTES = 64 << 20
CALIBRATION_TOUCHES = 10_000


class WrongPages(Exception):
    """Memory did not arrive as it was."""


@dataclasses.dataclass
class Outcome:
    """One run with one mover."""
    moved: object  # movers.Moved
    cpu_seconds: float
    disturbed: str  # why the machine was not quiet; "" when it was
    # touches of the guest, and how long it touched: at the source while its memory
    # moved, and at the destination until it was all there
    touched_before: Histogram
    touched_after: Histogram


class Bed:
    """Holds everything that outlives a run. `use()` chooses the memory image,
    `run()` moves a guest once."""

    def __init__(self, workspace, binary, size, seed, accel):
        self.workspace = workspace
        self.binary = binary
        self.size = size
        self.seed = seed
        self.kernel = guest.build(workspace.dir)
        self.calibration = None
        self._numbers = 0
        self._images = {}
        self._stack = contextlib.ExitStack()
        self._huge = None
        self._filled = None
        self._files = ()
        self.accel = accel if accel != "auto" else self._find_accelerator()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._stack.close()

    # ---- memory ----

    @contextlib.contextmanager
    def folder(self, size, huge="never"):
        """A tmpfs for a while, instead of that of the two RAM files."""
        self._give_up()
        with memory.tmpfs(self.workspace.dir / "memory", size, huge) as folder:
            yield folder

    def _give_up(self):
        self._stack.close()
        self._huge = self._filled = None
        self._files = ()

    def _take(self, huge):
        self._give_up()
        folder = self._stack.enter_context(memory.tmpfs(
            self.workspace.dir / "memory", FILES_OF_SIZE * self.size + SPARE_BYTES, huge))
        for name in ("source", "destination"):
            ram = self._stack.enter_context(contextlib.closing(
                memory.RamFile(folder / name, self.size)))
            if huge == "never":
                keeper = self._stack.enter_context(open(folder / f"{name}-keeper", "wb"))
                memory.take_in_pieces(ram, keeper)
            self._files += (ram,)
        self._huge = huge

    def image(self, kind):
        if kind not in self._images:
            # one at a time: a block takes 64 MiB
            self._images = {kind: image.Image(kind, self.size, self.seed)}
        return self._images[kind]

    def use(self, kind, huge):
        """Make the source's file an image of this kind, on huge pages or not."""
        if self._huge != huge:
            self._take(huge)
        if self._filled != kind:
            self.image(kind).fill(self._files[0])
        self._filled = kind

    @property
    def destination_file(self):
        return self._files[1]

    # ---- guests ----

    def _find_accelerator(self):
        size = guest.PROBE_MEMORY
        with memory.tmpfs(self.workspace.dir / "probe", size + SPARE_BYTES,
                          "never") as folder, \
                contextlib.closing(memory.RamFile(folder / "probe", size)) as ram:
            return guest.accelerator(self.workspace, self.binary, self.kernel, ram)

    def _qemu(self, name, ram, **options):
        self._numbers += 1
        return BareQemu(self.workspace, f"{name}{self._numbers}", ram, self.kernel,
                        binary=self.binary, accel=self.accel, **options)

    def calibrate(self):
        """Measured once: what a touch takes when nothing is missing."""
        if self.calibration:
            return
        source = self._files[0]
        guest.write_control(source, layout.BEHAVIOUR_TOUCH, 0)
        probe = self._qemu("calibration", source, prealloc=True)
        try:
            probe.start().wait_alive(CALIBRATION_TOUCHES)
            self.calibration = Calibration(source)
        finally:
            probe.kill()

    # ---- one run ----

    def run(self, mover, kind, behaviour, empty=False, watch_progress=False):
        """Move a fresh guest with `mover`; an Outcome. The destination's file is
        `empty`, or all there and mapped beforehand."""
        touches = behaviour == layout.BEHAVIOUR_TOUCH
        if touches:
            self.calibrate()
        epoch = self._prepare_memory(kind, behaviour, empty)
        guests = [self._qemu("source", self._files[0], prealloc=True),
                  self._qemu("destination", self._files[1], prealloc=not empty,
                             incoming=True)]
        others = len(self.workspace.processes)
        try:
            for one in guests:
                one.start()
            guests[0].wait_alive(CALIBRATION_TOUCHES if touches else 0)
            outcome = self._move(mover, *guests, watch_progress)
            self._check(kind, epoch, *guests)
            return outcome
        finally:
            for process in self.workspace.processes[others:]:
                process.kill()
            for one in guests:
                one.kill()

    def _prepare_memory(self, kind, behaviour, empty):
        source, destination = self._files
        epoch = self._numbers
        self.image(kind).stamp(source, epoch)
        guest.write_control(source, behaviour, self.image(kind).stamp_base(epoch),
                            zero_rule=kind == "half")
        # godwit refuses a guest whose memory somebody else may write
        for ram in self._files:
            ram.unmap()
        # memory in small pages, or holes that would become such, make runs differ
        if empty or destination.has_holes() or (self._huge == "always" and
                                                not destination.is_huge()):
            destination.give_back()
        # QEMU takes it for granted that the destination's memory is zero: with
        # multifd, zero pages are not written there
        if not empty:
            destination.zero()
        return epoch

    def _move(self, mover, source, destination, watch_progress):
        hz = self.calibration.hz if self.calibration else 1e9
        prepared = mover.prepare(self.workspace, source, destination)
        first = Results(source.ram, hz).histogram
        watch = host.Watch([source.pid, destination.pid])
        moved = mover.move(prepared, source, destination, RUN_SECONDS, watch_progress)
        watch.stop()
        destination.stop()
        # the source's file is as the guest left it when it was stopped
        between = Results(source.ram, hz).histogram
        last = Results(destination.ram, hz).histogram
        return Outcome(moved, watch.ours(), watch.complaint(), between.minus(first),
                       last.minus(between))

    # ---- proof ----

    def _check(self, kind, epoch, source, destination):
        """All pages arrived, and the guest saw none that was wrong."""
        for one in (source, destination):
            if wrong := Results(one.ram, 1).wrong:
                raise WrongPages(f"the guest saw {wrong} wrong pages at {one.name}")
        first = layout.GUEST_FIRST_FREE // image.PAGE
        here, there = image.stamps_in(source.ram), image.stamps_in(destination.ram)
        if here[first:] != there[first:]:
            wrong = sum(map(int.__ne__, here[first:], there[first:]))
            raise WrongPages(f"{wrong} of {len(here) - first} pages are wrong")
        self._check_image(here, self.image(kind).stamps(epoch))
        if self.size <= COMPARE_ALL_MAX:
            _compare(source.ram, destination.ram)

    def _check_image(self, found, stamps):
        """The source really held this run's image when it was moved."""
        first = layout.GUEST_FIRST_FREE // image.PAGE
        firmware = guest.firmware_pages(self.size)
        for part in (slice(first, firmware.start), slice(firmware.stop, None)):
            if found[part] != stamps[part]:
                raise WrongPages("the source's memory is not the image")


def _compare(here, there):
    for at in range(layout.GUEST_FIRST_FREE, here.size, COMPARE_CHUNK):
        if here.read(at, COMPARE_CHUNK) != there.read(at, COMPARE_CHUNK):
            raise WrongPages(f"memory differs between offsets {at:#x} and "
                             f"{at + COMPARE_CHUNK:#x}")


def version_of(binary):
    return ".".join(map(str, qemu.version(binary)))


def adaptive_compression():
    """The word for compression that decides by itself; plain LZ4 where this godwit
    has none."""
    text = subprocess.run([godwit.binary(), "send", "--help"], capture_output=True,
                          text=True, check=True).stdout
    choices = text.partition("--compress ")[2].split(None, 1)[0].split("|")
    return "auto" if "auto" in choices else "lz4"
