# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that is a plain process (tests/guest/process.c): quick to start, and
its memory can be frozen and compared at any moment."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from . import proc, ram

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "guest" / "process.c"


def binary(workspace):
    """The helper: the one of the build, or one compiled here."""
    if path := os.environ.get("GODWIT_PROCESS_GUEST"):
        return path
    built = SOURCE.parents[2] / ".cache" / "process-guest"
    if not built.exists() or built.stat().st_mtime < SOURCE.stat().st_mtime:
        built.parent.mkdir(exist_ok=True)
        new = workspace.dir / "process-guest"
        subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-pthread", SOURCE,
                        "-o", new], check=True)
        # another test may be running the old one
        shutil.move(new, built)
    return built


class ProcessGuest:
    """One process with one or more RAM files.

    paths   the files, which exist
    rate    bytes a second it rewrites, "max", or None: it only sleeps
    percent the share of its pages that it rewrites
    others  it compares its memory with these files once it runs (a destination)
    rest_us it rests so long after each page compared, as a guest with work to do
    waits   it is stopped until somebody continues it
    """

    def __init__(self, workspace, name, paths, rate=None, percent=100, others=(),
                 rest_us=0, waits=False, seed=1, netns=None):
        self.name = name
        self.paths = [pathlib.Path(path) for path in paths]
        self.netns = netns
        words = [binary(workspace), "-S", str(seed), "-d", str(rest_us)]
        if waits:
            words.append("-s")
        if rate:
            words += ["-w", str(rate), "-p", str(percent)]
        for other in others:
            words += ["-c", other]
        # its output is read from a file of its own
        self.process = workspace.start(words + self.paths,
                                       f"{name}-{len(workspace.processes)}", netns)
        self._wait_for("ready", 10)
        if waits:
            self._wait(lambda: self.stopped(), "stop", 10)

    @property
    def pid(self):
        return self.process.pid

    @property
    def ram_path(self):
        return self.paths[0]

    def godwit_arguments(self):
        words = ["--pid", str(self.pid)]
        for path in self.paths:
            words += ["--range", str(path)]
        return words

    def _wait(self, condition, what, timeout):
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.process.running():
                raise RuntimeError(f"{self.name} died ({self.process.returncode}): "
                                   f"{self.process.output()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no {what} in {timeout} s; state "
                                   f"{proc.state(self.pid)}: {self.process.output()}")
            time.sleep(0.005)

    def _wait_for(self, text, timeout):
        self._wait(lambda: text in self.process.output(), repr(text), timeout)

    def stopped(self):
        return proc.state(self.pid) in ("T", "t")

    def has_run(self):
        """Whether one that waits has been let go: its first act is to make threads."""
        return not self.stopped() or len(os.listdir(f"/proc/{self.pid}/task")) > 1

    def wait_stopped(self, timeout=5):
        self._wait(self.stopped, "stop", timeout)

    def compared(self, timeout=30):
        """(pages compared, pages that differ), once it has compared them all."""
        self._wait_for("compared", timeout)
        match = re.search(r"compared (\d+) pages, (\d+) differ", self.process.output())
        return int(match[1]), int(match[2])

    def freeze(self):
        self.process.signal(signal.SIGSTOP)
        self.wait_stopped()

    def thaw(self):
        self.process.signal(signal.SIGCONT)
        self._wait(lambda: not self.stopped(), "run", 5)

    def kill(self):
        self.process.kill()


def empty_file(path, size):
    """A RAM file of holes."""
    with open(path, "wb") as file:
        file.truncate(size)
    return path


class Images:
    """RAM images by kind and size, made once and copied for every test."""

    def __init__(self, workspace):
        self._folder = workspace.ram

    def _path(self, kind, size, seed):
        path = self._folder / f"image-{kind}-{size}-{seed}"
        if not path.exists():
            ram.create(path, size, kind, seed)
        return path

    def copy(self, path, kind, size, seed=1):
        """Put a copy of an image at `path`."""
        empty_file(path, size)
        ram.copy(self._path(kind, size, seed), path)
        return path
