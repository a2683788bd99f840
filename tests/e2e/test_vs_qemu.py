#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/vs-qemu functions: it measures both sides, looks at all memory, and says
so when something is not as it should be. How fast anything is does not matter here."""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests" / "lib"), str(TOP / "bench")]

from gwbench import bars, bed, guest, hist, image, layout, memory  # noqa: E402
from gwbench import movers, results  # noqa: E402
from gwtest import proc, qemu, runner  # noqa: E402

TOOL = TOP / "bench" / "vs-qemu"
MIB = 1 << 20
SIZE = 128 * MIB


def need_everything():
    if os.geteuid() != 0:
        raise runner.Skip("mounts and userfaultfd need root")
    if not qemu.binaries():
        raise runner.Skip("no qemu-system-x86_64: run scripts/setup")


def run_tool(*words, seconds=100, **env):
    return subprocess.run([TOOL, *map(str, words)], capture_output=True, text=True,
                          timeout=seconds, check=False, env={**os.environ, **env})


def expect_status(done, status):
    if done.returncode != status:
        raise AssertionError(f"status {done.returncode} instead of {status}: "
                             f"{done.stdout[-1500:]} {done.stderr[-1500:]}")


def check_result(result):
    """One of godwit-bench/1's results."""
    if result["unit"] not in ("bytes/s", "ns", "s", "ratio", "pages/s", "s/GiB"):
        raise AssertionError(f"unit {result['unit']}")
    if result["better"] not in ("higher", "lower"):
        raise AssertionError(f"better {result['better']}")
    low, median, high = (result[key] for key in ("min", "median", "max"))
    if not 0 <= low <= median <= high or len(result["runs"]) != 1:
        raise AssertionError(f"{result}")


def check_document(document):
    if document["format"] != "godwit-bench/1" or document["tool"] != "bench/vs-qemu":
        raise AssertionError(f"{document['format']}, {document['tool']}")
    for key in ("when", "machine", "command", "seed", "versions", "quiet", "bars"):
        if key not in document:
            raise AssertionError(f"no {key}")
    for result in document["results"]:
        check_result(result)
    ways = {(result["subject"], result["labels"].get("how"))
            for result in document["results"]}
    for way in (("precopy-half", "qemu"), ("precopy-half", "qemu-multifd-4"),
                ("precopy-half", "godwit"), ("postcopy-random", "godwit"),
                ("postcopy-random", "qemu-postcopy-preempt")):
        if way not in ways:
            raise AssertionError(f"{way} is missing in {sorted(map(str, ways))}")


def check_histograms(document):
    """Both sides have stalls, and a histogram's counts belong together."""
    makers = set()
    for one in document["histograms"]:
        edges = [edge for edge, _ in one["buckets"]]
        if one["count"] != sum(count for _, count in one["buckets"]) or \
                edges != sorted(edges) or one["p50"] > one["p99"]:
            raise AssertionError(f"{one}")
        if "missing" in one["name"] and one["count"]:
            makers.add(one["labels"]["by"])
    if makers != {"qemu", "godwit"}:
        raise AssertionError(f"stalls of {makers} alone")


@runner.limit(120)
def test_both_sides_are_measured():
    """QEMU and godwit move the same guest, and every figure and page is there"""
    need_everything()
    with proc.Workspace() as workspace:
        file = workspace.dir / "figures.json"
        done = run_tool("-n", 1, "--memory", "128M", "--json", file, "--subject",
                        "precopy-half", "postcopy-random")
        expect_status(done, 0)
        document = json.loads(file.read_text())
    check_document(document)
    check_histograms(document)
    if not any(series["points"] for series in document["series"]):
        raise AssertionError("no series has a point")
    if not re.search(r"throughput, godwit / qemu: \d+\.\d\d", done.stdout):
        raise AssertionError(f"no ratio: {done.stdout}")


