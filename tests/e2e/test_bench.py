#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""godwit bench: that it measures what it says and leaves nothing. How fast
anything is, is nobody's business here."""

import contextlib
import glob
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from gwtest import godwit, runner  # noqa: E402

SUBJECTS = ("raw", "stream", "fault", "zero", "lz4", "dirty", "install", "register")
UNITS = {"bytes/s", "ns", "s", "ratio", "pages/s", "s/GiB"}
PAGES = {"random", "zero", "half", "text", "real"}
NOBODY = 65534


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def run(*words, **options):
    return subprocess.run([godwit.binary(), "bench", *map(str, words)], text=True,
                          capture_output=True, timeout=100, check=False, **options)


def expect(done, status, *words):
    """The exit status, and words of what was said on standard error."""
    if done.returncode != status or not all(word in done.stderr for word in words):
        raise AssertionError(f"{done.args[2:]}: exit {done.returncode}, wanted {status} "
                             f"and {words}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return done


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield pathlib.Path(name)


def measured(*words):
    """A run that succeeds: its JSON document and its table."""
    with folder() as where:
        done = expect(run(*words, "--json", where / "out.json"), 0)
        return json.loads((where / "out.json").read_text()), done.stdout


def scratch_folders():
    return set(glob.glob("/tmp/godwit-bench-*"))


# ---- documents ----

def check_result(result, repeat):
    name = f"{result['subject']} {result['labels']} {result['figure']}"
    runs = result["runs"]
    check(result["unit"] in UNITS, f"{name}: unit {result['unit']}")
    check(result["better"] in ("higher", "lower"), name)
    check(1 <= len(runs) <= repeat, f"{name}: {len(runs)} runs of {repeat}")
    check(all(value >= 0 for value in runs) and max(runs) > 0, f"{name}: {runs}")
    check(min(runs) == result["min"] and max(runs) == result["max"], name)
    check(result["min"] <= result["median"] <= result["max"], name)
    if (ceiling := result["ceiling"]) is not None:
        ratio = result["median"] / ceiling["median"]
        check(ceiling["what"] and abs(ceiling["ratio"] - ratio) < 1e-6 * ratio, name)


def check_histogram(histogram):
    name = f"{histogram['name']} {histogram['labels']}"
    edges = [edge for edge, _ in histogram["buckets"]]
    counts = [count for _, count in histogram["buckets"]]
    check(edges == sorted(set(edges)), f"{name}: the edges do not ascend")
    check(sum(counts) == histogram["count"] > 0 and min(counts) > 0, f"{name}: counts")
    figures = [histogram[key] for key in ("p50", "p90", "p99", "p99.9", "max")]
    check(figures == sorted(figures) and figures[0] > 0, f"{name}: {figures}")
    check(histogram["unit"] == "ns", name)


def check_document(document, repeat):
    check(document["format"] == "godwit-bench/1", document["format"])
    check(document["tool"] == "godwit bench", document["tool"])
    check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["when"]),
          document["when"])
    check(document["machine"]["kernel"] == os.uname().release, "kernel")
    check(document["machine"]["cpus"] == os.cpu_count(), "cpus")
    check(document["command"].startswith("godwit bench "), document["command"])
    check(document["quiet"]["ok"] is (document["quiet"]["why"] == ""), "quiet")
    for result in document["results"]:
        check_result(result, repeat)
    for histogram in document["histograms"]:
        check_histogram(histogram)


def labels_of(document, subject, figure):
    return [result["labels"] for result in document["results"]
            if (result["subject"], result["figure"]) == (subject, figure)]


@runner.limit(120)
def test_quick():
    """--quick measures all subjects, with ceilings, and prints them as a table"""
    document, table = measured("--loopback", "--quick", "--seed", 7)
    check_document(document, repeat=2)
    check(document["seed"] == 7, "seed")
    found = {result["subject"] for result in document["results"]}
    check(found == set(SUBJECTS), f"not measured: {set(SUBJECTS) - found}")
    streams = labels_of(document, "stream", "throughput")
    check({label["pages"] for label in streams} == PAGES, streams)
    check({label["transport"] for label in streams} == {"tcp", "unix"}, streams)
    for result in document["results"]:
        wants = result["subject"] in ("stream", "zero") \
            and result["figure"] in ("throughput", "scan")
        check(not wants or result["ceiling"], f"no ceiling: {result}")
    ways = {label["by"] for label in labels_of(document, "install", "install")}
    check(ways == {"copy", "continue"}, ways)
    seen = {(histogram["labels"]["push"], histogram["labels"]["seen"])
            for histogram in document["histograms"]}
    check(seen >= {("idle", "guest"), ("idle", "engine")}, seen)
    for word in (*SUBJECTS, "Machine", "Kernel", "Command", "Seed     7", "median"):
        check(word in table, f"the table lacks {word}")


