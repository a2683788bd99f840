#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that can be wrong before COMMIT, and what a user gets for it: a clear
error, the documented exit status, a source guest that runs on with its memory
untouched, and nothing left behind."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from gwtest import (console, godwit, guest_process, proc, qemu, ram,  # noqa: E402
                    runner, wire)
from gwtest.godwit import CANCELLED, DONE, FAILED, PAUSED, TIMED_OUT  # noqa: E402
from gwtest.guest_process import ProcessGuest, empty_file  # noqa: E402
from gwtest.wire import TO_DESTINATION, TO_SOURCE  # noqa: E402

MIB = 1 << 20
SIZE = 32 * MIB
# with this there is a middle of more than a second
SLOW = "10M"


class Bench:
    """A process as source, whose memory must not change, and one as destination;
    with `reads` that one looks at all of its memory, in random order."""

    def __init__(self, workspace, source_size=SIZE, destination_size=SIZE,
                 destination_folder=None, reads=False):
        self.workspace = workspace
        folder = pathlib.Path(destination_folder or workspace.ram)
        here = guest_process.Images(workspace).copy(workspace.ram / "source", "half",
                                                    source_size)
        self.before = workspace.ram / "before"
        shutil.copyfile(here, self.before)
        there = empty_file(folder / "destination", destination_size)
        self.source = ProcessGuest(workspace, "source", [here])
        self.destination = ProcessGuest(workspace, "destination", [there],
                                        others=[self.before] if reads else (),
                                        rest_us=300, waits=True)

    def receive(self, *arguments, **options):
        return godwit.receive(self.workspace, self.destination, "127.0.0.1:0",
                              *arguments, **options)

    def send(self, to, *arguments, **options):
        return godwit.send(self.workspace, self.source, to, *arguments,
                           **{"mode": "precopy", **options})

    def check_source(self):
        """The source runs, its memory is what it was, and nobody tracks it."""
        if not self.source.process.running():
            raise AssertionError("the source has ended")
        if self.source.stopped():
            raise AssertionError("the source does not run")
        if found := ram.compare(self.before, self.source.ram_path):
            raise AssertionError(f"the source's memory has changed: {found}")

    def check(self, may_run=()):
        """Nothing but the guests (and what `may_run`) is left."""
        self.check_source()
        self.check_left(may_run)

    def check_left(self, may_run=()):
        guests = [guest for guest in (self.source, self.destination)
                  if guest.process.running()]
        if left := godwit.leftovers(self.workspace, [*guests, *may_run]):
            raise AssertionError(f"left behind: {left}")

    def check_works(self, **options):
        """The same two guests can be moved after all."""
        receiver = self.receive()
        sender = self.send(receiver.listens_at, **options)
        sender.wait()
        receiver.wait()
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        if found := ram.compare(self.source.ram_path, self.destination.ram_path):
            raise AssertionError(f"moved after all, but: {found}")


@contextlib.contextmanager
def bench(**options):
    with proc.Workspace() as workspace:
        yield Bench(workspace, **options)


# ---- nobody there, or somebody else ----

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_wrong_port():
    """A send to a port where nobody listens says so and fails"""
    with bench() as b:
        sender = b.send(f"127.0.0.1:{free_port()}", connect_timeout="2s")
        sender.wait(20)
        godwit.expect(sender, FAILED, "refused", "127.0.0.1")
        b.check()


def test_no_route():
    """A send to a host that does not answer gives up after --connect-timeout"""
    # listening, but its backlog is full: the kernel answers no SYN
    with bench() as b, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = "127.0.0.1:%d" % full.getsockname()[1]
        others = []
        for _ in range(4):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(full.getsockname())
            others.append(other)
        began = time.monotonic()
        sender = b.send(address, connect_timeout="2s")
        sender.wait(20)
        for other in others:
            other.close()
        godwit.expect(sender, FAILED, "timed out")
        if not 1.5 < time.monotonic() - began < 6:
            raise AssertionError(f"gave up after {time.monotonic() - began:.1f} s")
        b.check()


def test_peer_closes_at_once():
    """A peer that closes at once is named as one that is no waiting godwit"""
    with bench() as b, wire.Closer() as server:
        sender = b.send(server.address)
        sender.wait(20)
        godwit.expect(sender, FAILED, "closed the connection", server.address)
        b.check()


def test_silent_peer():
    """A peer that accepts and says nothing is given up after --connect-timeout"""
    with bench() as b, wire.Silence() as server:
        sender = b.send(server.address, connect_timeout="1s")
        sender.wait(20)
        godwit.expect(sender, FAILED, "in time", server.address)
        b.check()


def test_peer_speaks_something_else():
    """An answer that is not godwit's is recognised"""
    with bench() as b, wire.Speaker(b"HTTP/1.1 400 Bad Request\r\n" * 20) as server:
        sender = b.send(server.address)
        sender.wait(20)
        godwit.expect(sender, FAILED, "not a godwit")
        b.check()


