# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes and files of one test: started here, ended here, and accounted for."""

import contextlib
import ctypes
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import tempfile

PR_SET_PDEATHSIG = 1
TMPFS = "/dev/shm"
# every process of a workspace carries this in its environment, and so do its
# children: that is how a leftover is recognised, whatever its name
MARK = "GWTEST_WORKSPACE"

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent():
    # a test that is killed must not leave guests behind
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Process:
    """A command with its output in a file. Ended by its pid and nothing else.

    With `errors`, standard error goes to that file instead of `log`.
    """

    def __init__(self, argv, log, netns=None, env=None, stdin=None, errors=None):
        if netns:
            # `ip netns exec` replaces itself, so the pid is the command's own
            argv = ["ip", "netns", "exec", netns, *argv]
        self.argv = [str(word) for word in argv]
        self.log = pathlib.Path(log)
        self.errors = pathlib.Path(errors or log)
        with open(self.log, "ab") as output, open(self.errors, "ab") as complaints:
            self._popen = subprocess.Popen(
                self.argv, stdin=stdin or subprocess.DEVNULL, stdout=output,
                stderr=complaints, env={**os.environ, **(env or {})},
                preexec_fn=_die_with_parent)
        self.pid = self._popen.pid

    @property
    def returncode(self):
        """The exit status, negative for a signal, None while it runs."""
        return self._popen.poll()

    def running(self):
        return self.returncode is None

    def wait(self, timeout=None):
        """Wait for the end; raises TimeoutError, which names the command."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.argv[0]} (pid {self.pid}) still runs "
                               f"after {timeout} s") from None

    def signal(self, number):
        if self.running():
            self._popen.send_signal(number)

    def kill(self):
        """SIGKILL, and reap. Harmless when it has ended already."""
        self.signal(signal.SIGKILL)
        return self._popen.wait()

    def stop(self, timeout=5):
        """SIGTERM, then SIGKILL when that does not help in time."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except TimeoutError:
            return self.kill()

    def output(self):
        return self.log.read_text(errors="replace")


class Workspace:
    """Fresh folders and the processes that use them; all gone at the end.

    `dir` is for sockets and logs, `ram` is on tmpfs and for guest memory. With
    GODWIT_KEEP set in the environment, `dir` stays for inspection.
    """

    def __init__(self):
        self.token = secrets.token_hex(8)
        self.env = {MARK: self.token}
        self.processes = []

    def __enter__(self):
        remove_stale(TMPFS, "gwtest-*", shutil.rmtree)
        # short paths: a Unix socket's name has 108 bytes
        prefix = f"gwtest-{os.getpid()}-"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
        self.ram = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=TMPFS))
        return self

    def __exit__(self, *unused):
        for process in reversed(self.processes):
            process.kill()
        # what those started and did not end themselves
        for pid in marked_pids(self.token):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.ram, ignore_errors=True)
        if os.environ.get("GODWIT_KEEP"):
            print(f"kept: {self.dir}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, argv, name, netns=None, env=None, stdin=None, split=False):
        """Start a command whose output goes to `name`.log; with `split`, its
        standard error goes to `name`.err."""
        process = Process(argv, self.dir / f"{name}.log", netns,
                          {**self.env, **(env or {})}, stdin,
                          self.dir / f"{name}.err" if split else None)
        self.processes.append(process)
        return process

    def leftovers(self, expected=(), namespaces=()):
        """What is there and should not be, as lines of text; empty when clean.

        `expected` are the processes that may still run (the QEMUs); they are
        checked for a userfaultfd. `namespaces` must have no open TCP socket.
        """
        expected_pids = {process.pid for process in expected}
        found = [f"process {pid}: {command_line(pid)}"
                 for pid in marked_pids(self.token) if pid not in expected_pids]
        for pid in sorted(expected_pids):
            found += [f"userfaultfd {fd} in process {pid}" for fd in userfaultfds(pid)]
            if tracer := tracer_pid(pid):
                found.append(f"process {pid} is traced by {tracer}")
        for namespace in namespaces:
            found += [f"socket in {namespace}: {line}" for line in tcp_sockets(namespace)]
        return found


def remove_stale(folder, pattern, remove):
    """Remove what an earlier test left because it was killed: guest memory and
    namespaces stay until the next boot otherwise. Names are NAME-PID-REST."""
    for path in pathlib.Path(folder).glob(pattern):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            remove(path)


def _read(path):
    """A file of /proc, or nothing when its process has just gone."""
    try:
        return pathlib.Path(path).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid):
    return _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")


def marked_pids(token):
    """Processes started, directly or not, by the workspace with this token."""
    mark = f"{MARK}={token}".encode()
    return [pid for pid in _all_pids()
            if mark in _read(f"/proc/{pid}/environ").split(b"\0")]


def _status_field(pid, name):
    for line in _read(f"/proc/{pid}/status").decode().splitlines():
        if line.startswith(name + ":"):
            return line.split()[1]
    return "0"


def memory(pid):
    """Bytes of a process: its own (anonymous), its page tables, and the peak."""
    fields = {"anonymous": "RssAnon", "page_tables": "VmPTE", "peak": "VmHWM",
              "resident": "VmRSS"}
    return {key: int(_status_field(pid, name)) * 1024 for key, name in fields.items()}


def cpu_seconds(pid):
    """User and system time of a process so far."""
    stat = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK") if stat else 0.0


def state(pid):
    """The letter of a process's state ("T": stopped); "" when it is gone."""
    stat = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return stat[0].decode() if stat else ""


def tracer_pid(pid):
    return int(_status_field(pid, "TracerPid"))


def userfaultfds(pid):
    """The numbers of the userfaultfds that a process has open."""
    found = []
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        return found
    for name in names:
        try:
            if "userfaultfd" in os.readlink(f"/proc/{pid}/fd/{name}"):
                found.append(int(name))
        except FileNotFoundError:
            pass
    return found


def tcp_sockets(namespace):
    """Open TCP sockets in a network namespace, as lines of /proc/net/tcp.

    A closed connection's remains (TIME_WAIT, the FIN states) belong to the
    kernel and not to a process: they are no leftovers.
    """
    owned_by_kernel = {"04", "05", "06", "07"}
    out = subprocess.run(["ip", "netns", "exec", namespace, "cat", "/proc/net/tcp",
                          "/proc/net/tcp6"], check=True, capture_output=True, text=True)
    rows = [line.split() for line in out.stdout.splitlines()]
    return [" ".join(row[1:4]) for row in rows
            if row[0] != "sl" and row[3] not in owned_by_kernel]
