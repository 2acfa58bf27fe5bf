"""Reads JUnit XML that somebody else wrote: no entities, no document types, bounded in size, depth and number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from phoenix_fleet.redact import redact

LARGEST = 32 * 1024 * 1024
"""Bytes that a JUnit file may have."""
_DEEPEST = 64
_MOST = 100_000
_LONGEST_MESSAGE = 400
_SHOWN = 50


class Malformed(ValueError):
    """It is not a JUnit file that may be believed."""


@dataclass(frozen=True)
class Case:
    """One test and how it ended."""

    name: str
    outcome: str
    """``passed``, ``failed``, ``error`` (it could not be carried out) or ``skipped``."""
    message: str = ""


@dataclass(frozen=True)
class Report:
    """All tests of one file."""

    cases: Sequence[Case]

    def count(self, outcome: str) -> int:
        """How many tests ended so."""
        return sum(case.outcome == outcome for case in self.cases)

    @property
    def executed(self) -> int:
        """How many tests said anything: the skipped ones prove nothing."""
        return len(self.cases) - self.count("skipped")

    @property
    def value(self) -> str:
        """The report in one line."""
        words = [f"{len(self.cases)} tests", f"{self.count('failed')} failed"]
        words += [f"{self.count(outcome)} {word}" for outcome, word in _EXTRAS if self.count(outcome)]
        return ", ".join(words)

    @property
    def details(self) -> dict[str, Any]:
        """Counts, and the names and first messages of what did not pass (at most 50)."""
        bad = [case for case in self.cases if case.outcome in ("failed", "error")]
        return {
            "tests": len(self.cases),
            **{outcome: self.count(outcome) for outcome in ("passed", "failed", "error", "skipped")},
            "failures": [{"name": case.name, "message": case.message} for case in bad[:_SHOWN]],
            "skips": [{"name": case.name, "message": case.message} for case in self.cases if case.outcome == "skipped"][
                :_SHOWN
            ],
        }


_EXTRAS = (("error", "errors"), ("skipped", "skipped"))


def parse(data: bytes) -> Report:
    """The tests in a JUnit file.

    :raises Malformed: it is too large, not XML, not JUnit, or has a document type (entities are bombs).
    """
    if len(data) > LARGEST:
        raise Malformed(f"it has {len(data)} bytes, more than {LARGEST}")
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Malformed(f"it is not XML: {error}") from None
    if not reader.is_junit:
        raise Malformed("it has no <testsuite>")
    return Report(tuple(reader.cases))


_OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}
_WORST_FIRST = ("failed", "error", "skipped", "passed")


@dataclass
class _Open:
    name: str
    outcome: str = "passed"
    message: str = ""
    text: list[str] = field(default_factory=list)


class _Reader:
    def __init__(self) -> None:
        self.cases: list[Case] = []
        self.is_junit = False
        self._path: list[str] = []
        self._case: _Open | None = None
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.ExternalEntityRefHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _refuse(self, *_: Any) -> Any:
        raise Malformed("it declares a document type or an entity, which no JUnit file needs")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > _DEEPEST:
            raise Malformed(f"it is nested deeper than {_DEEPEST}")
        self.is_junit = self.is_junit or tag == "testsuite"
        if tag == "testcase":
            if len(self.cases) >= _MOST:
                raise Malformed(f"it has more than {_MOST} tests")
            parts = (attributes.get("classname", ""), attributes.get("name", ""))
            self._case = _Open("::".join(part for part in parts if part)[:300] or "(no name)")
        elif self._case and tag in _OUTCOMES:
            outcome = min(self._case.outcome, _OUTCOMES[tag], key=_WORST_FIRST.index)
            if outcome != self._case.outcome:
                self._case.outcome, self._case.message = outcome, attributes.get("message", "")
                self._case.text.clear()

    def _text(self, text: str) -> None:
        if self._case and self._path[-1] in _OUTCOMES and len(self._case.text) < 100:
            self._case.text.append(text)

    def _end(self, tag: str) -> None:
        self._path.pop()
        if tag == "testcase" and self._case:
            message = redact(self._case.message or "".join(self._case.text).strip())[:_LONGEST_MESSAGE]
            self.cases.append(Case(self._case.name, self._case.outcome, message))
            self._case = None
