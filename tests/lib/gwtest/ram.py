# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory as files: made, copied and compared, holes and all.

Files are read with pread and never mapped: a read through a mapping of tmpfs
would fill the holes that are being looked at.
"""

import dataclasses
import errno
import os
import random

PAGE = 4096
CHUNK = 4 << 20

KINDS = ("random", "zero", "sparse", "half", "text", "double")


@dataclasses.dataclass(frozen=True)
class Difference:
    offset: int
    first: bytes
    second: bytes

    def __str__(self):
        at = next(i for i in range(len(self.first)) if self.first[i] != self.second[i])
        return (f"page {self.offset // PAGE} (offset {self.offset:#x}) differs from "
                f"byte {at} on: {self.first[at:at + 8].hex()} and "
                f"{self.second[at:at + 8].hex()}")


def extents(fd):
    """(start, end) of the parts of a file that hold data."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _data_chunks(*fds):
    """Numbers of the chunks in which at least one of the files holds data."""
    chunks = set()
    for fd in fds:
        for start, end in extents(fd):
            chunks.update(range(start // CHUNK, (end + CHUNK - 1) // CHUNK))
    return sorted(chunks)


def differences(first, second):
    """Every page in which two files differ, in address order."""
    a = os.open(first, os.O_RDONLY)
    b = os.open(second, os.O_RDONLY)
    try:
        if os.fstat(a).st_size != os.fstat(b).st_size:
            raise ValueError(f"{first} has {os.fstat(a).st_size} bytes, "
                             f"{second} has {os.fstat(b).st_size}")
        for chunk in _data_chunks(a, b):
            x = os.pread(a, CHUNK, chunk * CHUNK)
            y = os.pread(b, CHUNK, chunk * CHUNK)
            if x == y:
                continue
            for at in range(0, len(x), PAGE):
                if x[at:at + PAGE] != y[at:at + PAGE]:
                    yield Difference(chunk * CHUNK + at, x[at:at + PAGE],
                                     y[at:at + PAGE])
    finally:
        os.close(a)
        os.close(b)


def compare(first, second):
    """The first page in which two files differ, or None. A hole equals zeroes."""
    return next(differences(first, second), None)


def copy(source, destination):
    """Copy contents into an existing file of the same size, holes as holes."""
    a = os.open(source, os.O_RDONLY)
    b = os.open(destination, os.O_RDWR)
    try:
        if os.fstat(a).st_size != os.fstat(b).st_size:
            raise ValueError(f"{source} and {destination} differ in size")
        zeroes = bytes(CHUNK)
        source_chunks = set(_data_chunks(a))
        for chunk in _data_chunks(a, b):
            # data that only the destination has must become zeroes
            data = os.pread(a, CHUNK, chunk * CHUNK) if chunk in source_chunks else zeroes
            os.pwrite(b, data, chunk * CHUNK)
    finally:
        os.close(a)
        os.close(b)


def allocated(path):
    """Bytes a file really takes."""
    return os.stat(path).st_blocks * 512


def create(path, size, kind="sparse", seed=1):
    """Make an image: `random`; `zero` (written zeroes); `sparse` (a sixteenth of
    it random, the rest holes); `half` (random and zero pages in runs of 1 to 64);
    `text` (compresses well, no page like another); `double` (LZ4 halves it, and
    has to work for it).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(fd, size)
        generator = random.Random(seed)
        for offset in range(0, size, CHUNK):
            _FILLS[kind](fd, offset, min(CHUNK, size - offset), generator)
    finally:
        os.close(fd)


def _fill_random(fd, offset, length, generator):
    os.pwrite(fd, generator.randbytes(length), offset)


def _fill_zero(fd, offset, length, _generator):
    os.pwrite(fd, bytes(length), offset)


def _fill_sparse(fd, offset, length, generator):
    # one run a chunk, at any page, so that extents start and end in odd places
    pages = length // PAGE
    run = max(1, pages // 16)
    start = generator.randrange(pages - run + 1)
    os.pwrite(fd, generator.randbytes(run * PAGE), offset + start * PAGE)


def _fill_half(fd, offset, length, generator):
    data = bytearray(length)
    at = 0
    fill = generator.random() < 0.5
    while at < length:
        run = min(generator.randint(1, 64) * PAGE, length - at)
        if fill:
            data[at:at + run] = generator.randbytes(run)
        fill = not fill
        at += run
    os.pwrite(fd, data, offset)


def _fill_text(fd, offset, length, generator):
    pages = []
    for at in range(offset, offset + length, PAGE):
        line = b"page %d of a guest, %d\n" % (at // PAGE, generator.getrandbits(32))
        pages.append((line * (PAGE // len(line) + 1))[:PAGE])
    os.pwrite(fd, b"".join(pages), offset)


def _fill_double(fd, offset, length, generator):
    data = generator.randbytes(length // 128 * 56)
    same = b"what every hundred and twenty-eight bytes of this guest have in common, "
    pieces = [data[at:at + 56] for at in range(0, len(data), 56)]
    os.pwrite(fd, same[:72].join(pieces) + same[:72], offset)


_FILLS = {"random": _fill_random, "zero": _fill_zero, "sparse": _fill_sparse,
          "half": _fill_half, "text": _fill_text,
          "double": _fill_double}


def create_disk(path, size):
    """A disk whose 64-bit words hold their own numbers, as the guest checks."""
    from array import array
    with open(path, "wb") as disk:
        for start in range(0, size // 8, CHUNK // 8):
            words = array("Q", range(start, min(start + CHUNK // 8, size // 8)))
            words.tofile(disk)
