# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to move a guest that are compared.

Each gets a source that runs and a destination that waits, moves the guest, and
says how long that took: from the moment it was asked for until the guest runs at
the destination and the source's side says that all is done.
"""

import contextlib
import dataclasses
import os
import select
import threading
import time

from gwtest import godwit
from gwtest.qmp import Qmp, QmpClosed, QmpError

UNLIMITED = 1 << 40
# as godwit's default, so that neither moves memory at leisure while it is stopped
DOWNTIME_MS = 10
SAMPLE_SECONDS = 0.05
LOOK_MS = 20
NS = 1e9


class MoveError(Exception):
    """A migration did not end as it should."""


@dataclasses.dataclass
class Moved:
    began: float  # by the wall clock, as all of these
    ended: float
    stopped: float
    resumed: float
    channels: int = 1
    wire_bytes: int = 0
    # (seconds, bytes on the wire so far)
    progress: list = dataclasses.field(default_factory=list)
    # godwit's statistics
    stats: dict = dataclasses.field(default_factory=dict)


def wait_exit(process, seconds, look=None):
    """The moment a process ended. Popen.wait() with a limit looks only now and
    then; a pidfd tells at once. `look` is called every 20 ms meanwhile."""
    fd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not poll.poll(LOOK_MS if look else 1000 * seconds):
            if not look or time.monotonic() > deadline:
                break
            look()
        ended = time.time()
    finally:
        os.close(fd)
    process.wait(1)
    return ended


def expect_done(command):
    """A godwit that has ended, and well."""
    if command.status != godwit.DONE:
        why = command.complaints().strip().splitlines() or ["it does not say why"]
        raise MoveError(f"godwit {command.verb} ended with {command.status}: "
                        f"{why[0].removeprefix('godwit: ')}")


def last_event(guest, name):
    times = [event.time for event in guest.qmp.poll() if event.name == name]
    if not times:
        raise MoveError(f"{guest.name}: there was no {name}")
    return times[-1]


class Sampler:
    """Looks how much QEMU has sent, on a monitor of its own."""

    def __init__(self, path):
        self.points = []
        self._qmp = Qmp(path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        with contextlib.suppress(QmpClosed, QmpError, TimeoutError):
            while not self._ended.wait(SAMPLE_SECONDS):
                answer = self._qmp.execute("query-migrate")
                sent = answer.get("ram", {}).get("transferred", 0)
                self.points.append((time.time(), sent))

    def stop(self):
        self._ended.set()
        self._thread.join()
        self._qmp.close()
        return self.points


class QemuMover:
    """QEMU by itself: plain, with `channels` multifd channels, or in post-copy."""

    def __init__(self, name, channels=0, postcopy=False, preempt=False):
        self.name = name
        self.labels = {"by": "qemu", "how": name}
        self.channels = channels
        self.postcopy = postcopy
        self.preempt = preempt

    def _set_up(self, guest):
        guest.set_capabilities(events=True, multifd=self.channels > 0,
                               postcopy_ram=self.postcopy)
        if self.preempt:
            guest.set_capabilities(postcopy_preempt=True)
        parameters = {"max-bandwidth": UNLIMITED, "max-postcopy-bandwidth": 0,
                      "downtime-limit": DOWNTIME_MS}
        if self.channels:
            parameters["multifd-channels"] = self.channels
        guest.qmp.execute("migrate-set-parameters", parameters)

    @staticmethod
    def _listen(destination):
        destination.qmp.execute("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
        address = destination.qmp.execute("query-migrate")["socket-address"][0]
        return f"tcp:{address['host']}:{address['port']}"

    @staticmethod
    def _wait(guest, seconds):
        """The moment of "completed"."""
        event = guest.qmp.wait_event(
            "MIGRATION", seconds,
            match=lambda data: data["status"] in ("completed", "failed", "cancelled",
                                                  "postcopy-paused"))
        if event.data["status"] != "completed":
            why = guest.qmp.execute("query-migrate").get("error-desc", "no reason given")
            raise MoveError(f"{guest.name}: {event.data['status']}: {why}")
        return event.time

    def prepare(self, workspace, source, destination):
        """All that comes before somebody asks for the migration."""
        for guest in (source, destination):
            self._set_up(guest)
        return self._listen(destination)

    def move(self, prepared, source, destination, seconds, watch_progress=False):
        sampler = Sampler(source.qmp_path) if watch_progress else None
        began = time.time()
        source.qmp.execute("migrate", {"uri": prepared})
        if self.postcopy:
            source.qmp.execute("migrate-start-postcopy")
        ended = max(self._wait(source, seconds), self._wait(destination, seconds))
        points = sampler.stop() if sampler else []
        resumed = destination.qmp.wait_event("RESUME").time
        ram = source.qmp.execute("query-migrate")["ram"]
        return Moved(began, max(ended, resumed), last_event(source, "STOP"), resumed,
                     self.channels or 1, ram["transferred"],
                     [(at - began, sent) for at, sent in points])


class GodwitMover:
    """godwit beside the same QEMU."""

    def __init__(self, name, mode, **options):
        self.name = name
        self.labels = {"by": "godwit", "how": name}
        self.postcopy = mode == "postcopy"
        self.options = {"mode": mode, **options}

    def prepare(self, workspace, source, destination):
        return workspace, godwit.receive(workspace, destination)

    def move(self, prepared, source, destination, seconds, watch_progress=False):
        workspace, receiver = prepared
        began = time.time()
        sender = godwit.send(workspace, source, receiver.listens_at, **self.options)
        ended = wait_exit(sender.process, seconds)
        expect_done(sender)
        wait_exit(receiver.process, seconds)
        expect_done(receiver)
        return Moved(began, ended, last_event(source, "STOP"),
                     last_event(destination, "RESUME"), sender.stats["channels"],
                     sender.stats["wire_bytes"],
                     _progress(sender) if watch_progress else [], sender.stats)


def _progress(sender):
    return [(stats["elapsed_ns"] / NS, stats["wire_bytes"])
            for stats in map(godwit.stats_of, sender.events())
            if stats.get("elapsed_ns") and "wire_bytes" in stats]


def throughput_points(progress):
    """[[seconds, bytes a second], ...] out of what had been sent when."""
    points = []
    for (earlier, before), (later, after) in zip(progress, progress[1:]):
        # a progress line may come twice, and QEMU counts anew when it is done
        if later > earlier and after >= before:
            points.append([later, (after - before) / (later - earlier)])
    return points
