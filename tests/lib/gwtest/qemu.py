# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU with the test guest, as source or as waiting destination."""

import json
import os
import pathlib
import shutil
import subprocess
import time

from . import ram
from .proc import Workspace
from .qmp import Qmp, QmpClosed

TOP = pathlib.Path(__file__).resolve().parents[3]
CACHE = TOP / ".cache"
KERNEL = CACHE / "guest" / "vmlinuz"
INITRD = CACHE / "guest" / "initrd"
BACKPORTS = CACHE / "qemu-backports" / "qemu-system-x86_64"

# A model that every accelerator and both QEMUs offer with the same features.
CPU = "qemu64"
KVM_PROBE_SECONDS = 6

# Console output, timer calibration and probing for absent hardware are most of
# an emulated boot. A tsc that is declared reliable spares the guest a watchdog
# that a migration would set off.
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t mitigations=off nokaslr "
    "tsc=reliable no_timer_check clocksource=tsc rcupdate.rcu_expedited=1 audit=0 "
    "apparmor=0 cryptomgr.notests random.trust_cpu=on i8042.noaux i8042.nokbd")

DISK_SIZE = 16 << 20
PCAP_HEADER = 24
PCAP_RECORD_HEADER = 16
ETHERTYPE_RARP = b"\x80\x35"
_SIZE_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class QemuError(Exception):
    """QEMU or its guest did not do what the test needs."""


def binary():
    """The QEMU to test with: $GODWIT_QEMU, or the machine's own."""
    return os.environ.get("GODWIT_QEMU") or "qemu-system-x86_64"


def binaries():
    """Every QEMU that is here, by name: "system", "backports"; or the one that
    $GODWIT_QEMU chooses."""
    if chosen := os.environ.get("GODWIT_QEMU"):
        return {"chosen": chosen}
    found = {}
    if path := shutil.which("qemu-system-x86_64"):
        found["system"] = path
    if BACKPORTS.exists():
        found["backports"] = str(BACKPORTS)
    return found


def version(path):
    """(major, minor, micro) of a QEMU binary."""
    text = subprocess.run([path, "--version"], check=True, capture_output=True,
                          text=True).stdout
    return tuple(int(part) for part in text.split()[3].split("(")[0].split("."))


def size_bytes(text):
    """"256M" in bytes."""
    text = str(text)
    return int(text[:-1]) * _SIZE_UNITS[text[-1]] if text[-1] in _SIZE_UNITS else int(text)


def build_guest():
    """Bring the initramfs up to date; raises when the guest cannot be built."""
    subprocess.run([TOP / "tests" / "guest" / "build"], check=True)


def accelerator(path=None):
    """"kvm" where KVM really runs the guest, else "tcg".

    /dev/kvm being there says little: in some virtual machines it runs firmware
    and fails in the middle of Linux. So the guest is booted once, and the answer
    kept for this QEMU, this kernel and this host.
    """
    path = path or binary()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    key = " ".join([shutil.which(path) or path, str(version(path)), os.uname().release,
                    str(int(KERNEL.stat().st_mtime))])
    file = CACHE / "accelerator.json"
    answers = json.loads(file.read_text()) if file.exists() else {}
    if key not in answers:
        answers[key] = "kvm" if _kvm_boots(path) else "tcg"
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(answers, indent=1) + "\n")
        new.replace(file)
    return answers[key]


def _kvm_boots(path):
    with Workspace() as workspace:
        probe = Qemu(workspace, "probe", memory="128M", binary=path, accel="kvm",
                     append="gw.area=4M gw.rate=0")
        try:
            probe.start()
            probe.wait_ready(KVM_PROBE_SECONDS)
            return True
        except (QemuError, QmpClosed, TimeoutError):
            return False


