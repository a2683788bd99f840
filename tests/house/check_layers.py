#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The direction of every #include: a folder sees what stands to its left."""
import re

import tap

PUBLIC = "godwit/godwit.h"

# Folder: the others whose headers it may include. Its own and the public one always.
LEFT_OF = {
    "include": set(),
    "base": set(),
    "wire": {"base"},
    "transport": {"base", "wire"},
    "multifd": {"base", "wire", "transport"},
    "userfault": {"base"},
    "kvm": {"base"},
    "migrate": {"base", "wire", "transport", "multifd", "userfault", "kvm"},
    "vmm": {"base", "wire", "transport", "multifd", "userfault", "migrate"},
    "bench": {"base", "wire", "transport", "multifd", "userfault", "kvm", "migrate",
              "vmm"},
    "cli": {"bench"},
    "examples": set(),
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)


def complaints(folder, text):
    """What is wrong with the #include lines of a file in @folder."""
    found = []
    for match in INCLUDE.finditer(text):
        quote, target = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        home = target.split("/")[0]
        if target == PUBLIC:
            # an example is written as its readers will write theirs
            if quote == "<" and folder != "examples":
                found.append(f'{line}: <{target}> is written "{target}" in here')
        elif quote == "<":
            if "/" in target and home in LEFT_OF:
                found.append(f"{line}: <{target}> is ours: it takes quotes")
        elif "/" not in target:
            found.append(f'{line}: "{target}" does not say its folder')
        elif ".." in target.split("/") or home not in LEFT_OF:
            found.append(f'{line}: "{target}" is in no folder of ours')
        elif home != folder and home not in LEFT_OF[folder]:
            found.append(f'{line}: {folder} may not include "{target}"')
    return found


def c_files(folder):
    for path in tap.project_files():
        inside = path.relative_to(tap.TOP).parts
        if inside[0] == folder and path.suffix in (".c", ".h"):
            yield path


def folder_case(folder):
    def case():
        wrong = [f"{path.relative_to(tap.TOP)}:{what}"
                 for path in c_files(folder)
                 for what in complaints(folder, path.read_text())]
        assert not wrong, "\n".join(wrong)

    case.__name__ = f"{folder}_includes_only_what_stands_to_its_left"
    return case


def the_check_finds_what_it_is_for():
    bad = {
        "an upward include": ("base", '#include "wire/frame.h"\n'),
        "a skip over a layer upward": ("wire", '#include "migrate/state.h"\n'),
        "userfault that knows the wire": ("userfault", '#include "wire/frame.h"\n'),
        "userfault that knows kvm": ("userfault", '#include "kvm/probe.h"\n'),
        "kvm that knows userfault": ("kvm", '#include "userfault/fault.h"\n'),
        "a command with a private header": ("cli", '#include "base/util.h"\n'),
        "a benchmark that knows the command": ("bench", '#include "cli/text.h"\n'),
        "a library with a benchmark in it": ("migrate", '#include "bench/net.h"\n'),
        "an example with a private header": ("examples", '#include "base/util.h"\n'),
        "a header without its folder": ("base", '#include "util.h"\n'),
        "a way around by ..": ("base", '#include "../wire/frame.h"\n'),
        "our header in angles": ("wire", "#include <base/util.h>\n"),
        "the public header in angles": ("cli", "#include <godwit/godwit.h>\n"),
        "an indented directive": ("base", '#ifdef X\n#  include "vmm/qmp.h"\n#endif\n'),
        "a folder that does not exist": ("cli", '#include "nowhere/x.h"\n'),
    }
    for what, (folder, text) in bad.items():
        assert complaints(folder, text), f"not noticed: {what}"


def the_check_lets_good_ones_pass():
    good = {
        "base": '#include "base/util.h"\n#include "godwit/godwit.h"\n#include <poll.h>\n',
        "migrate": '#include "userfault/fault.h"\n#include "kvm/probe.h"\n',
        "vmm": '#include "migrate/guest.h"\n#include <sys/socket.h>\n',
        "bench": '#include "bench/net.h"\n#include "userfault/fault.h"\n',
        "cli": '#include "cli/args.h"\n#include "godwit/godwit.h"\n'
               '#include "bench/bench.h"\n',
        "examples": "#include <godwit/godwit.h>\n",
    }
    for folder, text in good.items():
        assert not complaints(folder, text), complaints(folder, text)


def every_folder_with_sources_is_in_the_table():
    known = set(LEFT_OF) | {"tests"}
    strays = sorted({path.relative_to(tap.TOP).parts[0] for path in tap.project_files()
                     if path.suffix in (".c", ".h")} - known)
    assert not strays, f"sources in {', '.join(strays)}: give them a place in the layers"


if __name__ == "__main__":
    tap.run([the_check_finds_what_it_is_for, the_check_lets_good_ones_pass,
             every_folder_with_sources_is_in_the_table,
             *(folder_case(folder) for folder in LEFT_OF)])