def test_receive_without_a_sender():
    """A receive without a sender ends after --timeout with its own exit status"""
    with bench() as b:
        began = time.monotonic()
        receiver = b.receive("--timeout", "1s")
        receiver.wait(20)
        godwit.expect(receiver, TIMED_OUT, "no source")
        if not 0.9 < time.monotonic() - began < 4:
            raise AssertionError(f"gave up after {time.monotonic() - began:.1f} s")
        b.check()


def test_strangers_do_not_disturb_a_receive():
    """Port scanners, garbage and idlers do not keep a receive from its source"""
    with bench() as b:
        receiver = b.receive("--connect-timeout", "1s")
        generator = random.Random(1)
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n" * 10, generator.randbytes(4096),
                     wire.hello()[:40], wire.hello(magic=b"GODWIT\n\n")):
            with wire.connect(receiver.listens_at) as stranger:
                with contextlib.suppress(OSError):
                    stranger.sendall(data)
        idle = wire.connect(receiver.listens_at)
        sender = b.send(receiver.listens_at)
        sender.wait(20)
        receiver.wait(20)
        idle.close()
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        b.check_left()


# ---- the handshake ----

def answer_of(receiver, *hellos):
    """What a receive says to these bytes."""
    with wire.connect(receiver.listens_at) as connection:
        connection.sendall(b"".join(hellos))
        return wire.receive_exactly(connection, wire.WELCOME.size)


def test_wrong_version_from_the_source():
    """A source of another protocol version is refused with the reason, at both ends"""
    with bench() as b:
        receiver = b.receive("--timeout", "20s")
        welcome = answer_of(receiver, wire.hello(version=99, oldest=98))
        fields = wire.WELCOME.unpack(welcome)
        if fields[2] == wire.STATUS_OK or b"98" not in fields[6]:
            raise AssertionError(f"not refused with a reason: {fields}")

        def newer(_kind, direction, offset, data):
            if direction == TO_DESTINATION:
                data = wire.patch(data, offset, 8, bytes((99, 0, 98, 0)))
            return data

        with wire.Proxy(receiver.listens_at, newer) as proxy:
            sender = b.send(proxy.address)
            sender.wait(20)
        godwit.expect(sender, FAILED, "no common protocol version", "98")
        receiver.interrupt()
        receiver.wait(20)
        b.check()


def test_wrong_version_from_the_destination():
    """A destination of another protocol version is refused by the source"""
    def newer(_kind, direction, offset, data):
        if direction == TO_SOURCE:
            data = wire.patch(data, offset, 8, bytes((99, 0)))
        return data

    with bench() as b:
        receiver = b.receive("--timeout", "20s")
        with wire.Proxy(receiver.listens_at, newer) as proxy:
            sender = b.send(proxy.address)
            sender.wait(20)
        godwit.expect(sender, FAILED, "protocol version")
        receiver.interrupt()
        receiver.wait(20)
        b.check()


def test_unknown_required_feature():
    """A feature that the destination must know and does not is refused"""
    with bench() as b:
        receiver = b.receive("--timeout", "20s")
        fields = wire.WELCOME.unpack(answer_of(receiver, wire.hello(required=1 << 40)))
        if fields[2] == wire.STATUS_OK or b"feature" not in fields[6]:
            raise AssertionError(f"not refused with a reason: {fields}")
        receiver.interrupt()
        receiver.wait(20)
        b.check()


def wrong_secret(kind, mode):
    """A further channel whose proof is wrong by one bit."""
    def spoil(channel, direction, offset, data):
        at = wire.HELLO.size
        if channel == kind and direction == TO_DESTINATION and \
                offset <= at < offset + len(data):
            data = wire.patch(data, offset, at, bytes((data[at - offset] ^ 1,)))
        return data

    with bench() as b:
        receiver = b.receive("--timeout", "20s")
        with wire.Proxy(receiver.listens_at, spoil) as proxy:
            sender = b.send(proxy.address, mode=mode, channels=2)
            sender.wait(20)
            receiver.wait(20)
        godwit.expect(sender, FAILED, "secret")
        godwit.expect(receiver, FAILED)
        b.check()


def test_wrong_secret_bulk():
    """A bulk channel that does not prove the secret is refused"""
    wrong_secret(wire.BULK, "precopy")


def test_wrong_secret_urgent():
    """An urgent channel that does not prove the secret is refused"""
    wrong_secret(wire.URGENT, "postcopy")


def test_wrong_secret_from_the_destination():
    """A destination that does not know the secret gets no pages"""
    def spoil(channel, direction, offset, data):
        at = wire.WELCOME.size + 8
        if channel == wire.BULK and direction == TO_SOURCE and \
                offset <= at < offset + len(data):
            data = wire.patch(data, offset, at, bytes((data[at - offset] ^ 1,)))
        return data

    with bench() as b:
        receiver = b.receive("--timeout", "20s")
        with wire.Proxy(receiver.listens_at, spoil) as proxy:
            sender = b.send(proxy.address)
            sender.wait(20)
            receiver.wait(20)
        godwit.expect(sender, FAILED, "secret")
        godwit.expect(receiver, FAILED)
        b.check()


