#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The command itself: its words, its exit statuses, its run directory and its
control socket. What a migration does is tested elsewhere."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from gwtest import godwit, proc, runner  # noqa: E402
from gwtest.guest_process import ProcessGuest, empty_file  # noqa: E402

MIB = 1 << 20
SUBCOMMANDS = ("send", "receive", "status", "cancel", "switch", "set", "bench")
NOBODY = 65534


def run(*words, env=None, **options):
    """A godwit that ends by itself; the finished process."""
    return subprocess.run([godwit.binary(), *map(str, words)], capture_output=True,
                          text=True, timeout=20, check=False,
                          env={**os.environ, **(env or {})}, **options)


def expect(done, status, *words):
    """The exit status, and words of what was said on standard error."""
    if done.returncode != status:
        raise AssertionError(f"{done.args[1:]}: exit {done.returncode} and not {status}: "
                             f"{done.stdout} {done.stderr}")
    for word in words:
        if word not in done.stderr:
            raise AssertionError(f"{done.args[1:]}: no '{word}' in: {done.stderr}")
    return done


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def wait_until(condition, what, timeout=10):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        check(time.monotonic() < deadline, f"no {what} in {timeout} s")
        time.sleep(0.01)
    return value


# ---- words ----

def options_of(text):
    return re.findall(r"^  --([a-z-]+)", text, re.MULTILINE)


def test_help():
    """--help of each subcommand names the options, in 80 columns"""
    shown = {verb: expect(run(verb, "--help"), 0).stdout for verb in SUBCOMMANDS}
    common = {"qmp", "pid", "range", "name", "run-dir", "json", "quiet", "verbose",
              "help", "connect-timeout", "peer-timeout"}
    wanted = {
        "send": common | {"to", "mode", "channels", "max-downtime", "bandwidth",
                          "compress", "postcopy-after", "max-rounds"},
        "receive": common | {"listen", "timeout", "offline"},
        "status": {"json", "run-dir", "help"},
        "cancel": {"run-dir", "help"},
        "switch": {"run-dir", "help"},
        "set": {"run-dir", "help"},
        "bench": {"loopback", "listen", "to", "size", "channels", "pages", "transport",
                  "repeat", "seed", "ram", "cold", "json", "quick", "help"},
    }
    for verb, text in shown.items():
        missing = wanted[verb] - set(options_of(text))
        check(not missing, f"{verb} --help does not name {missing}")
        long = [line for line in text.splitlines() if len(line) > 80]
        check(not long, f"{verb} --help is wider than 80 columns: {long}")
    overview = expect(run("--help"), 0).stdout
    check(all(verb in overview for verb in SUBCOMMANDS), overview)
    for status in range(7):
        check(re.search(rf"^  {status}  ", shown["send"], re.MULTILINE),
              f"send --help does not explain exit status {status}")


def test_man_page_is_complete():
    """The man page names every option that --help names, and every subcommand"""
    page = (TOP / "docs" / "man" / "godwit.1.scd").read_text()
    for verb in SUBCOMMANDS:
        check(f"godwit {verb}" in page, f"godwit.1 lacks {verb}")
        for option in options_of(run(verb, "--help").stdout):
            check(f"--{option}" in page, f"godwit.1 lacks --{option} of {verb}")


def test_library_pages_are_complete():
    """Every call of the public header has a place in the library's man page"""
    header = (TOP / "include" / "godwit" / "godwit.h").read_text()
    page = (TOP / "docs" / "man" / "libgodwit.3.scd").read_text()
    calls = set(re.findall(r"\b(godwit_[a-z_]+)\(", header))
    missing = {call for call in calls if f"*{call}*(" not in page}
    check(calls and not missing, f"libgodwit.3 lacks {sorted(missing)}")


def test_version():
    """--version prints one line"""
    text = expect(run("--version"), 0).stdout
    check(re.fullmatch(r"godwit \d+\.\d+\.\d+\n", text), text)