class Qemu:
    """One QEMU. Source and destination differ in `incoming` and `netns` alone.

    memory    size of guest memory, "256M"
    binary    path of QEMU; `binary()` without
    accel     "kvm" or "tcg"; found out by trying without
    incoming  wait for a migration (-incoming defer)
    netns     name of the network namespace to run in
    append    more words for the guest's command line ("gw.rate=0 gw.area=32M")
    devices   any of "net", "rng", "blk": virtio devices that write guest memory
    machine   machine type; a versioned one ("pc-q35-7.2") between two versions
    prealloc  take all memory at start
    ram_path  the RAM file, in the workspace's tmpfs folder without
    extra     further words for QEMU's command line

    After start(): `pid`, `qmp` (the harness's own connection, a Qmp),
    `qmp_path` (the socket for godwit), `ram_path`, `console_path`, `log`.
    """

    def __init__(self, workspace, name, memory="256M", binary=None, accel=None,
                 incoming=False, netns=None, append="", smp=1, devices=(),
                 machine="q35", prealloc=False, ram_path=None, extra=()):
        self.workspace = workspace
        self.name = name
        self.memory = size_bytes(memory)
        self.binary = binary or globals()["binary"]()
        self.accel = accel
        self.incoming = incoming
        self.netns = netns
        self.append = append
        self.smp = smp
        self.devices = tuple(devices)
        self.machine = machine
        self.prealloc = prealloc
        self.extra = tuple(extra)
        self.ram_path = pathlib.Path(ram_path or workspace.ram / f"{name}.ram")
        self.console_path = workspace.dir / f"{name}.console"
        # a QMP monitor has one client at a time: godwit has its own
        self.qmp_path = workspace.dir / f"{name}.qmp"
        self.qmp_test_path = workspace.dir / f"{name}.qmp-test"
        self.net_dump_path = workspace.dir / f"{name}.pcap"
        self.process = None
        self.qmp = None

    @property
    def pid(self):
        return self.process.pid

    @property
    def log(self):
        return self.process.output()

    def command(self):
        """QEMU's command line."""
        backend = (f"memory-backend-file,id=ram,size={self.memory},"
                   f"mem-path={self.ram_path},share=on,"
                   f"prealloc={'on' if self.prealloc else 'off'}")
        words = [
            self.binary, "-name", self.name, "-no-user-config", "-nodefaults",
            "-display", "none", "-sandbox", "on",
            "-machine", f"{self.machine},accel={self.accel},memory-backend=ram",
            "-cpu", CPU, "-smp", str(self.smp), "-m", f"{self.memory >> 20}M",
            "-object", backend,
            "-chardev", f"file,id=console,path={self.console_path}",
            "-serial", "chardev:console",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-qmp", f"unix:{self.qmp_test_path},server=on,wait=off",
            "-kernel", str(KERNEL), "-initrd", str(INITRD),
            "-append", f"{KERNEL_ARGUMENTS} {self.append}",
        ]
        for device in self.devices:
            words += getattr(self, f"_{device}_device")()
        if self.incoming:
            words += ["-incoming", "defer"]
        return words + list(self.extra)

    def _net_device(self):
        # the dump is where an announcement of the moved guest can be seen
        return ["-netdev", "user,id=net0,restrict=on",
                "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:67:77:01,romfile=",
                "-object", f"filter-dump,id=dump0,netdev=net0,file={self.net_dump_path}"]

    def _rng_device(self):
        return ["-object", "rng-random,id=rng0,filename=/dev/urandom",
                "-device", "virtio-rng-pci,rng=rng0"]

    def _blk_device(self):
        disk = self.workspace.dir / "disk"
        if not disk.exists():
            ram.create_disk(disk, DISK_SIZE)
        return ["-blockdev", "driver=raw,node-name=disk0,read-only=on,"
                f"file.driver=file,file.filename={disk}",
                "-device", "virtio-blk-pci,drive=disk0"]

    def start(self):
        """Start QEMU and connect to it; returns self."""
        self.accel = self.accel or accelerator(self.binary)
        self.process = self.workspace.start(self.command(), self.name, self.netns)
        deadline = time.monotonic() + 10
        while not self.qmp:
            try:
                # the greeting may take long: QEMU sends it when memory is taken
                self.qmp = Qmp(self.qmp_test_path, timeout=30, connect_timeout=0.1)
            except (OSError, QmpClosed):
                if not self.process.running() or time.monotonic() > deadline:
                    self.kill()
                    raise QemuError(f"{self.name} did not start: {self.log}") from None
        return self

    def console(self):
        """What the guest has printed here, as bytes."""
        return self.console_path.read_bytes() if self.console_path.exists() else b""

    def _wait(self, condition, what, timeout):
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.process.running():
                raise QemuError(f"{self.name} died: {self.log}")
            if self.qmp.status() == "internal-error":
                raise QemuError(f"{self.name}: the accelerator failed: {self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no {what} in {timeout} s; "
                                   f"console: {self.console()[-200:]!r}")
            time.sleep(0.01)

    def wait_console(self, text, timeout=30):
        """Wait until the guest has printed `text` (bytes) here."""
        self._wait(lambda: text in self.console(), f"{text!r} on the console", timeout)

    def wait_ready(self, timeout=60):
        """Wait until the workload has filled its area and counts."""
        self.wait_console(b"gw-ready\n", timeout)

    def wait_output(self, size=1000, timeout=30):
        """Wait until the guest has printed `size` bytes more than now."""
        target = len(self.console()) + size
        self._wait(lambda: len(self.console()) >= target, "console output", timeout)

    def status(self):
        """QEMU's run state: "running", "paused", "inmigrate", ..."""
        return self.qmp.status()

    def running(self):
        return self.process is not None and self.process.running()

    def stop(self):
        """Stop the guest; returns the time of the STOP event."""
        since = len(self.qmp.poll())
        self.qmp.execute("stop")
        return self.qmp.wait_event("STOP", since=since).time

    def cont(self):
        """Let the guest run; returns the time of the RESUME event."""
        since = len(self.qmp.poll())
        self.qmp.execute("cont")
        return self.qmp.wait_event("RESUME", since=since).time

    def announcements(self):
        """How many RARP frames have gone out here: what QEMU sends to tell the
        network where the guest lives now. Needs the "net" device."""
        data = self.net_dump_path.read_bytes()
        count, at = 0, PCAP_HEADER
        while at + PCAP_RECORD_HEADER <= len(data):
            length = int.from_bytes(data[at + 8:at + 12], "little")
            at += PCAP_RECORD_HEADER
            count += data[at + 12:at + 14] == ETHERTYPE_RARP
            at += length
        return count

    def set_capabilities(self, **capabilities):
        """set_capabilities(x_ignore_shared=True): "_" stands for "-"."""
        self.qmp.execute("migrate-set-capabilities", {"capabilities": [
            {"capability": name.replace("_", "-"), "state": state}
            for name, state in capabilities.items()]})

    def quit(self, timeout=10):
        """End QEMU the polite way."""
        if self.running():
            try:
                self.qmp.execute("quit")
            except QmpClosed:
                pass
            self.process.wait(timeout)
        self._close()

    def kill(self):
        if self.process:
            self.process.kill()
        self._close()

    def _close(self):
        if self.qmp:
            self.qmp.close()
