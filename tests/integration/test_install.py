#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What `ninja install` puts on a machine is enough to build and run an embedding
program: the header for C99 and C++, the library with its public names alone,
pkg-config, the command, the man pages."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from gwtest import runner  # noqa: E402

BUILD = os.environ["GODWIT_BUILD"]
MODES = ("precopy", "postcopy", "hybrid", "offline")


def run(*words, env=None):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                          check=False, timeout=50, env={**os.environ, **(env or {})})
    if done.returncode:
        raise AssertionError(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout


class Installed:
    """The build, installed below a folder of its own."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gwtest-install-"))
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet",
            "--destdir", self.folder)
        self.pc = next(self.folder.rglob("godwit.pc"))
        self.library = next(self.folder.rglob("libgodwit.so"))
        self.env = {"PKG_CONFIG_PATH": str(self.pc.parent),
                    "PKG_CONFIG_SYSROOT_DIR": str(self.folder),
                    "LD_LIBRARY_PATH": str(self.library.parent)}
        return self

    def __exit__(self, *_unused):
        shutil.rmtree(self.folder)

    def flags(self):
        return run("pkg-config", "--cflags", "--libs", "godwit", env=self.env).split()

    def compile(self, *words):
        out = self.folder / "program"
        run(*words, "-Wall", "-Wextra", "-Werror", "-o", out, *self.flags(), "-pthread",
            env=self.env)
        return out


def move(program, env, folder, mode):
    """Both sides of the example; their output."""
    address = f"unix:{folder}/embed.sock"
    receiver = subprocess.Popen([program, "receive", address], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env={**os.environ, **env})
    try:
        line = receiver.stdout.readline()
        if "listening on" not in line:
            raise AssertionError(f"the receiver said: {line}")
        sent = run(program, "send", address, mode, env=env)
        received = receiver.communicate(timeout=20)[0]
    finally:
        receiver.kill()
        receiver.wait()
    if receiver.returncode:
        raise AssertionError(f"the receiver ended with {receiver.returncode}: {received}")
    return sent, received


def test_example():
    """examples/embed.c, built against the installed library, moves itself in every mode"""
    with Installed() as installed:
        program = installed.compile("gcc", "-std=gnu11", "-D_GNU_SOURCE",
                                    TOP / "examples" / "embed.c")
        for mode in MODES:
            sent, received = move(program, installed.env, installed.folder, mode)
            if "sent after" not in sent or "every page counts" not in received:
                raise AssertionError(f"{mode}: {sent}{received}")


def test_c99():
    """The public header is C99"""
    with Installed() as installed:
        source = installed.folder / "user.c"
        source.write_text("#include <godwit/godwit.h>\n"
                          "int main(void) { return !godwit_version()[0]; }\n")
        run(installed.compile("gcc", "-std=c99", "-pedantic", source), env=installed.env)


def test_cxx():
    """The public header can be used from C++"""
    if not shutil.which("g++"):
        raise runner.Skip("no g++ here")
    with Installed() as installed:
        source = installed.folder / "user.cc"
        source.write_text("#include <godwit/godwit.h>\n"
                          "int main() { return !godwit_version()[0]; }\n")
        run(installed.compile("g++", "-std=c++11", source), env=installed.env)


def test_symbols():
    """The library exports the public calls, all of them and nothing else"""
    with Installed() as installed:
        listed = run("nm", "-D", "--defined-only", installed.library)
        header = (TOP / "include" / "godwit" / "godwit.h").read_text()
    exported = {line.split()[2].split("@")[0] for line in listed.splitlines()
                if line.split()[1] != "A"}
    declared = set(re.findall(r"GODWIT_PUBLIC[^;]*?\b(godwit_\w+)\(", header))
    if exported != declared:
        raise AssertionError(f"exported only: {exported - declared}, "
                             f"declared only: {declared - exported}")


def test_command():
    """The installed command runs, and its man page is there"""
    with Installed() as installed:
        command = installed.folder / "usr/local/bin/godwit"
        said = run(command, "--version", env=installed.env)
        if not re.search(r"\d+\.\d+\.\d+", said):
            raise AssertionError(f"--version says {said!r}")
        if shutil.which("scdoc") and not list(installed.folder.rglob("godwit.1")):
            raise AssertionError("no godwit.1 was installed")


if __name__ == "__main__":
    runner.main()
