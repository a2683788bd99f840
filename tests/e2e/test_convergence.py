#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that writes faster than the link: pre-copy alone says that it does not
converge and leaves the guest running, hybrid completes."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from gwtest import (console, godwit, guest_process, move, netns,  # noqa: E402
                    proc, qemu, ram, runner)
from gwtest.godwit import DONE, FAILED  # noqa: E402
from gwtest.guest_process import ProcessGuest, empty_file  # noqa: E402

SIZE = 64 << 20
# the writer of a process guest makes gigabytes a second; this is the link
LINK = "40M"


def pair(workspace):
    here = guest_process.Images(workspace).copy(workspace.ram / "source", "half", SIZE)
    there = empty_file(workspace.ram / "destination", SIZE)
    source = ProcessGuest(workspace, "source", [here], "200M", 50)
    destination = ProcessGuest(workspace, "destination", [there], others=[here],
                               waits=True)
    return source, destination


def start(workspace, source, destination, **options):
    receiver = godwit.receive(workspace, destination)
    sender = godwit.send(workspace, source, receiver.listens_at, bandwidth=LINK,
                         channels=2, **options)
    return sender, receiver


def check_source_runs(workspace, *guests):
    if guests[0].stopped():
        raise AssertionError("the source does not run")
    if left := godwit.leftovers(workspace, guests):
        raise AssertionError(f"left behind: {left}")


def test_precopy_gives_up():
    """Pre-copy that cannot converge ends after --max-rounds and says so"""
    with proc.Workspace() as workspace:
        source, destination = pair(workspace)
        sender, receiver = start(workspace, source, destination, mode="precopy",
                                 max_rounds=4)
        sender.wait(40)
        receiver.wait(40)
        godwit.expect(sender, FAILED, "not converging", "hybrid")
        godwit.expect(receiver, FAILED, "not converging")
        # its hot half each round, and a round takes less than a second and a half
        if sender.stats["dirty_rate"] < 20 << 20:
            raise AssertionError(f"dirty rate {sender.stats['dirty_rate']}")
        check_source_runs(workspace, source, destination)


def test_hybrid_completes():
    """Hybrid completes where pre-copy does not converge"""
    with proc.Workspace() as workspace:
        source, destination = pair(workspace)
        sender, receiver = start(workspace, source, destination, mode="hybrid")
        sender.wait(40)
        receiver.wait(40)
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        compared, differ = destination.compared()
        if differ:
            raise AssertionError(f"{differ} of {compared} pages differ")
        if found := ram.compare(source.ram_path, destination.ram_path):
            raise AssertionError(f"{found}")
        if not sender.stats["postcopy_bytes"]:
            raise AssertionError(f"no post-copy: {sender.stats}")


def test_postcopy_after():
    """Hybrid switches to post-copy after --postcopy-after, in the middle of a round"""
    with proc.Workspace() as workspace:
        source, destination = pair(workspace)
        began = time.monotonic()
        # alone, the first round takes more than a second
        sender, receiver = start(workspace, source, destination, mode="hybrid",
                                 postcopy_after="400ms")
        sender.wait_state("postcopy")
        switched = time.monotonic() - began
        sender.wait(40)
        receiver.wait(40)
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        if not 0.4 < switched < 1.2:
            raise AssertionError(f"switched after {switched:.2f} s")
        if sender.stats["round"] != 1:
            raise AssertionError(f"round {sender.stats['round']}")
        if found := ram.compare(source.ram_path, destination.ram_path):
            raise AssertionError(f"{found}")


def test_generous_downtime():
    """The same guest converges when the downtime limit is large enough"""
    with proc.Workspace() as workspace:
        source, destination = pair(workspace)
        sender, receiver = start(workspace, source, destination, mode="precopy",
                                 max_downtime="5s")
        sender.wait(40)
        receiver.wait(40)
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        if found := ram.compare(source.ram_path, destination.ram_path):
            raise AssertionError(f"{found}")


def busy_linux(mode, **options):
    """A Linux guest that writes all the time, over a link of 300 Mb/s."""
    if reason := move.unavailable() or netns.unavailable():
        raise runner.Skip(reason)
    qemu.build_guest()
    guest = {"memory": "192M", "append": "gw.area=64M gw.rate=max gw.sweep=0"}
    with proc.Workspace() as workspace, netns.NetnsPair(rate="300mbit") as network:
        source = move.start_source(workspace, network, **guest)
        destination = move.start_destination(workspace, network, **guest)
        receiver = godwit.receive(workspace, destination, move.listen_address(network),
                                  netns=network.b)
        sender = godwit.send(workspace, source, receiver.listens_at, netns=network.a,
                             mode=mode, **options)
        sender.wait(60)
        receiver.wait(60)
        yield sender, receiver
        if sender.status == DONE:
            print(f"# {move.prove(source, destination)}")
        else:
            source.wait_output(500)
            console.verify(source.console())
        left = godwit.leftovers(workspace, (source, destination),
                                (network.a, network.b))
        if left:
            raise AssertionError(f"left behind: {left}")


def test_linux_precopy_gives_up():
    """A Linux guest that writes faster than a real link runs on after pre-copy gave up"""
    for sender, receiver in busy_linux("precopy", max_rounds=3):
        godwit.expect(sender, FAILED, "not converging")
        godwit.expect(receiver, FAILED, "not converging")


def test_linux_hybrid_completes():
    """A Linux guest that writes faster than a real link is moved by hybrid"""
    for sender, receiver in busy_linux("hybrid", max_rounds=2):
        godwit.expect(sender, DONE)
        godwit.expect(receiver, DONE)
        if not sender.stats["postcopy_bytes"]:
            raise AssertionError(f"no post-copy: {sender.stats}")


if __name__ == "__main__":
    runner.main()
