#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the harness itself: guests are moved here without godwit.

The memory is copied as a file and QEMU carries the device state, so a failure
here is one of the guest, of QEMU or of the harness. The last cases damage the
copy on purpose: a proof that never fails proves nothing.

    harness_selftest.py [case...]     exit status 0 or 1
"""

import os
import pathlib
import signal
import socket
import sys
import threading
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from gwtest import console, netns, proc, qemu, ram  # noqa: E402

# Our own moves must not be slowed by QEMU's default of 128 MiB/s. And left to
# itself, QEMU announces the guest on the destination's network as soon as the
# device state is loaded, although the guest is paused there and may yet go on at
# its source: 0 rounds silence that, and announce-self works all the same.
PARAMETERS = {"max-bandwidth": 1 << 40, "announce-rounds": 0}


class DeviceState:
    """A socket pair: QEMU has one end, the harness the other."""

    def __init__(self, guest):
        ours, theirs = socket.socketpair()
        guest.qmp.execute("getfd", {"fdname": "state"}, fds=[theirs.fileno()])
        theirs.close()
        self.socket = ours

    def receive(self):
        """Read in the background, until QEMU closes its end."""
        self.data = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while piece := self.socket.recv(1 << 20):
            self.data += piece

    def received(self):
        self._thread.join(10)
        if self._thread.is_alive():
            raise TimeoutError("QEMU did not end its device state")
        self.socket.close()
        return self.data

    def send(self, data):
        self.socket.sendall(data)
        self.socket.close()


def migration_ended(guest):
    def done(data):
        if data["status"] == "failed":
            raise qemu.QemuError(f"{guest.name}: migration failed: {guest.log} "
                                 f"{guest.qmp.execute('query-migrate')}")
        return data["status"] == "completed"
    guest.qmp.wait_event("MIGRATION", match=done)


def prepare(guest, **more):
    guest.set_capabilities(x_ignore_shared=True, events=True, **more)


def save_stopped(source):
    """Order one: the guest is stopped already."""
    state = DeviceState(source)
    state.receive()
    source.qmp.execute("migrate", {"uri": "fd:state"})
    data = state.received()
    migration_ended(source)
    return data


def load(destination, data):
    # what came before is history; an incoming migration ends after this
    state = DeviceState(destination)
    destination.qmp.execute("migrate-incoming", {"uri": "fd:state"})
    state.send(data)
    migration_ended(destination)


def pair(workspace, network=None, **options):
    """A source that counts, and a destination that waits."""
    source = qemu.Qemu(workspace, "source", netns=network and network.a, **options)
    destination = qemu.Qemu(workspace, "destination", incoming=True,
                            netns=network and network.b, **options)
    source.accel = destination.accel = qemu.accelerator(source.binary)
    began = time.monotonic()
    source.start()
    source.wait_ready()
    print(f"  ready after {time.monotonic() - began:.2f} s "
          f"({source.accel}, {source.memory >> 20} MiB)")
    destination.start()
    for guest in (source, destination):
        prepare(guest)
        guest.qmp.execute("migrate-set-parameters", PARAMETERS)
    source.wait_output(1000)
    return source, destination


def prove(source, destination):
    """The guest ran on: what its console says, on both hosts."""
    destination.wait_output(2000)
    proof = console.verify(source.console(), destination.console(), least_after=50)
    print(f"  {proof}")


def move_stopped(source, destination, damage=None):
    """stop, copy memory, device state, cont; returns nothing, prints times."""
    stopped = source.stop()
    marks = [time.monotonic()]
    data = save_stopped(source)
    marks.append(time.monotonic())
    ram.copy(source.ram_path, destination.ram_path)
    if damage:
        damage(source, destination)
    marks.append(time.monotonic())
    load(destination, data)
    marks.append(time.monotonic())
    found = ram.compare(source.ram_path, destination.ram_path)
    if found and not damage:
        raise qemu.QemuError(f"the copy is not one: {found}")
    if destination.status() != "paused":
        raise qemu.QemuError(f"destination is {destination.status()}, not paused")
    resumed = destination.cont()
    saved, copied, loaded = (1000 * (b - a) for a, b in zip(marks, marks[1:]))
    print(f"  device state {len(data)} bytes: saved in {saved:.1f} ms, loaded in "
          f"{loaded:.1f} ms; memory copied in {copied:.0f} ms; blackout "
          f"{1000 * (resumed - stopped):.0f} ms")


def move_switchover(source, destination):
    """pause-before-switchover: QEMU stops the guest, and the destination runs
    by itself once it has the device state."""
    prepare(source, pause_before_switchover=True)
    since = len(source.qmp.poll())
    state = DeviceState(source)
    state.receive()
    source.qmp.execute("migrate", {"uri": "fd:state"})
    source.qmp.wait_event("MIGRATION", since=since,
                          match=lambda data: data["status"] == "pre-switchover")
    began = time.monotonic()
    source.qmp.execute("migrate-continue", {"state": "pre-switchover"})
    data = state.received()
    migration_ended(source)
    saved = time.monotonic() - began
    # only now is memory final: saving a device may still write it
    ram.copy(source.ram_path, destination.ram_path)
    since = len(destination.qmp.poll())
    load(destination, data)
    resumed = destination.qmp.wait_event("RESUME", since=since).time
    stopped = source.qmp.wait_event("STOP").time
    print(f"  device state {len(data)} bytes in {1000 * saved:.1f} ms; blackout "
          f"{1000 * (resumed - stopped):.0f} ms")
    if source.status() != "postmigrate":
        raise qemu.QemuError(f"source is {source.status()} after its migration")


def expect_damage_found(source, destination, word):
    """The guest must notice, and the harness must say so."""
    destination.wait_console(b"gw-bad", timeout=20)
    destination.wait_output(500)
    try:
        console.verify(source.console(), destination.console())
    except console.ConsoleError as error:
        print(f"  noticed, as it must be: {error}")
        if word not in str(error):
            raise qemu.QemuError(f"not the damage that was done: {error}") from None
    else:
        raise qemu.QemuError("damage went unnoticed")


def announce(guest):
    if guest.announcements():
        raise qemu.QemuError("announced before anybody asked for it")
    guest.qmp.execute("announce-self",
                      {"initial": 10, "max": 10, "rounds": 3, "step": 0})
    deadline = time.monotonic() + 5
    while guest.announcements() < 3:
        if time.monotonic() > deadline:
            raise qemu.QemuError(f"{guest.announcements()} announcements of 3")
        time.sleep(0.01)


# --- cases, each given the path of a QEMU ---

def small_guest_with_devices(path):
    with proc.Workspace() as workspace, netns.NetnsPair() as network:
        source, destination = pair(workspace, network, binary=path, memory="256M",
                                   devices=("net", "rng", "blk"))
        move_stopped(source, destination)
        prove(source, destination)
        announce(destination)
        left = workspace.leftovers(expected=(source.process, destination.process),
                                   namespaces=(network.a, network.b))
        if left:
            raise qemu.QemuError(f"left behind: {left}")
        destination.quit()
        source.quit()
        if left := workspace.leftovers():
            raise qemu.QemuError(f"left behind: {left}")
    if {network.a, network.b} & set(netns.existing()):
        raise qemu.QemuError("a network namespace was left behind")


def large_guest(path):
    with proc.Workspace() as workspace:
        guests = pair(workspace, binary=path, memory="1G",
                      append="gw.area=256M gw.rate=50M gw.zero=20")
        move_stopped(*guests)
        prove(*guests)


def switchover(path):
    with proc.Workspace() as workspace:
        guests = pair(workspace, binary=path, memory="256M")
        move_switchover(*guests)
        prove(*guests)


def two_vcpus_and_a_busy_writer(path):
    with proc.Workspace() as workspace:
        guests = pair(workspace, binary=path, memory="256M", smp=2,
                      append="gw.rate=max gw.sweep=max")
        move_stopped(*guests)
        prove(*guests)


def page_of_the_area(path, other=None):
    """Offset of a page that looks like the workload's, and in `other` is an older
    version of itself."""
    with open(path, "rb") as first, open(other or path, "rb") as second:
        for start, end in ram.extents(first.fileno()):
            for offset in range(start, end, ram.PAGE):
                new, old = (pages.read(24) for pages in (first, second)
                            if pages.seek(offset) >= 0)
                number = int.from_bytes(new[:8], "little")
                sequence = int.from_bytes(new[8:16], "little")
                if not (0 < number < 16384 and 0 < sequence < 1000):
                    continue
                older = int.from_bytes(old[8:16], "little") == sequence - 1
                if new[:8] == old[:8] and any(new[20:24]) and (older or not other):
                    return offset
    raise LookupError(f"no page of the workload in {path}")


def one_flipped_bit(path):
    def damage(_source, destination):
        offset = page_of_the_area(destination.ram_path)
        with open(destination.ram_path, "r+b") as memory:
            memory.seek(offset + 2048)
            byte = memory.read(1)[0] ^ 1
            memory.seek(offset + 2048)
            memory.write(bytes([byte]))
        found = ram.compare(_source.ram_path, destination.ram_path)
        if not found or found.offset != offset:
            raise qemu.QemuError(f"the comparison missed the damage: {found}")
        print(f"  damaged and seen by the comparison: {found}")

    with proc.Workspace() as workspace:
        # every page is read soon
        guests = pair(workspace, binary=path, memory="256M", append="gw.sweep=100M")
        move_stopped(*guests, damage=damage)
        # the mismatch is printed before the next tick shows its count
        expect_damage_found(*guests, "gw-bad")


def one_stale_page(path):
    """A whole page, good in itself, that is one rewrite out of date."""
    with proc.Workspace() as workspace:
        source, destination = pair(workspace, binary=path, memory="256M",
                                   append="gw.sweep=100M gw.rate=4M")
        source.stop()
        old = workspace.ram / "old"
        ram.create(old, source.memory, "sparse")
        ram.copy(source.ram_path, old)
        source.cont()
        source.wait_output(1000)

        def damage(source, destination):
            offset = page_of_the_area(source.ram_path, old)
            with open(old, "rb") as before, open(destination.ram_path, "r+b") as after:
                before.seek(offset)
                after.seek(offset)
                after.write(before.read(ram.PAGE))
            print(f"  made stale: page {offset // ram.PAGE}")

        move_stopped(source, destination, damage=damage)
        expect_damage_found(source, destination, "sequence-of-page")


# --- cases that need no QEMU ---

def console_proof():
    head = b"gw-ready\n"

    def lines(*numbers, errors=0):
        return b"".join(b"gw %d %d 10000\n" % (n, errors) for n in numbers)

    whole = head + lines(*range(1, 6))
    for cut in range(len(head), len(whole)):
        # split anywhere; only a destination that completes no line is refused
        if lines(*range(1, 6)).count(b"\n") and b"\n" in whole[cut:]:
            proof = console.verify(whole[:cut], whole[cut:])
            if proof.before + proof.after != 5:
                raise AssertionError(f"cut at {cut}: {proof}")
    refused = {
        "a gap": (head + lines(1, 2), lines(4)),
        "a duplicate": (head + lines(1, 2), lines(2, 3)),
        "an error": (head + lines(1), lines(2, errors=1)),
        "a bad page": (head + lines(1), b"gw-bad page=1 want=1 have=2\n" + lines(2)),
        "a lost byte": (head + lines(1, 2)[:-3], lines(3)),
        "silence": (head + lines(1), b""),
        "no guest": (b"", lines(1)),
    }
    for name, streams in refused.items():
        try:
            console.verify(*streams)
        except console.ConsoleError:
            continue
        raise AssertionError(f"{name} was accepted")


def memory_files():
    size = 24 << 20
    with proc.Workspace() as workspace:
        first, second = workspace.ram / "first", workspace.ram / "second"
        for kind in ram.KINDS:
            ram.create(first, size, kind)
            ram.create(second, size, "random", seed=2)
            if kind != "zero" and not ram.compare(first, second):
                raise AssertionError(f"{kind} equals other random memory")
            ram.copy(first, second)
            if found := ram.compare(first, second):
                raise AssertionError(f"{kind}: {found}")
            ram.create(second, size, kind)
            if found := ram.compare(first, second):
                raise AssertionError(f"{kind} is not repeatable: {found}")
        ram.create(first, size, "sparse")
        holes = ram.allocated(first)
        if not 0 < holes < size // 8:
            raise AssertionError(f"a sparse image takes {holes} of {size} bytes")
        ram.compare(first, first)
        if ram.allocated(first) != holes:
            raise AssertionError("the comparison filled holes")
        with open(first, "r+b") as memory:
            memory.truncate(0)
            memory.truncate(size)
        ram.create(second, size, "zero")
        if found := ram.compare(first, second):
            raise AssertionError(f"a hole is not zero: {found}")


SERVER = """
import socket
with socket.create_server(("", 7), family=socket.%s) as server:
    connection = server.accept()[0]
    while data := connection.recv(100):
        connection.send(data)
