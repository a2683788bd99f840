#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user may rely on while a migration runs: memory of godwit, bandwidth, and
the commands that look and steer."""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from gwtest import godwit, guest_process, netns, proc, ram, runner  # noqa: E402
from gwtest.godwit import DONE  # noqa: E402
from gwtest.guest_process import ProcessGuest, empty_file  # noqa: E402

MIB = 1 << 20
SIZE = 128 * MIB


def pair(workspace, size=SIZE, rate=None, kind="random", network=None):
    here = workspace.ram / "source"
    guest_process.Images(workspace).copy(here, kind, size)
    there = empty_file(workspace.ram / "destination", size)
    source = ProcessGuest(workspace, "source", [here], rate, 30,
                          netns=network and network.a)
    destination = ProcessGuest(workspace, "destination", [there], others=[here],
                               waits=True, netns=network and network.b)
    return source, destination


def start(workspace, source, destination, network=None, **options):
    listen = f"{network.address4[network.b]}:0" if network else "127.0.0.1:0"
    receiver = godwit.receive(workspace, destination, listen,
                              netns=network and network.b)
    sender = godwit.send(workspace, source, receiver.listens_at,
                         netns=network and network.a, **options)
    return sender, receiver


def finish(sender, receiver, source, destination):
    for command in (sender, receiver):
        command.wait(40)
        godwit.expect(command, DONE)
    compared, differ = destination.compared()
    if differ:
        raise AssertionError(f"{differ} of {compared} pages differ")
    if found := ram.compare(source.ram_path, destination.ram_path):
        raise AssertionError(f"{found}")


def memory_test(mode, **options):
    size = 1 << 30
    limit = 64 * MIB + size // ram.PAGE // 2
    with proc.Workspace() as workspace:
        # every page is there, and no page is like another
        source, destination = pair(workspace, size, "16M", "text")
        sender, receiver = start(workspace, source, destination, mode=mode, channels=7,
                                 compress="lz4", **options)
        most = {}
        while sender.process.running() or receiver.process.running():
            for command in (sender, receiver):
                use = proc.memory(command.pid)
                total = use["anonymous"] + use["page_tables"]
                if total > most.get(command.verb, (0, None))[0]:
                    most[command.verb] = total, use
            time.sleep(0.02)
        finish(sender, receiver, source, destination)
        for verb, (total, use) in most.items():
            print(f"# {verb}: {total / MIB:.1f} MiB of {limit / MIB:.1f} MiB "
                  f"({use['anonymous'] / MIB:.1f} own, "
                  f"{use['page_tables'] / MIB:.1f} page tables)")
            if total > limit:
                raise AssertionError(f"{verb} takes {total} bytes, {limit} are allowed")
        if sender.stats["bitmap_bytes"] > size // ram.PAGE // 2:
            raise AssertionError(f"bitmaps: {sender.stats['bitmap_bytes']} bytes")


@runner.limit(120)
def test_memory_hybrid():
    """Each godwit stays within 64 MiB and 4 bits a page: 1 GiB, 7 channels, LZ4"""
    memory_test("hybrid", max_rounds=1, max_downtime="1us")


@runner.limit(120)
def test_memory_postcopy():
    """The same holds in post-copy"""
    memory_test("postcopy")


def rate_of(network, seconds):
    """Bytes a second over the link, as the kernel counts them."""
    began, first = time.monotonic(), network.sent_bytes(network.a)
    time.sleep(seconds)
    last, ended = network.sent_bytes(network.a), time.monotonic()
    return (last - first) / (ended - began)


def check_rate(rate, limit, what):
    print(f"# {what}: {rate / MIB:.1f} MiB/s, limit {limit / MIB:.1f}")
    if not 0.9 * limit <= rate <= 1.1 * limit:
        raise AssertionError(f"{what}: {rate / MIB:.1f} MiB/s with a limit of "
                             f"{limit / MIB:.1f}")


def need_namespaces():
    if reason := netns.unavailable():
        raise runner.Skip(reason)


def test_bandwidth():
    """--bandwidth is kept within a tenth, whatever the number of channels"""
    need_namespaces()
    for channels in (1, 4):
        with proc.Workspace() as workspace, netns.NetnsPair() as network:
            guests = pair(workspace, network=network)
            commands = start(workspace, *guests, network, mode="precopy",
                             channels=channels, bandwidth="40M")
            commands[0].wait_moving(4 * MIB)
            check_rate(rate_of(network, 2), 40 * MIB, f"{channels} channels")
            finish(*commands, *guests)


def test_bandwidth_in_postcopy():
    """--bandwidth holds for the push of post-copy as well"""
    need_namespaces()
    with proc.Workspace() as workspace, netns.NetnsPair() as network:
        guests = pair(workspace, network=network)
        # nobody there asks for pages
        guests[1].kill()
        guests = (guests[0], ProcessGuest(workspace, "idle", guests[1].paths,
                                          waits=True, netns=network.b))
        commands = start(workspace, *guests, network, mode="postcopy", channels=2,
                         bandwidth="40M")
        commands[0].wait_moving(4 * MIB)
        check_rate(rate_of(network, 2), 40 * MIB, "post-copy")
        for command in commands:
            command.wait(30)
            godwit.expect(command, DONE)


def control(workspace, *words):
    done = godwit.control(workspace, *words)
    if done.returncode:
        raise AssertionError(f"godwit {' '.join(words)}: {done.stdout} {done.stderr}")
    return done.stdout


def test_set_bandwidth():
    """`godwit set` changes the bandwidth of a migration under way"""
    need_namespaces()
    with proc.Workspace() as workspace, netns.NetnsPair() as network:
        guests = pair(workspace, 192 * MIB, network=network)
        commands = start(workspace, *guests, network, mode="precopy", channels=2,
                         bandwidth="20M")
        commands[0].wait_moving(2 * MIB)
        # portions of 2 MiB: it takes a while to see a rate
        check_rate(rate_of(network, 2), 20 * MIB, "before")
        control(workspace, "set", commands[0].name, "bandwidth", "40M")
        # what waits for the old rate's next portion has to be let through first
        time.sleep(0.3)
        check_rate(rate_of(network, 1.5), 40 * MIB, "after")
        control(workspace, "set", commands[0].name, "bandwidth", "unlimited")
        began = time.monotonic()
        finish(*commands, *guests)
        if time.monotonic() - began > 1.5:
            raise AssertionError("it was not lifted")


def test_set_max_downtime():
    """`godwit set` changes the downtime limit, and pre-copy then converges"""
    with proc.Workspace() as workspace:
        guests = pair(workspace, rate="100M")
        commands = start(workspace, *guests, mode="precopy", channels=2,
                         bandwidth="60M", max_downtime="1ms")
        commands[0].wait_for(
            lambda: commands[0].find(
                "progress", lambda e: godwit.stats_of(e).get("round", 0) >= 3),
            "a third round", 30)
        control(workspace, "set", commands[0].name, "max-downtime", "5s")
        finish(*commands, *guests)


def test_switch():
    """`godwit switch` turns hybrid into post-copy at once"""
    with proc.Workspace() as workspace:
        guests = pair(workspace)
        commands = start(workspace, *guests, mode="hybrid", channels=2, bandwidth="20M")
        commands[0].wait_moving(2 * MIB)
        control(workspace, "switch", commands[0].name)
        commands[0].wait_state("postcopy", timeout=2)
        finish(*commands, *guests)
        if not commands[0].stats["postcopy_bytes"]:
            raise AssertionError("there was no post-copy")


def test_switch_is_refused_in_precopy():
    """`godwit switch` is refused in mode precopy, which goes on"""
    with proc.Workspace() as workspace:
        guests = pair(workspace)
        commands = start(workspace, *guests, mode="precopy", bandwidth="60M")
        commands[0].wait_moving(2 * MIB)
        done = godwit.control(workspace, "switch", commands[0].name)
        if not done.returncode or "no post-copy" not in done.stderr:
            raise AssertionError(f"not refused: {done.stdout} {done.stderr}")
        finish(*commands, *guests)


def test_status():
    """`godwit status` shows the progress of both sides"""
    with proc.Workspace() as workspace:
        guests = pair(workspace)
        commands = start(workspace, *guests, mode="precopy", bandwidth="30M")
        commands[0].wait_moving(2 * MIB)
        for command in commands:
            text = control(workspace, "status", command.name)
            if "precopy" not in text and "pre-copy" not in text:
                raise AssertionError(f"no state in: {text}")
        first = [json.loads(control(workspace, "status", command.name, "--json"))
                 for command in commands]
        time.sleep(0.5)
        second = [json.loads(control(workspace, "status", command.name, "--json"))
                  for command in commands]
        for before, after in zip(first, second):
            before, after = godwit.stats_of(before), godwit.stats_of(after)
            if not before["wire_bytes"] < after["wire_bytes"]:
                raise AssertionError(f"no progress: {before} {after}")
            if after["guest_bytes"] != SIZE:
                raise AssertionError(f"size {after['guest_bytes']}")
        finish(*commands, *guests)


def test_progress():
    """Progress is printed at least once a second and never runs backwards"""
    with proc.Workspace() as workspace:
        guests = pair(workspace)
        commands = start(workspace, *guests, mode="precopy", bandwidth="40M")
        began = time.monotonic()
        finish(*commands, *guests)
        seconds = time.monotonic() - began
        for command in commands:
            lines = [godwit.stats_of(event) for event in command.events()
                     if event["event"] == "progress"]
            if len(lines) < int(seconds):
                raise AssertionError(f"{command.verb}: {len(lines)} lines in "
                                     f"{seconds:.1f} s")
            sent = [line["wire_bytes"] for line in lines]
            if sent != sorted(sent):
                raise AssertionError(f"{command.verb}: {sent}")


if __name__ == "__main__":
    runner.main()