@contextlib.contextmanager
def make_bed():
    need_everything()
    memory.leave_mount_namespace()
    with proc.Workspace() as workspace, \
            bed.Bed(workspace, list(qemu.binaries().values())[-1], SIZE, 1,
                    "tcg") as made:
        yield made


class Spoiler(movers.GodwitMover):
    """Moves the guest, and then changes one byte at the destination."""

    def __init__(self, offset):
        super().__init__("spoiler", "precopy")
        self._offset = offset

    def move(self, prepared, source, destination, *rest):
        moved = super().move(prepared, source, destination, *rest)
        old = destination.ram.read(self._offset, 1)
        destination.ram.write(self._offset, bytes([old[0] ^ 1]))
        return moved


def test_wrong_memory_is_noticed():
    """A byte that did not arrive right is noticed, in a stamp and elsewhere"""
    with make_bed() as made:
        made.use("random", "never")
        made.run(movers.GodwitMover("godwit", "precopy"), "random",
                 layout.BEHAVIOUR_IDLE)
        for offset in (64 * MIB, SIZE - 1):
            try:
                made.run(Spoiler(offset), "random", layout.BEHAVIOUR_IDLE)
            except bed.WrongPages:
                continue
            raise AssertionError(f"the byte at {offset:#x} went unnoticed")


