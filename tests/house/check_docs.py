#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents claim, against the code they speak of."""
import re

import tap

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
DEFINE = re.compile(r"^#define[ \t]+(GW_[A-Z0-9_]+)[ \t]+(\d+)\b", re.MULTILINE)
ENUMERATOR = re.compile(r"^[ \t]*GW_(MSG|CHAN|FRAME|STATUS)_([A-Z_]+)[ \t]*=[ \t]*(\d+)",
                        re.MULTILINE)
OPTION = re.compile(r'\{\{"([a-z-]+)",')


def text_of(name):
    return (tap.TOP / name).read_text()


def documents():
    return [path for path in tap.project_files() if path.suffix == ".md"]


def dead_links(text, folder):
    """Targets of relative links that lead nowhere."""
    return [target for target in LINK.findall(text)
            if "://" not in target and not (folder / target).exists()]


def every_link_leads_somewhere():
    dead = [f"{path.relative_to(tap.TOP)}: {target}" for path in documents()
            for target in dead_links(path.read_text(), path.parent)]
    assert not dead, "\n".join(dead)
    assert dead_links("see [x](nowhere.md)", tap.TOP) == ["nowhere.md"]


def the_wire_document_has_every_length_of_the_headers():
    document = text_of("docs/wire-format.md")
    for header in ("frame", "handshake", "message"):
        for name, value in DEFINE.findall(text_of(f"wire/{header}.h")):
            if name.endswith("_LEN") and name in document:
                line = next(l for l in document.splitlines() if name in l)
                assert re.search(rf"\b{value}\b", line), f"{name} is {value}, not as in: {line}"
    for name in ("GW_HELLO_LEN", "GW_WELCOME_LEN", "GW_PROOF_LEN", "GW_ACCEPT_LEN",
                 "GW_FRAME_LEN", "GW_REQUEST_LEN", "GW_MESSAGE_HEADER_LEN", "GW_MESSAGE_MAX",
                 "GW_WIRE_VERSION", "GW_WIRE_OLDEST"):
        assert name in document, f"{name} is not mentioned"


def the_wire_document_has_every_message_channel_and_status_with_its_number():
    rows = {}
    for line in text_of("docs/wire-format.md").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) > 1:
            rows.setdefault(cells[0].lower(), []).append(cells[1])
    for header in ("handshake", "message"):
        for kind, name, value in ENUMERATOR.findall(text_of(f"wire/{header}.h")):
            if kind == "FRAME" or name.startswith("N_"):
                continue
            row = name.lower()
            assert value in rows.get(row, []), f"{kind} {name} = {value} has no such row"


def every_option_of_a_migration_is_in_operations():
    document = text_of("docs/operations.md") + text_of("README.md")
    names = OPTION.findall(text_of("migrate/options.c"))
    assert len(names) >= 10, names
    # the two that nobody has to think about are left to --help
    missing = [name for name in names
               if name not in ("peer-timeout", "connect-timeout") and f"--{name}" not in document]
    assert not missing, missing


def the_exit_statuses_are_those_of_the_command():
    document = text_of("docs/operations.md")
    statuses = re.findall(r"^\tCLI_([A-Z]+)(?: = (\d))?,", text_of("cli/cli.h"), re.MULTILINE)
    assert len(statuses) >= 7, statuses
    for name, value in statuses:
        assert re.search(rf"^\| {value} \|.*{name[:6].lower()}", document, re.MULTILINE) \
            or name == "USAGE" and "| 2 |" in document, f"{name} = {value}"


def the_changelog_has_the_version_that_is_built():
    version = re.search(r"version: '([0-9.]+)'", text_of("meson.build")).group(1)
    assert f"## [{version}]" in text_of("CHANGELOG.md"), version


def the_commands_of_the_readme_exist():
    readme = text_of("README.md") + text_of("CONTRIBUTING.md")
    commands = set(re.findall(r"\b(scripts/[a-z]+)\b", readme))
    assert {"scripts/demo", "scripts/test"} <= commands
    for command in sorted(commands):
        path = tap.TOP / command
        assert path.is_file() and path.stat().st_mode & 0o100, f"{command} cannot be run"


def ci_calls_the_readme_s_test_command():
    assert re.search(r"^exec scripts/test --all$", text_of(".ci/run"), re.MULTILINE)


if __name__ == "__main__":
    tap.run([every_link_leads_somewhere, the_wire_document_has_every_length_of_the_headers,
             the_wire_document_has_every_message_channel_and_status_with_its_number,
             every_option_of_a_migration_is_in_operations,
             the_exit_statuses_are_those_of_the_command,
             the_changelog_has_the_version_that_is_built,
             the_commands_of_the_readme_exist, ci_calls_the_readme_s_test_command])
