# SPDX-License-Identifier: GPL-2.0-or-later
"""A test file's cases, run in order and told in TAP; and the project's files."""
import pathlib
import sys
import traceback

TOP = pathlib.Path(__file__).resolve().parents[2]

# Never part of the project, whatever they hold.
_SKIPPED_FOLDERS = {".git", ".cache", "__pycache__"}


def project_files(top=TOP):
    """Every file of the project, in a stable order, without builds and caches."""
    for path in sorted(top.iterdir()):
        if path.is_dir() and (path.name in _SKIPPED_FOLDERS or path.name.startswith("build")):
            continue
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for found in inside:
            if found.is_file() and not _SKIPPED_FOLDERS & set(found.parts):
                yield found


def run(cases):
    """Runs functions named as sentences; each fails by AssertionError. Exits."""
    print("TAP version 13")
    print(f"1..{len(cases)}")
    failed = 0
    for number, case in enumerate(cases, 1):
        name = case.__name__.replace("_", " ")
        try:
            case()
        except AssertionError as error:
            failed += 1
            print(f"not ok {number} - {name}")
            for line in str(error).splitlines() or ["assertion failed"]:
                print(f"# {line}")
        except Exception:  # a broken check is a failed one
            failed += 1
            print(f"not ok {number} - {name}")
            for line in traceback.format_exc().splitlines():
                print(f"# {line}")
        else:
            print(f"ok {number} - {name}")
    sys.exit(1 if failed else 0)