USAGE_ERRORS = [
    ([], "subcommand"),
    (["fly"], "'fly'"),
    (["send"], "--qmp"),
    (["send", "--to", "h:1", "--pid", "1"], "--range"),
    (["send", "--to", "h:1", "--range", "f"], "--pid"),
    (["send", "--to", "h:1", "--qmp", "s", "--range", "f"], "--range"),
    (["send", "--qmp", "s"], "--to"),
    (["receive", "--qmp", "s"], "--listen"),
    (["send", "--to"], "--to ADDRESS"),
    (["send", "--to", "--json"], "--to ADDRESS"),
    (["send", "--qmp", "a", "--qmp=b"], "twice"),
    (["send", "--pid", "0"], "--pid"),
    (["send", "--pid", "12x"], "--pid"),
    (["send", "--pid", "-4"], "--pid"),
    (["send", "--mode", "teleport"], "--mode"),
    (["send", "--channels=0"], "--channels"),
    (["send", "--channels=65"], "--channels"),
    (["send", "--max-downtime", "soon"], "--max-downtime"),
    (["send", "--bandwidth", "-1"], "--bandwidth"),
    (["send", "--chanels", "2"], "--channels"),
    (["send", "--no-such-thing-at-all"], "send --help"),
    (["send", "--" + "x" * 5000], "send --help"),
    (["send", "--mod", "hybrid"], "--mode"),
    (["send", "-x"], "two dashes"),
    (["send", "--json=yes"], "--json"),
    (["send", "--timeout", "1s"], "godwit receive"),
    (["receive", "--mode", "hybrid"], "godwit send"),
    (["receive", "--to", "h:1"], "godwit send"),
    (["send", "--qmp", "s", "--to", "h:1", "--mode", "precopy", "--postcopy-after",
      "1s"], "--postcopy-after"),
    (["send", "--qmp", "s", "--to", "h:1", "--quiet", "--verbose"], "--quiet"),
    (["send", "--name", "../up"], "--name"),
    (["send", "--name", ""], "--name"),
    (["send", "--name", "n" * 64], "--name"),
    (["send", "stray"], "'stray'"),
    (["status", "a", "b"], "'b'"),
    (["cancel", "../up"], "'../up'"),
    (["cancel", "--json"], "--json"),
    (["set", "bandwidth"], "bandwidth RATE"),
    (["set", "some", "colour", "red"], "max-downtime"),
]


def test_usage_errors():
    """Every wrong command line ends with status 2 and one line that names the remedy"""
    for words, remedy in USAGE_ERRORS:
        done = expect(run(*words), godwit.USAGE, remedy)
        check(done.stderr.count("\n") == 1 and not done.stdout,
              f"{words}: more than one line: {done.stdout}{done.stderr}")


def test_control_characters():
    """What a user types cannot steer a terminal through an error line"""
    done = expect(run("send", "--name", "\x1b[2J\n"), godwit.USAGE)
    check("\x1b" not in done.stderr and done.stderr.count("\n") == 1, repr(done.stderr))


# ---- a receive that waits ----

class Waiting:
    """A process with a mapped file, and a `godwit receive` that waits for its twin."""

    def __init__(self, workspace, *arguments):
        self.workspace = workspace
        path = empty_file(workspace.ram / "ram", 4 * MIB)
        self.guest = ProcessGuest(workspace, "guest", [path], waits=True)
        self.receive = godwit.receive(workspace, self.guest, "127.0.0.1:0", *arguments)

    @property
    def run_dir(self):
        return self.receive.run_dir

    @property
    def socket(self):
        return self.run_dir / f"{self.receive.name}.sock"

    def control(self, *words):
        return godwit.control(self.workspace, *words)

    def end(self):
        """Cancels it; nothing may be left."""
        if self.receive.process.running():
            self.receive.process.signal(signal.SIGTERM)
        self.receive.wait(20)
        godwit.expect(self.receive, godwit.CANCELLED)
        self.check_nothing_left()

    def check_nothing_left(self):
        left = godwit.leftovers(self.workspace, [self.guest])
        check(not left, f"left behind: {left}")


@contextlib.contextmanager
def waiting(*arguments):
    with proc.Workspace() as workspace:
        yield Waiting(workspace, *arguments)


def receive_words(guest, workspace, *more):
    return ["receive", *guest.godwit_arguments(), "--listen", "127.0.0.1:0",
            "--run-dir", workspace.dir / "run", *more]


