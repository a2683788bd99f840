# SPDX-License-Identifier: GPL-2.0-or-later
"""The three kinds of charts: comparison bars, lines over time, quantile curves."""

import math
import re

from . import svg, units
from .svg import el

WIDTH = svg.WIDTH

# Values so far apart are compared on a logarithmic axis.
LOG_FROM = 40
ROW = 26
# More than so many points in a line cannot be told apart.
POINTS_MAX = 1200
LINES_MAX = 2 * svg.COLOURS

_WHO = re.compile(r"\b(godwit|qemu|raw)\b", re.IGNORECASE)
_WHO_CLASS = {"godwit": "c0", "qemu": "c1", "raw": "c2"}
WHO_NAME = {"godwit": "godwit", "qemu": "QEMU", "raw": "raw sockets"}


def _is_text(value):
    return value[:1].isalpha() and value not in ("true", "false", "null")


def _said_again(name, labels):
    """Whether a later label says it too: by qemu, how qemu-multifd-2."""
    value, names = labels[name], list(labels)
    start = re.compile(rf"{re.escape(value)}\b")
    return _is_text(value) and any(start.match(labels[other]) for other in
                                   names[names.index(name) + 1:])


def labels_text(labels, without=(), named=False):
    """"channels 2, random": a text speaks for itself unless `named`."""
    return ", ".join(value if _is_text(value) and not named else f"{name} {value}"
                     for name, value in labels.items()
                     if name not in without and not _said_again(name, labels))


def shared_text(items):
    """What a caption says of the labels that all have."""
    return labels_text(shared_labels(items), named=True)


def who(result):
    """Whose result it is: labels say it before the figure and the subject do."""
    labels = result["labels"]
    for text in (labels.get("by", ""), *labels.values(), result["figure"],
                 result["subject"]):
        if match := _WHO.search(text):
            return match[1].lower()
    return "godwit"


# ---- comparison bars ----

def shared_labels(items):
    """Labels that are the same everywhere say nothing beside a single bar or line."""
    first = items[0]["labels"]
    return {name: value for name, value in first.items() if len(items) > 1
            and all(item["labels"].get(name) == value for item in items)}


class _Bars:
    """One chart: results that have subject, figure and unit in common."""

    def __init__(self, results):
        self.results = results
        self.shared = shared_labels(results)
        self.unit = results[0]["unit"]
        self.names = [labels_text(r["labels"], self.shared) or r["figure"]
                      for r in results]
        values = [v for r in results for v in (r["min"], r["max"])]
        values += [r["ceiling"]["median"] for r in results if r["ceiling"]]
        self.largest = max(values)
        self.smallest = min((v for v in values if v), default=0.0)
        self.log = bool(self.smallest) and self.largest / self.smallest >= LOG_FROM
        self.left = min(300, 14 + svg.CHAR * max(map(len, self.names)))
        self.right = WIDTH - 250
        self._marks()

    def _marks(self):
        factor, self.scale_name = units.scale(self.unit, self.largest)
        if self.log:
            self.marks = units.log_marks(self.smallest, self.largest)
            self.axis = svg.Axis(self.marks[0], self.marks[-1], self.left, self.right,
                                 lambda v: math.log10(max(v, self.marks[0])))
            self.mark_texts = [units.mark(m, self.unit) for m in self.marks]
        else:
            self.marks = [m * factor for m in units.linear_marks(self.largest / factor)]
            self.axis = svg.Axis(0, self.marks[-1], self.left, self.right)
            self.mark_texts = [units.plain(m / factor) for m in self.marks]

    def value_text(self, result):
        """The median with its range."""
        factor, name = units.scale(self.unit, result["median"] or self.largest)
        low, middle, high = (units.three_digits(result[key] / factor)
                             for key in ("min", "median", "max"))
        spread = f" ({low}–{high})" if len(result["runs"]) > 1 else ""
        return f"{middle} {name}{spread}"

    def title(self):
        first = self.results[0]
        shared = shared_text(self.results)
        return (f"{first['subject']}: {first['figure']}"
                + (f" ({shared})" if shared else ""))

    def description(self):
        return "; ".join(f"{name}: {self.value_text(result)}"
                         for name, result in zip(self.names, self.results))


