# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof that a guest went on: its counter, read from the consoles.

The guest prints "gw COUNTER ERRORS GAP" every tick. The counter must go on by
one from line to line over all the hosts it has lived on, and no check may have
failed. A line may begin on one host and end on the next, since the emulated
UART moves with the guest: so the streams are joined byte by byte.
"""

import dataclasses
import re

READY = b"gw-ready"
_TICK = re.compile(rb"gw (\d+) (\d+) (\d+)")


class ConsoleError(Exception):
    """The guest lost a tick, ran twice, or found its memory damaged."""


@dataclasses.dataclass(frozen=True)
class Proof:
    # complete ticks on the first host and on all later ones; a tick counts for
    # the host on which its line ended
    before: int
    after: int
    # the guest's own view; its clock stands still while it is stopped, so this
    # shows stalls and not the blackout
    longest_gap_us: int
    longest_gap_after_us: int

    def __str__(self):
        return (f"{self.before} ticks before, {self.after} after, none lost, none "
                f"twice, no bad page; longest gap {self.longest_gap_us} us, after "
                f"the move {self.longest_gap_after_us} us")


def _ticks(stream):
    """(offset of the line's end, counter, gap) of every line; raises at errors."""
    start = stream.find(READY)
    if start < 0:
        raise ConsoleError(f"the guest never came up: {stream[-300:]!r}")
    offset = stream.find(b"\n", start) + 1
    while offset > 0:
        end = stream.find(b"\n", offset)
        if end < 0:
            return  # a line that the guest is still writing
        line = stream[offset:end].rstrip(b"\r")
        match = _TICK.fullmatch(line)
        if not match:
            # gw-bad, a kernel's oops, or bytes lost by the UART
            raise ConsoleError(f"unexpected line on the console: {line!r}")
        counter, errors, gap = map(int, match.groups())
        if errors:
            raise ConsoleError(f"{errors} failed checks at tick {counter}")
        yield end, counter, gap
        offset = end + 1


def verify(*streams, least_after=1):
    """Check the consoles of one guest, in the order of the hosts it lived on."""
    if not streams:
        raise ValueError("no console given")
    expected = 1
    before = after = longest = longest_after = 0
    for end, counter, gap in _ticks(b"".join(streams)):
        if counter != expected:
            what = "again" if counter < expected else "too early"
            raise ConsoleError(f"tick {counter} {what}: {expected} was next")
        expected += 1
        longest = max(longest, gap)
        if end < len(streams[0]):
            before += 1
        else:
            after += 1
            longest_after = max(longest_after, gap)
    if len(streams) > 1 and after < least_after:
        raise ConsoleError(f"{after} ticks after the move, {least_after} wanted")
    return Proof(before, after, longest, longest_after)


def ticks_so_far(stream):
    """Number of the last complete tick line; 0 before the first."""
    numbers = re.findall(rb"^gw (\d+) \d+ \d+\r?$", stream.rpartition(b"\n")[0],
                         re.MULTILINE)
    return int(numbers[-1]) if numbers else 0
