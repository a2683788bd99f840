# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the test_* functions of a file and prints TAP.

    from gwtest import runner

    def test_one_behaviour():
        "One behaviour, as a sentence."
        ...

    if __name__ == "__main__":
        runner.main()

The docstring's first line is the test's name, else the function's own. A test
that returns has passed, one that raises Skip(reason) is skipped, any other
exception is a failure; each has a time limit. Arguments choose tests: a test runs
when its function's name contains one of them.
"""

import inspect
import signal
import sys
import time
import traceback

LIMIT = 60


class Skip(Exception):
    """This test cannot run here; its text says why."""


class TimeLimit(Exception):
    """A test took too long."""


def limit(seconds):
    """Decorator: another time limit for this test."""
    def mark(function):
        function.limit = seconds
        return function
    return mark


def _sentence(name, function):
    text = (function.__doc__ or name[5:].replace("_", " ")).strip()
    return text.splitlines()[0].rstrip(".").replace("#", "")


def _comment(text):
    for line in text.rstrip().splitlines():
        print(f"# {line}", flush=True)


def _run(function):
    """"ok", "not ok" or a Skip."""
    seconds = getattr(function, "limit", LIMIT)

    def too_long(*_unused):
        raise TimeLimit(f"still running after {seconds} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        function()
        return "ok"
    except Skip as skip:
        return skip
    except Exception:  # noqa: BLE001 - one failure must not hide the next
        signal.alarm(0)
        _comment(traceback.format_exc())
        return "not ok"
    finally:
        signal.alarm(0)


def main(module=None):
    """Run the tests of `module` (the calling script) and exit with 0 or 1."""
    # a plain kill must still end the guests and remove the namespaces
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    module = module or sys.modules["__main__"]
    wanted = sys.argv[1:] or [""]
    tests = [(_sentence(name, value), value) for name, value in vars(module).items()
             if name.startswith("test_") and inspect.isfunction(value)
             and any(word in name for word in wanted)]
    print(f"1..{len(tests)}", flush=True)
    failed = 0
    for number, (sentence, test) in enumerate(tests, 1):
        began = time.monotonic()
        result = _run(test)
        took = f"{time.monotonic() - began:.1f} s"
        if isinstance(result, Skip):
            print(f"ok {number} - {sentence} # SKIP {result}", flush=True)
            continue
        failed += result != "ok"
        print(f"{result} {number} - {sentence}", flush=True)
        _comment(took)
    sys.exit(1 if failed else 0)