def talk(path, data, timeout=5):
    """Send bytes to a control socket and read until its end or a whole line."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        client.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            client.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while not answer.endswith(b"\n"):
                part = client.recv(65536)
                if not part:
                    break
                answer += part
    return answer


def test_status_of_nothing():
    """Without a migration status says so and ends with 1; --json prints []"""
    with proc.Workspace() as workspace:
        for folder in ("absent", "empty"):
            path = workspace.dir / folder
            if folder == "empty":
                path.mkdir(0o700)
            expect(run("status", "--run-dir", path), 1, "no migration is running")
            done = expect(run("status", "--json", "--run-dir", path), 1)
            check(json.loads(done.stdout) == [], done.stdout)
            expect(run("status", "one", "--run-dir", path), 1, "'one'")
            expect(run("cancel", "--run-dir", path), 1, "no migration is running")
            expect(run("cancel", "one", "--run-dir", path), 1, "'one'")
            expect(run("switch", "--run-dir", path), 1, "godwit send")


def test_status_of_a_receive():
    """status shows a waiting receive, by name and without, for people and as JSON"""
    with waiting() as w:
        for words in ((), (w.receive.name,)):
            text = expect(w.control("status", *words), 0).stdout
            check("receive: waiting for a source" in text, text)
        rows = json.loads(expect(w.control("status", "--json"), 0).stdout)
        one = json.loads(expect(w.control("status", "--json", "receive"), 0).stdout)
        check(len(rows) == 1 and rows[0] == one, f"{rows} {one}")
        check(one["pid"] == w.receive.pid and one["side"] == "receive" and
              one["address"] == w.receive.listens_at, one)
        check(one["stats"]["state"] == "prepare" and
              one["stats"]["guest_bytes"] == 4 * MIB, one)
        expect(w.control("status", "other"), 1, "'other'")
        w.end()


def test_orders_to_a_receive():
    """Orders for the source are refused by a receive; cancel ends it with 3"""
    with waiting() as w:
        expect(w.control("switch", "receive"), 1, "source")
        expect(w.control("set", "receive", "bandwidth", "1G"), 1, "source")
        expect(w.control("switch"), 1, "godwit send")
        expect(w.control("cancel"), 0)
        w.end()


def test_several_migrations():
    """With two migrations an order has to name one"""
    with waiting() as w:
        path = empty_file(w.workspace.ram / "other", MIB)
        guest = ProcessGuest(w.workspace, "other", [path], waits=True)
        other = godwit.Command(w.workspace, "receive", [
            *guest.godwit_arguments(), "--listen", "127.0.0.1:0"], "other")
        other.address()
        text = expect(w.control("status"), 0).stdout
        check([line.split(":")[0] for line in text.splitlines()] == ["other", "receive"],
              text)
        expect(w.control("cancel"), 1, "other", "receive")
        expect(w.control("cancel", "other"), 0)
        other.wait(20)
        godwit.expect(other, godwit.CANCELLED)
        expect(w.control("cancel"), 0)
        w.receive.wait(20)


def test_same_name_twice():
    """A second migration of the same name is refused, the first goes on"""
    with waiting() as w:
        done = run(*receive_words(w.guest, w.workspace, "--name", "receive"))
        expect(done, godwit.FAILED, "'receive'", "--name")
        expect(w.control("status", "receive"), 0)
        w.end()


def test_signals():
    """SIGTERM, SIGINT and SIGHUP end a waiting receive with 3 and leave nothing"""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with waiting() as w:
            check(w.socket.exists(), "there is no control socket")
            w.receive.process.signal(number)
            w.end()


def test_ignored_hangup():
    """Under nohup SIGHUP does not cancel"""
    with proc.Workspace() as workspace:
        guest = ProcessGuest(workspace, "guest",
                             [empty_file(workspace.ram / "ram", MIB)], waits=True)
        process = workspace.start(
            ["nohup", godwit.binary(), *receive_words(guest, workspace)], "receive")
        wait_until(lambda: "listening" in process.output(), "address")
        process.signal(signal.SIGHUP)
        time.sleep(0.5)
        check(process.running(), "SIGHUP ended it")
        check(process.stop() == godwit.CANCELLED, process.output())


def test_listening_line():
    """Without --json the address is on standard output at once"""
    with proc.Workspace() as workspace:
        guest = ProcessGuest(workspace, "guest",
                             [empty_file(workspace.ram / "ram", MIB)], waits=True)
        with subprocess.Popen(
                [godwit.binary(), *map(str, receive_words(guest, workspace))],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, **workspace.env}) as process:
            line = process.stdout.readline()
            process.terminate()
            rest, errors = process.communicate(timeout=20)
        check(re.fullmatch(r"listening on 127\.0\.0\.1:[1-9]\d*\n", line), line)
        check(not rest and process.returncode == godwit.CANCELLED, rest + errors)
        check("the guest never ran here" in errors, errors)


def test_receive_timeout():
    """receive --timeout 1s ends with 4 after a second and says that no source came"""
    with waiting("--timeout", "1s") as w:
        began = time.monotonic()
        w.receive.wait(20)
        godwit.expect(w.receive, godwit.TIMED_OUT)
        check(time.monotonic() - began < 5, "it took too long")
        check("the guest never ran here" in w.receive.complaints(),
              w.receive.complaints())
        w.check_nothing_left()


def test_reader_gone():
    """A receive whose reader has gone lives on and can be cancelled"""
    with proc.Workspace() as workspace:
        guest = ProcessGuest(workspace, "guest",
                             [empty_file(workspace.ram / "ram", MIB)], waits=True)
        words = receive_words(guest, workspace, "--json", "--verbose", "--name", "r")
        process = subprocess.Popen([godwit.binary(), *map(str, words)],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   env={**os.environ, **workspace.env})
        with process:
            while b"listening" not in process.stdout.readline():
                pass
            process.stdout.close()
            time.sleep(0.6)
            expect(godwit.control(workspace, "status", "r"), 0)
            expect(godwit.control(workspace, "cancel", "r"), 0)
            check(process.wait(20) == godwit.CANCELLED, process.returncode)


def test_terminal():
    """On a terminal progress is one line, rewritten and never wider than it"""
    with proc.Workspace() as workspace:
        guest = ProcessGuest(workspace, "guest",
                             [empty_file(workspace.ram / "ram", MIB)], waits=True)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 12, 0, 0))
        words = receive_words(guest, workspace)
        process = subprocess.Popen([godwit.binary(), *map(str, words)], stderr=theirs,
                                   stdout=subprocess.DEVNULL,
                                   env={**os.environ, **workspace.env})
        os.close(theirs)
        seen = b""
        with process:
            while b"waiting" not in seen:
                check(select.select([ours], [], [], 10)[0], f"nothing: {seen}")
                seen += os.read(ours, 4096)
            process.terminate()
            process.wait(20)
        os.close(ours)
        line = seen[seen.index(b"waiting"):].split(b"\r")[0].split(b"\n")[0]
        check(b"waiting for" == line.rstrip(), f"{seen}")


# ---- the run directory ----

def test_run_dir_modes():
    """The run directory is made for the user alone, and so is the socket"""
    with waiting() as w:
        check(stat.S_IMODE(os.stat(w.run_dir).st_mode) == 0o700, "the directory's mode")
        check(stat.S_IMODE(os.stat(w.socket).st_mode) == 0o600, "the socket's mode")
        w.end()


def refused(workspace, guest, folder, *words):
    """Both a receive and status refuse this run directory; the guest is left alone."""
    arguments = [*guest.godwit_arguments(), "--listen", "127.0.0.1:0"]
    done = run("receive", *arguments, "--run-dir", folder)
    expect(done, godwit.FAILED, str(folder), "--run-dir", *words)
    check("listening" not in done.stdout, done.stdout)
    expect(run("status", "--run-dir", folder), 1, str(folder), *words)


def test_run_dir_refused():
    """A run directory that is open to others, a link, or a file is refused"""
    with proc.Workspace() as workspace:
        guest = ProcessGuest(workspace, "guest",
                             [empty_file(workspace.ram / "ram", MIB)], waits=True)
        for mode in (0o755, 0o710, 0o701, 0o777):
            folder = workspace.dir / f"mode{mode:o}"
            folder.mkdir()
            folder.chmod(mode)
            refused(workspace, guest, folder, "chmod 700", f"{mode:o}")
        good = workspace.dir / "good"
        good.mkdir(0o700)
        (workspace.dir / "link").symlink_to(good)
        refused(workspace, guest, workspace.dir / "link", "no directory")
        (workspace.dir / "file").touch()
        refused(workspace, guest, workspace.dir / "file", "no directory")
        done = run(*receive_words(guest, workspace)[:-2], "--run-dir",
                   workspace.dir / "absent" / "run")
        expect(done, godwit.FAILED, "absent", "--run-dir")


def test_run_dir_of_another_user():
    """A run directory that belongs to another user is refused"""
    if os.geteuid() != 0:
        raise runner.Skip("only root can give a directory away")
    with proc.Workspace() as workspace:
        guest = ProcessGuest(workspace, "guest",
                             [empty_file(workspace.ram / "ram", MIB)], waits=True)
        folder = workspace.dir / "theirs"
        folder.mkdir(0o700)
        os.chown(folder, NOBODY, NOBODY)
        refused(workspace, guest, folder, "belongs to user")


def stale_socket(path):
    """What a process leaves that was killed."""
    path.parent.mkdir(0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def test_stale_socket():
    """A dead migration's socket is replaced by a new one's, and removed by status"""
    with proc.Workspace() as workspace:
        for name in ("receive", "dead"):
            stale_socket(workspace.dir / "run" / f"{name}.sock")
        w = Waiting(workspace)
        text = expect(w.control("status"), 0).stdout
        check(text.startswith("receive:") and text.count("\n") == 1, text)
        check(not (w.run_dir / "dead.sock").exists(), "the stale socket is still there")
        expect(w.control("cancel", "dead"), 1, "'dead'")
        w.end()


def test_killed_receive():
    """After kill -9 the same name can be used again"""
    with waiting() as w:
        w.receive.kill()
        check(w.socket.exists(), "who removed the socket?")
        again = godwit.receive(w.workspace, w.guest)
        again.interrupt()
        again.wait(20)
        godwit.expect(again, godwit.CANCELLED)
        w.check_nothing_left()


def test_file_in_the_way():
    """A file that is no socket is left alone, and named"""
    with proc.Workspace() as workspace:
        guest = ProcessGuest(workspace, "guest",
                             [empty_file(workspace.ram / "ram", MIB)], waits=True)
        (workspace.dir / "run").mkdir(0o700)
        path = workspace.dir / "run" / "mine.sock"
        path.write_text("precious")
        done = run(*receive_words(guest, workspace, "--name", "mine"))
        expect(done, godwit.FAILED, "mine.sock")
        run("status", "--run-dir", workspace.dir / "run")
        check(path.read_text() == "precious", "the file was touched")


# ---- the control socket ----

STATUS = b'{"command": "status"}\n'

BAD_REQUESTS = [
    b"\n", b"garbage\n", b"{\n", b"[]\n", b"17\n", b"{}\n", b"\0\0\0\n",
    b'{"command": 1}\n', b'{"command": null}\n', b'{"command": "fly"}\n',
    b'{"command": "set", "name": ["bandwidth"]}\n', b'{"command": "\xff\xfe"}\n',
    b'{"command": "status", "command": "cancel"}\n', b"[" * 60000 + b"\n",
    b'{"command": "' + b"x" * 60000 + b'"}\n',
]


def test_bad_requests():
    """Every bad request is answered with ok: false, and nothing happens"""
    with waiting() as w:
        for request in BAD_REQUESTS:
            answer = json.loads(talk(w.socket, request))
            check(answer["ok"] is False and answer["error"], f"{request[:40]}: {answer}")
        answer = json.loads(talk(w.socket, STATUS))
        check(answer["ok"] is True and answer["stats"]["state"] == "prepare", answer)
        w.end()


def test_long_line():
    """A line without end is refused after 64 KiB and its sender is let go"""
    with waiting() as w:
        answer = json.loads(talk(w.socket, b"x" * 200000))
        check(answer["ok"] is False and "65536" in answer["error"], answer)
        longest = STATUS[:-1].ljust(65535) + b"\n"
        check(json.loads(talk(w.socket, longest))["ok"], "65536 bytes were refused")
        w.end()


def test_several_requests_at_once():
    """Requests in one write and in single bytes are answered one by one, in order"""
    with waiting() as w, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(w.socket))
        client.sendall(STATUS + b"bad\n" + STATUS)
        lines = client.makefile("rb")
        oks = [json.loads(lines.readline())["ok"] for _ in range(3)]
        check(oks == [True, False, True], oks)
        for byte in STATUS:
            client.sendall(bytes([byte]))
        check(json.loads(lines.readline())["ok"], "byte by byte")
        # a sender that shuts its side still gets the answer
        client.sendall(STATUS)
        client.shutdown(socket.SHUT_WR)
        check(json.loads(lines.readline())["ok"] and not lines.readline(), "after shutdown")
        lines.close()
        w.end()


def test_many_and_slow_clients():
    """Clients that say nothing, half a line, or never read do not keep others out"""
    with waiting() as w, contextlib.ExitStack() as clients:
        for number in range(100):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(w.socket))
            with contextlib.suppress(OSError):
                client.send((b"", b'{"comm', STATUS * 1000, b"\xff" * 70000)[number % 4])
            if number % 10 == 0:
                expect(w.control("status", "receive"), 0)
        expect(w.control("status"), 0)
        used = proc.cpu_seconds(w.receive.pid)
        time.sleep(0.5)
        check(proc.cpu_seconds(w.receive.pid) - used < 0.2, "it spins")
        w.end()


def answer_to(user, path):
    """What another user is told at a control socket; None: could not connect."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.write(writing, b"+" + talk(path, STATUS))
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    return answer[1:] if answer else None


