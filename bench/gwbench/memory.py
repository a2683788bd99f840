# SPDX-License-Identifier: GPL-2.0-or-later
"""RAM files, on a tmpfs of our own that nobody has to remove.

Memory that the machine has not used lately is slow to touch for the first time, so
a file's memory is kept between runs, or given back and taken again at once.
"""

import contextlib
import ctypes
import mmap
import os
import pathlib

CLONE_NEWNS = 0x20000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PIECE = 2 << 20

HUGE = ("always", "never")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result, what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def leave_mount_namespace():
    """From now on, what is mounted here is seen by this process and its children
    alone, and goes with them however they end."""
    _check(_libc.unshare(CLONE_NEWNS), "a mount namespace")
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None),
           "private mounts")


@contextlib.contextmanager
def tmpfs(folder, size, huge):
    """A tmpfs of `size` bytes at `folder`; huge pages "always" or "never"."""
    folder = pathlib.Path(folder)
    folder.mkdir()
    options = f"size={size},mode=0700,huge={huge}".encode()
    _check(_libc.mount(b"gwbench", str(folder).encode(), b"tmpfs", 0, options),
           f"a tmpfs with huge={huge}")
    try:
        yield folder
    finally:
        _libc.umount2(str(folder).encode(), MNT_DETACH)
        folder.rmdir()


def _huge_bytes(address):
    """Of the mapping of ours that begins there."""
    found = False
    with open("/proc/self/smaps", encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            if line.startswith(f"{address:x}-"):
                found = True
            elif found and line.startswith("ShmemPmdMapped:"):
                return int(line.split()[1]) << 10
    return 0


class RamFile:
    """A file of guest memory. `words` is all of it as 64-bit words: writing through
    it takes memory, and so does reading where the file has a hole."""

    def __init__(self, path, size):
        self.path = pathlib.Path(path)
        self.size = size
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self.fd, size)
        self._map = None
        self._words = None

    @property
    def words(self):
        if self._words is None:
            self._map = mmap.mmap(self.fd, self.size,
                                  flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            self._words = memoryview(self._map).cast("Q")
        return self._words

    def unmap(self):
        if self._words is not None:
            self._words.release()
            self._map.close()
            self._words = None

    def has_holes(self):
        return os.fstat(self.fd).st_blocks * 512 < self.size

    def is_huge(self):
        """Whether all of it lies in huge pages: what takes memory anew behind our back
        (QEMU's post-copy) takes small ones."""
        _ = self.words
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        mapped = _huge_bytes(address)
        self.unmap()
        return mapped == self.size

    def give_back(self):
        """All holes again: the kernel hands this memory to the next who asks."""
        self.unmap()
        os.ftruncate(self.fd, 0)
        os.ftruncate(self.fd, self.size)

    def zero(self):
        """All zero, and all of it there."""
        zeroes = bytes(PIECE)
        for at in range(0, self.size, PIECE):
            self.write(at, memoryview(zeroes)[:self.size - at])

    def read(self, offset, length):
        """Without taking memory where there is a hole."""
        return os.pread(self.fd, length, offset)

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)

    def close(self):
        """The file stays; it goes with its tmpfs."""
        self.unmap()
        os.close(self.fd)


def take_in_pieces(ram, keeper):
    """Take all of a file's memory, in pieces that do not join when they are free.

    `keeper` is an open file, on the same kind of tmpfs, that gets the page between
    two pieces. Where a hypervisor takes back what is free, it takes whole pieces of
    2 MiB, and the next touch of those is slow; and the kernel hands out small pieces
    first. So what `ram` gives back is what the next to ask gets, and it is warm.
    Other small pieces that were free come before it: a second time takes those too.
    """
    for at in range(0, ram.size, PIECE):
        ram.write(at, bytes(min(PIECE, ram.size - at)))
        keeper.write(bytes(mmap.PAGESIZE))
    ram.give_back()
    ram.zero()