"""

CLIENT = """
import socket, sys, time
for _ in range(500):
    try:
        connection = socket.create_connection(("%s", 7), 2)
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
for line in sys.stdin:
    connection.send(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


def echo_over(net, workspace, family, address):
    """Lines go to the other namespace and back; none does while it is cut."""
    server = workspace.start([sys.executable, "-c", SERVER % family],
                             f"server-{family}", net.b)
    reader, writer = os.pipe()
    client = workspace.start([sys.executable, "-uc", CLIENT % address],
                             f"client-{family}", net.a, stdin=reader)
    os.close(reader)

    def echoed(line, seconds):
        os.write(writer, line)
        deadline = time.monotonic() + seconds
        while line.decode() not in client.output():
            if time.monotonic() > deadline or not client.running():
                return False
            time.sleep(0.01)
        return True

    try:
        if not echoed(b"first\n", 3):
            raise AssertionError(f"no connection to {address}: {client.output()}")
        net.cut()
        if echoed(b"cut\n", 0.5):
            raise AssertionError("a cut link still works")
        net.mend()
        if not echoed(b"mended\n", 3):
            raise AssertionError(f"the link did not come back: {client.output()}")
    finally:
        os.close(writer)
    client.wait(5)
    server.wait(5)


def network():
    with netns.NetnsPair(rate="100mbit") as net, proc.Workspace() as workspace:
        echo_over(net, workspace, "AF_INET", net.address4[net.b])
        echo_over(net, workspace, "AF_INET6", net.address6[net.b])
        if left := workspace.leftovers(namespaces=(net.a, net.b)):
            raise AssertionError(f"left behind: {left}")
        net.set_rate(None)
        if net.sent_bytes(net.a) == 0:
            raise AssertionError("nothing was counted on the link")
        names = {net.a, net.b}
    if names & set(netns.existing()):
        raise AssertionError("a network namespace was left behind")


def leftovers_are_found():
    """A process, a socket and a userfaultfd that stay are each reported."""
    with netns.NetnsPair() as net, proc.Workspace() as workspace:
        # syscall 323 is userfaultfd
        code = ("import ctypes, socket, subprocess, time; ctypes.CDLL(None).syscall("
                "323, 0); s = socket.create_server(('', 7)); "
                "p = subprocess.Popen(['sleep', '60']); print('up', flush=True); "
                "time.sleep(60)")
        process = workspace.start([sys.executable, "-c", code], "bad", net.a)
        deadline = time.monotonic() + 10
        while "up" not in process.output():
            if time.monotonic() > deadline:
                raise TimeoutError(process.output())
            time.sleep(0.01)
        left = workspace.leftovers(expected=[process], namespaces=[net.a])
        for word in ("process", "userfaultfd", "socket"):
            if not any(line.startswith(word) for line in left):
                raise AssertionError(f"no {word} in {left}")
        # the grandchild is none of ours to wait for, but must not stay
        for pid in proc.marked_pids(workspace.token):
            os.kill(pid, signal.SIGKILL)


PLAIN_CASES = (console_proof, memory_files, network, leftovers_are_found)
NEED_NAMESPACES = (network, leftovers_are_found, small_guest_with_devices)
QEMU_CASES = (small_guest_with_devices, large_guest, switchover,
              two_vcpus_and_a_busy_writer, one_flipped_bit, one_stale_page)


def run(name, case, *arguments):
    print(f"{name}:", flush=True)
    began = time.monotonic()
    try:
        case(*arguments)
    except Exception as error:  # noqa: BLE001 - one failure must not hide the next
        print(f"  FAILED: {type(error).__name__}: {error}", flush=True)
        return False
    print(f"  passed in {time.monotonic() - began:.1f} s", flush=True)
    return True


def chosen(cases, wanted):
    """The cases to run; says which ones cannot run here, and why."""
    for case in cases:
        if wanted and case.__name__ not in wanted:
            continue
        if case in NEED_NAMESPACES and (reason := netns.unavailable()):
            print(f"{case.__name__}: skipped: {reason}")
            continue
        yield case


def main(wanted):
    # a plain kill must still end the guests and remove the namespaces
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = [run(case.__name__, case) for case in chosen(PLAIN_CASES, wanted)]
    binaries = qemu.binaries()
    if not binaries or not qemu.KERNEL.exists():
        print("the cases with QEMU: skipped: no QEMU or no guest kernel: "
              "run scripts/setup")
        binaries = {}
    else:
        qemu.build_guest()
    for label, path in binaries.items():
        number = ".".join(map(str, qemu.version(path)))
        results += [run(f"{case.__name__} (QEMU {number}, {label})", case, path)
                    for case in chosen(QEMU_CASES, wanted)]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) and results else 1


if __name__ == "__main__":
    sys.exit(main(set(sys.argv[1:])))
