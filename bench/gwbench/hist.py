# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's histogram of touches: log-linear, in ticks."""

import struct

from . import layout

STEPS = layout.BUCKET_STEPS
COUNT = layout.BUCKET_COUNT
BYTES = 8 * COUNT
_STEPS_SHIFT = STEPS.bit_length() - 1


def lower_edge(index):
    """The smallest value of a bucket."""
    if index < STEPS:
        return index
    octave, step = divmod(index, STEPS)
    return (STEPS + step) << (octave - 1)


def bucket_of(value):
    """As the guest reckons it."""
    if value < STEPS:
        return value
    shift = value.bit_length() - 1 - _STEPS_SHIFT
    return min(COUNT - 1, (shift + 1) * STEPS + ((value >> shift) - STEPS))


class Histogram:
    """Counts by bucket, with the clock's frequency: what comes out is in ns."""

    def __init__(self, hz, counts=None):
        self.hz = hz
        self.counts = list(counts or [0] * COUNT)

    @classmethod
    def from_bytes(cls, hz, data):
        return cls(hz, struct.unpack(f"<{COUNT}Q", data))

    def _ns(self, ticks):
        return ticks * 1e9 / self.hz

    def minus(self, earlier):
        return Histogram(self.hz, map(int.__sub__, self.counts, earlier.counts))

    def plus(self, other):
        return Histogram(self.hz, map(int.__add__, self.counts, other.counts))

    def at_least(self, ns):
        """Only what took `ns` or longer."""
        first = bucket_of(int(ns * self.hz / 1e9))
        return Histogram(self.hz, [0] * first + self.counts[first:])

    @property
    def count(self):
        return sum(self.counts)

    @property
    def mean(self):
        """From the middle of each bucket: at most 2 % off."""
        total = sum(count * (lower_edge(i) + lower_edge(i + 1)) / 2
                    for i, count in enumerate(self.counts) if count)
        return self._ns(total / self.count) if self.count else 0.0

    def percentile(self, percent):
        """The upper edge of the bucket in which it lies; 0 when there is none."""
        left = self.count * percent / 100
        if not left:
            return 0.0
        for index, count in enumerate(self.counts):
            left -= count
            if left <= 0:
                break
        return self._ns(lower_edge(index + 1))

    @property
    def highest(self):
        return self.percentile(100)

    def as_json(self, name, labels):
        """A histogram of godwit-bench/1."""
        return {"name": name, "labels": labels, "unit": "ns", "count": self.count,
                "mean": self.mean, "p50": self.percentile(50),
                "p90": self.percentile(90), "p99": self.percentile(99),
                "p99.9": self.percentile(99.9), "max": self.highest,
                "buckets": [[self._ns(lower_edge(i + 1)), count]
                            for i, count in enumerate(self.counts) if count]}
