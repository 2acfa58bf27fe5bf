"""The product's own tests: a suite from outside against an endpoint, or a component's unit tests inside."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, model_validator

from phoenix_fleet.config import Duration, Frozen
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.domain.models import Component, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _junit, _process, _proof, _suite
from phoenix_fleet.gates._hosts import Reach, nowhere, reaching
from phoenix_fleet.gates.base import Gate
from phoenix_fleet.redact import redact

_GRACE = timedelta(seconds=30)
"""What reaching the instance and fetching the file may take on top of the tests' own time."""


class Settings(Frozen):
    """Which tests: exactly one of ``suite`` and ``unit``."""

    suite: str = Field(
        "", description="Pytest suite run against the endpoint, relative to the file that names this gate."
    )
    unit: bool = Field(False, description="Run the component's own unit tests inside the instance instead.")
    label: str = Field("", description="Name in reports and proofs. Default: the suite's, or unit.", max_length=60)
    timeout: Duration = Field(timedelta(minutes=10), description="The tests are killed after this long. Default 10m.")
    connection: str = Field(
        "phoenix_ssh", description="Airflow connection with extra.key_file, for instances reached over SSH."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Settings:
        if bool(self.suite) == self.unit:
            raise ValueError("write exactly one of suite (a path) and unit: true")
        return self


class Driver(Gate):
    """Passed if at least one test ran and none failed."""

    Settings = Settings

    def measure(self, subject: Subject) -> Measurement:
        """What the tests said.

        Whatever keeps them from being carried out (no endpoint, an instance that does not answer, no JUnit file,
        no test, time) is an error. A service that does not answer its tests has failed them.
        """
        try:
            return self._unit(subject) if self.settings.unit else self._suite(subject)
        except PhoenixError as error:
            return _suite.could_not(str(error))

    def _suite(self, subject: Subject) -> Measurement:
        if not subject.endpoint:
            return _suite.could_not("there is no endpoint to test")
        path = (self.home / self.settings.suite).resolve()
        label = self.settings.label or path.stem
        with nowhere() as reach:
            return _suite.run_suite(_suite.Suite(path, f"tests-{label}", self.settings.timeout), subject, reach)

    def _unit(self, subject: Subject) -> Measurement:
        component = subject.component
        if not component or not component.unit_tests:
            return _suite.could_not("there is no component with unit tests")
        junit = PurePosixPath(component.junit)
        if not junit.is_absolute() or ".." in junit.parts:
            return _suite.could_not(f"'{component.junit}' is not an absolute path of a JUnit file")
        with reaching(subject, self.connections, self.settings.connection) as reach:
            return self._inside(subject, component, reach)

    def _inside(self, subject: Subject, component: Component, reach: Reach) -> Measurement:
        seconds = self.settings.timeout.total_seconds()
        answer = reach.folder / "answer.json"
        request = {
            "hostspec": reach.hostspec,
            "ssh_config": str(reach.ssh_config) if reach.ssh_config else None,
            "argv": list(component.unit_tests),
            "junit": component.junit,
            "timeout": f"{seconds:g}",
            "largest": _junit.LARGEST,
            "answer": str(answer),
        }
        ended = _process.run(
            # -P: the folder of that file holds modules with libraries' names, which must not be found first.
            [sys.executable, "-P", str(Path(__file__).with_name("_inside.py"))],
            env=_process.environment(reach.folder),
            cwd=reach.folder,
            output=reach.folder / "output",
            timeout=self.settings.timeout + _GRACE,
            stdin=json.dumps(request).encode(),
        )
        if ended.code is None:
            return _suite.could_not(f"it took longer than {seconds:g} s and was killed", ended.output)
        if ended.code != 0 or not answer.is_file():
            return _suite.could_not(f"the runner ended with exit code {ended.code}", ended.output)
        label = self.settings.label or "unit"
        return _measured(subject, f"tests-{label}-{component.name}", json.loads(answer.read_bytes()), seconds)


def _measured(subject: Subject, label: str, answer: dict[str, Any], seconds: float) -> Measurement:
    if "unreachable" in answer:
        return _suite.could_not(f"the instance does not answer: {redact(answer['unreachable'])}")
    code, output = int(answer["code"]), str(answer["output"])
    log = _proof.new_file(subject.workdir, label, ".log")
    log.write_text(redact(output) + "\n", encoding="utf-8")
    artefacts: tuple[str, ...] = (str(log),)
    if code in (124, 137):
        return _suite.could_not(f"the tests took longer than {seconds:g} s and were killed", output, artefacts)
    try:
        data = base64.b64decode(answer.get("junit", ""))
    except binascii.Error as error:
        return _suite.could_not(f"the JUnit file did not arrive whole: {error}", output, artefacts)
    if not data:
        return _suite.could_not(f"the tests ended with exit code {code} and left no JUnit file", output, artefacts)
    kept = _proof.new_file(subject.workdir, f"junit-{label}", ".xml")
    kept.write_bytes(data)
    artefacts = (str(kept), *artefacts)
    try:
        report = _junit.parse(data)
    except _junit.Malformed as error:
        return _suite.could_not(f"the JUnit file cannot be believed: {error}", output, artefacts)
    return _suite.judged(report, code, artefacts, output)
