# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured: kept, compared, printed, and written as godwit-bench/1."""

import dataclasses
import datetime
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

from gwtest import godwit

from . import host

HIGHER, LOWER = "higher", "lower"
# figure: (unit, which is better)
FIGURES = {
    "throughput": ("bytes/s", HIGHER), "total": ("s", LOWER), "cpu": ("s/GiB", LOWER),
    "blackout": ("ns", LOWER), "touch rate": ("pages/s", HIGHER),
    "touch p99": ("ns", LOWER), "stall mean": ("ns", LOWER), "stall p50": ("ns", LOWER),
    "stall p99": ("ns", LOWER), "stall max": ("ns", LOWER), "p50": ("ns", LOWER),
    "scan": ("ns", LOWER), "memory": ("bytes", LOWER),
    "bitmaps": ("bytes", LOWER),
}
COMPLAINTS_SHOWN = 8
FIGURES_A_TABLE = 4


@dataclasses.dataclass
class Entry:
    """All runs of one mover with one subject: figure -> values, in order."""
    subject: str
    mover: str
    labels: dict
    runs: dict = dataclasses.field(default_factory=dict)
    histograms: dict = dataclasses.field(default_factory=dict)
    series: list = dataclasses.field(default_factory=list)
    # figure -> (what, median)
    ceilings: dict = dataclasses.field(default_factory=dict)

    def median(self, figure):
        return statistics.median(self.runs[figure])

    def spread(self, figure):
        return min(self.runs[figure]), max(self.runs[figure])

    def is_qemu(self):
        return self.labels.get("by") == "qemu"


def ratios(over, under, figure):
    """over / under, run by run."""
    return [a / b for a, b in zip(over.runs[figure], under.runs[figure]) if b]


class Store:
    """Every entry of this invocation."""

    def __init__(self):
        self._entries = {}
        self.complaints = []
        self.notes = []

    def entry(self, subject, mover, labels=None):
        """That of a subject and a mover, made when it is not there."""
        key = subject, mover
        if key not in self._entries:
            self._entries[key] = Entry(subject, mover, labels or {})
        return self._entries[key]

    def find(self, subject, mover):
        """One that has runs, or None."""
        entry = self._entries.get((subject, mover))
        return entry if entry and entry.runs else None

    def of(self, subject):
        return [entry for entry in self._entries.values()
                if entry.subject == subject and entry.runs]

    def subjects(self):
        return list(dict.fromkeys(subject for subject, _ in self._entries))

    def best_qemu(self, subject, figure):
        """QEMU's entry with the best median, or None."""
        candidates = [entry for entry in self.of(subject)
                      if entry.is_qemu() and figure in entry.runs]
        if not candidates:
            return None
        choose = max if FIGURES[figure][1] == HIGHER else min
        return choose(candidates, key=lambda entry: entry.median(figure))

    def add(self, entry, **figures):
        """One run's figures; "_" stands for " "."""
        for name, value in figures.items():
            entry.runs.setdefault(name.replace("_", " "), []).append(value)

    def add_all(self, entry, figure, values):
        """What was measured elsewhere, in so many runs."""
        entry.runs.setdefault(figure, []).extend(values)

    def add_histogram(self, entry, name, histogram):
        """Runs of the same name are added up."""
        known = entry.histograms.get(name)
        entry.histograms[name] = known.plus(histogram) if known else histogram

    def complain(self, where, text):
        """The machine was not quiet."""
        if text:
            self.complaints.append(f"{where}: {text}")
            print(f"vs-qemu: not quiet: {where}: {text}", file=sys.stderr)


# ---- tables ----

def _scaled(figure, value):
    unit = FIGURES[figure][0]
    if unit == "bytes/s":
        return f"{value / 1e9:.2f}"
    if unit == "ns":
        return f"{value / 1e6:.2f}" if figure == "blackout" else f"{value / 1e3:.1f}"
    if unit == "pages/s":
        return f"{value / 1e3:.0f}"
    if unit == "bytes":
        return f"{value / (1 << 20):.1f}"
    return f"{value:.2f}"


_SHOWN_UNITS = {"bytes/s": "GB/s", "s": "s", "s/GiB": "s/GiB", "ns": "us",
                "pages/s": "k/s", "bytes": "MiB"}


