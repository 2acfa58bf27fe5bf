"""Runs the unit tests beside this file with nothing but the standard library, and writes JUnit XML.

``run_tests.py junit.xml`` exits with 0 if at least one test ran and all passed, else with 1.
"""

from __future__ import annotations

import sys
import time
import unittest
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

FOLDER = Path(__file__).resolve().parent


class Result(unittest.TextTestResult):
    """Also remembers what every test ended with, and how long it took."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cases: list[tuple[unittest.TestCase, str, str, float]] = []
        self._started = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        """Note when it starts."""
        self._started = time.monotonic()
        super().startTest(test)

    def _end(self, test: unittest.TestCase, outcome: str, text: str) -> None:
        self.cases.append((test, outcome, text, time.monotonic() - self._started))

    def addSuccess(self, test: unittest.TestCase) -> None:
        """Note a success."""
        super().addSuccess(test)
        self._end(test, "", "")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        """Note a failure."""
        super().addFailure(test, err)
        self._end(test, "failure", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        """Note an error."""
        super().addError(test, err)
        self._end(test, "error", self.errors[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        """Note a test that was left out."""
        super().addSkip(test, reason)
        self._end(test, "skipped", reason)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        """Note a part of a test that failed; parts that pass are the test's."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            kind = "failure" if issubclass(err[0], test.failureException) else "error"
            self._end(subtest, kind, (self.failures if kind == "failure" else self.errors)[-1][1])

    def junit(self, name: str, seconds: float) -> str:
        """Everything as JUnit XML."""
        count = {kind: sum(case[1] == kind for case in self.cases) for kind in ("failure", "error", "skipped")}
        lines = [
            '<?xml version="1.0" encoding="utf-8"?>',
            f'<testsuite name={quoteattr(name)} tests="{len(self.cases)}" failures="{count["failure"]}" '
            f'errors="{count["error"]}" skipped="{count["skipped"]}" time="{seconds:.3f}">',
        ]
        for test, outcome, text, taken in self.cases:
            group, _, case = test.id().rpartition(".")
            head = f'<testcase classname={_attribute(group)} name={_attribute(case)} time="{taken:.3f}"'
            body = f"><{outcome} message={_attribute(_last_line(text))}>{escape(_clean(text))}</{outcome}></testcase>"
            lines.append(head + (body if outcome else "/>"))
        return "\n".join([*lines, "</testsuite>", ""])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return "".join(sign for sign in text if sign in "\t\n" or " " <= sign <= "\ud7ff" or "\ue000" <= sign <= "\ufffd")


def main(junit: str) -> int:
    """Run everything; the exit code."""
    start = time.monotonic()
    suite = unittest.TestLoader().discover(str(FOLDER), top_level_dir=str(FOLDER))
    result = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(suite)
    name = FOLDER.parent.name
    # Whole or not at all: whoever reads it must not find half of it.
    part = Path(f"{junit}.part")
    part.write_text(result.junit(name, time.monotonic() - start), encoding="utf-8")
    part.replace(junit)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