def test_stranger_during_a_migration():
    """A stranger who connects while a migration runs is refused and changes nothing"""
    with bench() as b:
        receiver = b.receive()
        sender = b.send(receiver.listens_at, bandwidth=SLOW)
        sender.wait_moving()
        generator = random.Random(2)
        for data in (wire.hello(), wire.hello(kind=wire.BULK),
                     wire.hello(kind=wire.URGENT), generator.randbytes(500)):
            with contextlib.suppress(OSError), \
                    wire.connect(receiver.listens_at, 1) as stranger:
                stranger.sendall(data)
                wire.receive_exactly(stranger, 1)
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        if found := ram.compare(b.source.ram_path, b.destination.ram_path):
            raise AssertionError(f"{found}")


# ---- garbage on every channel ----

def garbage_test(name, direction, mode, after):
    """Bytes that belong nowhere, `after` bytes into a channel's direction."""
    kind = wire.CHANNELS[name]

    def test():
        generator = random.Random(3)
        spoiled = []

        def spoil(channel, towards, offset, data):
            if channel != kind or towards != direction or spoiled:
                return data
            if after < offset + len(data):
                spoiled.append(offset)
                return data + generator.randbytes(4096)
            return data

        with bench() as b:
            receiver = b.receive("--timeout", "20s")
            with wire.Proxy(receiver.listens_at, spoil) as proxy:
                # slow and hybrid: the switch must not come before the garbage
                sender = b.send(proxy.address, mode=mode, bandwidth=SLOW,
                                peer_timeout="5s")
                sender.wait(30)
                receiver.wait(30)
            if not spoiled:
                raise AssertionError("no garbage was sent")
            for command in (sender, receiver):
                godwit.expect(command, FAILED)
                if not any(word in command.error for word in
                           ("malformed", "channel", "closed", "gave up", "sent")):
                    raise AssertionError(f"{command.verb}: unclear: {command.error}")
            b.check()

    test.__doc__ = f"Garbage on the {name} channel {direction} fails cleanly"
    return test


_HANDSHAKE_TO_SOURCE = wire.WELCOME.size + wire.ACCEPT_LEN
_HANDSHAKE_TO_DESTINATION = wire.HELLO.size + wire.PROOF_LEN
for _name in wire.CHANNELS:
    for _direction, _after in ((TO_DESTINATION, _HANDSHAKE_TO_DESTINATION),
                               (TO_SOURCE, _HANDSHAKE_TO_SOURCE)):
        if _name == "bulk" and _direction == TO_SOURCE:
            continue  # nothing is read there: see below
        # the last byte of the handshake: the garbage follows it
        globals()[f"test_garbage_{_name}_{_direction.replace(' ', '_')}"] = \
            garbage_test(_name, _direction, "hybrid", _after - 1)


def test_garbage_before_setup():
    """A source that proves itself and then talks nonsense ends the receive"""
    generator = random.Random(4)
    with bench() as b:
        for data in (generator.randbytes(2000), b"\1\0\0\0\xff\xff\xff\xff",
                     b"\1\0\0\0\0\0\0\0", b"\12\0\0\0\0\0\0\0"):
            receiver = b.receive("--timeout", "20s")
            with wire.connect(receiver.listens_at) as source:
                source.sendall(wire.hello() + b"k" * wire.PROOF_LEN)
                wire.receive_exactly(source, _HANDSHAKE_TO_SOURCE)
                source.sendall(data)
                receiver.wait(20)
            godwit.expect(receiver, FAILED)
        b.check()