def unit_shown(figure):
    return "ms" if figure == "blackout" else _SHOWN_UNITS[FIGURES[figure][0]]


def median_and_range(entry, figure):
    """"2.51 (2.40-2.60)"."""
    low, high = entry.spread(figure)
    if low == high:
        return _scaled(figure, low)
    return (f"{_scaled(figure, entry.median(figure))} "
            f"({_scaled(figure, low)}-{_scaled(figure, high)})")


def _table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width)
                               for cell, width in zip(row, widths)).rstrip()


def _ratio_lines(store, subject):
    """godwit against each of QEMU's ways, run by run."""
    mine = store.find(subject, "godwit")
    if not mine or "throughput" not in mine.runs:
        return
    for other in store.of(subject):
        values = other is not mine and "throughput" in other.runs and \
            ratios(mine, other, "throughput")
        if values:
            yield (f"  throughput, godwit / {other.mover}: "
                   f"{statistics.median(values):.2f} "
                   f"({min(values):.2f}-{max(values):.2f})")


def _rows(entries, figures):
    """Head and body of a table; an entry without any of the figures is left out."""
    yield ["", *(f"{name} {unit_shown(name)}".strip() for name in figures)]
    for entry in entries:
        if any(name in entry.runs for name in figures):
            yield [entry.mover, *(median_and_range(entry, name)
                                  if name in entry.runs else "-" for name in figures)]


def table_of(store, subject):
    """The lines of one subject's tables, and its ratios."""
    entries = store.of(subject)
    shown = [name for name in FIGURES if any(name in entry.runs for entry in entries)]
    lines = []
    for at in range(0, len(shown), FIGURES_A_TABLE):
        lines += _table(list(_rows(entries, shown[at:at + FIGURES_A_TABLE])))
    return [*lines, *_ratio_lines(store, subject)]


# ---- the file ----

def _result(entry, figure, values):
    unit, better = FIGURES[figure]
    ceiling = None
    if figure in entry.ceilings:
        what, median = entry.ceilings[figure]
        ceiling = {"what": what, "median": median,
                   "ratio": statistics.median(values) / median}
    return {"subject": entry.subject, "labels": entry.labels, "figure": figure,
            "unit": unit, "better": better, "runs": values,
            "median": statistics.median(values), "min": min(values),
            "max": max(values), "ceiling": ceiling}


def _ratio_results(store):
    for subject in store.subjects():
        mine = store.find(subject, "godwit")
        for other in store.of(subject) if mine else ():
            if other is mine or "throughput" not in mine.runs or \
                    "throughput" not in other.runs:
                continue
            values = ratios(mine, other, "throughput")
            yield {"subject": subject, "labels": {"by": "godwit", "to": other.mover},
                   "figure": "throughput ratio", "unit": "ratio", "better": HIGHER,
                   "runs": values, "median": statistics.median(values),
                   "min": min(values), "max": max(values), "ceiling": None}


def _versions(qemu_version):
    text = subprocess.run([godwit.binary(), "--version"], capture_output=True, text=True,
                          check=True).stdout
    return {"godwit": text.split()[-1], "qemu": qemu_version}


def document(store, setting, bars=()):
    """The whole of godwit-bench/1; `setting` has seed, qemu, accel, memory."""
    entries = [entry for subject in store.subjects() for entry in store.of(subject)]
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "format": "godwit-bench/1", "tool": "bench/vs-qemu",
        "when": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "machine": host.machine(),
        "command": shlex.join(["bench/vs-qemu", *sys.argv[1:]]),
        "seed": setting["seed"], "versions": _versions(setting["qemu"]),
        "guest": {"accel": setting["accel"], "memory": setting["memory"],
                  "notes": store.notes},
        "quiet": {"ok": not store.complaints,
                  "why": "; ".join(store.complaints[:COMPLAINTS_SHOWN])},
        # the format has no plain bytes: those are for the tables and the bars
        "results": [_result(entry, figure, values) for entry in entries
                    for figure, values in entry.runs.items()
                    if FIGURES[figure][0] != "bytes"] + [*_ratio_results(store)],
        "histograms": [histogram.as_json(name, {**entry.labels, "subject": entry.subject})
                       for entry in entries
                       for name, histogram in entry.histograms.items()],
        "series": [series for entry in entries for series in entry.series],
        "bars": list(bars),
    }


def write(path, content):
    pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n")
