#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Counts the test cases of several `meson test` runs, for scripts/test.

    report.py [--failed WHAT=FILE]... [LABEL=TESTLOG]...

TESTLOG is the testlog.json that meson wrote. The cases are those of each
program's own TAP; a program that speaks no TAP is one case, and one that fails
in another way than by a case (a crash, a timeout, a plan that was not kept) is
a failed case of its own. --failed adds a step that failed before any test ran,
with the file that has its output.

Prints the skipped cases with their reasons, the failed ones with the end of
their output, and as the last line the counts. Exits 1 if anything failed or
nothing ran.
"""
import argparse
import json
import pathlib
import re
import sys

TAIL_LINES = 25

CASE = re.compile(r"^(not )?ok\b[ \t]*(\d+)?[ \t]*(?:-[ \t]*)?(.*)$")
SKIP = re.compile(r"(.*?)[ \t]*(?<!\\)#[ \t]*SKIP\S*[ \t]*(.*)$", re.IGNORECASE)
TODO = re.compile(r"(?<!\\)#[ \t]*TODO\b", re.IGNORECASE)
PLAN_SKIP = re.compile(r"^1\.\.0[ \t]*#[ \t]*SKIP\S*[ \t]*(.*)$", re.IGNORECASE | re.MULTILINE)
PLAN = re.compile(r"^1\.\.(\d+)", re.MULTILINE)
BAIL_OUT = re.compile(r"^Bail out!", re.MULTILINE)
# what Criterion and our own harness put behind a name
DURATION = re.compile(r"[ \t]*\(\d+\.\d+s\)$")

GOOD_RESULTS = {"OK", "EXPECTEDFAIL"}


class Report:
    """What all the runs together came to."""

    def __init__(self):
        self.passed = 0
        self.failed = []  # (name, lines of output)
        self.skipped = []  # (name, reason)

    def add_case(self, name, failed, text, detail):
        skip = SKIP.match(text)
        if failed and not TODO.search(text):
            self.failed.append((f"{name}: {DURATION.sub('', text)}", detail))
        elif skip:
            self.skipped.append((f"{name}: {skip.group(1)}", skip.group(2)))
        else:
            self.passed += 1

    def add_program(self, label, test):
        """One entry of a testlog.json."""
        name = f"{label} / {test['name'].split(' / ')[-1]}"
        out = test.get("stdout") or ""
        tail = (out + (test.get("stderr") or "")).splitlines()[-TAIL_LINES:]
        cases = list(tap_cases(out))
        failed_before = len(self.failed)
        whole_skip = PLAN_SKIP.search(out)

        for failed, text, detail in cases:
            self.add_case(name, failed, text, detail)
        if not cases and (whole_skip or test["result"] == "SKIP"):
            reason = whole_skip.group(1) if whole_skip else "no reason given"
            self.skipped.append((name, reason))
            return
        if is_sound(test, out, cases):
            self.passed += not cases
        elif len(self.failed) == failed_before:
            self.failed.append((f"{name}: the program itself ({test['result']})", tail))


def is_sound(test, out, cases):
    """Whether the program ended well: meson says so, and the plan was kept."""
    plan = PLAN.search(out)
    if BAIL_OUT.search(out):
        return False
    if cases and (not plan or int(plan.group(1)) != len(cases)):
        return False
    return test["result"] in GOOD_RESULTS or (test["result"] == "SKIP" and bool(cases))


def tap_cases(out):
    """(failed, text, lines that follow) of each line of a case."""
    case, detail = None, []
    for line in out.splitlines():
        match = CASE.match(line)
        if not match:
            detail.append(line)
            continue
        if case:
            yield (*case, detail[-TAIL_LINES:])
        case, detail = (bool(match.group(1)), match.group(3)), []
    if case:
        yield (*case, detail[-TAIL_LINES:])


def read_log(report, label, path):
    """A log that is not there or not whole is a failure, never silence."""
    try:
        lines = pathlib.Path(path).read_text(errors="replace").splitlines()
        tests = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        report.failed.append((f"{label}: the log of the tests", [str(error)]))
        return
    for test in tests:
        report.add_program(label, test)


def read_failed_step(report, what, path):
    try:
        lines = pathlib.Path(path).read_text(errors="replace").splitlines()
    except OSError as error:
        lines = [str(error)]
    report.failed.append((what, lines[-TAIL_LINES:]))


def render(report):
    lines = []
    if report.skipped:
        lines.append("")
        lines.append("skipped:")
        lines += [f"  {name}: {reason or 'no reason given'}" for name, reason in report.skipped]
    if report.failed:
        lines.append("")
        lines.append("failed:")
        for name, detail in report.failed:
            lines.append(f"  {name}")
            lines += [f"      {line}" for line in detail]
    lines.append("")
    lines.append(f"{report.passed} passed, {len(report.failed)} failed, "
                 f"{len(report.skipped)} skipped")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--failed", action="append", default=[], metavar="WHAT=FILE")
    parser.add_argument("logs", nargs="*", metavar="LABEL=TESTLOG")
    args = parser.parse_args()

    report = Report()
    for step in args.failed:
        read_failed_step(report, *step.split("=", 1))
    for log in args.logs:
        read_log(report, *log.split("=", 1))
    print("\n".join(render(report)))
    sys.exit(1 if report.failed or not report.passed else 0)


if __name__ == "__main__":
    main()