def test_another_user():
    """Another user gets no answer, even when the directory was opened for all"""
    if os.geteuid() != 0:
        raise runner.Skip("needs root, to be another user")
    with waiting() as w:
        check(answer_to(NOBODY, w.socket) is None, "the directory is open")
        for path, mode in ((w.workspace.dir, 0o711), (w.run_dir, 0o711), (w.socket, 0o666)):
            os.chmod(path, mode)
        check(answer_to(0, w.socket), "not even we get an answer")
        check(answer_to(NOBODY, w.socket) == b"", "another user got an answer")
        os.chmod(w.run_dir, 0o700)
        expect(w.control("status", "receive"), 0)
        w.end()


# ---- send ----

@contextlib.contextmanager
def source_guest(size=4 * MIB):
    with proc.Workspace() as workspace:
        path = empty_file(workspace.ram / "source", size)
        yield workspace, ProcessGuest(workspace, "source", [path])


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_send_to_a_closed_port():
    """send to a closed port fails with 1, says why, and says where the guest runs"""
    with source_guest() as (workspace, guest):
        words = ["send", *guest.godwit_arguments(), "--to", f"127.0.0.1:{closed_port()}",
                 "--run-dir", workspace.dir / "run", "--connect-timeout", "2s", "--quiet"]
        done = expect(run(*words), godwit.FAILED, "refused", "127.0.0.1",
                      "the guest runs on at the source, untouched")
        lines = done.stderr.splitlines()
        check(len(lines) == 2 and all(line.startswith("godwit: ") for line in lines),
              done.stderr)
        check(not done.stdout, done.stdout)
        done = expect(run(*words, "--json"), godwit.FAILED)
        result = json.loads(done.stdout.splitlines()[-1])
        check(result["event"] == "result" and result["result"] == "failed" and
              result["exit"] == 1 and "refused" in result["error"], result)
        check(not guest.stopped(), "the guest stands still")
        left = godwit.leftovers(workspace, [guest])
        check(not left, f"left behind: {left}")


