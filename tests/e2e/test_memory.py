#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory arrives byte for byte: every kind of memory, number of channels, mode,
with and without compression.

The guests are processes. The source writes while it is moved and is stopped at
the end, so its file holds what the guest's last moment was. The destination never
writes: as soon as it runs it compares all of its memory, in random order, with
that file, in post-copy while most of it is still missing. Afterwards both files
are compared once more from outside, holes and all.
"""

import contextlib
import mmap
import pathlib
import random
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from gwtest import godwit, guest_process, proc, ram, runner  # noqa: E402
from gwtest.guest_process import ProcessGuest, empty_file  # noqa: E402

MIB = 1 << 20
SIZE = 64 * MIB

# What the source does meanwhile: bytes a second, and the share of its pages.
# "half" is half random and half zero, and half of all pages are rewritten over and
# over; zero memory has to stay zero.
WRITERS = {"random": ("8M", 100), "zero": (None, 0), "sparse": ("4M", 10),
           "half": ("60M", 50)}
CHANNELS = (1, 2, 4, 7)
COMPRESS = ("none", "lz4")

MODES = {
    # The limit is not what is tested here, and a busy machine must not miss it.
    "precopy": {"max_downtime": "200ms"},
    "postcopy": {},
    # One round, and no rest is small enough to be moved while stopped.
    "hybrid": {"max_rounds": 1, "max_downtime": "1us"},
    "offline": {},
}


def check_arrived(workspace, source, destination, pages):
    """Both memories are one, and nothing but the two processes is left."""
    if not source.stopped():
        raise AssertionError("the source runs on after its migration")
    compared, differ = destination.compared()
    if differ or compared != pages:
        raise AssertionError(f"the destination saw {differ} wrong pages of {compared}")
    for here, there in zip(source.paths, destination.paths):
        if found := ram.compare(here, there):
            raise AssertionError(f"{there.name}: {found}")
    if left := godwit.leftovers(workspace, (source, destination)):
        raise AssertionError(f"left behind: {left}")


def move(workspace, images, kind, mode, size=SIZE, there=None, **options):
    """One migration between two fresh processes, checked; (send, receive)."""
    rate, percent = WRITERS[kind]
    here = images.copy(workspace.ram / "source", kind, size)
    there = there or empty_file(workspace.ram / "destination", size)
    source = ProcessGuest(workspace, "source", [here], rate, percent)
    destination = ProcessGuest(workspace, "destination", [there], others=[here],
                               waits=True)
    sender, receiver = godwit.migrate(workspace, source, destination, mode=mode,
                                      **{**MODES[mode], **options})
    check_arrived(workspace, source, destination, size // ram.PAGE)
    source.kill()
    destination.kill()
    return sender, receiver


def move_in(modes, workspace, images, kind, make_destination):
    """One migration in each mode, to a file that is made anew for each."""
    for mode in modes:
        try:
            move(workspace, images, kind, mode, there=make_destination())
        except AssertionError as error:
            raise AssertionError(f"mode {mode}: {error}") from error


def check_statistics(kind, mode, channels, sender):
    stats = sender.stats
    if stats["channels"] != channels:
        raise AssertionError(f"{stats['channels']} channels instead of {channels}")
    if stats["mode"] != mode or stats["guest_bytes"] != SIZE:
        raise AssertionError(f"wrong mode or size: {stats}")
    pages = stats["data_pages"] + stats["zero_pages"]
    if pages < SIZE // ram.PAGE:
        raise AssertionError(f"only {pages} pages crossed")
    # memory that nobody writes crosses once, holes too; a page that is asked for
    # in post-copy may be on its way already
    if kind == "zero" and mode in ("precopy", "offline") and pages != SIZE // ram.PAGE:
        raise AssertionError(f"{pages} pages crossed instead of {SIZE // ram.PAGE}")
    if kind in ("zero", "sparse") and stats["wire_bytes"] > SIZE // 4:
        raise AssertionError(f"{kind} memory took {stats['wire_bytes']} bytes")
    late = mode == "postcopy" or (mode == "hybrid" and kind != "zero")
    # what is known to be zero need not be missing at the switch
    if late and kind != "zero" and not stats["postcopy_bytes"]:
        raise AssertionError(f"there was no post-copy: {stats}")
    if not late and stats["postcopy_bytes"]:
        raise AssertionError(f"there was post-copy: {stats}")


def matrix_test(kind, mode):
    def test():
        with proc.Workspace() as workspace:
            images = guest_process.Images(workspace)
            for channels in CHANNELS:
                for compress in COMPRESS:
                    try:
                        sender, _ = move(workspace, images, kind, mode,
                                         channels=channels, compress=compress)
                        check_statistics(kind, mode, channels, sender)
                    except Exception as error:
                        raise AssertionError(f"{channels} channels, compress "
                                             f"{compress}: {error}") from error
    test.__doc__ = (f"{kind} memory arrives byte for byte in mode {mode}, over 1, 2, 4 "
                    "and 7 channels, with and without LZ4")
    return test


for _kind in WRITERS:
    for _mode in MODES:
        globals()[f"test_{_kind}_{_mode}"] = matrix_test(_kind, _mode)


def test_old_contents():
    """Memory that the destination held before does not shine through"""
    with proc.Workspace() as workspace:
        images = guest_process.Images(workspace)
        move_in(MODES, workspace, images, "sparse",
                lambda: images.copy(workspace.ram / "destination", "random", SIZE, seed=7))


def test_several_regions():
    """Regions of odd sizes arrive each in its place"""
    sizes = (4096, 2 * MIB + 4096, 9 * MIB - 12288, 16 * MIB)
    with proc.Workspace() as workspace:
        images = guest_process.Images(workspace)
        for mode in MODES:
            here = [images.copy(workspace.ram / f"source{i}", "half", size, seed=i)
                    for i, size in enumerate(sizes)]
            there = [empty_file(workspace.ram / f"destination{i}", size)
                     for i, size in enumerate(sizes)]
            source = ProcessGuest(workspace, "source", here, "8M")
            destination = ProcessGuest(workspace, "destination", there, others=here,
                                       waits=True)
            godwit.migrate(workspace, source, destination, mode=mode, channels=3,
                           **MODES[mode])
            try:
                check_arrived(workspace, source, destination, sum(sizes) // ram.PAGE)
            except AssertionError as error:
                raise AssertionError(f"mode {mode}: {error}") from error
            source.kill()
            destination.kill()


HUGE_PAGE = 2 * MIB
HUGE_SIZE = 32 * MIB


@contextlib.contextmanager
def huge_pages(workspace):
    """A folder whose files are made of huge pages, enough for two guests."""
    setting = pathlib.Path("/proc/sys/vm/nr_hugepages")
    before = setting.read_text()
    folder = workspace.dir / "huge"
    folder.mkdir()
    try:
        setting.write_text(str(int(before) + 2 * HUGE_SIZE // HUGE_PAGE))
        subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", folder],
                       check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise runner.Skip(f"no huge pages can be had here: {error}") from None
    try:
        free = re.search(r"HugePages_Free: +(\d+)", pathlib.Path(
            "/proc/meminfo").read_text())
        if int(free[1]) < 2 * HUGE_SIZE // HUGE_PAGE:
            raise runner.Skip(f"only {free[1]} huge pages could be had")
        yield folder
    finally:
        for process in workspace.processes:
            process.kill()
        subprocess.run(["umount", folder], check=True)
        setting.write_text(before)


def test_huge_pages():
    """Memory of huge pages arrives byte for byte in every mode"""
    with proc.Workspace() as workspace, huge_pages(workspace) as folder:
        for mode in MODES:
            here = empty_file(folder / "source", HUGE_SIZE)
            there = empty_file(folder / "destination", HUGE_SIZE)
            # three of four huge pages hold data, the rest are holes
            with open(here, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
                for at in range(0, HUGE_SIZE, HUGE_PAGE):
                    if at // HUGE_PAGE % 4:
                        memory[at:at + MIB] = random.Random(at).randbytes(MIB)
            source = ProcessGuest(workspace, "source", [here], "4M", 20)
            destination = ProcessGuest(workspace, "destination", [there], others=[here],
                                       waits=True)
            godwit.migrate(workspace, source, destination, mode=mode, channels=2,
                           **MODES[mode])
            try:
                check_arrived(workspace, source, destination, HUGE_SIZE // ram.PAGE)
            except AssertionError as error:
                raise AssertionError(f"mode {mode}: {error}") from error
            for guest in (source, destination):
                guest.kill()
                guest.ram_path.unlink()


def test_large_folios():
    """Post-copy loses nothing where the destination's tmpfs allocates large folios"""
    with proc.Workspace() as workspace:
        images = guest_process.Images(workspace)
        folder = workspace.dir / "large"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=always", "tmpfs", folder],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise runner.Skip(f"no tmpfs with huge=always: {done.stderr.strip()}")
        try:
            move_in(("hybrid", "postcopy", "precopy"), workspace, images, "half",
                    lambda: empty_file(folder / "destination", SIZE))
        finally:
            for process in workspace.processes:
                process.kill()
            subprocess.run(["umount", folder], check=True)


