"""The gate that runs a program: its word is the measurement, and nobody's data becomes a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from phoenix_fleet.domain.models import Instance, InstanceState, Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from phoenix_fleet.gates import command


def refuse(conn_id: str) -> Any:
    raise AssertionError(conn_id)


def measure(folder: Path, *argv: str, instance: Instance | None = None, timeout: float = 30) -> Measurement:
    gate = command.Driver(command.Settings(argv=argv, timeout=timeout), refuse, folder)
    return gate.measure(Subject("x", str(folder), instance=instance, facts={"fleet": "db", "slot": "db-01"}))


def machine(address: str = "10.0.0.7", name: str = "db-02-aa") -> Instance:
    return Instance("i-1", name, "db", "db-02", "2026.11-1", "t", InstanceState.RUNNING, address=address)


@pytest.mark.parametrize(("code", "verdict"), [(0, Verdict.PASSED), (1, Verdict.FAILED), (3, Verdict.FAILED)])
def test_its_exit_code_is_its_word(tmp_path: Path, code: int, verdict: Verdict) -> None:
    found = measure(tmp_path, sys.executable, "-c", f"print('2 of 3'); raise SystemExit({code})")
    assert judge(found) is verdict
    assert found.value.endswith(f"ended with {code}: 2 of 3")
    assert Path(found.artefacts[0]).read_text() == "2 of 3\n"


def test_it_is_told_about_whom(tmp_path: Path) -> None:
    found = measure(tmp_path, "echo", "{address}:2379", "{fleet}/{slot}", "{name} {version}", instance=machine())
    assert found.details["argv"][1:] == ["10.0.0.7:2379", "db/db-01", "db-02-aa 2026.11-1"]


@pytest.mark.parametrize("hostile", ["-rf", "$(touch x)", "a b", "a;b", "../x", "", "a\nb", "x" * 300])
def test_what_an_instance_says_of_itself_becomes_no_option_and_no_command(tmp_path: Path, hostile: str) -> None:
    found = measure(tmp_path, "echo", "{address}", instance=machine(address=hostile))
    assert judge(found) is Verdict.ERROR
    assert "cannot stand in an argument" in found.error


def test_without_an_instance_there_is_no_address(tmp_path: Path) -> None:
    assert "there is no instance" in measure(tmp_path, "echo", "{address}").error


def test_no_shell_looks_at_it(tmp_path: Path) -> None:
    found = measure(tmp_path, "echo", "$HOME; touch pwned", "*")
    assert "$HOME; touch pwned *" in found.value
    assert not (tmp_path / "pwned").exists()


def test_it_sees_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS", "aws://key:secret@")
    found = measure(tmp_path, sys.executable, "-c", "import os; print(sorted(os.environ))")
    assert "AIRFLOW" not in found.value


@pytest.mark.parametrize("argv", [("no-such-program-here",), ("./missing",), ("/etc/passwd",)])
def test_one_that_cannot_be_run_has_measured_nothing(tmp_path: Path, argv: tuple[str, ...]) -> None:
    found = measure(tmp_path, *argv)
    assert judge(found) is Verdict.ERROR
    assert "cannot be run" in found.error


def test_one_that_does_not_end_has_measured_nothing(tmp_path: Path) -> None:
    found = measure(tmp_path, "sleep", "60", timeout=0.3)
    assert judge(found) is Verdict.ERROR
    assert "took longer than 0.3 s" in found.error


def test_one_that_dies_has_measured_nothing(tmp_path: Path) -> None:
    found = measure(tmp_path, sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert "got signal 9" in found.error


def test_a_program_beside_the_file_is_found(tmp_path: Path) -> None:
    script = tmp_path / "quorum"
    script.write_text("#!/bin/sh\nexit 0\n")
    os.chmod(script, 0o755)  # noqa: S103
    assert judge(measure(tmp_path, "./quorum")) is Verdict.PASSED


@pytest.mark.parametrize("argv", [(), ("",), ("{name}", "x"), ("echo", "a\0b")])
def test_what_can_never_work_is_told_at_once(argv: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        command.Settings(argv=argv)
