# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory images: the same bytes for every subject, and no page like another.

A block of 64 MiB is repeated over the file, far beyond the window of any
compression that is compared. Each page that is not zero starts with a stamp: its
number and the number of the run, so a page that did not come shows.
"""

import base64
import random
from array import array

from . import layout

PAGE = layout.GUEST_PAGE
PAGE_WORDS = PAGE // 8
BLOCK = layout.IMAGE_PAGES * PAGE
KINDS = ("random", "half", "text")

# The part of the block that "text" makes anew; repeating it is as good.
_TEXT_PART = 4 << 20
_LINES = (b"daemon: connection accepted from host ",
          b"kernel: page allocation of order 0 for ",
          b"server: GET /static/images/icons HTTP/1.1 200 ",
          b"cron: session opened for user root by uid ")
# Random bytes a line: LZ4 makes half of the whole.
_LINE_RANDOM = 24
_EPOCH_SHIFT = 56


def zero_pages(count):
    """The zero pages of the first `count` of an image of kind "half"; the guest
    knows the same rule."""
    return [page for page in range(count)
            if (page % layout.IMAGE_PAGES >> layout.ZERO_SHIFT) * layout.ZERO_HASH
            & 0x80000000]


def _random_block(generator):
    return bytearray(generator.randbytes(BLOCK))


def _half_block(generator):
    block = _random_block(generator)
    for page in zero_pages(layout.IMAGE_PAGES):
        block[page * PAGE:(page + 1) * PAGE] = bytes(PAGE)
    return block


def _text_block(generator):
    parts = []
    length = 0
    while length < _TEXT_PART:
        line = (generator.choice(_LINES)
                + base64.b64encode(generator.randbytes(_LINE_RANDOM)) + b"\n")
        parts.append(line)
        length += len(line)
    return bytearray(b"".join(parts)[:_TEXT_PART] * (BLOCK // _TEXT_PART))


_BLOCKS = {"random": _random_block, "half": _half_block, "text": _text_block}


def block_of(kind, seed):
    """The 64 MiB that an image of this kind repeats."""
    return _BLOCKS[kind](random.Random(seed))


class Image:
    """Fills RAM files of `size` bytes."""

    def __init__(self, kind, size, seed=1):
        self.kind = kind
        self.size = size
        self.pages = size // PAGE
        self._block = block_of(kind, seed)

    def fill(self, ram):
        for at in range(0, self.size, BLOCK):
            ram.write(at, memoryview(self._block)[:min(BLOCK, self.size - at)])

    def stamp_base(self, epoch):
        """What page 0 starts with in a run; page N has N * STAMP_STEP more."""
        return (1 + epoch % 255) << _EPOCH_SHIFT

    def stamps(self, epoch):
        """The first word of each page in the run `epoch`."""
        base = self.stamp_base(epoch)
        step = layout.STAMP_STEP
        stamps = array("Q", range(base, base + self.pages * step, step))
        if self.kind == "half":
            for page in zero_pages(min(self.pages, layout.IMAGE_PAGES)):
                count = len(range(page, self.pages, layout.IMAGE_PAGES))
                stamps[page::layout.IMAGE_PAGES] = array("Q", bytes(8 * count))
        return stamps

    def stamp(self, ram, epoch):
        """Make a file the image of the run `epoch`."""
        ram.words[::PAGE_WORDS] = memoryview(self.stamps(epoch))


def stamps_in(ram):
    """The first word of each page of a RAM file."""
    return array("Q", ram.words[::PAGE_WORDS].tobytes())