def _bar_row(bars, result, name, y):
    group = el("g", {"class": _WHO_CLASS[who(result)]},
               el("title", None, f"{name}: {bars.value_text(result)}"
                  + _ceiling_text(result, ", ceiling ")))
    group.append(svg.label(bars.left - 8, y + 4, svg.cut(name, bars.left - 12),
                           anchor="end"))
    start, end = bars.axis(bars.marks[0]), bars.axis(result["median"])
    if bars.log:
        # the length of a bar would mean nothing: a point
        group.append(el("circle", {"cx": end, "cy": y, "r": 5, "class": "fill"}))
    else:
        group.append(el("rect", {"x": start, "y": y - 8, "width": max(end - start, 1.0),
                                 "height": 16, "class": "fill"}))
    if result["max"] > result["min"]:
        low, high = bars.axis(result["min"]), bars.axis(result["max"])
        group.append(svg.whisker(low, high, y, 5))
    if result["ceiling"]:
        x = bars.axis(result["ceiling"]["median"])
        group.append(svg.line(x, y - 11, x, y + 11, "ceiling"))
    text = bars.value_text(result)
    if result["ceiling"] and result["ceiling"]["ratio"] is not None:
        text += f" · {units.three_digits(result['ceiling']['ratio'])} ×"
    group.append(svg.label(bars.right + 12, y + 4, text, "value"))
    return group


def _ceiling_text(result, before):
    ceiling = result["ceiling"]
    if not ceiling:
        return ""
    return f"{before}{ceiling['what']}: {units.text(ceiling['median'], result['unit'])}"


def _bars_legend(results):
    present = {who(result) for result in results}
    entries = [(f"fill {_WHO_CLASS[w]}", f"{WHO_NAME[w]}, median")
               for w in _WHO_CLASS if w in present]
    if any(result["max"] > result["min"] for result in results):
        entries.append(("whisker", "lowest and highest run"))
    if any(result["ceiling"] for result in results):
        entries.append(("ceiling", "ceiling of the same run; × is the ratio to it"))
    return entries


def comparison(results):
    """Bars for results that have subject, figure and unit in common."""
    bars = _Bars(results)
    top = 12
    bottom = top + ROW * len(results)
    children = []
    room = (bars.right - bars.left) / max(len(bars.marks) - 1, 1)
    for mark, text in zip(bars.marks, bars.mark_texts):
        x = bars.axis(mark)
        children.append(svg.line(x, top, x, bottom + svg.MARK_GAP, "grid"))
        if len(text) * svg.CHAR < 2 * room or mark in (bars.marks[0], bars.marks[-1]):
            children.append(svg.label(x, bottom + 18, text, "mark", "middle"))
    for i, result in enumerate(results):
        children.append(_bar_row(bars, result, bars.names[i], top + ROW * i + ROW / 2))
    better = f"{results[0]['better']} is better"
    axis = better if bars.log else f"{bars.scale_name}, {better}"
    children.append(svg.label((bars.left + bars.right) / 2, bottom + 38, axis, "mark",
                              "middle"))
    legend, height = svg.legend(_bars_legend(results), bars.left, bottom + 60,
                                WIDTH - bars.left)
    return svg.figure(bars.title(), bars.description(), bottom + 56 + height, *children,
                      legend)


# ---- lines ----

LEFT, RIGHT, TOP, BOTTOM = 90, WIDTH - 36, 12, 292


def line_names(lines, family):
    """What a legend calls lines of one family: what tells them apart."""
    names, shared = [], shared_labels(lines)
    for one in lines:
        name = one["name"].removeprefix(family).lstrip(", ")
        labels = labels_text({key: value for key, value in one["labels"].items()
                              if value not in name}, shared)
        both = f"{name} ({labels})" if name and labels else name or labels
        names.append(both or one["name"])
    return names


def _frame(x, x_marks, y, y_marks, x_title, y_title):
    """Grid, marks and titles; marks are (value, text)."""
    children = []
    for value, text in x_marks:
        children.append(svg.line(x(value), TOP, x(value), BOTTOM + svg.MARK_GAP, "grid"))
        children.append(svg.label(x(value), BOTTOM + 18, text, "mark", "middle"))
    for value, text in y_marks:
        children.append(svg.line(LEFT - svg.MARK_GAP, y(value), RIGHT, y(value), "grid"))
        children.append(svg.label(LEFT - 8, y(value) + 4, text, "mark", "end"))
    children.append(svg.label((LEFT + RIGHT) / 2, BOTTOM + 38, x_title, "mark",
                              "middle"))
    middle = (TOP + BOTTOM) / 2
    children.append(el("text", {"x": 16, "y": middle, "class": "mark",
                                "text-anchor": "middle",
                                "transform": f"rotate(-90 16 {middle:.0f})"},
                       svg.cut(y_title, BOTTOM - TOP)))
    return children


