# SPDX-License-Identifier: GPL-2.0-or-later
"""A synchronous QMP client that keeps every event with its timestamp."""

import dataclasses
import json
import socket
import time


class QmpError(Exception):
    """QEMU refused a command; `cls` is QMP's error class."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['desc']}")
        self.cls = error["class"]
        self.desc = error["desc"]


class QmpClosed(Exception):
    """QEMU closed the connection: it has quit or died."""


@dataclasses.dataclass(frozen=True)
class Event:
    name: str
    data: dict
    # QEMU's own wall clock in seconds: comparable between two QEMUs of one host
    time: float


class Qmp:
    def __init__(self, path, timeout=10, connect_timeout=10):
        self.timeout = timeout
        self.events = []
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._connect(path, time.monotonic() + connect_timeout)
            self._read(time.monotonic() + timeout)  # the greeting
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path, deadline):
        # QEMU needs a moment to create its sockets
        while True:
            try:
                self._socket.connect(str(path))
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def _read(self, deadline):
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            # even with no time left, take what has arrived already
            self._socket.settimeout(max(left, 0.001))
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise QmpClosed("QEMU closed the QMP connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _keep_event(self, message):
        stamp = message["timestamp"]
        seconds = stamp["seconds"] + stamp["microseconds"] / 1e6
        event = Event(message["event"], message.get("data", {}), seconds)
        self.events.append(event)
        return event

    def execute(self, command, arguments=None, fds=(), timeout=None):
        """Run a command and return its result; `fds` go along with it."""
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._socket.settimeout(self.timeout)
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"],
                            list(fds))
        except (BrokenPipeError, ConnectionResetError):
            raise QmpClosed("QEMU closed the QMP connection") from None
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            message = self._read(deadline)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(command, message["error"])
            self._keep_event(message)

    def poll(self):
        """Take in the events that have arrived; return all of them so far."""
        try:
            while True:
                self._keep_event(self._read(time.monotonic()))
        except (TimeoutError, QmpClosed):
            return self.events

    def wait_event(self, name, timeout=None, since=0, match=lambda data: True):
        """The first event `name` that `match` accepts, from number `since` on."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            for event in self.events[since:]:
                if event.name == name and match(event.data):
                    return event
            since = len(self.events)
            try:
                self._keep_event(self._read(deadline))
            except TimeoutError:
                raise TimeoutError(f"no QMP event {name}") from None

    def status(self):
        return self.execute("query-status")["status"]

    def close(self):
        self._socket.close()