def test_raw():
    """raw is measured alone, for each number of channels"""
    document, _ = measured("raw", "--loopback", "--channels", "1,3", "--size", "16M",
                           "--transport", "tcp", "--repeat", 3)
    check_document(document, repeat=3)
    check({result["subject"] for result in document["results"]} == {"raw"}, "subjects")
    for figure in ("throughput", "cpu"):
        labels = labels_of(document, "raw", figure)
        check(labels == [{"channels": 1, "transport": "tcp"},
                         {"channels": 3, "transport": "tcp"}], labels)
    check(all(len(result["runs"]) == 3 for result in document["results"]), "runs")


def test_fault_ceiling():
    """An idle fault has its ceiling, and both halves of it are told"""
    document, _ = measured("fault", "--loopback", "--quick")
    idle = [result for result in document["results"] if result["figure"] == "p50"
            and result["labels"].get("push") == "idle"
            and result["labels"]["seen"] == "guest"]
    check(len(idle) == 1 and idle[0]["ceiling"], idle)
    bare = [result for result in document["results"] if "bare" in result["labels"]]
    check({(r["labels"]["bare"], r["labels"]["threads"]) for r in bare} ==
          {(half, threads) for half in ("ping-pong", "local fault")
           for threads in ("sleeping", "spinning")}, bare)
    halves = sum(r["median"] for r in bare if r["labels"]["threads"] == "sleeping")
    check(abs(halves - idle[0]["ceiling"]["median"]) < 1, "the ceiling is not their sum")


def test_cold():
    """--cold gives the receiving memory back before each run, and says so"""
    document, _ = measured("stream", "--loopback", "--quick", "--cold", "--pages",
                           "random")
    check(all("cold" in result["ceiling"]["what"] for result in document["results"]),
          document["results"])


# ---- memory ----

def test_ram_file():
    """A --ram file that is there stays, one that is not leaves nothing"""
    name = pathlib.Path(f"/dev/shm/godwit-bench-test-{os.getpid()}")
    try:
        words = ("raw", "--loopback", "--quick", "--ram", name)
        expect(run(*words), 0)
        check(not name.exists(), f"{name} is left")
        name.write_bytes(b"x")
        expect(run(*words), 0)
        check(name.stat().st_size == 32 << 20, "it is as large as the memory")
    finally:
        name.unlink(missing_ok=True)


def test_ram_file_of_others():
    """A --ram file outside tmpfs and hugetlbfs is refused, untouched"""
    with tempfile.NamedTemporaryFile(dir=TOP) as file:
        file.write(b"precious")
        file.flush()
        done = run("raw", "--loopback", "--quick", "--ram", file.name)
        if done.returncode == 0:
            raise runner.Skip("the project lies in a tmpfs")
        expect(done, 1, "tmpfs")
        check(pathlib.Path(file.name).read_bytes() == b"precious", "it was changed")


# ---- two hosts ----

