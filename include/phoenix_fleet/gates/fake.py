"""A gate that says what it is told to: for tests and for learning how the chain reacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from phoenix_fleet.config import Frozen
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _proof
from phoenix_fleet.gates.base import Gate
from phoenix_fleet.steering import Steering

Outcome = Literal["passed", "failed", "inconclusive", "error"]


class Settings(Frozen):
    """What the fake says."""

    verdict: Outcome = Field("passed", description="What every measurement says. Default: passed.")
    value: str = Field("", description="The measurement's one line. Default: made from the verdict.")
    state: str = Field(
        "",
        description="Steering file (JSON: outcome, next, subjects) read at each measurement, relative to the file"
        " that names this gate. Default: none.",
    )


class Driver(Gate):
    """Says what it is told to, keeps a file as proof, and remembers in ``calls`` what it was asked."""

    Settings = Settings

    def __init__(self, settings: Any, connections: Connections, home: Path) -> None:
        super().__init__(settings, connections, home)
        self.calls: list[Subject] = []
        self.next: list[Outcome] = []
        """Verdicts of the next measurements, used up one by one."""

    def measure(self, subject: Subject) -> Measurement:
        """What the next verdict, the steering file or the settings say, in this order."""
        self.calls.append(subject)
        verdict = self.next.pop(0) if self.next else self._steered(subject)
        if verdict not in get_args(Outcome):
            raise InvalidConfig(
                f"A fake gate cannot say '{verdict}'.", remedy=f"It can say {', '.join(get_args(Outcome))}."
            )
        value = self.settings.value or f"the fake was told to say {verdict}"
        if verdict == "error":
            return Measurement(value=value, passed=None, error=value)
        proof = _proof.new_file(subject.workdir, "fake", ".json")
        proof.write_text(json.dumps({"subject": subject.name, "verdict": verdict}), encoding="utf-8")
        passed = {"passed": True, "failed": False}.get(verdict)
        return Measurement(value=value, passed=passed, details={"verdict": verdict}, artefacts=(str(proof),))

    def _steered(self, subject: Subject) -> str:
        default: str = self.settings.verdict
        if not self.settings.state:
            return default
        steering = Steering(self.home / self.settings.state)
        verdict = steering.draw(subject.name, default)
        steering.record({"gate": "fake", "subject": subject.name, "verdict": verdict})
        return verdict
