#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/report: from files of measurements to one page that needs nothing else."""

import copy
import html.parser
import json
import math
import pathlib
import random
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from gwtest import proc, runner  # noqa: E402

REPORT = TOP / "bench" / "report"
GOOD, WRONG = 0, 2
UNITS = ("bytes/s", "ns", "s", "ratio", "pages/s", "s/GiB", "?")
# Elements of HTML that have no end.
VOID = {"meta", "br", "img", "link", "hr", "input"}


# ---- measurements that nobody has made ----

def result(subject, labels, runs, figure="throughput", unit="bytes/s", ceiling=None):
    ordered = sorted(runs)
    median = ordered[len(ordered) // 2]
    return {"subject": subject, "labels": labels, "figure": figure, "unit": unit,
            "better": "higher" if unit.endswith("/s") else "lower", "runs": runs,
            "median": median, "min": ordered[0], "max": ordered[-1],
            "ceiling": ceiling and {"what": "raw sockets, 2 streams", "median": ceiling,
                                    "ratio": median / ceiling}}


def histogram(name, labels, middle, spread, count=20000, seed=1):
    """Of log-normal times in ns, in buckets of 3 %."""
    generator = random.Random(seed)
    times = sorted(generator.lognormvariate(math.log(middle), spread)
                   for _ in range(count))
    buckets = {}
    for time in times:
        edge = math.ceil(1.03 ** math.ceil(math.log(time) / math.log(1.03)))
        buckets[edge] = buckets.get(edge, 0) + 1

    def at(share):
        return int(times[int(share * count)])

    return {"name": name, "labels": labels, "unit": "ns", "count": count,
            "mean": sum(times) / count, "p50": at(.5), "p90": at(.9), "p99": at(.99),
            "p99.9": at(.999), "max": int(times[-1]), "buckets": sorted(buckets.items())}


def series(name, values, step=0.25):
    return {"name": name, "labels": {"mode": "precopy"}, "unit": "bytes/s",
            "points": [[i * step, value] for i, value in enumerate(values)]}


def measurements():
    """Something of everything that the form allows."""
    return {
        "format": "godwit-bench/1", "tool": "bench/vs-qemu",
        "when": "2026-11-21T14:30:00Z",
        "machine": {"cpu": "AMD EPYC", "cpus": 2, "memory_mib": 24000,
                    "kernel": "6.18.44"},
        "command": "bench/vs-qemu --bars --size 4G", "seed": 4711,
        "versions": {"godwit": "0.1.0", "qemu": "10.0.2"},
        "quiet": {"ok": False, "why": "the load average was 1.43 at the start"},
        "results": [
            result("pre-copy, random", {"who": "godwit"}, [3.9e9, 3.8e9, 4.02e9],
                   ceiling=4.4e9),
            result("pre-copy, random", {"who": "QEMU", "channels": 2},
                   [2.6e9, 2.5e9, 2.71e9]),
            result("pre-copy, random", {"who": "raw", "channels": 2},
                   [4.4e9, 4.5e9, 4.3e9]),
            result("pre-copy, random", {"who": "godwit"}, [0.52, 0.51, 0.56], "CPU",
                   "s/GiB"),
            result("fault", {"who": "godwit"}, [31000, 29800, 33100], "idle, p50", "ns"),
            result("fault", {"who": "QEMU with preempt"}, [7.1e6, 6.4e6, 9.9e6],
                   "idle, p50", "ns"),
        ],
        "histograms": [
            histogram("fault latency, godwit", {"push": "full"}, 40e3, 0.5),
            histogram("fault latency, QEMU", {"push": "full"}, 500e3, 0.9, seed=2),
        ],
        "series": [
            series("throughput, godwit", [3.9e9, 4.0e9, 3.8e9, 3.95e9, 1.2e9]),
            series("throughput, QEMU", [2.4e9, 2.6e9, 2.5e9, 2.55e9, 2.6e9, 2.5e9]),
            series("dirty rate, godwit", [51e6, 48e6, 52e6, 50e6]),
        ],
        "bars": [
            {"name": "precopy-random-vs-qemu", "what": "pre-copy, random data",
             "bar": ">= 1.4", "value": 1.52, "ok": True,
             "detail": "godwit 3.9 GB/s (3.8–4.0), QEMU 2.6 (2.5–2.7)"},
            {"name": "blackout-precopy", "what": "blackout of an idle guest",
             "bar": "<= 15 ms", "value": 17.25, "ok": False, "detail": "17.25 ms"},
        ],
    }


# ---- running it ----

def run(*words, cwd=None):
    return subprocess.run([str(REPORT), *map(str, words)], capture_output=True,
                          text=True, timeout=30, check=False, cwd=cwd)


def write(folder, name, value):
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


class Page(html.parser.HTMLParser):
    """What a browser would see: text, attributes, and whether elements nest."""

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> where none is due, line {self.getpos()[0]}")

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def check_self_contained(self):
        if self.open:
            raise AssertionError(f"left open: {self.open}")
        alien = {"script", "link", "img", "iframe", "object", "image", "use", "base"}
        if found := alien & set(self.tags):
            raise AssertionError(f"the page has {found}")
        for tag, name, value in self.attributes:
            outside = name in ("src", "href", "xlink:href", "action", "data") \
                and not value.startswith("#")
            if outside or name.startswith("on") or (name != "xmlns" and "://" in value):
                raise AssertionError(f"<{tag} {name}={value!r}> leads outside")
        style = re.search(r"<style>(.*?)</style>", self.source, re.DOTALL)[1]
        if "url(" in style or "@import" in style:
            raise AssertionError("the style sheet loads something")


def page_of(folder, *reports):
    files = [write(folder, f"{i}.json", report) for i, report in enumerate(reports)]
    out = folder / "page.html"
    done = run("-o", out, *files)
    if done.returncode != GOOD or done.stdout or done.stderr:
        raise AssertionError(f"exit {done.returncode}: {done.stdout}{done.stderr}")
    page = Page(out.read_text())
    page.check_self_contained()
    return page


def expect_text(page, *texts):
    for text in texts:
        if text not in page.text:
            raise AssertionError(f"the page does not say {text!r}")


# ---- tests ----

def test_page():
    """The page holds every figure, and loads nothing from anywhere"""
    with proc.Workspace() as workspace:
        page = page_of(workspace.dir, measurements())
    expect_text(
        page, "AMD EPYC, 2 CPUs, 23.4 GiB", "6.18.44", "bench/vs-qemu --bars --size 4G",
        "4711", "godwit 0.1.0, qemu 10.0.2", "2026-11-21T14:30:00Z",
        "✗ not quiet: the load average was 1.43 at the start",
        # bars
        "precopy-random-vs-qemu", ">= 1.4", "1.52", "✓ ok", "✗ short", "17.2",
        "1 of 2 fall short.", "godwit 3.9 GB/s (3.8–4.0), QEMU 2.6 (2.5–2.7)",
        # results, beside the bars and in the table
        "3.90 GB/s (3.80–4.02) · 0.886 ×", "2.60 GB/s (2.50–2.71)",
        "raw sockets, 2 streams: 4.40 GB/s", "0.520 s/GiB", "7.10 ms (6.40–9.90)",
        "higher is better", "lower is better",
        # over time and distributions
        "throughput, GB/s", "dirty rate, MB/s", "99.99 %", "20,000")
    for name in ("p50", "p90", "p99", "p99.9", "max", "mean"):
        expect_text(page, name)


def test_pictures():
    """Each picture has a name and a description, and colours for light and dark"""
    with proc.Workspace() as workspace:
        page = page_of(workspace.dir, measurements())
    # three comparisons, two families of series, one of histograms
    if page.tags.count("svg") != 6 or page.tags.count("desc") != 6:
        raise AssertionError(f"{page.tags.count('svg')} pictures, "
                             f"{page.tags.count('desc')} descriptions")
    ids = {value for _, name, value in page.attributes if name == "id"}
    for _, name, value in page.attributes:
        if name == "aria-labelledby" and not set(value.split()) <= ids:
            raise AssertionError(f"nothing is called {value}")
    if "prefers-color-scheme: dark" not in page.source:
        raise AssertionError("no colours for dark screens")
    for number in re.findall(r'(?: x| y| x1| y2| cx| cy| width| height)="([^"]*)"',
                             page.source):
        if not -1 <= float(number) <= 2000:
            raise AssertionError(f"something is drawn at {number}")


def test_curve():
    """A quantile curve passes through the histogram's figures"""
    report = measurements()
    # 90 of 100 took 10 us, 9 took 100 us, one took 1 ms
    report["histograms"] = [{
        "name": "fault latency", "labels": {}, "unit": "ns", "count": 100, "mean": 28000,
        "p50": 10000, "p90": 100000, "p99": 1000000, "p99.9": 1000000, "max": 1000000,
        "buckets": [[10000, 90], [100000, 9], [1000000, 1]]}]
    with proc.Workspace() as workspace:
        page = page_of(workspace.dir, report)
    picture = page.source[page.source.index("fault latency: distribution"):]
    points = [tuple(map(float, point.split(","))) for point in
              re.findall(r"[ML]([\d.]+,[\d.]+)", re.search(r' d="([^"]*)"', picture)[1])]
    # 0 %, 90 % and 99 % are 0, 1 and 2 along; three decades lie between the times
    left, right, top, bottom = points[0][0], points[-1][0], points[-1][1], points[0][1]
    middle, height = (left + right) / 2, (top + bottom) / 2
    wanted = [(left, bottom), (middle, bottom), (middle, height), (right, height),
              (right, top), (right, top)]
    if len(points) != len(wanted) or any(
            abs(a - b) > 0.2 for got, want in zip(points, wanted)
            for a, b in zip(got, want)):
        raise AssertionError(f"{points} and not {wanted}")


def test_several_files():
    """Several files stand on one page, each with its own machine"""
    other = measurements() | {"tool": "godwit bench", "when": "2026-11-22T01:02:03Z",
                              "bars": [], "series": [], "histograms": []}
    other["machine"] = other["machine"] | {"kernel": "7.2.0"}
    with proc.Workspace() as workspace:
        page = page_of(workspace.dir, measurements(), other)
    expect_text(page, "0.json", "1.json", "6.18.44", "7.2.0", "godwit bench")
    links = [value for tag, name, value in page.attributes
             if (tag, name) == ("a", "href")]
    ids = {"#" + value for _, name, value in page.attributes if name == "id"}
    if len(links) != 2 or not set(links) <= ids:
        raise AssertionError(f"links {links}")


def test_hostile_text():
    """Text from a file is shown as it is and never obeyed"""
    evil = '<script>alert("1")</script><img src="http://example.org/x">&\x00\x1b\ud800'
    shown = '<script>alert("1")</script><img src="http://example.org/x">&'
    report = measurements() | {"tool": evil, "command": evil, "versions": {evil: evil}}
    report["machine"]["cpu"] = report["quiet"]["why"] = evil
    for item in report["results"]:
        item |= {"subject": evil, "figure": evil, "unit": evil, "labels": {evil: evil}}
    for item in (*report["histograms"], *report["series"]):
        item |= {"name": evil, "labels": {evil: evil}, "unit": evil}
    for item in report["bars"]:
        item |= {"name": evil, "what": evil, "bar": evil, "detail": evil}
    with proc.Workspace() as workspace:
        page = page_of(workspace.dir, report)
    expect_text(page, shown)


def test_extremes():
    """Nothing measured, zeroes, tiny and huge values make a page too"""
    bare = measurements()
    for name in ("results", "histograms", "series", "bars"):
        del bare[name]
    odd = measurements()
    odd["results"] = [result("a", {}, [value] * n, unit=unit)
                      for value in (0, 0.0, 1e-300, 5, 1e300) for n in (1, 2)
                      for unit in UNITS]
    odd["histograms"] += [
        histogram("single", {}, 10, 0.1, count=1),
        {"name": "none", "labels": {}, "unit": "ns", "count": 0, "mean": 0, "p50": 0,
         "p90": 0, "p99": 0, "p99.9": 0, "max": 0, "buckets": []},
        {"name": "at once", "labels": {}, "unit": "ns", "count": 3, "mean": 0, "p50": 0,
         "p90": 0, "p99": 0, "p99.9": 0, "max": 0, "buckets": [[0, 3]]}]
    odd["series"] += [series("zero", [0, 0]), series("one", [7]), series("none", []),
                      series("long", [i % 97 for i in range(20000)])]
    odd["bars"].append({"name": "unknown", "what": "", "bar": "", "value": None,
                        "ok": False, "detail": ""})
    with proc.Workspace() as workspace:
        page = page_of(workspace.dir, bare, odd)
        if len(page.source) > 2_000_000:
            raise AssertionError(f"the page has {len(page.source)} bytes")
        if re.search(r'="[^"]*\b(?:nan|inf)\b', page.source):
            raise AssertionError("something is drawn nowhere")


def changed(change):
    """Measurements in which one thing is wrong."""
    report = copy.deepcopy(measurements())
    change(report)
    return report


def put(*where, value):
    """A change: what is at this path becomes `value`."""
    def change(report):
        *path, last = where
        for step in path:
            report = report[step]
        if value is KeyError:
            del report[last]
        else:
            report[last] = value
    return change


MALFORMED = {
    "no JSON": "{",
    "is no object": "[]",
    "format: is missing": "{}",
    "format: is 'godwit-bench/2' and not":
        changed(put("format", value="godwit-bench/2")),
    "machine: is missing": changed(put("machine", value=KeyError)),
    "machine.cpus: is no number": changed(put("machine", "cpus", value="2")),
    "seed: is no whole number": changed(put("seed", value=1.5)),
    "quiet.ok: is neither": changed(put("quiet", "ok", value="yes")),
    "results: is no array": changed(put("results", value={})),
    "results[1]: is no object": changed(put("results", 1, value=3)),
    "results[0].subject: is no text": changed(put("results", 0, "subject", value=None)),
    "results[0].better: is none of": changed(put("results", 0, "better", value="more")),
    "results[0].median: is not between": changed(put("results", 0, "median", value=1)),
    "results[2].min: is no number from 0 on":
        changed(put("results", 2, "min", value=-1)),
    "results[0].runs[1]: is no number":
        changed(put("results", 0, "runs", 1, value=None)),
    "results[0].ceiling.what": changed(put("results", 0, "ceiling", "what", value=1)),
    "results[0].labels.who": changed(put("results", 0, "labels", "who", value=[])),
    "histograms[0].p99.9: is missing": changed(put("histograms", 0, "p99.9",
                                                   value=KeyError)),
    "histograms[1].buckets[1]: does not lie above":
        changed(put("histograms", 1, "buckets", 1, value=[0, 1])),
    "histograms[0].buckets[0]: is no pair":
        changed(put("histograms", 0, "buckets", 0, value=[1])),
    "histograms[0].buckets: hold": changed(put("histograms", 0, "count", value=1)),
    "series[0].points[2]: lies before":
        changed(put("series", 0, "points", 2, value=[0, 1])),
    "series[0].points[0]: is no pair":
        changed(put("series", 0, "points", 0, value=["0", 1])),
    "bars[1].ok: is neither": changed(put("bars", 1, "ok", value=1)),
    "bars[0].value: is no number": changed(put("bars", 0, "value", value=10 ** 400)),
    "NaN is no number": json.dumps(changed(put("seed", value=math.nan))),
    "no JSON: ": "[" * 100000,
}


def test_malformed():
    """A file that is not of the form is refused by name, with what is wrong"""
    with proc.Workspace() as workspace:
        good = write(workspace.dir, "good.json", measurements())
        out = workspace.dir / "page.html"
        for text, value in MALFORMED.items():
            bad = write(workspace.dir, "bad.json", value)
            done = run("-o", out, good, bad)
            if done.returncode != WRONG or f"{bad}: " not in done.stderr \
                    or text not in done.stderr or done.stderr.count("\n") != 1:
                raise AssertionError(f"{text}: exit {done.returncode}, {done.stderr}")
            if out.exists():
                raise AssertionError(f"{text}: there is a page")


def test_command_line():
    """Files that are not there, no file at all and a file that is read are refused"""
    with proc.Workspace() as workspace:
        good = write(workspace.dir, "good.json", measurements())
        binary = workspace.dir / "binary.json"
        binary.write_bytes(b"\xff\xfe{}")
        for words, text in (((), "FILE"), ((workspace.dir / "none",), "No such file"),
                            ((workspace.dir,), "directory"), ((binary,), "no JSON"),
                            (("-o", good, good), "would be overwritten")):
            done = run(*words, cwd=workspace.dir)
            if done.returncode != WRONG or text not in done.stderr:
                raise AssertionError(f"{words}: exit {done.returncode}, {done.stderr}")
        if json.loads(good.read_text())["seed"] != 4711:
            raise AssertionError("the input was changed")
        # without -o, and where nothing can be written
        if run(good, cwd=workspace.dir).returncode != GOOD or \
                not (workspace.dir / "report.html").exists():
            raise AssertionError("no report.html")
        done = run("-o", workspace.dir / "none" / "page.html", good)
        if done.returncode != 1 or "No such file" not in done.stderr:
            raise AssertionError(f"exit {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    runner.main()