def touching_guest(made, ram, stamp_base):
    """Results of a guest that has touched every page several times."""
    guest.write_control(ram, layout.BEHAVIOUR_TOUCH, stamp_base)
    one = guest.BareQemu(made.workspace, f"guest{stamp_base}", ram, made.kernel,
                         binary=made.binary, accel="tcg")
    try:
        one.start().wait_alive(3 * SIZE // image.PAGE)
        one.stop()
        return guest.Results(ram, 1e9)
    finally:
        one.kill()


def test_the_guest_knows_its_pages():
    """The guest touches pages, counts each touch, and knows a wrong page"""
    with make_bed() as made, \
            memory.tmpfs(made.workspace.dir / "pages", 2 * SIZE, "never") as folder, \
            contextlib.closing(memory.RamFile(folder / "ram", SIZE)) as ram:
        picture = made.image("random")
        picture.stamp(ram, 5)
        right = touching_guest(made, ram, picture.stamp_base(5))
        if right.wrong or right.touches != right.histogram.count:
            raise AssertionError(f"{right.wrong} wrong, {right.touches} touches, "
                                 f"{right.histogram.count} in the histogram")
        picture.stamp(ram, 5)
        ram.write(SIZE // 2, b"nothing!")
        wrong = touching_guest(made, ram, picture.stamp_base(5))
        if not 1 <= wrong.wrong <= wrong.touches // 1000:
            raise AssertionError(f"{wrong.wrong} wrong of {wrong.touches}")


def punch(ram, offset, length):
    mode = 0x02 | 0x01  # punch a hole, keep the size
    if ctypes.CDLL(None).fallocate(ram.fd, mode, ctypes.c_long(offset),
                                   ctypes.c_long(length)):
        raise AssertionError("no hole could be punched")


def test_memory_that_became_small_pages_is_noticed():
    """Memory that was taken anew in small pages is told from what it was before"""
    need_everything()
    memory.leave_mount_namespace()
    with proc.Workspace() as workspace:
        for huge in memory.HUGE:
            with memory.tmpfs(workspace.dir / huge, 2 * SIZE, huge) as folder, \
                    contextlib.closing(memory.RamFile(folder / "ram", SIZE)) as ram:
                ram.zero()
                if ram.is_huge() != (huge == "always"):
                    if huge == "always":
                        raise runner.Skip("the kernel gives no huge pages just now")
                    raise AssertionError("small pages are taken for huge ones")
                punch(ram, 5 << 20, 4096)
                ram.write(5 << 20, bytes(4096))
                if ram.is_huge():
                    raise AssertionError("a small page among huge ones is not noticed")


def test_buckets():
    """A value lies between the edges of its bucket, and buckets are 3 % wide"""
    for value in [*range(5000), *(1 << i for i in range(12, 42)), 123456789012]:
        index = hist.bucket_of(value)
        low, high = hist.lower_edge(index), hist.lower_edge(index + 1)
        if not low <= value < high or high - low > max(1, value / 32):
            raise AssertionError(f"{value} in bucket {index}: {low} to {high}")


def made_up_store(godwit_rate):
    """Two rounds of what one of the bars wants."""
    store = results.Store()
    for name, by, rate in (("qemu", "qemu", 1e9), ("qemu-multifd-2", "qemu", 2e9),
                           ("godwit", "godwit", godwit_rate)):
        entry = store.entry("precopy-half", name, {"by": by})
        store.add(entry, throughput=rate)
        store.add(entry, throughput=1.1 * rate)
    return store


def test_bars():
    """A bar is reached or missed against QEMU's best, and never without figures"""
    for rate, ok in ((3e9, True), (2.5e9, False)):
        judged = {bar["name"]: bar for bar in bars.judge_all(made_up_store(rate))}
        half = judged["precopy-half-vs-qemu"]
        if half["ok"] != ok or abs(half["value"] - rate / 2e9) > 1e-6:
            raise AssertionError(f"{half}")
        for bar in judged.values():
            if bar is not half and (bar["ok"] or bar["value"] is not None):
                raise AssertionError(f"out of nothing: {bar}")
        list(bars.lines(judged.values()))


def test_every_bar_can_be_run():
    """Every bar names subjects that there are"""
    known = run_tool("--help").stdout
    for name in bars.subjects_needed():
        if not re.search(rf"^  {name} ", known, re.MULTILINE):
            raise AssertionError(f"{name} is no subject")


def test_what_cannot_be_run():
    """What cannot be run ends with 2, and a godwit that fails is told of"""
    need_everything()
    for size in ("3300M", "1024G"):
        expect_status(run_tool("--memory", size), 2)
    expect_status(run_tool("--subject", "nothing"), 2)
    with proc.Workspace() as workspace:
        broken = workspace.dir / "godwit"
        broken.write_text("#!/bin/sh\n[ $1 = --version ] && echo godwit 0 && exit\n"
                          "echo 'godwit: broken' >&2\nexit 1\n")
        broken.chmod(0o755)
        done = run_tool("-n", 1, "--memory", "64M", "--accel", "tcg", "--keep-going",
                        "--subject", "precopy-half", GODWIT=str(broken))
        expect_status(done, 2)
        if "failed: precopy-half, godwit" not in done.stdout or \
                "qemu-multifd-4" not in done.stdout:
            raise AssertionError(f"{done.stdout}")


def remains_of(pid):
    """Processes and folders of a run of the tool."""
    mark = f"gwtest-{pid}-"
    return [proc.command_line(int(name)) for name in os.listdir("/proc")
            if name.isdigit() and mark in proc.command_line(int(name))] + \
        [str(path) for folder in ("/tmp", "/dev/shm")
         for path in pathlib.Path(folder).glob(mark + "*")]


def test_a_run_that_is_ended_leaves_nothing():
    """SIGTERM in the middle leaves no process, folder or mount"""
    need_everything()
    with proc.Workspace() as workspace:
        tool = workspace.start([TOOL, "--memory", "128M", "--accel", "tcg", "--subject",
                                "postcopy-random"], "tool")
        deadline = time.monotonic() + 30
        while tool.output().count("postcopy-random, ") < 3:
            if not tool.running() or time.monotonic() > deadline:
                raise AssertionError(f"it does not run: {tool.output()}")
            time.sleep(0.01)
        if not remains_of(tool.pid):
            raise AssertionError("nothing is found while it runs")
        tool.signal(signal.SIGTERM)
        tool.wait(20)
        if left := remains_of(tool.pid):
            raise AssertionError(f"left behind: {left}")
        if "gwbench" in pathlib.Path("/proc/mounts").read_text():
            raise AssertionError("a mount is left")


if __name__ == "__main__":
    runner.main()
