# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's own guest in QEMU, steered and read through its RAM file."""

import os
import pathlib
import struct
import subprocess
import time

from gwtest import qemu
from gwtest.qmp import QmpClosed

from . import image, layout
from .hist import BYTES, Histogram

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "guest"
MIB = 1 << 20

# KVM that is worth its name boots the guest at once and touches this much.
PROBE_SECONDS = 1.5
PROBE_TOUCHES = 200_000
PROBE_MEMORY = 64 * MIB

# What a touch of present memory takes tells how long a touch was that missed.
CALIBRATION_SECONDS = 0.3
MISS_LEAST_NS = 10_000


def build(folder):
    """Path of the guest: that of the build, or one that is made now."""
    if path := os.environ.get("GODWIT_BENCH_GUEST"):
        return pathlib.Path(path)
    path = pathlib.Path(folder) / "bench-guest"
    subprocess.run([FOLDER / "build", path], check=True)
    return path


def low_memory_end(size):
    """Where the memory below 4 GiB ends, as an offset into the RAM file."""
    return layout.GUEST_SPLIT if size >= layout.GUEST_SPLIT_MIN else size


def check_size(size):
    """Why a guest cannot have this memory; None when it can."""
    if size % MIB or size < 48 * MIB:
        return "memory comes in whole MiB, 48 at least"
    if layout.GUEST_SPLIT < size < layout.GUEST_SPLIT_MIN:
        return "the guest cannot address memory between 3 and 3.5 GiB"
    return None


def firmware_pages(size):
    """The pages that firmware writes, besides those below GUEST_FIRST_FREE."""
    end = low_memory_end(size) // image.PAGE
    return range(end - layout.FIRMWARE_TOP // image.PAGE, end)


def _words(values):
    """Words at their offsets, as bytes."""
    data = bytearray(max(values) + 4)
    for offset, value in values.items():
        struct.pack_into("<I", data, offset, value)
    return data


def write_control(ram, behaviour, stamp_base, zero_rule=False, write=False):
    """Say what the guest shall do, and clear its results."""
    first = layout.GUEST_FIRST_FREE // image.PAGE
    skip = firmware_pages(ram.size)
    # beyond 4 GiB the guest sees nothing
    end = min(ram.size, 1 << 32) // image.PAGE
    ram.write(layout.GUEST_RESULTS, bytes(layout.GUEST_FIRST_FREE - layout.GUEST_RESULTS))
    ram.write(layout.GUEST_CONTROL, _words({
        layout.CONTROL_MAGIC: layout.GUEST_MAGIC,
        layout.CONTROL_BEHAVIOUR: behaviour,
        layout.CONTROL_FIRST: first,
        layout.CONTROL_COUNT: end - first,
        layout.CONTROL_SKIP_FROM: skip.start,
        layout.CONTROL_SKIP_TO: skip.stop,
        layout.CONTROL_WRITE: int(write),
        layout.CONTROL_ZERO_RULE: int(zero_rule),
        layout.CONTROL_STAMP: stamp_base & 0xffffffff,
        layout.CONTROL_STAMP + 4: stamp_base >> 32}))


class Results:
    """The guest's own account, at one moment."""

    def __init__(self, ram, hz):
        data = ram.read(layout.GUEST_RESULTS, image.PAGE)

        def counter(offset):
            return struct.unpack_from("<Q", data, offset)[0]

        self.alive = counter(layout.RESULT_MAGIC) & 0xffffffff == layout.GUEST_MAGIC
        self.touches = counter(layout.RESULT_TOUCHES)
        self.wrong = counter(layout.RESULT_WRONG)
        self.ticks = counter(layout.RESULT_TICKS)
        self.histogram = Histogram.from_bytes(hz, ram.read(layout.GUEST_BUCKETS, BYTES))


class BareQemu(qemu.Qemu):
    """QEMU with the benchmark's guest. Its RAM is a file that is there already."""

    def __init__(self, workspace, name, ram, kernel, **options):
        super().__init__(workspace, name, memory=ram.size, ram_path=ram.path,
                         machine="pc", **options)
        self.ram = ram
        self.kernel = kernel

    def command(self):
        backend = (f"memory-backend-file,id=ram,size={self.memory},"
                   f"mem-path={self.ram_path},share=on,"
                   f"prealloc={'on' if self.prealloc else 'off'}")
        words = [
            self.binary, "-name", self.name, "-no-user-config", "-nodefaults",
            "-display", "none", "-sandbox", "on",
            "-machine", f"{self.machine},accel={self.accel},memory-backend=ram",
            "-cpu", qemu.CPU, "-m", f"{self.memory >> 20}M", "-object", backend,
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-qmp", f"unix:{self.qmp_test_path},server=on,wait=off",
            "-kernel", str(self.kernel)]
        return words + (["-incoming", "defer"] if self.incoming else [])

    def wait_alive(self, touches=0, timeout=20):
        """Wait until the guest runs, and has touched so many pages."""
        def there():
            results = Results(self.ram, 1)
            return results.alive and results.touches >= touches
        self._wait(there, "sign of life", timeout)


def _kvm_is_fast(workspace, binary, kernel, ram):
    write_control(ram, layout.BEHAVIOUR_TOUCH, 0)
    probe = BareQemu(workspace, "probe", ram, kernel, binary=binary, accel="kvm")
    try:
        probe.start()
        probe.wait_alive(PROBE_TOUCHES, PROBE_SECONDS)
        return True
    except (qemu.QemuError, QmpClosed, TimeoutError):
        return False
    finally:
        probe.kill()


def accelerator(workspace, binary, kernel, ram):
    """"kvm" where KVM is quick, else "tcg".

    Some virtual machines have a KVM that is software: a guest that it runs touches
    fewer pages than one that QEMU translates.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    return "kvm" if _kvm_is_fast(workspace, binary, kernel, ram) else "tcg"


def clock_hz(ram, seconds=CALIBRATION_SECONDS):
    """Frequency of the ticks of a guest that touches pages. The guest notes its
    time after each touch, a microsecond apart or so."""
    began, first = time.monotonic(), Results(ram, 1).ticks
    time.sleep(seconds)
    ended, last = time.monotonic(), Results(ram, 1).ticks
    if last <= first:
        raise qemu.QemuError("the guest's time stamp counter does not go on")
    return (last - first) / (ended - began)


class Calibration:
    """What is measured once with a guest that touches present memory: `hz`, and
    `miss_ns`, from which on a touch counts as one that missed."""

    def __init__(self, ram):
        self.hz = clock_hz(ram)
        before = Results(ram, self.hz).histogram
        time.sleep(CALIBRATION_SECONDS)
        present = Results(ram, self.hz).histogram.minus(before)
        self.present_p50_ns = present.percentile(50)
        self.present_p99_ns = present.percentile(99)
        self.miss_ns = max(MISS_LEAST_NS, 2 * self.present_p99_ns)

    def __str__(self):
        return (f"a touch of present memory takes the guest {self.present_p50_ns:.0f} ns "
                f"(p50), {self.present_p99_ns:.0f} ns (p99); from "
                f"{self.miss_ns / 1000:.0f} us on it counts as missed")