def test_no_guest():
    """Without a guest nobody is told that one runs on"""
    with proc.Workspace() as workspace:
        common = ["--to", "127.0.0.1:1", "--run-dir", workspace.dir / "run"]
        done = run("send", "--qmp", workspace.dir / "absent", *common)
        expect(done, godwit.FAILED, "absent", "not running")
        check("runs on" not in done.stderr, done.stderr)


def both(workspace, source, *more):
    """Start a receive; its guest, itself, and the words of a send to it."""
    path = empty_file(workspace.ram / "destination", os.path.getsize(source.ram_path))
    guest = ProcessGuest(workspace, "destination", [path], waits=True)
    receiver = godwit.receive(workspace, guest)
    words = ["send", *source.godwit_arguments(), "--to", receiver.listens_at, "--run-dir",
             workspace.dir / "run", *more]
    return guest, receiver, words


def test_report():
    """The report on standard output names the figures of a migration"""
    with source_guest() as (workspace, guest):
        _, receiver, words = both(workspace, guest, "--mode", "precopy")
        done = expect(run(*words), godwit.DONE)
        receiver.wait(20)
        godwit.expect(receiver, godwit.DONE)
        for word in ("done: the guest runs at the destination", "mode ", "precopy",
                     "session ", "channels ", "rounds ", "pages ", "blackout "):
            check(word in done.stdout, f"no '{word}' in {done.stdout}")