def _with_legend(title, description, children, names):
    entries = [(svg.line_class(i), name) for i, name in enumerate(names)]
    legend, height = svg.legend(entries, LEFT, BOTTOM + 60, RIGHT - LEFT)
    return svg.figure(title, description, BOTTOM + 56 + height, *children, legend)


def _thin(points):
    """The same line with fewer points: of each stretch the lowest and the highest."""
    if len(points) <= POINTS_MAX:
        return points
    stride = math.ceil(2 * len(points) / POINTS_MAX)
    kept = []
    for at in range(0, len(points), stride):
        stretch = points[at:at + stride]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def over_time(family, lines):
    """Series of one family and unit."""
    unit = lines[0]["unit"]
    values = [value for one in lines for _, value in one["points"]]
    times = [time for one in lines for time, _ in one["points"]]
    factor, unit_name = units.scale(unit, max(values))
    y_marks = [m * factor for m in units.linear_marks(max(values) / factor)]
    x_marks = units.linear_marks(max(times), 8)
    x = svg.Axis(0, x_marks[-1], LEFT, RIGHT)
    y = svg.Axis(0, y_marks[-1], BOTTOM, TOP)
    names = line_names(lines, family)
    children = _frame(x, [(m, units.plain(m)) for m in x_marks],
                      y, [(m, units.plain(m / factor)) for m in y_marks],
                      "s since the start", f"{family}, {unit_name}")
    for i, one in enumerate(lines):
        points = [(x(time), y(value)) for time, value in _thin(one["points"])]
        children.append(svg.path(points, svg.line_class(i), names[i]))
        if len(points) == 1:
            children.append(el("circle", {"cx": points[0][0], "cy": points[0][1], "r": 3,
                                          "class": f"dot c{i % svg.COLOURS}"}))
    description = "; ".join(
        f"{name}: up to {units.text(max(v for _, v in one['points']), unit)} in "
        f"{units.text(one['points'][-1][0], 's')}" for name, one in zip(names, lines))
    return _with_legend(f"{family} over time", description, children, names)


# ---- quantile curves ----

def _nines(share):
    """0 % at 0, 90 % at 1, 99 % at 2, …"""
    return -math.log10(max(1.0 - share, 1e-12))


def _percent(nines):
    return f"{100 - 10.0 ** (2 - nines):.10g} %"


def _curve(histogram):
    """(nines, value) of the steps: what the slowest 1 in 10 ** nines exceed."""
    points, seen = [], 0.0
    for upper, count in histogram["buckets"]:
        value = max(min(upper, histogram["max"]) or upper, 1.0)
        points.append((_nines(seen / histogram["count"]), value))
        seen += count
        left = max(histogram["count"] - seen, 1.0)
        points.append((_nines(1.0 - left / histogram["count"]), value))
    return points


def quantiles(family, histograms):
    """Histograms of one family and unit, none of them empty."""
    unit = histograms[0]["unit"]
    curves = [_curve(histogram) for histogram in histograms]
    values = [value for curve in curves for _, value in curve]
    last = max(1, math.ceil(max(nines for curve in curves for nines, _ in curve)))
    y_marks = units.log_marks(min(values), max(values))
    x = svg.Axis(0, last, LEFT, RIGHT)
    y = svg.Axis(y_marks[0], y_marks[-1], BOTTOM, TOP, math.log10)
    x_marks = [(0, "0 %"), (_nines(0.5), "50 %"), *((n, _percent(n))
                                                    for n in range(1, last + 1))]
    names = line_names(histograms, family)
    children = _frame(x, x_marks, y, [(m, units.mark(m, unit)) for m in y_marks],
                      "share of all that took at most so long", family)
    for i, (curve, name) in enumerate(zip(curves, names)):
        points = [(x(nines), y(value)) for nines, value in curve]
        children.append(svg.path(points, svg.line_class(i), name))
        children.append(el("circle", {"cx": points[-1][0], "cy": points[-1][1], "r": 3.5,
                                      "class": f"dot c{i % svg.COLOURS}"},
                           el("title", None, f"{name}: longest")))
    description = "; ".join(
        f"{name}: " + ", ".join(f"{key} {units.text(histogram[key], unit)}"
                                for key in ("p50", "p90", "p99", "p99.9", "max"))
        for name, histogram in zip(names, histograms))
    return _with_legend(f"{family}: distribution", description, children, names)
