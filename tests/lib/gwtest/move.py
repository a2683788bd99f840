# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest in QEMU that is moved by godwit, and the proof that it went on."""

import contextlib
import dataclasses

from . import console, godwit, netns, proc, qemu


def unavailable():
    """Why no Linux guest can be moved here; None when it can."""
    if not qemu.binaries():
        return "no qemu-system-x86_64: run scripts/setup"
    if not qemu.KERNEL.exists():
        return "no guest kernel: run scripts/setup"
    return None


@dataclasses.dataclass
class Moved:
    """What is known after a migration."""
    send: godwit.Command
    receive: godwit.Command
    # seconds from the source's STOP event to the destination's RESUME event
    blackout: float


@contextlib.contextmanager
def hosts(rate=None):
    """A workspace and, where they can be had, two namespaces as hosts (else None:
    everything then runs on 127.0.0.1)."""
    with proc.Workspace() as workspace:
        if netns.unavailable():
            yield workspace, None
        else:
            with netns.NetnsPair(rate) as network:
                yield workspace, network


def start_source(workspace, network=None, name="source", **options):
    """A guest that has come up and counts."""
    source = qemu.Qemu(workspace, name, netns=network and network.a, **options).start()
    source.wait_ready()
    source.wait_output(500)
    return source


def start_destination(workspace, network=None, name="destination", **options):
    return qemu.Qemu(workspace, name, incoming=True, netns=network and network.b,
                     **options).start()


def listen_address(network, family=4):
    if not network:
        return "[::1]:0" if family == 6 else "127.0.0.1:0"
    if family == 6:
        return f"[{network.address6[network.b]}]:0"
    return f"{network.address4[network.b]}:0"


def blackout_between(source, destination):
    """Seconds from the last STOP here to the last RESUME there, by QEMU's clocks."""
    stops = [event.time for event in source.qmp.poll() if event.name == "STOP"]
    resumes = [event.time for event in destination.qmp.poll() if event.name == "RESUME"]
    if not stops or not resumes:
        raise AssertionError(f"events: {len(stops)} STOP, {len(resumes)} RESUME")
    return resumes[-1] - stops[-1]


def migrate(workspace, source, destination, network=None, listen=None, arguments=(),
            timeout=60, **options):
    """Move a running guest with godwit; a Moved."""
    send, receive = godwit.migrate(workspace, source, destination,
                                   listen or listen_address(network), netns=network,
                                   timeout=timeout, arguments=arguments, **options)
    if destination.status() != "running":
        raise AssertionError(f"the destination is {destination.status()}")
    if source.status() not in ("postmigrate", "paused", "finish-migrate"):
        raise AssertionError(f"the source is {source.status()} after the migration")
    return Moved(send, receive, blackout_between(source, destination))


def prove(*guests, ticks=30):
    """The guest lived on these hosts in this order, and lost nothing."""
    guests[-1].wait_output(ticks * 20)
    return console.verify(*(guest.console() for guest in guests), least_after=ticks)
