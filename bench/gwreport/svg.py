# SPDX-License-Identifier: GPL-2.0-or-later
"""Elements, and what all charts have in common: a frame, axes, a legend. Colours
are classes, which the page's style sheet fills in for light and dark."""

import itertools
import xml.etree.ElementTree as ET

WIDTH = 880
# Of a wide font at 12 pixels: labels are cut before they collide.
CHAR = 7.2
COLOURS = 8
MARK_GAP = 4
LEGEND_LINE = 20

_numbers = itertools.count(1)


def el(tag, attributes=None, *children):
    """An element; children are elements or text."""
    element = ET.Element(tag, {name: _number(value)
                               for name, value in (attributes or {}).items()})
    last = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                element.text = (element.text or "") + child
            else:
                last.tail = (last.tail or "") + child
        else:
            element.append(child)
            last = child
    return element


def _number(value):
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) \
        else str(value)


def cut(text, width):
    """What fits in so many pixels."""
    chars = int(width / CHAR)
    return text if len(text) <= chars else text[:max(chars - 1, 1)] + "…"


def label(x, y, text, kind="", anchor="start"):
    return el("text", {"x": x, "y": y, "class": kind, "text-anchor": anchor}, text)


def line(x1, y1, x2, y2, kind):
    return el("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def path(points, kind, title):
    """Through (x, y) in order; the title is shown by the pointer."""
    steps = " ".join(f"{'L' if i else 'M'}{x:.1f},{y:.1f}"
                     for i, (x, y) in enumerate(points))
    return el("path", {"d": steps, "class": kind}, el("title", None, title))


def line_class(index):
    """Of the index-th line of a chart: a colour, then the same dashed."""
    return f"line c{index % COLOURS}" + (" dashed" if index >= COLOURS else "")


class Axis:
    """Maps values to pixels. `at` is monotonous, of values."""

    def __init__(self, low, high, start, end, at=lambda value: value):
        self._at = at
        self._low = at(low)
        self._span = (at(high) - self._low) or 1.0
        self._start = start
        self._length = end - start

    def __call__(self, value):
        share = (self._at(value) - self._low) / self._span
        return self._start + self._length * min(max(share, 0.0), 1.0)


def legend(entries, x, y, width):
    """Of (class of the sample, text): elements and their height. Rows are filled
    as far as they go."""
    group, column, row = el("g"), x, 0
    for kind, text in entries:
        text = cut(text, width - 30)
        needs = 44 + CHAR * len(text)
        if column > x and column + needs > x + width:
            column, row = x, row + 1
        middle = y + row * LEGEND_LINE
        group.append(_sample(kind, column, middle))
        group.append(label(column + 28, middle + 4, text))
        column += needs
    return group, (row + 1) * LEGEND_LINE


def _sample(kind, x, y):
    if kind.startswith("line"):
        return line(x, y, x + 22, y, kind)
    if kind in ("whisker", "ceiling"):
        return whisker(x + 2, x + 20, y, 4) if kind == "whisker" \
            else line(x + 11, y - 7, x + 11, y + 7, kind)
    return el("rect", {"x": x, "y": y - 6, "width": 22, "height": 12, "class": kind})


def whisker(left, right, y, half):
    group = el("g", {"class": "whisker"})
    group.append(line(left, y, right, y, "whisker"))
    for x in (left, right):
        group.append(line(x, y - half, x, y + half, "whisker"))
    return group


def figure(title, description, height, *children):
    """A picture with a name and a description for those who do not see it."""
    number = next(_numbers)
    names = f"t{number}", f"d{number}"
    return el("svg", {"viewBox": f"0 0 {WIDTH} {height:.0f}", "role": "img",
                      "width": WIDTH, "height": round(height),
                      "aria-labelledby": " ".join(names)},
              el("title", {"id": names[0]}, title),
              el("desc", {"id": names[1]}, description), *children)
