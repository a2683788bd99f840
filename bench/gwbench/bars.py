# SPDX-License-Identifier: GPL-2.0-or-later
"""What godwit has to reach, each as a ratio or a time of the same run."""

import dataclasses
import operator
import statistics
import typing

from . import results

MS = 1e6
MIB = 1 << 20
GIB = 1 << 30
# Besides the bitmaps a guest 512 times as large may cost so much: page tables, a
# page for each gigabyte, and what allocators round up.
SPARSE_GROWTH_MAX = 16 * MIB
DIRTY_GIB = 16

_HOLDS = {">=": operator.ge, "<=": operator.le}


class NotMeasured(Exception):
    """What a bar needs is not there; its text says what."""


@dataclasses.dataclass(frozen=True)
class Bar:
    name: str
    what: str
    holds: str  # ">=" or "<="
    limit: float
    unit: str
    subjects: tuple  # that must have run
    # (value, detail) out of a Store
    measure: typing.Callable

    def judge(self, store):
        """A bar of godwit-bench/1; `value` None: it could not be measured."""
        bar = {"name": self.name, "what": self.what,
               "bar": f"{self.holds} {self.limit:g} {self.unit}".strip()}
        try:
            value, detail = self.measure(store)
        except NotMeasured as why:
            return {**bar, "value": None, "ok": False, "detail": str(why)}
        return {**bar, "value": value, "ok": bool(_HOLDS[self.holds](value, self.limit)),
                "detail": detail}


def _need(store, subject, mover):
    entry = store.find(subject, mover)
    if not entry:
        raise NotMeasured(f"there is no run of {subject}, {mover}")
    return entry


def _best(store, subject, figure):
    entry = store.best_qemu(subject, figure)
    if not entry:
        raise NotMeasured(f"there is no run of {subject} with QEMU")
    return entry


def _show(entry, figure):
    return (f"{entry.mover} {results.median_and_range(entry, figure)} "
            f"{results.unit_shown(figure)}")


def _compare(mine, other, figure):
    values = results.ratios(mine, other, figure)
    if not values:
        raise NotMeasured(f"no {figure} of both {mine.mover} and {other.mover}")
    return statistics.median(values), (f"{_show(mine, figure)}, {_show(other, figure)}; "
                                       f"{min(values):.2f}-{max(values):.2f} a round")


def _versus_best(subject, figure):
    """godwit against QEMU's best way, by that very figure."""
    return lambda store: _compare(_need(store, subject, "godwit"),
                                  _best(store, subject, figure), figure)


def _versus(subject, other, figure):
    return lambda store: _compare(_need(store, subject, "godwit"),
                                  _need(store, subject, other), figure)


def _cpu(store):
    """Against the CPU time of the way that is QEMU's fastest."""
    return _compare(_need(store, "precopy-random", "godwit"),
                    _best(store, "precopy-random", "throughput"), "cpu")


def _blackout(store):
    entry = _need(store, "precopy-random", "godwit")
    return entry.median("blackout") / MS, _show(entry, "blackout")


def _fault(store):
    entry = _need(store, "fault", "godwit")
    what, ceiling = entry.ceilings["p50"]
    return entry.median("p50") / ceiling, (f"{_show(entry, 'p50')}, {what} "
                                           f"{ceiling / 1e3:.1f} us")


def _dirty(store):
    """By the GiB, times 16: less may have been mapped."""
    entry = _need(store, "dirty", "godwit")
    size = entry.labels["size"] / GIB
    per_gib = entry.median("scan") / MS / size
    return per_gib * DIRTY_GIB, (f"{_show(entry, 'scan')} for {size:g} GiB, "
                                 f"{per_gib:.2f} ms a GiB")


def _sparse_time(store):
    return _compare(_need(store, "sparse", "1 TiB"), _need(store, "sparse", "2 GiB"),
                    "total")


def _sparse_memory(store):
    """What the large guest costs more, of which bitmaps may be all."""
    large, small = (_need(store, "sparse", name) for name in ("1 TiB", "2 GiB"))
    grown = large.median("memory") - small.median("memory")
    bitmaps = large.median("bitmaps") - small.median("bitmaps")
    return max(0.0, grown - bitmaps) / MIB, (
        f"{_show(large, 'memory')}, {_show(small, 'memory')}; bitmaps grew by "
        f"{bitmaps / MIB:.0f} MiB")


