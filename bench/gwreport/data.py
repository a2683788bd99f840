# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a file of the form "godwit-bench/1" and checks all of it, so that what
draws can trust what it gets. What is missing though it may be is filled in; what is
not known is ignored."""

import json
import math
import pathlib

FORMAT = "godwit-bench/1"
QUANTILES = ("p50", "p90", "p99", "p99.9")


class Malformed(Exception):
    """The text says where and what."""


def _clean(text):
    """Without what XML cannot hold."""
    return "".join(char if char.isprintable() else " " for char in text)


def _fail(where, what):
    raise Malformed(f"{where}: {what}" if where else what)


def _number(value):
    """A finite float that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


class Reader:
    """An object of the file, with the path to it for complaints."""

    def __init__(self, value, where=""):
        if not isinstance(value, dict):
            _fail(where, "is no object")
        self._value = value
        self._where = where

    def path(self, name):
        return f"{self._where}.{name}" if self._where else name

    def fail(self, name, what):
        _fail(self.path(name), what)

    def get(self, name):
        if name not in self._value:
            self.fail(name, "is missing")
        return self._value[name]

    def has(self, name):
        return self._value.get(name) is not None

    def text(self, name):
        value = self.get(name)
        if not isinstance(value, str):
            self.fail(name, "is no text")
        return _clean(value)

    def number(self, name):
        value = _number(self.get(name))
        if value is None:
            self.fail(name, "is no number from 0 on")
        return value

    def truth(self, name):
        value = self.get(name)
        if not isinstance(value, bool):
            self.fail(name, "is neither true nor false")
        return value

    def one_of(self, name, *words):
        value = self.get(name)
        if value not in words:
            self.fail(name, f"is none of {', '.join(words)}")
        return value

    def object(self, name):
        return Reader(self.get(name), self.path(name))

    def list(self, name):
        """Empty when it is not there."""
        value = self._value.get(name, [])
        if not isinstance(value, list):
            self.fail(name, "is no array")
        return value

    def objects(self, name):
        return [Reader(value, f"{self.path(name)}[{i}]")
                for i, value in enumerate(self.list(name))]

    def numbers(self, name):
        numbers = [_number(value) for value in self.list(name)]
        if None in numbers:
            self.fail(f"{name}[{numbers.index(None)}]", "is no number from 0 on")
        return numbers

    def pairs(self, name):
        """An array of pairs of numbers."""
        pairs = []
        for i, pair in enumerate(self.list(name)):
            good = isinstance(pair, list) and len(pair) == 2
            pairs.append(tuple(map(_number, pair)) if good else (None,))
            if None in pairs[-1]:
                self.fail(f"{name}[{i}]", "is no pair of numbers from 0 on")
        return pairs

    def plain(self):
        """Names and values as text, where values are no arrays or objects."""
        texts = {}
        for name, value in self._value.items():
            if isinstance(value, (dict, list)):
                self.fail(name, "is an array or object")
            text = value if isinstance(value, str) else json.dumps(value)
            texts[_clean(name)] = _clean(text)
        return texts


def _ceiling(reader):
    ceiling = {"what": reader.text("what"), "median": reader.number("median")}
    ceiling["ratio"] = reader.number("ratio") if reader.has("ratio") else None
    return ceiling


def _result(reader):
    result = {name: reader.text(name) for name in ("subject", "figure", "unit")}
    result |= {name: reader.number(name) for name in ("median", "min", "max")}
    result["labels"] = reader.object("labels").plain()
    result["better"] = reader.one_of("better", "higher", "lower")
    result["runs"] = reader.numbers("runs")
    if not result["min"] <= result["median"] <= result["max"]:
        reader.fail("median", "is not between min and max")
    result["ceiling"] = _ceiling(reader.object("ceiling")) if reader.has("ceiling") \
        else None
    return result


def _histogram(reader):
    histogram = {name: reader.text(name) for name in ("name", "unit")}
    histogram |= {name: reader.number(name)
                  for name in ("count", "mean", "max", *QUANTILES)}
    histogram["labels"] = reader.object("labels").plain()
    buckets = histogram["buckets"] = reader.pairs("buckets")
    for i, (before, after) in enumerate(zip(buckets, buckets[1:]), 1):
        if before[0] >= after[0]:
            reader.fail(f"buckets[{i}]", "does not lie above the one before")
    if not all(count for _, count in buckets):
        reader.fail("buckets", "one is empty")
    total = sum(count for _, count in buckets)
    if total != histogram["count"]:
        reader.fail("buckets", f"hold {total:.0f} and not {histogram['count']:.0f}")
    return histogram


def _series(reader):
    series = {name: reader.text(name) for name in ("name", "unit")}
    series["labels"] = reader.object("labels").plain()
    points = series["points"] = reader.pairs("points")
    for i, (before, after) in enumerate(zip(points, points[1:]), 1):
        if before[0] > after[0]:
            reader.fail(f"points[{i}]", "lies before the one before it")
    return series


def _bar(reader):
    bar = {name: reader.text(name) for name in ("name", "what", "bar", "detail")}
    bar["ok"] = reader.truth("ok")
    bar["value"] = reader.number("value") if reader.has("value") else None
    return bar


def _machine(reader):
    return {"cpu": reader.text("cpu"), "kernel": reader.text("kernel"),
            "cpus": reader.number("cpus"), "memory_mib": reader.number("memory_mib")}


def _seed(reader):
    value = reader.get("seed")
    if isinstance(value, bool) or not isinstance(value, int):
        reader.fail("seed", "is no whole number")
    return str(value)


def parse(value):
    """What the file holds, as dictionaries; raises Malformed."""
    reader = Reader(value)
    if reader.get("format") != FORMAT:
        reader.fail("format", f"is {_clean(str(reader.get('format')))[:60]!r} and not "
                              f"{FORMAT!r}")
    report = {name: reader.text(name) for name in ("tool", "when", "command")}
    report["machine"] = _machine(reader.object("machine"))
    report["seed"] = _seed(reader)
    report["versions"] = reader.object("versions").plain()
    quiet = reader.object("quiet")
    report["quiet"] = {"ok": quiet.truth("ok"), "why": quiet.text("why")}
    for name, of in (("results", _result), ("histograms", _histogram),
                     ("series", _series), ("bars", _bar)):
        report[name] = [of(item) for item in reader.objects(name)]
    return report


def _no_number(text):
    raise ValueError(f"{text} is no number")


def read(path):
    """As parse(), of a file; raises Malformed, which names it."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return parse(json.loads(text, parse_constant=_no_number))
    except OSError as error:
        raise Malformed(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{path}: no JSON: {error}") from None
    except Malformed as error:
        raise Malformed(f"{path}: {error}") from None
