"""Fakes can be steered from another process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.domain.errors import InvalidConfig, StepFailed, TimedOut, Unavailable
from phoenix_fleet.domain.models import Environment, Instance, InstanceState, Subject
from phoenix_fleet.domain.verdicts import Verdict, judge
from phoenix_fleet.steering import Steering

INSTANCE = Instance(
    *("id-1", "web-01-ab12", "web", "web-01", "2026.11-1", "0" * 32),
    state=InstanceState.RUNNING,
    address="192.0.2.7",
    host_keys=("ssh-ed25519 AAAA",),
)


def test_next_comes_first_then_subjects_then_the_outcome(tmp_path: Path) -> None:
    steering = Steering(tmp_path / "new" / "state.json")
    assert steering.draw("web-01", "passed") == "passed"
    steering.steer(outcome="error", next=["failed", "inconclusive"], subjects={"web-02": "failed"})

    assert [steering.draw(subject, "passed") for subject in ("web-01", "web-02", "web-02", "web-03")] == [
        "failed",
        "inconclusive",
        "failed",
        "error",
    ]


@pytest.mark.parametrize("text", ["[]", "{", '{"typo": 1}'])
def test_a_broken_file_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InvalidConfig, match="state"):
        Steering(tmp_path / "state.json").draw("x", "passed")


def test_a_gate_is_steered_and_keeps_a_journal(tmp_path: Path) -> None:
    kind = drivers.load("gates", "fake")
    steering = Steering(tmp_path / "state.json")
    steering.steer(next=["failed", "nonsense"])
    gate = kind(kind.Settings(state="state.json", verdict="inconclusive"), None, tmp_path)
    subject = Subject("web-01", str(tmp_path))

    assert judge(gate.measure(subject)) is Verdict.FAILED
    with pytest.raises(InvalidConfig, match="nonsense"):
        gate.measure(subject)
    assert judge(gate.measure(subject)) is Verdict.INCONCLUSIVE
    assert [call["verdict"] for call in steering.calls()] == ["failed", "nonsense", "inconclusive"]
    gate.next.append("error")
    assert judge(gate.measure(subject)) is Verdict.ERROR
    assert gate.calls == [subject] * 4


def test_a_configurator_is_steered_and_can_lose_its_reply(tmp_path: Path) -> None:
    kind = drivers.load("configurators", "fake")
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"next": ["failed", "timeout", "lost_reply"], "subjects": {"web-02": "unavailable"}}))
    driver = kind(kind.Settings(state=str(state)), None)
    environment, lines = Environment("production"), list[str]()

    for error in (StepFailed, TimedOut):
        with pytest.raises(error):
            driver.apply(INSTANCE, environment, lines.append)
    assert driver.applied == {}
    with pytest.raises(Unavailable, match="after the work was done"):
        driver.apply(INSTANCE, environment, lines.append)
    assert list(driver.applied) == ["id-1"]
    driver.apply(INSTANCE, environment, lines.append)
    assert lines[-1].endswith("unchanged")
    with pytest.raises(Unavailable):
        driver.apply(replace(INSTANCE, name="web-02-cd34"), environment, lines.append)
    assert [call["outcome"] for call in Steering(state).calls()] == [
        "failed",
        "timeout",
        "lost_reply",
        "done",
        "unavailable",
    ]