def _compression(store, subjects):
    """The least of the subjects' medians."""
    found = []
    for subject in subjects:
        none = _need(store, subject, "godwit-none")
        others = [entry for entry in store.of(subject) if entry is not none]
        if not others:
            raise NotMeasured(f"there is no run of {subject} with compression")
        found.append(_compare(others[0], none, "throughput"))
    value = min(found)[0]
    return value, "; ".join(f"{subject}: {detail}"
                            for subject, (_, detail) in zip(subjects, found))


_UNTHROTTLED = ("compress-random", "compress-text")

BARS = (
    Bar("precopy-random-vs-qemu", "pre-copy, random data, destination warm, to QEMU's "
        "best", ">=", 1.4, "", ("precopy-random",),
        _versus_best("precopy-random", "throughput")),
    Bar("precopy-random-vs-raw", "the same, to raw sockets into the same memory", ">=",
        0.85, "", ("precopy-random",), _versus("precopy-random", "raw", "throughput")),
    Bar("precopy-half-vs-qemu", "pre-copy, half zero, to QEMU's best", ">=", 1.4, "",
        ("precopy-half",), _versus_best("precopy-half", "throughput")),
    Bar("precopy-cold-vs-qemu", "pre-copy, destination cold, 4 KiB pages, to QEMU's "
        "best", ">=", 1.4, "", ("precopy-cold",),
        _versus_best("precopy-cold", "throughput")),
    Bar("precopy-cpu-vs-qemu", "CPU seconds per GiB of both sides, to those of QEMU's "
        "fastest", "<=", 0.7, "", ("precopy-random",), _cpu),
    Bar("postcopy-throughput-vs-qemu", "post-copy, whole guest pushed while it runs, to "
        "QEMU's best", ">=", 3.0, "", ("postcopy-random",),
        _versus_best("postcopy-random", "throughput")),
    Bar("postcopy-fault-mean-vs-qemu", "mean stall of a touch that missed under full "
        "push, to QEMU's with preempt", "<=", 0.4, "", ("postcopy-random",),
        _versus("postcopy-random", "qemu-postcopy-preempt", "stall mean")),
    Bar("postcopy-stall-p99-vs-qemu", "p99 of those stalls, to QEMU's with preempt",
        "<=", 0.25, "", ("postcopy-random",),
        _versus("postcopy-random", "qemu-postcopy-preempt", "stall p99")),
    Bar("fault-idle-p50", "p50 of a fault with nothing else going on, to a bare "
        "ping-pong and a local fault", "<=", 2.0, "", ("fault",), _fault),
    Bar("postcopy-blackout-vs-qemu", "blackout of post-copy, to QEMU's best", "<=", 1.0,
        "", ("postcopy-random",), _versus_best("postcopy-random", "blackout")),
    Bar("precopy-blackout", "blackout of pre-copy with a limit of 10 ms, idle guest",
        "<=", 15.0, "ms", ("precopy-random",), _blackout),
    Bar("sparse-time", "1 TiB of holes with 1 GiB of data, to 2 GiB with as much", "<=",
        1.5, "", ("sparse",), _sparse_time),
    Bar("sparse-memory", "what that costs beyond its bitmaps", "<=",
        SPARSE_GROWTH_MAX / MIB, "MiB", ("sparse",), _sparse_memory),
    Bar("dirty-scan", "scan of 16 GiB mapped, 0.1 % dirty", "<=", 50.0, "ms", ("dirty",),
        _dirty),
    Bar("compress-unthrottled", "adaptive compression, to none, on an open loopback",
        ">=", 0.97, "", _UNTHROTTLED, lambda store: _compression(store, _UNTHROTTLED)),
    Bar("compress-1gbit", "the same on a link of 1 Gb/s with 2:1 data", ">=", 1.7, "",
        ("compress-link",), lambda store: _compression(store, ("compress-link",))),
)


def subjects_needed():
    return [name for bar in BARS for name in bar.subjects]


def judge_all(store):
    return [bar.judge(store) for bar in BARS]


def lines(judged):
    """A line for each bar, and one with the detail."""
    for bar in judged:
        verdict = "ok" if bar["ok"] else "MISSED" if bar["value"] is not None else "?"
        value = f"{bar['value']:.2f}" if bar["value"] is not None else "not measured"
        yield f"{verdict:<7}{bar['name']:<29}{value:>8}   {bar['bar']:<11}{bar['what']}"
        yield f"{'':<7}{bar['detail']}"
