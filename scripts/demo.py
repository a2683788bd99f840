#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo: a counting Linux guest moves from one network namespace to another.

Everything that is claimed in the report is measured from outside godwit where it
can be: the blackout is the time between two events of the two QEMUs, and the proof
that the guest lived through it is what the guest itself wrote on its console.
"""

import argparse
import os
import pathlib
import re
import shlex
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "lib"))

from gwtest import console, godwit, move, netns, proc, qemu  # noqa: E402

PORT = 49152
TICKS_BEFORE = 100
TICKS_AFTER = 200
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
STATES = {"precopy": "pre-copy", "stop-and-copy": "last pages",
          "switchover": "switching", "postcopy": "post-copy"}


class Screen:
    """What the user sees: headings, aligned facts, and one line of progress."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self._length = 0
        self._printed = 0.0

    def heading(self, text):
        self.clear()
        print(f"\n{self._bold(text)}", flush=True)

    def fact(self, name, text):
        self.clear()
        print(f"  {name:<13}{text}", flush=True)

    def command(self, host, words):
        self.clear()
        print(f"  {host:<13}$ {shlex.join(words)}", flush=True)

    def progress(self, text, last=False):
        if self.live:
            print(f"\r  {text:<{self._length}}", end="", flush=True)
            self._length = len(text)
        elif last or time.monotonic() > self._printed + 1:
            print(f"  {text}", flush=True)
            self._printed = time.monotonic()

    def clear(self):
        if self.live and self._length:
            print()
        self._length = 0

    def _bold(self, text):
        return f"\033[1m{text}\033[0m" if self.live else text


def human(count):
    for unit in UNITS:
        if count < 1024 or unit == UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024


def duration(ns):
    if ns < 1e6:
        return f"{ns / 1e3:.0f} us"
    return f"{ns / 1e6:.1f} ms" if ns < 1e9 else f"{ns / 1e9:.2f} s"


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Move a running Linux guest from one host to another, where the "
        "hosts are two network namespaces of this machine.")
    parser.add_argument("--mode", default="hybrid",
                        choices=("precopy", "postcopy", "hybrid", "offline"),
                        help="how memory moves (hybrid)")
    parser.add_argument("--channels", default="auto", metavar="N",
                        help="parallel channels, 1 to 64 or auto (auto)")
    parser.add_argument("--memory", default="1G", metavar="SIZE",
                        help="memory of the guest (1G)")
    parser.add_argument("--compress", default="auto",
                        choices=("auto", "lz4", "none"),
                        help="compress pages (auto: where that is faster)")
    parser.add_argument("--rate", default="50M", metavar="RATE",
                        help="what the guest rewrites each second: 50M, 0, max (50M)")
    parser.add_argument("--qemu", default="system", choices=("system", "backports"),
                        help="Debian's QEMU or the newer one of its backports (system)")
    return parser.parse_args()