@contextlib.contextmanager
def listener(*words):
    """A `godwit bench --listen` and where it listens."""
    process = subprocess.Popen([godwit.binary(), "bench", "--listen", "127.0.0.1:0",
                                *words], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    try:
        line = process.stdout.readline()
        check(line.startswith("listening on 127.0.0.1:"), line)
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def annoy(address):
    """Strangers: silent ones, and those who talk nonsense."""
    host, port = address.split(":")
    silent = socket.create_connection((host, int(port)))
    for garbage in (b"", b"\0" * 100, b"{}\n", b'{"do": "raw"}\n', b"[" * 5000 + b"\n",
                    b"x" * 300000, b'{"do": "hello", "format": "godwit-bench/0"}\n'):
        with socket.create_connection((host, int(port))) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
    return silent


@runner.limit(120)
def test_two_hosts():
    """--to drives a --listen that is undisturbed by strangers; CPU time is by side"""
    with listener() as (process, address), annoy(address):
        document, _ = measured("--to", address, "--quick")
        check(process.wait(10) == 0, process.stderr.read())
    check_document(document, repeat=2)
    found = {result["subject"] for result in document["results"]}
    check(found == set(SUBJECTS), f"not measured: {set(SUBJECTS) - found}")
    sides = {label["side"] for subject in ("raw", "stream")
             for label in labels_of(document, subject, "cpu")}
    check(sides == {"source", "destination"}, sides)


def test_more_than_is_lent():
    """A client cannot have more memory than the other side's --size"""
    with listener("--size", "16M") as (process, address):
        expect(run("raw", "--to", address, "--size", "32M"), 1, "--size")
        check(process.wait(10) == 0, "a refusal is no failure")


def conversation(address, *lines):
    """What a listener answers to a client of its version."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        talk = sock.makefile("rw")
        answers = []
        hello = '{"do": "hello", "format": "godwit-bench/1"}'
        for line in (hello, *lines):
            talk.write(line + "\n")
            talk.flush()
            answers.append(json.loads(talk.readline()))
        talk.close()
    check(answers[0]["ok"], answers[0])
    return answers[1:]


def test_requests_are_checked():
    """Requests with wrong values are refused one by one, and the next is served"""
    wrong = ('{"do": "raw", "transport": "tcp", "streams": 2}',
             '{"do": "memory", "size": -1}', '{"do": "memory", "size": 1.5}',
             '{"do": "memory", "size": 2097153}', '{"do": "memory", "size": "1G"}',
             '{"do": "nothing"}', '{"do": 7}', '{}', '{"do": "drop"}',
             '{"do": "stream", "transport": "tcp"}')
    right = '{"do": "memory", "size": 8388608}'
    then = ('{"do": "raw", "transport": "tcp", "streams": 0}',
            '{"do": "raw", "transport": "tcp", "streams": 65}',
            '{"do": "raw", "transport": "unix", "streams": 1}',
            '{"do": "stream", "transport": "unix"}',
            '{"do": "fault", "transport": "tcp", "touches": -1, "seed": 1}', '{"do": "drop"}')
    with listener() as (process, address):
        answers = conversation(address, *wrong, right, *then)
        check(process.wait(10) == 1, "a client that just goes is a failure")
    oks = [answer["ok"] for answer in answers]
    check(oks == [False] * len(wrong) + [True] + [False] * (len(then) - 1) + [True], oks)
    check(all(answer["error"] for answer in answers if not answer["ok"]), answers)


def test_nobody_listens():
    """Without a --listen the error says what to start"""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        expect(run("raw", "--to", address), 1, f"godwit bench --listen {address}")


# ---- ends ----

@runner.limit(120)
def test_cancel():
    """SIGINT at any moment ends it at once, and nothing is left"""
    before = scratch_folders()
    for delay in (0.01, 0.1, 0.3, 0.7, 1.2):
        with folder() as where:
            process = subprocess.Popen(
                [godwit.binary(), "bench", "--loopback", "--size", "64M", "--json",
                 str(where / "out.json")], stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, cwd=where)
            time.sleep(delay)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
            # a signal before the command looks for them is Linux's own end
            check(process.returncode in (3, -signal.SIGINT) if delay < 0.1
                  else process.returncode == 3, f"exit {process.returncode}: {said}")
            check(time.monotonic() - began < 5, "it took its time")
            check(not list(where.iterdir()), f"left: {list(where.iterdir())}")
    check(scratch_folders() <= before, f"left: {scratch_folders() - before}")


@runner.limit(120)
def test_lost_side():
    """When one side is killed the other says so and ends"""
    for delay in (0.05, 0.2, 0.5):
        with listener() as (process, address):
            driver = subprocess.Popen([godwit.binary(), "bench", "stream", "fault", "--to",
                                       address, "--size", "64M"], text=True,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(delay)
            process.kill()
            _, said = driver.communicate(timeout=60)
            check(driver.returncode == 1 and said.startswith("godwit bench: "),
                  f"exit {driver.returncode}: {said}")
        with listener() as (process, address):
            driver = subprocess.Popen([godwit.binary(), "bench", "stream", "fault", "--to",
                                       address, "--size", "64M"], text=True,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            driver.kill()
            driver.wait()
            check(process.wait(60) == 1, "the listening side did not end with 1")


def test_a_subject_that_fails():
    """Who may not have a userfaultfd gets the other subjects, and the remedy"""
    if os.getuid() != 0:
        raise runner.Skip("needs root, to be somebody else")
    if pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0":
        raise runner.Skip("everybody may have a userfaultfd here")
    try:
        done = run("raw", "install", "lz4", "--loopback", "--quick", user=NOBODY,
                   group=NOBODY, extra_groups=())
    except PermissionError as error:
        raise runner.Skip("others may not run this build") from error
    expect(done, 1, "install: ", "unprivileged_userfaultfd")
    check("raw\n" in done.stdout and "lz4\n" in done.stdout, done.stdout)


def test_bad_arguments():
    """Wrong words end with status 2 and say what is right"""
    wrong = {
        "": "--loopback",
        "--loopback --to 127.0.0.1:1": "--loopback",
        "raws --loopback": "no subject 'raws'",
        "--loopback --size 1K": "--size",
        "--loopback --channels 0": "--channels",
        "--loopback --channels 1,,2": "--channels",
        "--loopback --pages random,noise": "'noise' is none of random, zero",
        "--loopback --transport rdma": "tcp, unix",
        "--loopback --repeat 0": "--repeat",
        "--to 127.0.0.1:1 --transport unix": "--loopback",
        "--listen 127.0.0.1:0 raw": "--to side",
        "--listen 127.0.0.1:0 --repeat 2": "--to side",
        "--loopback --quik": "--quick",
    }
    for words, text in wrong.items():
        expect(run(*words.split()), 2, text)
    expect(run("raw", "--loopback", "--json", "/nonexistent/x"), 1, "/nonexistent/x")
    expect(run("raw", "--listen", "unix:/tmp/x"), 2)


if __name__ == "__main__":
    runner.main()
