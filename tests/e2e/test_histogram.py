#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The histogram of fault latency: the same on both sides, whole at every moment,
live while pages are pulled."""

import json
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from gwtest import godwit, guest_process, proc, runner  # noqa: E402
from gwtest.guest_process import ProcessGuest, empty_file  # noqa: E402

MIB = 1 << 20
SIZE = 32 * MIB
SIDES = ("send", "receive")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def quantile(histogram, share):
    """The upper edge of the bucket that holds the quantile, at most the maximum."""
    seen = 0
    for upper, count in histogram["buckets"]:
        seen += count
        if seen > int(share * histogram["count"]):
            return min(upper, histogram["max"])
    return histogram["max"]


def check_whole(where, stats):
    """The buckets are those of the figures, and the faults are all in them."""
    histogram = stats["fault_histogram"]
    uppers = [upper for upper, _ in histogram["buckets"]]
    counts = [count for _, count in histogram["buckets"]]
    if sum(counts) != stats["faults"] or histogram["count"] != stats["faults"]:
        raise AssertionError(f"{where}: {sum(counts)} of {stats['faults']} faults are "
                             "in the histogram")
    if uppers != sorted(set(uppers)) or not all(counts):
        raise AssertionError(f"{where}: buckets {histogram['buckets']}")
    for name, share in QUANTILES.items():
        if histogram[name] != quantile(histogram, share):
            raise AssertionError(f"{where}: {name} is {histogram[name]} and by the "
                                 f"buckets {quantile(histogram, share)}")
    for name, field in {"mean": "mean", "max": "max", "p50": "p50", "p90": "p90",
                        "p99": "p99", "p99.9": "p999"}.items():
        if histogram[name] != stats[f"fault_{field}_ns"]:
            raise AssertionError(f"{where}: {name} is not fault_{field}_ns: {stats}")
    if counts and not (histogram["max"] <= uppers[-1] <= 1.032 * histogram["max"] + 1
                       and 0 < histogram["mean"] <= histogram["max"]):
        raise AssertionError(f"{where}: mean and maximum do not fit: {histogram}")
    return histogram


def start(workspace, mode, rest_us=0, **options):
    """Begins to move a process; its destination reads all memory. (send, receive)"""
    here = guest_process.Images(workspace).copy(workspace.ram / "source", "random", SIZE)
    there = empty_file(workspace.ram / "destination", SIZE)
    source = ProcessGuest(workspace, "source", [here])
    destination = ProcessGuest(workspace, "destination", [there], others=[here],
                               rest_us=rest_us, waits=True)
    receiver = godwit.receive(workspace, destination)
    return godwit.send(workspace, source, receiver.listens_at, mode=mode,
                       **options), receiver


def end(sender, receiver):
    for command in (sender, receiver):
        command.wait()
        godwit.expect(command, godwit.DONE)


def status(workspace, side):
    """What `godwit status --json` says of one side; None once it has ended."""
    done = godwit.control(workspace, "status", "--json", side)
    return json.loads(done.stdout)["stats"] if done.returncode == 0 else None


def watch(workspace, sender):
    """Every different histogram of each side, until one side has ended."""
    seen = {side: [] for side in SIDES}
    while sender.process.running():
        for side in SIDES:
            stats = status(workspace, side)
            if not stats or stats["state"] != "postcopy":
                continue
            histogram = check_whole(f"{side}, live", stats)
            if histogram["count"] and histogram not in seen[side]:
                seen[side].append(histogram)
        time.sleep(0.05)
    return seen


def test_live_and_at_the_end():
    """Both sides show the whole histogram of faults while it grows and at the end"""
    with proc.Workspace() as workspace:
        # a slow push and a reader that rests: faults go on for a second at least
        sender, receiver = start(workspace, "postcopy", rest_us=200, bandwidth="4M")
        seen = watch(workspace, sender)
        end(sender, receiver)
        for side, histograms in seen.items():
            counts = [histogram["count"] for histogram in histograms]
            if len(counts) < 3 or counts != sorted(counts):
                raise AssertionError(f"{side} does not grow: {counts}")
        here, there = (check_whole(command.verb, command.stats)
                       for command in (sender, receiver))
        if here != there or here["unit"] != "ns" or here["count"] < 1000:
            raise AssertionError(f"the sides differ: {here} {there}")


def test_no_faults():
    """A migration without post-copy has an empty histogram"""
    with proc.Workspace() as workspace:
        sender, receiver = start(workspace, "offline")
        end(sender, receiver)
        for command in (sender, receiver):
            histogram = check_whole(command.verb, command.stats)
            if histogram["count"] or histogram["buckets"] or histogram["max"]:
                raise AssertionError(f"{command.verb}: {histogram}")


def test_for_people():
    """`godwit status` prints the faults with five figures"""
    line = re.compile(r"^  faults +[1-9]\d* served: p50 \S+ [mun]s, p90 \S+ [mun]s, "
                      r"p99 \S+ [mun]s, p99\.9 \S+ [mun]s, max \S+ [mun]?s$",
                      re.MULTILINE)
    with proc.Workspace() as workspace:
        sender, receiver = start(workspace, "postcopy", rest_us=200, bandwidth="4M")
        said = {side: "" for side in SIDES}
        while sender.process.running() and not all(map(line.search, said.values())):
            for side in SIDES:
                done = godwit.control(workspace, "status", side)
                said[side] = said[side] if line.search(said[side]) else done.stdout
        end(sender, receiver)
        for side, text in said.items():
            if not line.search(text):
                raise AssertionError(f"{side} said {text!r}")


if __name__ == "__main__":
    runner.main()