def test_lagging_reader():
    """A migration does not wait for whoever reads its output"""
    with source_guest(64 * MIB) as (workspace, guest):
        _, receiver, words = both(workspace, guest, "--mode", "precopy", "--json",
                                  "--verbose")
        ours, theirs = os.pipe()
        # as small as a pipe can be: progress fills it at once
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
        process = subprocess.Popen([godwit.binary(), *map(str, words)], stdout=theirs,
                                   env={**os.environ, **workspace.env})
        os.close(theirs)
        receiver.wait(30)
        godwit.expect(receiver, godwit.DONE)
        with os.fdopen(ours, "rb") as reader:
            events = [json.loads(line) for line in reader]
        check(process.wait(10) == godwit.DONE, process.returncode)
        check(events[-1]["event"] == "result", events[-1])


def test_cancel_a_send():
    """cancel ends a send with 3; the report says that the source runs on"""
    with source_guest(64 * MIB) as (workspace, guest):
        with open(guest.ram_path, "r+b") as file:
            file.write(os.urandom(32 * MIB))
        _, receiver, words = both(workspace, guest, "--mode", "precopy", "--bandwidth",
                                  "1M", "--name", "slow")
        process = workspace.start([godwit.binary(), *words], "slow")
        wait_until(lambda: "precopy, round" in
                   godwit.control(workspace, "status", "slow").stdout, "round")
        expect(godwit.control(workspace, "set", "slow", "bandwidth", "fast"), 1,
               "bandwidth")
        expect(godwit.control(workspace, "set", "slow", "bandwidth", "2M"), 0)
        status = json.loads(godwit.control(workspace, "status", "slow", "--json").stdout)
        check(status["stats"]["bandwidth"] == 2 * MIB, status)
        expect(godwit.control(workspace, "cancel", "slow"), 0)
        check(process.wait(20) == godwit.CANCELLED, process.output())
        check("the guest runs on at the source, untouched" in process.output(),
              process.output())
        receiver.wait(20)
        godwit.expect(receiver, godwit.CANCELLED)
        check(not guest.stopped(), "the guest stands still")


def test_too_late():
    """Past COMMIT a cancel is refused, SIGINT says so each time, and nothing ends"""
    with source_guest(64 * MIB) as (workspace, guest):
        with open(guest.ram_path, "r+b") as file:
            file.write(os.urandom(16 * MIB))
        _, receiver, words = both(workspace, guest, "--mode", "postcopy", "--bandwidth",
                                  "4M", "--name", "slow", "--quiet")
        process = workspace.start([godwit.binary(), *words], "slow")
        wait_until(lambda: "slow: postcopy" in
                   godwit.control(workspace, "status", "slow").stdout, "post-copy")
        late = "too late: the guest belongs to the destination already"
        expect(godwit.control(workspace, "cancel", "slow"), 1, late)
        expect(godwit.control(workspace, "switch", "slow"), 1, "postcopy")
        for count in (1, 2):
            process.signal(signal.SIGINT)
            wait_until(lambda: process.output().count(late) == count, f"{count} words")
        expect(godwit.control(workspace, "set", "slow", "bandwidth", "unlimited"), 0)
        check(process.wait(20) == godwit.DONE, process.output())
        receiver.wait(20)
        godwit.expect(receiver, godwit.DONE)


if __name__ == "__main__":
    runner.main()
