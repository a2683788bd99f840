# SPDX-License-Identifier: GPL-2.0-or-later
"""`godwit bench`: ceilings and parts, measured by the command itself."""

import json

from gwtest import godwit

SECONDS = 300


class ToolError(Exception):
    """`godwit bench` is not there, or did not measure."""


def bench(workspace, *words):
    """The results of `godwit bench WORDS`, as a list."""
    what = "godwit bench " + " ".join(map(str, words))
    number = len(workspace.processes)
    file = workspace.dir / f"bench-{number}.json"
    process = workspace.start([godwit.binary(), "bench", *words, "--loopback", "--json",
                               file], f"bench-{number}", split=True)
    try:
        process.wait(SECONDS)
    except TimeoutError:
        process.kill()
        raise ToolError(f"{what} took longer than {SECONDS} s") from None
    if process.returncode or not file.exists():
        why = process.errors.read_text().strip().splitlines()
        raise ToolError(f"{what} failed: {why[-1] if why else process.returncode}")
    return json.loads(file.read_text())["results"]


def pick(results, subject, figure=None, **labels):
    """The results of a subject that carry these labels."""
    return [result for result in results if result["subject"] == subject
            and (figure is None or result["figure"] == figure)
            and all(result["labels"].get(key) == value
                    for key, value in labels.items())]


def one(results, subject, figure=None, **labels):
    """The only such result."""
    found = pick(results, subject, figure, **labels)
    if len(found) != 1:
        raise ToolError(f"godwit bench gave {len(found)} results for {subject}, "
                        f"{figure or 'any figure'}, {labels}")
    return found[0]
