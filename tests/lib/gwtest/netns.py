# SPDX-License-Identifier: GPL-2.0-or-later
"""Two "hosts": two network namespaces joined by a veth pair."""

import itertools
import os
import pathlib
import shutil
import subprocess

from .proc import remove_stale

_numbers = itertools.count()


def _ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def existing():
    """Names of the network namespaces of this machine."""
    folder = pathlib.Path("/run/netns")
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def unavailable():
    """Why no namespace can be made here; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "there is no ip command: install iproute2"
    return None


class NetnsPair:
    """`a` and `b` are the namespaces' names, `address4` and `address6` map them
    to addresses. `rate` is tc's notation ("100mbit") and holds in both directions.
    """

    def __init__(self, rate=None, mtu=None):
        # the test's pid keeps test runs side by side apart
        unique = f"{os.getpid()}-{next(_numbers)}"
        self.a, self.b = f"gwa-{unique}", f"gwb-{unique}"
        self.address4 = {self.a: "192.0.2.1", self.b: "192.0.2.2"}
        self.address6 = {self.a: "fd00:67:77::1", self.b: "fd00:67:77::2"}
        self.link = "gw0"
        self._rate = rate
        self._mtu = mtu
        self._mac = {}

    def __enter__(self):
        remove_stale("/run/netns", "gw[ab]-*",
                     lambda path: _ip("netns", "delete", path.name))
        try:
            self._create()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *unused):
        self.remove()

    def _create(self):
        for name in (self.a, self.b):
            _ip("netns", "add", name)
        _ip("-n", self.a, "link", "add", self.link, "type", "veth",
            "peer", "name", self.link, "netns", self.b)
        for name in (self.a, self.b):
            _ip("-n", name, "address", "add", self.address4[name] + "/24",
                "dev", self.link)
            # nodad: nobody else can have it, and to find out takes a second
            _ip("-n", name, "address", "add", self.address6[name] + "/64",
                "dev", self.link, "nodad")
            if self._mtu:
                _ip("-n", name, "link", "set", self.link, "mtu", str(self._mtu))
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", self.link, "up")
            self._mac[name] = self.run(
                name, "cat", f"/sys/class/net/{self.link}/address").strip()
        # Fixed neighbours: for a second after its creation, the kernel has not
        # noticed that the link is up and answers no IPv6 solicitation.
        self.mend()
        if self._rate:
            self.set_rate(self._rate)

    def run(self, name, *command):
        """Run a command to its end in a namespace; its output as text."""
        done = subprocess.run(["ip", "netns", "exec", name, *command], text=True,
                              capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} in {name}: {done.stderr}")
        return done.stdout

    def set_rate(self, rate):
        """Limit the link in both directions; None lifts the limit."""
        for name in (self.a, self.b):
            subprocess.run(["tc", "-n", name, "qdisc", "delete", "dev", self.link,
                            "root"], capture_output=True, check=False)
            if rate:
                subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", self.link,
                                "root", "tbf", "rate", rate, "burst", "256kb",
                                "latency", "50ms"], check=True)

    def _set_neighbours(self, mac_of):
        for here, there in ((self.a, self.b), (self.b, self.a)):
            for address in (self.address4[there], self.address6[there]):
                _ip("-n", here, "neighbour", "replace", address, "dev", self.link,
                    "lladdr", mac_of(there), "nud", "permanent")

    def cut(self):
        """Packets vanish in both directions and no socket is told.

        They are sent to a station that does not exist: the link itself stays up,
        as with a switch that fails somewhere on the way.
        """
        self._set_neighbours(lambda name: "02:00:00:00:00:99")

    def mend(self):
        """Undo cut()."""
        self._set_neighbours(lambda name: self._mac[name])

    def sent_bytes(self, name):
        """Bytes a namespace has sent over the link, headers included."""
        text = self.run(name, "cat", "/proc/net/dev")
        for line in text.splitlines():
            device, _, counters = line.partition(":")
            if device.strip() == self.link:
                return int(counters.split()[8])
        raise LookupError(f"no {self.link} in {name}")

    def remove(self):
        for name in (self.a, self.b):
            # the veth pair goes with its namespace
            _ip("netns", "delete", name, check=False)
