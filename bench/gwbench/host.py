# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that is measured on: what it is, and whether it was quiet."""

import os
import pathlib
import platform
import resource
import time

from gwtest import proc

# Shares of all CPUs that others may have during a run, and of the host's steal.
OTHERS_MAX = 0.08
STEAL_MAX = 0.03
LOAD_MAX_PER_CPU = 0.5
# CPU time comes in ticks of 10 ms: very short runs say nothing.
LEAST_SECONDS = 0.2

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def machine():
    kib = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    return {"cpu": cpu_name(), "cpus": os.cpu_count(), "memory_mib": kib // 1024,
            "kernel": platform.release()}


def available_bytes():
    """Memory that can be had without harm."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_before():
    """Why the machine was not quiet before anything was started; "" when it was."""
    load = os.getloadavg()[0]
    if load > LOAD_MAX_PER_CPU * os.cpu_count():
        return f"the load average was {load:.2f} at the start"
    return ""


def _machine_times():
    """(CPU seconds in processes, stolen seconds) of all CPUs so far. Interrupts
    are left out: they are our network traffic."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system = (int(field) for field in fields[1:4])
    return (user + nice + system) / _TICK, int(fields[8]) / _TICK


def _own_seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def ended_children():
    """CPU seconds of the children that have ended and were waited for."""
    return _own_seconds(resource.RUSAGE_CHILDREN)


class Watch:
    """CPU time from now on: of the processes `pids` and of children that end
    meanwhile (`ours()`), and of everybody else (`complaint()`)."""

    def __init__(self, pids):
        self._pids = tuple(pids)
        self._began = time.monotonic()
        self._first = self._sample()

    def _sample(self):
        processes, stolen = _machine_times()
        return {"ours": sum(map(proc.cpu_seconds, self._pids)) + ended_children(),
                "self": _own_seconds(resource.RUSAGE_SELF),
                "all": processes, "stolen": stolen}

    def stop(self):
        last = self._sample()
        self._seconds = time.monotonic() - self._began
        self._used = {key: last[key] - first for key, first in self._first.items()}
        return self

    def ours(self):
        return self._used["ours"]

    def complaint(self):
        """Why the machine was not quiet meanwhile; "" when it was."""
        if self._seconds < LEAST_SECONDS:
            return ""
        available = self._seconds * os.cpu_count()
        others = (self._used["all"] - self._used["ours"] - self._used["self"]) / available
        stolen = self._used["stolen"] / available
        if stolen > STEAL_MAX:
            return f"the hypervisor took {100 * stolen:.0f} % of the CPUs"
        if others > OTHERS_MAX:
            return f"others used {100 * others:.0f} % of the CPUs"
        return ""
