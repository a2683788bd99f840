# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers as people read them, and the marks of axes."""

import math

# Of each unit of the format, largest first: how many of it make one of the name.
_SCALES = {
    "bytes/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")),
    "pages/s": ((1e6, "million pages/s"), (1e3, "thousand pages/s"), (1, "pages/s")),
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")),
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "ratio": ((1, "×"),),
}
# What a mark on a logarithmic axis is for, when there is room.
_WITHIN_DECADE = (1, 2, 5)


def scale(unit, largest):
    """(how many of the unit make one of the name, the name)"""
    scales = _SCALES.get(unit, ((1, unit),))
    # 0.97 ms reads better than 970 µs only just below the next unit
    for factor, name in scales:
        if largest >= 0.95 * factor:
            return factor, name
    return scales[-1]


def three_digits(value):
    """1,234 or 12.3 or 0.0123"""
    if not value:
        return "0"
    if not 1e-4 <= value < 1e7:
        return f"{value:.3g}"
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def text(value, unit, largest=None):
    """A value with its unit, scaled by itself or as `largest` would be."""
    factor, name = scale(unit, value if largest is None else largest)
    return f"{three_digits(value / factor)} {name}"


def plain(value):
    """A mark's number: no more digits than it has."""
    return f"{value:,.10g}" if 1e-4 <= value < 1e7 or not value else f"{value:.3g}"


def mark(value, unit):
    """What a mark of a logarithmic axis is called."""
    factor, name = scale(unit, value)
    return f"{plain(float(f'{value / factor:.3g}'))} {name}"


def linear_marks(largest, count=5):
    """Round numbers from 0 to at least `largest`, about `count` of them."""
    if not largest:
        return [0.0, 1.0]
    raw = largest / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    return [i * step for i in range(math.ceil(largest / step - 1e-9) + 1)]


def log_marks(smallest, largest):
    """Marks from at most `smallest` to at least `largest`, both above 0."""
    first = math.floor(math.log10(smallest))
    last = max(math.ceil(math.log10(largest)), first + 1)
    if last - first <= 3:
        marks = [m * 10.0 ** e for e in range(first, last) for m in _WITHIN_DECADE]
        marks.append(10.0 ** last)
        # as close around the values as the marks allow
        while len(marks) > 2 and marks[1] <= smallest:
            marks.pop(0)
        while len(marks) > 2 and marks[-2] >= largest:
            marks.pop()
        return marks
    stride = math.ceil((last - first) / 8)
    last = first + stride * math.ceil((last - first) / stride)
    return [10.0 ** e for e in range(first, min(last, 308) + 1, stride)]