def test_compression_compresses():
    """Text takes a fraction of its size with LZ4, and all of it without"""
    with proc.Workspace() as workspace:
        images = guest_process.Images(workspace)
        WRITERS["text"] = (None, 0)
        plain, _ = move(workspace, images, "text", "precopy", compress="none")
        packed, _ = move(workspace, images, "text", "precopy", compress="lz4")
        if plain.stats["wire_bytes"] < SIZE:
            raise AssertionError(f"not compressed: {plain.stats['wire_bytes']} bytes")
        if packed.stats["wire_bytes"] > SIZE // 4:
            raise AssertionError(f"compressed: {packed.stats['wire_bytes']} bytes")


def test_faults_are_served_and_counted():
    """In post-copy, pages are pulled by faults and each is counted once"""
    with proc.Workspace() as workspace:
        images = guest_process.Images(workspace)
        # a slow push, so that the reader meets pages that are missing
        sender, receiver = move(workspace, images, "random", "postcopy",
                                bandwidth="40M")
        for command in (sender, receiver):
            stats = command.stats
            if not 100 < stats["faults"] <= SIZE // ram.PAGE:
                raise AssertionError(f"{command.verb}: {stats['faults']} faults")
            if not 0 < stats["fault_p50_ns"] <= stats["fault_p99_ns"] \
                    <= stats["fault_max_ns"]:
                raise AssertionError(f"{command.verb}: fault times {stats}")


if __name__ == "__main__":
    runner.main()