def test_bad_page_frames():
    """Frames that lie about regions, units, masks and lengths are refused"""
    def frame(kind=1, encoding=0, region=0, payload=4096, unit=0, count=512, data=1,
              zero=0):
        words = [data] + [0] * 7 + [zero] + [0] * 7
        header = bytes((kind, encoding)) + region.to_bytes(2, "little") + \
            payload.to_bytes(4, "little") + unit.to_bytes(8, "little") + \
            count.to_bytes(8, "little")
        return header + b"".join(word.to_bytes(8, "little") for word in words)

    lies = {
        "no such region": frame(region=1),
        "past the end": frame(unit=SIZE // ram.PAGE),
        "far past the end": frame(unit=(1 << 64) - 512),
        "no multiple of an extent": frame(unit=1),
        "bits past the count": frame(count=4, data=0x11, payload=8192),
        "both data and zero": frame(zero=1),
        "a wrong length": frame(payload=8192),
        "an unknown type": frame(kind=9),
        "an unknown encoding": frame(encoding=7),
        "an LZ4 block that is none": frame(encoding=1, payload=64) + b"\xff" * 64,
        "a zero range past the end": frame(kind=2, payload=0, data=0, unit=1,
                                           count=1 << 40),
        "an endless zero range": frame(kind=2, payload=0, data=0, unit=1,
                                       count=(1 << 64) - 1),
    }
    with bench() as b:
        for what, lie in lies.items():
            def spoil(channel, towards, offset, data, lie=lie):
                at = _HANDSHAKE_TO_DESTINATION
                if channel == wire.BULK and towards == TO_DESTINATION and \
                        at < offset + len(data):
                    return data[:max(0, at - offset)] + lie + bytes(65536)
                return data

            receiver = b.receive("--timeout", "20s")
            with wire.Proxy(receiver.listens_at, spoil) as proxy:
                sender = b.send(proxy.address, channels=1, compress="lz4",
                                peer_timeout="5s")
                sender.wait(20)
                receiver.wait(20)
            try:
                godwit.expect(sender, FAILED)
                godwit.expect(receiver, FAILED)
                b.check()
            except Exception as error:
                raise AssertionError(f"{what}: {error}") from error


def test_bad_page_requests():
    """Requests for memory that is not there are refused by the source"""
    with bench() as b:
        for region, unit in ((1, 0), (0, SIZE // ram.PAGE), (0, (1 << 64) - 1)):
            request = region.to_bytes(8, "little") + unit.to_bytes(8, "little")

            def spoil(channel, towards, offset, data, request=request):
                if channel == wire.URGENT and towards == TO_SOURCE and \
                        offset + len(data) >= _HANDSHAKE_TO_SOURCE:
                    return data + request
                return data

            receiver = b.receive("--timeout", "20s")
            with wire.Proxy(receiver.listens_at, spoil) as proxy:
                sender = b.send(proxy.address, mode="hybrid", bandwidth=SLOW,
                                peer_timeout="5s")
                sender.wait(20)
                receiver.wait(20)
            godwit.expect(sender, FAILED, "not there")
            godwit.expect(receiver, FAILED)
            b.check()


# ---- links that are cut ----

def test_cut_before_commit():
    """A channel that is cut during pre-copy fails both sides, and the source runs on"""
    for name in wire.CHANNELS:
        def spoil(channel, towards, offset, data, kind=wire.CHANNELS[name]):
            early = 500 if kind != wire.BULK else 4 * MIB
            late = channel == kind and towards == TO_DESTINATION and offset > early
            return None if late else data

        if name == "urgent":
            continue  # silent before the switch: nothing passes that could be cut
        with bench() as b:
            receiver = b.receive("--timeout", "20s")
            with wire.Proxy(receiver.listens_at, spoil) as proxy:
                sender = b.send(proxy.address, bandwidth=SLOW, peer_timeout="5s")
                if name == "control":
                    # it carries nothing meanwhile, so it is cut from here
                    sender.wait_moving()
                    proxy.close()
                sender.wait(30)
                receiver.wait(30)
            godwit.expect(sender, FAILED)
            godwit.expect(receiver, FAILED)
            b.check()


def test_cut_after_commit():
    """A link that is cut in post-copy pauses both sides: nobody runs twice"""
    def spoil(channel, towards, offset, data):
        cut = channel == wire.BULK and towards == TO_DESTINATION and offset > 4 * MIB
        return None if cut else data

    with bench() as b:
        receiver = b.receive("--timeout", "20s")
        with wire.Proxy(receiver.listens_at, spoil) as proxy:
            sender = b.send(proxy.address, mode="postcopy", bandwidth=SLOW, channels=1,
                            peer_timeout="3s")
            sender.wait(30)
            receiver.wait(30)
        godwit.expect(sender, PAUSED)
        godwit.expect(receiver, PAUSED)
        if not b.source.stopped():
            raise AssertionError("the source runs on although the guest has moved")
        if found := ram.compare(b.before, b.source.ram_path):
            raise AssertionError(f"the source lost what the destination lacks: {found}")
        if not proc.userfaultfds(b.destination.pid):
            raise AssertionError("the destination would read zeroes for missing pages")


# (channel, direction, bytes among which to cut): all messages of the handshake and
# after it; pages come in the thousands
CUTS = ((wire.CONTROL, TO_DESTINATION, 0, 440), (wire.CONTROL, TO_SOURCE, 0, 520),
        (wire.CONTROL, TO_DESTINATION, 112, 440), (wire.CONTROL, TO_SOURCE, 416, 520),
        (wire.BULK, TO_DESTINATION, 0, SIZE // 4),
        (wire.URGENT, TO_DESTINATION, 0, 40000), (wire.URGENT, TO_SOURCE, 400, 2000))
CUT_ROUNDS = 5


def check_after_cut(b, sender, receiver):
    """Whatever was cut wherever: at most one of the two runs, the one that the exit
    statuses say, and with the memory that it has to have."""
    # a thread that a tracer lets go looks as if it ran until it has stopped again
    deadline = time.monotonic() + 1
    while receiver.status not in (DONE, PAUSED) and not b.destination.stopped() and \
            time.monotonic() < deadline:
        time.sleep(0.001)
    here, there = not b.source.stopped(), b.destination.has_run()
    if here and there:
        raise AssertionError("both run")
    if here != (sender.status == FAILED):
        raise AssertionError(f"send ended with {sender.status}, the source "
                             f"{'runs' if here else 'is stopped'}")
    if there != (receiver.status in (DONE, PAUSED)):
        raise AssertionError(f"receive ended with {receiver.status}, the destination "
                             f"{'runs' if there else 'is stopped'}")
    if found := ram.compare(b.before, b.source.ram_path):
        raise AssertionError(f"the source's memory has changed: {found}")
    if receiver.status == DONE and b.destination.compared()[1]:
        raise AssertionError("the destination met wrong pages")
    if receiver.status == DONE and \
            (found := ram.compare(b.before, b.destination.ram_path)):
        raise AssertionError(f"complete, but: {found}")


@runner.limit(180)
def test_cuts_anywhere():
    """Wherever the link is cut, never two run, and who runs has all its memory"""
    generator = random.Random(os.environ.get("GODWIT_SEED", "5"))
    seen = {}
    for kind, direction, first, last in CUTS * CUT_ROUNDS:
        mode = generator.choice(("precopy", "postcopy", "postcopy", "hybrid"))
        if kind == wire.URGENT:
            mode = "postcopy"
        at = generator.randrange(first, last)
        cut = threading.Event()

        def spoil(channel, towards, offset, data, kind=kind, direction=direction,
                  at=at, cut=cut):
            # the whole link goes, at that byte
            if cut.is_set():
                return None
            if channel == kind and towards == direction and at < offset + len(data):
                cut.set()
                return wire.Cut(data[:max(0, at - offset)])
            return data

        with bench(reads=True) as b:
            receiver = b.receive("--timeout", "2s")
            with wire.Proxy(receiver.listens_at, spoil) as proxy:
                sender = b.send(proxy.address, mode=mode, peer_timeout="2s",
                                connect_timeout="2s", bandwidth="50M")
                while sender.process.running() and not cut.is_set():
                    time.sleep(0.001)
                if cut.is_set():
                    proxy.close()
                sender.wait(30)
                receiver.wait(30)
            try:
                check_after_cut(b, sender, receiver)
            except AssertionError as error:
                raise AssertionError(f"mode {mode}, channel {kind} {direction}, "
                                     f"byte {at}: {error}") from error
            outcome = sender.result["result"], receiver.result["result"], \
                "cut" if cut.is_set() else "not cut"
            seen[outcome] = seen.get(outcome, 0) + 1
    print(f"# (send, receive): {seen}")


# ---- guests that cannot be moved ----

def test_another_size():
    """Destination memory of another size is refused, and both sizes are named"""
    with bench(destination_size=SIZE // 2) as b:
        receiver = b.receive("--timeout", "20s")
        sender = b.send(receiver.listens_at)
        sender.wait(20)
        receiver.wait(20)
        for command in (sender, receiver):
            godwit.expect(command, FAILED, "range-0", "32", "16")
        b.check()


def test_another_number_of_regions():
    """A destination with another number of regions is refused"""
    with proc.Workspace() as workspace:
        b = Bench(workspace)
        second = empty_file(workspace.ram / "second", SIZE)
        two = ProcessGuest(workspace, "two", [b.destination.ram_path, second],
                           waits=True)
        b.destination.kill()
        b.destination = two
        receiver = b.receive("--timeout", "20s")
        sender = b.send(receiver.listens_at)
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(sender, FAILED)
        godwit.expect(receiver, FAILED)
        b.check()


@contextlib.contextmanager
def small_tmpfs(workspace, size):
    folder = workspace.dir / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs",
                           folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise runner.Skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # the destination has its memory there
        for process in workspace.processes:
            process.kill()
        subprocess.run(["umount", folder], check=True)


def full_disk(mode, **options):
    with proc.Workspace() as workspace, \
            small_tmpfs(workspace, SIZE // 4) as folder:
        b = Bench(workspace, destination_folder=folder)
        receiver = b.receive("--timeout", "20s")
        sender = b.send(receiver.listens_at, mode=mode, **options)
        sender.wait(30)
        receiver.wait(30)
        godwit.expect(receiver, FAILED, "no space")
        godwit.expect(sender, FAILED, "no space")
        b.check()


def test_disk_full():
    """A destination whose tmpfs is too small fails before COMMIT in pre-copy"""
    full_disk("precopy")


def test_disk_full_offline():
    """A destination whose tmpfs is too small fails before COMMIT in mode offline"""
    full_disk("offline")


def test_disk_full_postcopy():
    """A destination whose tmpfs is too small fails before COMMIT in post-copy"""
    full_disk("postcopy")


def test_no_such_process():
    """A guest process that does not exist is named"""
    with bench() as b:
        b.source.kill()
        sender = b.send("127.0.0.1:1")
        sender.wait(20)
        godwit.expect(sender, FAILED, str(b.source.pid))


def test_private_memory():
    """A process that has the file mapped privately is refused with the reason"""
    with proc.Workspace() as workspace:
        path = empty_file(workspace.ram / "private", SIZE)
        code = ("import mmap, sys, time; f = open(sys.argv[1], 'r+b'); "
                "m = mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE); "
                "print('ready', flush=True); time.sleep(60)")
        process = workspace.start([sys.executable, "-c", code, path], "private")
        while "ready" not in process.output():
            time.sleep(0.01)

        class Guest:
            pid = process.pid
            def godwit_arguments(self):
                return ["--pid", str(process.pid), "--range", str(path)]

        sender = godwit.send(workspace, Guest(), "127.0.0.1:1")
        sender.wait(20)
        godwit.expect(sender, FAILED, "mapped privately", "shared")
        if left := workspace.leftovers(expected=[process]):
            raise AssertionError(f"left behind: {left}")


# ---- deaths ----

def middle(b, **options):
    """A migration that is in its middle."""
    receiver = b.receive("--timeout", "20s")
    sender = b.send(receiver.listens_at,
                    **{"bandwidth": SLOW, "peer_timeout": "5s", **options})
    sender.wait_moving()
    return sender, receiver


@runner.limit(90)
def test_receiver_stands_still():
    """A receive that stands still while the guest is stopped does not keep it so"""
    # over a Unix socket no TCP timeout helps: it is godwit's own 30 s
    with bench() as b:
        receiver = godwit.receive(b.workspace, b.destination,
                                  f"unix:{b.workspace.dir / 'stuck.sock'}",
                                  "--timeout", "20s")
        sender = b.send(receiver.listens_at, mode="offline", bandwidth=SLOW)
        sender.wait_moving()
        receiver.process.signal(signal.SIGSTOP)
        try:
            sender.wait(60)
        finally:
            receiver.process.signal(signal.SIGCONT)
        receiver.wait(20)
        godwit.expect(sender, FAILED, "taken nothing")
        godwit.expect(receiver, FAILED)
        b.check()


def test_source_process_dies():
    """A source guest that dies mid-way is reported by both sides"""
    with bench() as b:
        sender, receiver = middle(b)
        b.source.kill()
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(sender, FAILED, "ended")
        godwit.expect(receiver, FAILED)
        b.check_left()


def test_destination_process_dies():
    """A destination guest that dies mid-way leaves the source running"""
    with bench() as b:
        sender, receiver = middle(b)
        b.destination.kill()
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(receiver, FAILED, "ended")
        godwit.expect(sender, FAILED, "ended")
        b.check()


def killed(b, command):
    """kill -9 of godwit; what it cannot remove itself is not its fault."""
    command.kill()
    run = b.workspace.dir / "run"
    for path in run.glob(f"{command.name}*"):
        path.unlink()


def test_send_is_killed():
    """kill -9 of send: the source runs on untracked, the receive gives up"""
    with bench() as b:
        sender, receiver = middle(b)
        killed(b, sender)
        receiver.wait(20)
        godwit.expect(receiver, FAILED, "closed")
        b.check()


def test_receive_is_killed():
    """kill -9 of receive: the send fails and the source runs on"""
    with bench() as b:
        sender, receiver = middle(b)
        killed(b, receiver)
        sender.wait(20)
        godwit.expect(sender, FAILED)
        b.check()


def test_send_is_killed_while_the_guest_is_stopped():
    """A source that its own godwit left stopped can be seen and continued"""
    with bench() as b:
        sender, receiver = middle(b, mode="offline")
        killed(b, sender)
        receiver.wait(20)
        godwit.expect(receiver, FAILED, "closed")
        # SIGSTOP outlives who sent it; nothing else may
        b.source.thaw()
        b.check()


def late(b):
    """A migration in the middle of post-copy, with a guest that needs its pages."""
    sender, receiver = middle(b, mode="postcopy", channels=1)
    receiver.wait_state("postcopy", timeout=5)
    return sender, receiver


def check_waits(b):
    """The destination guest waits for a page and has not been served a wrong one."""
    for _ in range(20):
        if "compared" in b.destination.process.output():
            raise AssertionError("the guest went on without its memory: "
                                 f"{b.destination.process.output()}")
        time.sleep(0.02)
    if not proc.userfaultfds(b.destination.pid):
        raise AssertionError("nothing keeps missing pages from being read as zeroes")
    if not b.source.stopped():
        raise AssertionError("the source runs on although the guest has moved")
    if found := ram.compare(b.before, b.source.ram_path):
        raise AssertionError(f"the source lost what the destination lacks: {found}")


def test_receive_is_killed_in_postcopy():
    """kill -9 of receive in post-copy: the guest waits and is never served zeroes"""
    with bench(reads=True) as b:
        sender, receiver = late(b)
        killed(b, receiver)
        sender.wait(20)
        godwit.expect(sender, PAUSED)
        check_waits(b)


def test_send_is_killed_in_postcopy():
    """kill -9 of send in post-copy: the source stays stopped and keeps all memory"""
    with bench(reads=True) as b:
        sender, receiver = late(b)
        killed(b, sender)
        receiver.wait(20)
        godwit.expect(receiver, PAUSED)
        check_waits(b)


def test_source_process_dies_in_postcopy():
    """A source guest that dies in post-copy takes no page along: the move completes"""
    with bench(reads=True) as b:
        sender, receiver = late(b)
        b.source.process.kill()
        sender.wait(20)
        receiver.wait(20)
        # godwit has the memory mapped itself
        for command in (sender, receiver):
            godwit.expect(command, DONE)


def test_destination_process_dies_in_postcopy():
    """A destination guest that dies in post-copy is reported by both sides"""
    with bench(reads=True) as b:
        sender, receiver = late(b)
        b.destination.kill()
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(receiver, PAUSED, "ended")
        godwit.expect(sender, PAUSED)
        if not b.source.stopped():
            raise AssertionError("the source runs on although the guest had moved")


# ---- cancel ----

def test_cancel_comes_too_late():
    """A cancel in post-copy is refused, and the migration completes"""
    with bench(reads=True) as b:
        sender, receiver = late(b)
        done = godwit.control(b.workspace, "cancel", sender.name)
        if not done.returncode or "too late" not in done.stderr:
            raise AssertionError(f"not refused: {done}")
        sender.interrupt()
        receiver.interrupt()
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        if b.destination.compared() != (SIZE // ram.PAGE, 0):
            raise AssertionError(f"compared {b.destination.compared()}")


def cancelled(b, sender, receiver):
    sender.wait(20)
    receiver.wait(20)
    godwit.expect(sender, CANCELLED, "cancelled")
    godwit.expect(receiver, CANCELLED, "cancelled")
    b.check()


def test_cancel_by_sigint():
    """SIGINT to send cancels: exit status 3 at both ends, the source runs on"""
    with bench() as b:
        sender, receiver = middle(b)
        sender.interrupt()
        cancelled(b, sender, receiver)


def test_cancel_by_sigint_to_receive():
    """SIGINT to receive cancels the same way"""
    with bench() as b:
        sender, receiver = middle(b)
        receiver.interrupt()
        cancelled(b, sender, receiver)


def test_cancel_by_command():
    """`godwit cancel` cancels the migration that it names"""
    with bench() as b:
        sender, receiver = middle(b)
        done = godwit.control(b.workspace, "cancel", sender.name)
        if done.returncode:
            raise AssertionError(f"cancel: {done.stdout} {done.stderr}")
        cancelled(b, sender, receiver)


def test_cancel_then_again():
    """After a cancel the same guests can be moved"""
    with bench() as b:
        sender, receiver = middle(b)
        sender.interrupt()
        cancelled(b, sender, receiver)
        b.check_works()


def test_cancel_a_waiting_receive():
    """SIGINT to a receive that waits ends it with exit status 3"""
    with bench() as b:
        receiver = b.receive()
        receiver.interrupt()
        receiver.wait(20)
        godwit.expect(receiver, CANCELLED)
        b.check()


# ---- QEMU ----

class QemuBench:
    """A Linux guest that counts, and maybe a QEMU that waits for it."""

    def __init__(self, workspace, destination=True, source=None, **options):
        self.workspace = workspace
        self.source = qemu.Qemu(workspace, "source", memory="128M",
                                append="gw.area=32M gw.rate=4M", **(source or {}))
        self.source.start()
        self.destination = None
        if destination:
            self.destination = qemu.Qemu(
                workspace, "destination", **{"memory": "128M", "incoming": True,
                                             **options}).start()
        self.source.wait_ready()

    def receive(self, *arguments):
        return godwit.receive(self.workspace, self.destination, "127.0.0.1:0",
                              "--timeout", "20s", *arguments)

    def send(self, to, **options):
        return godwit.send(self.workspace, self.source, to,
                           **{"mode": "precopy", **options})

    def check(self):
        """The guest counts on where it was, and nothing is left in its QEMU."""
        if self.source.status() != "running":
            raise AssertionError(f"the source is {self.source.status()}")
        self.source.wait_output(500)
        console.verify(self.source.console())
        self.check_left()

    def check_left(self):
        guests = [guest for guest in (self.source, self.destination)
                  if guest and guest.running()]
        if left := godwit.leftovers(self.workspace, guests):
            raise AssertionError(f"left behind: {left}")


@contextlib.contextmanager
def qemu_bench(**options):
    if not qemu.binaries() or not qemu.KERNEL.exists():
        raise runner.Skip("no QEMU or no guest kernel: run scripts/setup")
    qemu.build_guest()
    with proc.Workspace() as workspace:
        yield QemuBench(workspace, **options)


def test_qemu_without_incoming():
    """A destination QEMU without -incoming is refused and the option named"""
    with qemu_bench(destination=False) as b:
        command = godwit.Command(b.workspace, "receive",
                                 ["--qmp", str(b.source.qmp_path), "--listen",
                                  "127.0.0.1:0"], "receive")
        command.wait(20)
        godwit.expect(command, FAILED, "-incoming defer")
        b.check()


def test_qemu_direct_io():
    """A disk with direct I/O is refused for pre-copy, and moves in post-copy"""
    with proc.Workspace() as scratch:
        disk = scratch.dir / "direct"
        disk.write_bytes(bytes(1 << 20))
        try:
            os.close(os.open(disk, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            raise runner.Skip(f"{disk.parent} has no direct I/O: {error}") from error
        extra = {"extra": ("-blockdev", "driver=raw,node-name=direct,read-only=on,"
                           "cache.direct=on,file.driver=file,file.cache.direct=on,"
                           f"file.filename={disk}",
                           "-device", "virtio-blk-pci,drive=direct")}
        with qemu_bench(source=extra, **extra) as b:
            receiver = b.receive()
            for mode in ("precopy", "hybrid"):
                sender = b.send(receiver.listens_at, mode=mode)
                sender.wait(20)
                godwit.expect(sender, FAILED, "O_DIRECT", str(disk), "postcopy")
            sender = b.send(receiver.listens_at, mode="postcopy")
            sender.wait(30)
            receiver.wait(30)
            godwit.expect(sender, DONE)
            godwit.expect(receiver, DONE)


def test_qemu_already_migrating():
    """A source QEMU that is migrating already is refused"""
    with qemu_bench(destination=False) as b:
        ours, theirs = socket.socketpair()
        b.source.qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
        b.source.qmp.execute("getfd", {"fdname": "state"}, fds=[theirs.fileno()])
        theirs.close()
        b.source.qmp.execute("migrate", {"uri": "fd:state"})
        sender = b.send("127.0.0.1:1")
        sender.wait(20)
        godwit.expect(sender, FAILED, "already migrating", "migrate_cancel")
        b.source.qmp.execute("migrate_cancel")
        ours.close()
        b.check()


def test_qemu_private_memory():
    """A QEMU whose memory is not shared is refused, and the option to use is named"""
    with qemu_bench(destination=False) as b:
        b.source.kill()
        plain = b.workspace.start(
            [b.source.binary, "-machine", "q35", "-accel", "tcg", "-m", "64M", "-display",
             "none", "-nodefaults", "-qmp",
             f"unix:{b.workspace.dir}/plain.qmp,server=on,wait=off"], "plain")
        while not (b.workspace.dir / "plain.qmp").exists():
            time.sleep(0.01)
        sender = godwit.Command(b.workspace, "send",
                                ["--qmp", f"{b.workspace.dir}/plain.qmp", "--to",
                                 "127.0.0.1:1"], "send")
        sender.wait(20)
        godwit.expect(sender, FAILED, "memory-backend-file", "share=on")
        if left := b.workspace.leftovers(expected=[plain]):
            raise AssertionError(f"left behind: {left}")


def test_qemu_another_size():
    """A destination QEMU with another amount of memory is refused"""
    with qemu_bench(memory="256M") as b:
        receiver = b.receive()
        sender = b.send(receiver.listens_at)
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(sender, FAILED, "128", "256")
        godwit.expect(receiver, FAILED, "128", "256")
        b.check()


def test_qemu_another_machine():
    """A destination QEMU that cannot load the device state leaves the source running"""
    # the other way round QEMU would not notice
    with qemu_bench(source={"devices": ("rng",)}) as b:
        receiver = b.receive()
        sender = b.send(receiver.listens_at)
        sender.wait(30)
        receiver.wait(30)
        godwit.expect(sender, FAILED, "device state")
        godwit.expect(receiver, FAILED, "device state")
        b.check()


def test_qemu_source_dies():
    """A source QEMU that dies mid-way is reported by both sides"""
    with qemu_bench() as b:
        receiver = b.receive()
        sender = b.send(receiver.listens_at, bandwidth=SLOW, peer_timeout="5s")
        sender.wait_moving()
        b.source.process.kill()
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(sender, FAILED)
        godwit.expect(receiver, FAILED)
        b.check_left()


def test_qemu_destination_dies():
    """A destination QEMU that dies mid-way leaves the source running"""
    for mode in ("precopy", "hybrid"):
        with qemu_bench() as b:
            receiver = b.receive()
            sender = b.send(receiver.listens_at, mode=mode, bandwidth=SLOW,
                            peer_timeout="5s")
            sender.wait_moving()
            b.destination.process.kill()
            sender.wait(20)
            receiver.wait(20)
            godwit.expect(sender, FAILED)
            godwit.expect(receiver, FAILED)
            b.check()


def test_qemu_cancel():
    """A QEMU guest counts on after a cancel and can be moved afterwards"""
    with qemu_bench() as b:
        receiver = b.receive()
        sender = b.send(receiver.listens_at, bandwidth=SLOW)
        sender.wait_moving()
        sender.interrupt()
        sender.wait(20)
        receiver.wait(20)
        godwit.expect(sender, CANCELLED, "cancelled")
        godwit.expect(receiver, CANCELLED, "cancelled")
        b.check()
        godwit.migrate(b.workspace, b.source, b.destination, mode="precopy",
                       max_downtime="200ms")
        b.destination.wait_output(1000)
        console.verify(b.source.console(), b.destination.console(), least_after=20)


if __name__ == "__main__":
    runner.main()
