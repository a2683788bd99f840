#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Linux guest in QEMU is moved in every mode and goes on: its counter has no
gap, no tick comes twice, and no page it checks is wrong.

Where memory is compared, the guest was paused at the source: it then stays paused at
the destination, so both files stand still and have to be the same byte for byte. Only
what QEMU itself does to memory after a move (none with these devices) could differ.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from gwtest import godwit, move, netns, qemu, ram, runner  # noqa: E402

GUEST = {"memory": "256M", "append": "gw.rate=10M gw.sweep=40M"}

# A busy machine must not make pre-copy miss its limit; hybrid has to switch.
MODES = {"precopy": {"max_downtime": "300ms"}, "postcopy": {},
         "hybrid": {"max_rounds": 1, "max_downtime": "1us"}, "offline": {}}


def need_qemu():
    if reason := move.unavailable():
        raise runner.Skip(reason)
    qemu.build_guest()


def check_left(workspace, network, *guests):
    namespaces = (network.a, network.b) if network else ()
    if left := godwit.leftovers(workspace, guests, namespaces):
        raise AssertionError(f"left behind: {left}")


def run_one(mode, family=4, **guest):
    """One migration of a counting guest between two hosts, proven."""
    need_qemu()
    with move.hosts() as (workspace, network):
        options = {**GUEST, **guest}
        source = move.start_source(workspace, network, **options)
        destination = move.start_destination(workspace, network, **options)
        moved = move.migrate(workspace, source, destination, network,
                             move.listen_address(network, family), mode=mode,
                             **MODES[mode])
        print(f"# {move.prove(source, destination)}")
        print(f"# blackout {1000 * moved.blackout:.1f} ms, "
              f"{moved.receive.stats['faults']} faults")
        late = mode in ("postcopy", "hybrid")
        if late != bool(moved.send.stats["postcopy_bytes"]):
            raise AssertionError(f"post-copy or not: {moved.send.stats}")
        # after a round of pre-copy the guest may meet nothing that is missing
        if mode == "postcopy" and not moved.receive.stats["faults"]:
            raise AssertionError("the guest ran on without a single fault")
        if abs(moved.send.stats["blackout_ns"] / 1e9 - moved.blackout) > 0.02:
            raise AssertionError(f"godwit says {moved.send.stats['blackout_ns']} ns of "
                                 f"blackout, the events {moved.blackout:.4f} s")
        check_left(workspace, network, source, destination)
        return source, destination


def test_precopy():
    """A guest counts on after pre-copy"""
    run_one("precopy")


def test_postcopy():
    """A guest counts on after post-copy"""
    run_one("postcopy")


def test_hybrid():
    """A guest counts on after hybrid migration"""
    run_one("hybrid")


def test_offline():
    """A guest counts on after offline migration"""
    run_one("offline")


def test_default():
    """Without any option but the address, a guest counts on"""
    need_qemu()
    with move.hosts() as (workspace, network):
        source = move.start_source(workspace, network, **GUEST)
        destination = move.start_destination(workspace, network, **GUEST)
        moved = move.migrate(workspace, source, destination, network)
        move.prove(source, destination)
        if moved.send.stats["mode"] != "hybrid":
            raise AssertionError(f"mode {moved.send.stats['mode']}")
        check_left(workspace, network, source, destination)


def backports():
    need_qemu()
    path = qemu.binaries().get("backports")
    if not path:
        raise runner.Skip("no newer QEMU: scripts/setup --with-backports")
    return path


def test_newer_qemu_precopy():
    """A guest counts on after pre-copy with the newer QEMU"""
    run_one("precopy", binary=backports())


def test_newer_qemu_postcopy():
    """A guest counts on after post-copy with the newer QEMU"""
    run_one("postcopy", binary=backports())


def test_devices_precopy():
    """A guest with network, disk and random device counts on after pre-copy"""
    run_one("precopy", devices=("net", "rng", "blk"))


def test_devices_postcopy():
    """A guest with network, disk and random device counts on after post-copy"""
    run_one("postcopy", devices=("net", "rng", "blk"))


def test_announced():
    """The guest is announced on the network of its new host, and not before it runs"""
    need_qemu()
    with move.hosts() as (workspace, network):
        options = {**GUEST, "devices": ("net",)}
        source = move.start_source(workspace, network, **options)
        destination = move.start_destination(workspace, network, **options)
        before = source.announcements()
        move.migrate(workspace, source, destination, network, mode="precopy",
                     **MODES["precopy"])
        move.prove(source, destination)
        if not destination.announcements():
            raise AssertionError("nobody was told where the guest lives now")
        if source.announcements() != before:
            raise AssertionError("the guest was announced at its old place")


def test_two_vcpus():
    """A guest with two vCPUs that writes as fast as it can counts on after hybrid"""
    run_one("hybrid", smp=2, append="gw.rate=max gw.sweep=max")


def test_ipv6():
    """A guest moves over IPv6"""
    if reason := netns.unavailable():
        raise runner.Skip(reason)
    run_one("hybrid", family=6)


def test_unix_socket():
    """A guest moves over a Unix socket"""
    need_qemu()
    with move.hosts() as (workspace, _network):
        source = move.start_source(workspace, **GUEST)
        destination = move.start_destination(workspace, **GUEST)
        path = workspace.dir / "migration"
        move.migrate(workspace, source, destination, listen=f"unix:{path}",
                     mode="hybrid", **MODES["hybrid"])
        move.prove(source, destination)
        if path.exists():
            raise AssertionError("the socket's file was left behind")
        check_left(workspace, None, source, destination)


def paused(mode, **guest):
    """A paused guest stays paused, and its memory is the same byte for byte."""
    need_qemu()
    with move.hosts() as (workspace, network):
        options = {**GUEST, **guest}
        source = move.start_source(workspace, network, **options)
        destination = move.start_destination(workspace, network, **options)
        source.stop()
        sender, receiver = godwit.migrate(
            workspace, source, destination, move.listen_address(network), netns=network,
            mode=mode, **MODES[mode])
        if destination.status() != "paused":
            raise AssertionError(f"the destination is {destination.status()}")
        if found := ram.compare(source.ram_path, destination.ram_path):
            raise AssertionError(f"{found}")
        destination.cont()
        move.prove(source, destination)
        check_left(workspace, network, source, destination)


def test_paused_precopy():
    """A paused guest stays paused over pre-copy, its memory byte for byte the same"""
    paused("precopy")


def test_paused_postcopy():
    """A paused guest stays paused over post-copy, its memory byte for byte the same"""
    paused("postcopy")


def test_paused_hybrid():
    """A paused guest stays paused in hybrid mode, its memory byte for byte the same"""
    paused("hybrid")


def test_paused_offline():
    """A paused guest stays paused in mode offline, its memory byte for byte the same"""
    paused("offline", devices=("net", "rng", "blk"))


def test_twice():
    """A guest that has moved once moves on to a third host"""
    need_qemu()
    with move.hosts() as (workspace, network):
        first = move.start_source(workspace, network, **GUEST)
        second = move.start_destination(workspace, network, "second", **GUEST)
        move.migrate(workspace, first, second, network, mode="postcopy")
        move.prove(first, second)
        third = move.start_destination(workspace, network, "third", **GUEST)
        move.migrate(workspace, second, third, network, mode="precopy",
                     **MODES["precopy"])
        print(f"# {move.prove(first, second, third)}")
        check_left(workspace, network, first, second, third)


if __name__ == "__main__":
    runner.main()
