"""Runs a pytest suite apart from everything of ours, and turns its JUnit file into a measurement.

The suite sees a clean environment, its own configuration, and as plugins testinfra's alone. It gets
``PHOENIX_FACTS`` (path of a JSON file with the subject's facts) and, where there is one, ``PHOENIX_ENDPOINT``.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _junit, _process, _proof
from phoenix_fleet.gates._hosts import Reach
from phoenix_fleet.redact import redact

_EXITS = {
    2: "pytest was interrupted: a test module cannot be imported, or the suite stopped itself",
    3: "pytest failed internally",
    4: "pytest was called wrongly, or the suite's configuration is broken",
    5: "no test was collected",
    # These two are _probe's.
    77: "the instance does not answer",
    78: "the suite stopped itself before its end",
    None: "it ran out of time and was killed",
}


@dataclass(frozen=True)
class Suite:
    """A folder or file of tests, and how to name its proofs."""

    path: Path
    label: str
    timeout: timedelta


def could_not(why: str, output: str = "", artefacts: tuple[str, ...] = ()) -> Measurement:
    """The measurement that says why there is none."""
    lines = [line for line in redact(output).splitlines() if line.strip()]
    return Measurement(
        value=f"not measured: {why}", passed=None, details={"output": lines[-20:]}, artefacts=artefacts, error=why
    )


def run_suite(suite: Suite, subject: Subject, reach: Reach) -> Measurement:
    """Run it; all tests passed is passed, a failed one is failed, anything else is an error."""
    if not suite.path.exists():
        return could_not(f"there is no suite at {suite.path}")
    facts = _facts(subject, suite.label)
    if isinstance(facts, Measurement):
        return facts
    junit = reach.folder / "junit.xml"
    env = _process.environment(
        reach.folder, PHOENIX_FACTS=str(facts), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONPATH=str(reach.folder)
    )
    if subject.endpoint:
        env["PHOENIX_ENDPOINT"] = subject.endpoint
    shutil.copyfile(Path(__file__).with_name("_probe.py"), reach.folder / "phoenix_probe.py")
    argv = _pytest(suite, reach.folder, junit)
    if reach.hostspec:
        env["PHOENIX_HOSTSPEC"] = reach.hostspec
        argv.append(f"--hosts={reach.hostspec}")
        if reach.ssh_config:
            env["PHOENIX_SSH_CONFIG"] = str(reach.ssh_config)
            argv += [f"--ssh-config={reach.ssh_config}"]
    folder = suite.path if suite.path.is_dir() else suite.path.parent
    ended = _process.run(
        [*argv, "--", str(suite.path)], env=env, cwd=folder, output=reach.folder / "output", timeout=suite.timeout
    )
    return _measured(suite, subject, ended, junit)


def _facts(subject: Subject, label: str) -> Path | Measurement:
    try:
        text = json.dumps(dict(subject.facts), indent=2, sort_keys=True)
    except (TypeError, ValueError) as error:
        return could_not(f"the facts cannot be written as JSON: {error}")
    path = _proof.new_file(subject.workdir, f"facts-{label}", ".json")
    path.write_text(text, encoding="utf-8")
    return path


def _pytest(suite: Suite, folder: Path, junit: Path) -> list[str]:
    root = suite.path if suite.path.is_dir() else suite.path.parent
    own = root / "pytest.ini"
    if not own.is_file():
        # An own, empty configuration, or pytest would go up the tree and find that of the project around it.
        own = folder / "pytest.ini"
        own.write_text("[pytest]\n", encoding="utf-8")
    return [
        *(sys.executable, "-m", "pytest", "-c", str(own), f"--rootdir={root}", f"--confcutdir={root}"),
        *(
            "-p",
            "no:cacheprovider",
            "-p",
            "testinfra.plugin",
            "-p",
            "phoenix_probe",
            "-q",
            "-ra",
            "--tb=short",
            "--color=no",
        ),
        *(f"--junitxml={junit}", f"--basetemp={folder / 'tmp'}"),
    ]


def _measured(suite: Suite, subject: Subject, ended: _process.Ended, junit: Path) -> Measurement:
    log = _proof.new_file(subject.workdir, suite.label, ".log")
    log.write_text(redact(ended.output) + "\n", encoding="utf-8")
    artefacts: tuple[str, ...] = (str(log),)
    data = b""
    if junit.is_file():
        with junit.open("rb") as file:
            data = file.read(_junit.LARGEST + 1)
        kept = _proof.new_file(subject.workdir, f"junit-{suite.label}", ".xml")
        kept.write_bytes(data)
        artefacts = (str(kept), *artefacts)
    if ended.code not in (0, 1):
        why = _EXITS.get(ended.code, f"pytest ended with exit code {ended.code}")
        if ended.code is None:
            why += f" after {suite.timeout.total_seconds():g} s"
        return could_not(f"{why}: {_last_line(ended.output)}", ended.output, artefacts)
    try:
        report = _junit.parse(data)
    except _junit.Malformed as error:
        return could_not(f"the JUnit file cannot be believed: {error}", ended.output, artefacts)
    return judged(report, ended.code, artefacts, ended.output)


def judged(report: _junit.Report, code: int, artefacts: tuple[str, ...], output: str) -> Measurement:
    """A report as a measurement, if it agrees with the runner's exit code."""
    failed, errors = report.count("failed"), report.count("error")
    why = ""
    if not report.executed:
        why = f"no test was carried out ({report.value})"
    elif bool(failed or errors) != bool(code):
        why = f"the exit code is {code}, but the JUnit file says {report.value}"
    elif errors and not failed:
        why = f"{errors} tests could not be carried out ({report.value})"
    passed = None if why else not failed
    details = {**report.details, "output": redact(output).splitlines()[-20:]} if why else report.details
    return Measurement(value=report.value, passed=passed, details=details, artefacts=artefacts, error=why)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in redact(output).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("E ", "ERROR", "phoenix:", "Exit:", "!"))]
    return (telling or lines or ["no output"])[-1][:300]
