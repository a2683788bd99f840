# SPDX-License-Identifier: GPL-2.0-or-later
"""The godwit command, driven as a user's script would: arguments in, JSON lines
and an exit status out."""

import json
import os
import pathlib
import signal
import subprocess
import time

from . import proc

TOP = pathlib.Path(__file__).resolve().parents[3]

# exit statuses
DONE, FAILED, USAGE, CANCELLED, TIMED_OUT, UNDECIDED, PAUSED = range(7)


class GodwitError(Exception):
    """godwit did not do what the test expects of it."""


def binary():
    """$GODWIT, or the newest that was built here."""
    if path := os.environ.get("GODWIT"):
        return path
    built = [path for path in TOP.glob("build*/cli/godwit") if path.is_file()]
    if not built:
        raise GodwitError("there is no godwit: build it, or name it in $GODWIT")
    return str(max(built, key=lambda path: path.stat().st_mtime))


def guest_arguments(guest):
    """How a guest is named on the command line: a Qemu or a ProcessGuest."""
    if hasattr(guest, "godwit_arguments"):
        return guest.godwit_arguments()
    return ["--qmp", str(guest.qmp_path)]


class Command:
    """A `godwit send` or `godwit receive` that runs with --json."""

    def __init__(self, workspace, verb, arguments, name, netns=None, run_dir=None):
        self.verb = verb
        self.name = name
        self.workspace = workspace
        self.run_dir = pathlib.Path(run_dir or workspace.dir / "run")
        self._parsed = 0
        self._events = []
        words = [binary(), verb, *arguments, "--json", "--run-dir", self.run_dir,
                 "--name", name]
        self.process = workspace.start(words, f"{name}-{len(workspace.processes)}",
                                       netns, split=True)

    @property
    def pid(self):
        return self.process.pid

    def events(self):
        """All that was printed so far, in order."""
        lines = self.process.log.read_bytes().split(b"\n")[:-1]
        for line in lines[self._parsed:]:
            self._events.append(json.loads(line))
        self._parsed = len(lines)
        return self._events

    def complaints(self):
        """What it wrote to standard error."""
        return self.process.errors.read_text(errors="replace")

    def find(self, event, match=lambda event: True):
        """The latest event of that name that `match` accepts, or None."""
        for found in reversed(self.events()):
            if found.get("event") == event and match(found):
                return found
        return None

    def wait_for(self, condition, what, timeout=20):
        """Wait until `condition` is true (its value is returned); it must come
        before the command ends."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            # once more after the end: it may have come with the last words
            if not self.process.running() and not (value := condition()):
                raise GodwitError(f"godwit {self.verb} ended without {what}: {self}")
            if value:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"godwit {self.verb}: no {what} in {timeout} s: "
                                   f"{self}")
            time.sleep(0.005)
        return value

    def address(self, timeout=10):
        """Where a receive listens."""
        event = self.wait_for(lambda: self.find("listening"), "an address", timeout)
        return event["address"]

    def wait_state(self, *states, timeout=20):
        """Wait for a progress event with one of these states."""
        return self.wait_for(
            lambda: self.find("progress", lambda e: stats_of(e).get("state") in states),
            f"state {' or '.join(states)}", timeout)

    def wait_moving(self, least=1 << 20, timeout=20):
        """Wait until memory is moving."""
        return self.wait_for(
            lambda: self.find("progress",
                              lambda e: stats_of(e).get("wire_bytes", 0) >= least),
            f"{least} bytes moved", timeout)

    def wait(self, timeout=60):
        """Wait for the end; returns the result event."""
        self.process.wait(timeout)
        return self.result

    @property
    def status(self):
        return self.process.returncode

    @property
    def result(self):
        return self.find("result") or {}

    @property
    def error(self):
        return self.result.get("error") or ""

    @property
    def stats(self):
        return self.result.get("stats", {})

    def interrupt(self):
        self.process.signal(signal.SIGINT)

    def kill(self):
        self.process.kill()

    def __str__(self):
        return (f"status {self.status}, {self.process.output()[-600:].strip()} "
                f"{self.complaints()[-600:].strip()}")


def stats_of(event):
    """The statistics of a progress or result event."""
    return event.get("stats", event)


def receive(workspace, guest, listen="127.0.0.1:0", *arguments, netns=None,
            run_dir=None):
    """Start `godwit receive` and wait until it listens."""
    command = Command(workspace, "receive",
                      [*guest_arguments(guest), "--listen", listen, *arguments],
                      "receive", netns, run_dir)
    command.listens_at = command.address()
    return command


def send(workspace, guest, to, *arguments, netns=None, run_dir=None, **options):
    """Start `godwit send`; options as words (mode="precopy", max_rounds=3)."""
    words = [*guest_arguments(guest), "--to", to, *arguments]
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return Command(workspace, "send", words, "send", netns, run_dir)


def control(workspace, *words, run_dir=None, timeout=10):
    """Run `godwit status`, `cancel`, `switch` or `set`; the finished process."""
    verb, *rest = words
    return subprocess.run(
        [binary(), verb, "--run-dir", str(run_dir or workspace.dir / "run"), *rest],
        capture_output=True, text=True, timeout=timeout, check=False)


def migrate(workspace, source, destination, listen="127.0.0.1:0", to=None, netns=None,
            timeout=60, arguments=(), **options):
    """Move a guest and require success on both sides; (send, receive)."""
    receiver = receive(workspace, destination, listen,
                       netns=netns and netns.b)
    sender = send(workspace, source, to or receiver.listens_at, *arguments,
                  netns=netns and netns.a, **options)
    sender.wait(timeout)
    receiver.wait(timeout)
    expect(sender, DONE)
    expect(receiver, DONE)
    return sender, receiver


RESULTS = {DONE: "done", FAILED: "failed", CANCELLED: "cancelled", TIMED_OUT: "timeout",
           UNDECIDED: "undecided", PAUSED: "paused"}


def expect(command, status, *words):
    """The exit status, the result that belongs to it, and words of its error."""
    if command.status != status:
        raise GodwitError(f"godwit {command.verb} should end with {status}: {command}")
    if status == USAGE:
        return
    if command.result.get("result") != RESULTS[status] or \
            command.result.get("exit") != status:
        raise GodwitError(f"godwit {command.verb}: wrong result: {command}")
    if (status == DONE) != (not command.error):
        raise GodwitError(f"godwit {command.verb}: error text and status disagree: "
                          f"{command}")
    text = command.error.lower()
    for word in words:
        if word.lower() not in text:
            raise GodwitError(f"godwit {command.verb} does not say '{word}': "
                              f"{command.error!r}")


def leftovers(workspace, guests, namespaces=()):
    """What a migration that has ended left behind; empty when clean. Guests (their
    processes) that are still alive may stay."""
    alive = [guest.process for guest in guests if guest.process.running()]
    # a godwit that was killed is reaped, its run folder's socket is not its fault
    found = workspace.leftovers(expected=alive, namespaces=namespaces)
    run = workspace.dir / "run"
    if run.exists():
        found += [f"run folder: {path.name}" for path in run.iterdir()]
    found += [f"process {guest.pid} is traced" for guest in guests
              if proc.tracer_pid(guest.pid)]
    return found
