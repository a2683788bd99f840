#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every source, script and build file says its licence, and the right one."""
import re

import tap

LGPL = "LGPL-2.1-or-later"
GPL = "GPL-2.0-or-later"

LIBRARY = {"include", "base", "wire", "transport", "multifd", "userfault", "kvm",
           "migrate", "vmm", "examples"}
SOURCES = {".c", ".h", ".S"}
OTHERS = {".py", ".sh"}
BUILD_FILES = {"meson.build", "meson_options.txt", "meson.options"}

LINE = re.compile(r"SPDX-License-" r"Identifier: ([A-Za-z0-9.-]+)")


def expected(parts, first_bytes):
    """The licence a file must name, or None where it need not."""
    name = parts[-1]
    suffix = "." + name.rsplit(".", 1)[1] if "." in name else ""
    if suffix in SOURCES:
        return LGPL if parts[0] in LIBRARY else GPL
    if suffix in OTHERS or name in BUILD_FILES or first_bytes.startswith(b"#!"):
        return GPL
    return None


def complaint(parts, content):
    """What is wrong with a file, or None."""
    want = expected(parts, content[:2])
    if want is None:
        return None
    head = content.split(b"\n", 2)[:2]
    # an interpreter's line comes first, then ours
    line = head[1] if content.startswith(b"#!") and len(head) > 1 else head[0]
    match = LINE.search(line.decode("utf-8", "replace"))
    if not match:
        return "names no licence in its first line"
    if match.group(1) != want:
        return f"names {match.group(1)}, should be {want}"
    return None


def every_file_names_the_licence_of_its_folder():
    wrong = []
    for path in tap.project_files():
        inside = path.relative_to(tap.TOP)
        what = complaint(inside.parts, path.read_bytes())
        if what:
            wrong.append(f"{inside}: {what}")
    assert not wrong, "\n".join(wrong)


def every_licence_named_has_its_text():
    for licence in (LGPL, GPL):
        text = (tap.TOP / "LICENSES" / f"{licence}.txt").read_text()
        assert "GENERAL PUBLIC LICENSE" in text, licence
        assert licence in (tap.TOP / "LICENSE").read_text()


def the_check_finds_what_it_is_for():
    tag = b"SPDX-License-" b"Identifier: "
    bad = {
        "no line": (("base", "a.c"), b"/* nothing */\n"),
        "the wrong one in a library": (("base", "a.c"), b"/* " + tag + b"GPL-2.0-or-later */\n"),
        "the wrong one in the command": (("cli", "a.c"), b"/* " + tag + b"LGPL-2.1-or-later */\n"),
        "another licence": (("cli", "a.c"), b"/* " + tag + b"MIT */\n"),
        "a script": (("scripts", "run"), b"#!/bin/sh\necho\n"),
        "a build file": (("base", "meson.build"), b"x = files()\n"),
        "a line that comes late": (("base", "a.h"), b"\n\n/* " + tag + b"LGPL-2.1-or-later */\n"),
        "an empty file": (("tests", "a.py"), b""),
    }
    for what, (parts, content) in bad.items():
        assert complaint(parts, content), f"not noticed: {what}"
    good = b"#!/bin/sh\n# " + tag + b"GPL-2.0-or-later\n"
    assert not complaint(("scripts", "run"), good)
    assert not complaint(("README.md",), b"# godwit\n")


if __name__ == "__main__":
    tap.run([the_check_finds_what_it_is_for, every_file_names_the_licence_of_its_folder,
             every_licence_named_has_its_text])
