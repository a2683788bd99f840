#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The counting behind scripts/test: nothing that failed may look well."""
import report
import tap


def count(stdout, result="OK"):
    """(passed, failed, skipped) of one program with this output."""
    found = report.Report()
    found.add_program("gcc", {"name": "godwit:unit / x", "result": result, "stdout": stdout})
    return found.passed, len(found.failed), len(found.skipped)


def cases_are_counted_one_by_one():
    out = "1..3\nok 1 - a\nnot ok 2 - b\n# why\nok 3 - c # SKIP no KVM\n"
    assert count(out, "FAIL") == (1, 1, 1)


def criterion_s_cases_without_numbers_are_counted():
    out = ("TAP version 13\n1..3\n# Criterion\nok - s::a  (0.00s)\n"
           "not ok - s::b x.c:1: Assertion Failed\n  more\nok - s::c # SKIP no such device\n")
    assert count(out, "FAIL") == (1, 1, 1)


def a_crash_after_good_cases_is_a_failure():
    assert count("1..2\nok 1 - a\n", "ERROR") == (1, 1, 0)
    assert count("1..2\nok 1 - a\nok 2 - b\n", "FAIL") == (2, 1, 0)
    assert count("1..1\nok 1 - a\n", "TIMEOUT") == (1, 1, 0)


def a_plan_that_was_not_kept_is_a_failure_whatever_meson_says():
    assert count("1..2\nok 1 - a\n", "OK") == (1, 1, 0)
    assert count("ok 1 - a\n", "OK") == (1, 1, 0)
    assert count("1..1\nok 1 - a\nBail out! no more\n", "OK") == (1, 1, 0)


def a_program_without_tap_is_one_case():
    assert count("hello\n", "OK") == (1, 0, 0)
    assert count("hello\n", "FAIL") == (0, 1, 0)
    assert count("", "SKIP") == (0, 0, 1)


def a_program_that_skips_as_a_whole_is_one_skip_with_its_reason():
    found = report.Report()
    found.add_program("gcc", {"name": "x", "result": "SKIP", "stdout": "1..0 # SKIP no QEMU\n"})
    assert found.skipped == [("gcc / x", "no QEMU")], found.skipped


def a_skip_keeps_its_reason_and_a_failure_its_output():
    found = report.Report()
    found.add_program("gcc", {"name": "x", "result": "FAIL", "stdout":
                              "1..2\nok 1 - a # SKIP because\nnot ok 2 - b\n# one\n# two\n"})
    assert found.skipped == [("gcc / x: a", "because")], found.skipped
    assert found.failed == [("gcc / x: b", ["# one", "# two"])], found.failed


def the_last_line_is_the_count_alone():
    found = report.Report()
    assert report.render(found)[-1] == "0 passed, 0 failed, 0 skipped"
    found.passed = 7
    found.skipped.append(("a", "b"))
    assert report.render(found)[-1] == "7 passed, 0 failed, 1 skipped"


def a_missing_log_is_a_failure():
    found = report.Report()
    report.read_log(found, "gcc", "/nonexistent/testlog.json")
    report.read_failed_step(found, "build", "/nonexistent/build.log")
    assert len(found.failed) == 2


if __name__ == "__main__":
    tap.run([cases_are_counted_one_by_one, criterion_s_cases_without_numbers_are_counted,
             a_crash_after_good_cases_is_a_failure,
             a_plan_that_was_not_kept_is_a_failure_whatever_meson_says,
             a_program_without_tap_is_one_case,
             a_program_that_skips_as_a_whole_is_one_skip_with_its_reason,
             a_skip_keeps_its_reason_and_a_failure_its_output,
             the_last_line_is_the_count_alone, a_missing_log_is_a_failure])