def guest_options(arguments):
    """Half of its memory is in use, a tenth of that by pages of zeroes."""
    memory = qemu.size_bytes(arguments.memory)
    area = min(memory // 2, memory - (96 << 20)) >> 20
    if area < 16:
        sys.exit("demo: the guest needs 128M or more")
    return {"memory": memory, "devices": ("net", "rng"),
            "binary": qemu.binaries().get(arguments.qemu),
            "append": f"gw.area={area}M gw.rate={arguments.rate} gw.zero=10"}


def progress_line(stats):
    """State, how far, how fast."""
    state = STATES.get(stats["state"], stats["state"])
    if stats["state"] == "precopy":
        state += f", round {stats['round']}"
    return (f"{state:<20}{human(stats['wire_bytes']):>11} sent"
            f"{human(stats['remaining_bytes']):>13} left"
            f"{human(stats['throughput']):>13}/s"
            f"{human(stats['dirty_rate']):>13}/s dirtied")


def show_progress(screen, sender):
    """Until the send has ended; the last line says how it was at the end."""
    while sender.process.running():
        event = sender.find("progress")
        if event and event["state"] != "prepare":
            screen.progress(progress_line(event))
        time.sleep(0.05)
    if sender.stats:
        screen.progress(progress_line(sender.stats), last=True)


def move_guest(screen, arguments, workspace, network, source, destination):
    """The two commands; both have ended when it returns."""
    listen = f"{network.address4[network.b]}:{PORT}" if network else "127.0.0.1:0"
    # shown as a user would type them, without what only this script needs
    screen.command("destination", ["godwit", "receive", "--qmp",
                                   destination.qmp_path.name, "--listen", listen])
    receiver = godwit.receive(workspace, destination, listen,
                              netns=network and network.b)
    words = ["--mode", arguments.mode, "--channels", arguments.channels]
    if arguments.compress != "auto":
        words += ["--compress", arguments.compress]
    screen.command("source", ["godwit", "send", "--qmp", source.qmp_path.name, "--to",
                              receiver.listens_at, *words])
    sender = godwit.send(workspace, source, receiver.listens_at, *words,
                         netns=network and network.a)
    show_progress(screen, sender)
    sender.wait(600)
    receiver.wait(60)
    screen.clear()
    godwit.expect(sender, godwit.DONE)
    godwit.expect(receiver, godwit.DONE)
    return sender.stats, receiver.stats


def describe_mode(stats):
    rounds = f"{stats['round']} round{'s' if stats['round'] != 1 else ''}"
    late = human(stats["postcopy_bytes"])
    return {"precopy": f"pre-copy, {rounds}",
            "postcopy": f"post-copy, {late} moved after the switch",
            "offline": "offline",
            "hybrid": f"hybrid: {rounds} of pre-copy, then post-copy for {late}"
            if stats["postcopy_bytes"] else
            f"hybrid: pre-copy converged in {rounds}, no post-copy needed",
            }[stats["mode"]]


def report(screen, sent, received, blackout):
    seconds = sent["elapsed_ns"] / 1e9
    pages = sent["data_pages"] + sent["zero_pages"]
    screen.heading("Report")
    screen.fact("mode", describe_mode(sent))
    screen.fact("memory", f"{human(sent['guest_bytes'])} guest, "
                f"{human(sent['wire_bytes'])} sent in {seconds:.2f} s")
    screen.fact("throughput", f"{human(sent['wire_bytes'] / seconds)}/s over "
                f"{sent['channels']} channel{'s' if sent['channels'] != 1 else ''}")
    screen.fact("zero pages", f"{sent['zero_pages']} of {pages} "
                f"({100 * sent['zero_pages'] / pages:.0f} %), not sent as data")
    screen.fact("blackout", f"{1000 * blackout:.1f} ms from the source's STOP to the "
                "destination's RESUME event")
    if received["faults"]:
        screen.fact("faults", f"{received['faults']} served: p50 "
                    f"{duration(received['fault_p50_ns'])}, p99 "
                    f"{duration(received['fault_p99_ns'])}, max "
                    f"{duration(received['fault_max_ns'])}")
    else:
        screen.fact("faults", "none: all memory was there when the guest ran")


def run(screen, arguments, workspace, network):
    options = guest_options(arguments)
    binary = options["binary"]
    if not binary:
        sys.exit(f"demo: there is no {arguments.qemu} QEMU: run scripts/setup"
                 f"{' --with-backports' if arguments.qemu == 'backports' else ''}")
    number = ".".join(map(str, qemu.version(binary)))
    screen.heading("Guest")
    accel = qemu.accelerator(binary)
    source = qemu.Qemu(workspace, "source", netns=network and network.a, accel=accel,
                       **options).start()
    destination = qemu.Qemu(workspace, "destination", incoming=True, accel=accel,
                            netns=network and network.b, **options).start()
    release = (qemu.CACHE / "guest" / "release").read_text().strip()
    screen.fact("kernel", f"Linux {release}, {human(options['memory'])} of memory, "
                f"rewrites {arguments.rate}/s")
    screen.fact("QEMU", f"{number} ({accel}), twice: pid {source.pid} runs it, pid "
                f"{destination.pid} waits for it")
    if network:
        screen.fact("hosts", f"namespaces {network.a} ({network.address4[network.a]}) "
                    f"and {network.b} ({network.address4[network.b]})")
    else:
        screen.fact("hosts", f"both on 127.0.0.1: {netns.unavailable()}")
    source.wait_ready(180)
    source.wait_output(TICKS_BEFORE * 10, 60)
    screen.fact("state", f"up, has counted to {console.ticks_so_far(source.console())}")

    screen.heading("Migration")
    sent, received = move_guest(screen, arguments, workspace, network, source,
                                destination)
    destination.wait_output(TICKS_AFTER * 10, 60)
    proof = console.verify(source.console(), destination.console(),
                           least_after=TICKS_AFTER // 2)
    report(screen, sent, received, move.blackout_between(source, destination))

    screen.heading("Proof, from the guest's own console")
    screen.fact("counter", f"1 to {proof.before} on the source, {proof.before + 1} to "
                f"{proof.before + proof.after} on the destination: no gap, none twice")
    screen.fact("checksums", "every page it checked was right and up to date")
    left = godwit.leftovers(workspace, (source, destination),
                            (network.a, network.b) if network else ())
    if left:
        raise AssertionError(f"left behind: {left}")
    screen.fact("left behind", "nothing: no process, socket or userfaultfd")
    print(flush=True)


def interrupted(*_unused):
    # once: what comes after it must not disturb the cleaning up
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def too_old(mode):
    """Why this kernel cannot move a guest in this mode; None when it can."""
    release = os.uname().release
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if mode not in ("precopy", "hybrid") or version >= (6, 7):
        return None
    return (f"mode {mode} needs Linux 6.7 or newer (this is {release}): install "
            "linux-image-amd64 from Debian's backports, or take --mode postcopy "
            "or --mode offline")


def main():
    arguments = parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    screen = Screen()
    if reason := move.unavailable() or too_old(arguments.mode):
        sys.exit(f"demo: {reason}")
    qemu.build_guest()
    try:
        with move.hosts() as (workspace, network):
            run(screen, arguments, workspace, network)
    except KeyboardInterrupt:
        screen.clear()
        sys.exit("demo: interrupted; everything has been cleaned up")
    except (AssertionError, console.ConsoleError, godwit.GodwitError, qemu.QemuError,
            TimeoutError) as error:
        screen.clear()
        sys.exit(f"demo: FAILED: {error}")


if __name__ == "__main__":
    main()
