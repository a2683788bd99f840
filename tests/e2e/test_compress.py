#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""--compress auto: over a slow link memory that shrinks goes compressed, by itself;
over a fast one, and where nothing would be gained, it goes as it is."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from gwtest import godwit, guest_process, netns, proc, ram, runner  # noqa: E402
from gwtest.guest_process import ProcessGuest, empty_file  # noqa: E402

MIB = 1 << 20
SIZE = 128 * MIB
SIDES = ("send", "receive")


def need_namespaces():
    if reason := netns.unavailable():
        raise runner.Skip(reason)


def make_pair(workspace, network, kind, size, rate):
    """A source that writes at `rate` and a destination that compares."""
    here = guest_process.Images(workspace).copy(workspace.ram / "source", kind, size)
    there = workspace.ram / "destination"
    # its pages exist: what is measured is the link and not the first touch
    guest_process.Images(workspace).copy(there, "random", size, seed=2)
    source = ProcessGuest(workspace, "source", [here], rate, 10,
                          netns=network and network.a)
    destination = ProcessGuest(workspace, "destination", [there], others=[here],
                               waits=True, netns=network and network.b)
    return source, destination


def check_identical(source, destination):
    compared, differ = destination.compared()
    if differ or compared != source.ram_path.stat().st_size // ram.PAGE:
        raise AssertionError(f"{differ} of {compared} pages differ")
    if found := ram.compare(source.ram_path, destination.ram_path):
        raise AssertionError(f"{found}")


def move(network, kind, size=SIZE, rate=None, **options):
    """One migration, checked; the statistics of both sides, by side."""
    with proc.Workspace() as workspace:
        source, destination = make_pair(workspace, network, kind, size, rate)
        listen = f"{network.address4[network.b]}:0" if network else "127.0.0.1:0"
        commands = godwit.migrate(workspace, source, destination, listen,
                                  netns=network, channels=2, **options)
        check_identical(source, destination)
        return {command.verb: command.stats for command in commands}


def describe(what, stats):
    print(f"# {what}: {stats['elapsed_ns'] / 1e6:.0f} ms, "
          f"{stats['compressed_pages']} of {stats['data_pages']} pages compressed, "
          f"{stats['wire_bytes'] / MIB:.1f} MiB on the wire")


def check_compressed(stats, share):
    """On both sides at least `share` of the pages, and the bytes to match."""
    for side in SIDES:
        now = stats[side]
        if now["compressed_pages"] < share * now["data_pages"]:
            raise AssertionError(f"{side}: only {now['compressed_pages']} pages of "
                                 f"{now['data_pages']} were compressed")
        plain = (now["data_pages"] - now["compressed_pages"]) * ram.PAGE
        if not 0 <= now["wire_bytes"] - plain - now["compressed_bytes"] < MIB:
            raise AssertionError(f"{side}: {now['compressed_bytes']} compressed bytes "
                                 f"and {plain} others do not make {now['wire_bytes']}")
    for field in ("compressed_pages", "compressed_bytes"):
        if stats["send"][field] != stats["receive"][field]:
            raise AssertionError(f"{field}: {stats['send'][field]} left, "
                                 f"{stats['receive'][field]} came")


def check_hardly_compressed(stats, share=0.03):
    """Samples are allowed."""
    for side in SIDES:
        now = stats[side]
        if now["compressed_pages"] > share * now["data_pages"]:
            raise AssertionError(f"{side}: {now['compressed_pages']} pages of "
                                 f"{now['data_pages']} were compressed")


@runner.limit(60)
def test_a_slow_link_is_faster():
    """Over 1 Gb/s, memory that LZ4 halves takes little more than half of the time"""
    need_namespaces()
    with netns.NetnsPair(rate="1gbit") as network:
        plain = move(network, "double", mode="precopy", compress="none")
        before = network.sent_bytes(network.a)
        packed = move(network, "double", mode="precopy")
        crossed = network.sent_bytes(network.a) - before
    describe("none", plain["send"])
    describe("auto", packed["send"])
    check_compressed(packed, 0.75)
    check_hardly_compressed(plain, 0)
    if not packed["send"]["wire_bytes"] <= crossed < 0.66 * SIZE:
        raise AssertionError(f"{crossed} bytes crossed the link")
    gain = plain["send"]["elapsed_ns"] / packed["send"]["elapsed_ns"]
    print(f"# {gain:.2f} times as fast")
    if gain < 1.5:
        raise AssertionError(f"only {gain:.2f} times as fast")


@runner.limit(60)
def test_a_slow_link_and_data_that_does_not_shrink():
    """Over 1 Gb/s, random memory goes as it is"""
    need_namespaces()
    with netns.NetnsPair(rate="1gbit") as network:
        stats = move(network, "random", mode="precopy")
    describe("random", stats["send"])
    check_hardly_compressed(stats, 0)


@runner.limit(60)
def test_a_slow_link_in_postcopy():
    """In post-copy what is pushed is compressed, and answers to faults are not"""
    need_namespaces()
    with netns.NetnsPair(rate="1gbit") as network:
        # a compressed frame on the urgent channel would end the session
        stats = move(network, "double", rate="8M", mode="postcopy")
    describe("post-copy", stats["send"])
    check_compressed(stats, 0.3)
    if not stats["receive"]["faults"]:
        raise AssertionError("there were no faults")


@runner.limit(60)
def test_memory_that_is_written_meanwhile():
    """Over 1 Gb/s, hybrid, a guest that writes: what arrives is what it was"""
    need_namespaces()
    with netns.NetnsPair(rate="1gbit") as network:
        stats = move(network, "double", rate="20M", mode="hybrid", max_rounds=2,
                     max_downtime="1us")
    describe("hybrid", stats["send"])
    check_compressed(stats, 0.5)


@runner.limit(60)
def test_loopback():
    """Over loopback, memory that LZ4 halves goes as it is, but for a few samples"""
    stats = move(None, "double", 2 * SIZE, mode="precopy")
    describe("loopback", stats["send"])
    check_hardly_compressed(stats)


@runner.limit(60)
def test_bandwidth_counts_what_is_sent():
    """--bandwidth limits bytes on the wire: compressed, memory moves faster than it"""
    need_namespaces()
    limit = 32 * MIB
    with proc.Workspace() as workspace, netns.NetnsPair() as network:
        guests = make_pair(workspace, network, "double", SIZE, None)
        receiver = godwit.receive(workspace, guests[1],
                                  f"{network.address4[network.b]}:0", netns=network.b)
        sender = godwit.send(workspace, guests[0], receiver.listens_at,
                             netns=network.a, mode="precopy", channels=1,
                             bandwidth="32M")
        # until it has found out that compressing pays
        sender.wait_moving(24 * MIB)
        began, first = time.monotonic(), network.sent_bytes(network.a)
        time.sleep(0.8)
        rate = (network.sent_bytes(network.a) - first) / (time.monotonic() - began)
        for command in (sender, receiver):
            command.wait(20)
            godwit.expect(command, godwit.DONE)
        check_identical(*guests)
        stats = sender.stats
    describe("32 MiB/s", stats)
    print(f"# {rate / MIB:.1f} MiB/s over the link")
    if not 0.9 * limit <= rate <= 1.1 * limit:
        raise AssertionError(f"{rate / MIB:.1f} MiB/s with a limit of {limit / MIB}")
    if stats["elapsed_ns"] > 0.75e9 * SIZE / limit:
        raise AssertionError("no faster than without compression")


if __name__ == "__main__":
    runner.main()
