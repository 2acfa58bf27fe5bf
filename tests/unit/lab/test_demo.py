"""Small decisions of the demo and the lab that need no real parts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.engine import DockerEngine
from lab.older import previous_window
from lab.places import Places
from lab.summary import Result, count_tests
from lab.world import alone
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import Busy, Unavailable
from phoenix_fleet.domain.verdicts import Measurement


@pytest.mark.parametrize(
    ("now", "expected"), [((2026, 11, 23), "2026-10"), ((2026, 1, 1), "2025-12"), ((2026, 12, 31), "2026-11")]
)
def test_the_older_release_is_of_the_window_before(now: tuple[int, int, int], expected: str) -> None:
    assert str(previous_window(datetime(*now, tzinfo=UTC))) == expected


def test_two_demos_at_once_are_refused(tmp_path: Path) -> None:
    places = Places(tmp_path / "home", tmp_path / "run", tmp_path / "cache")
    with alone(places), pytest.raises(Busy, match="Another demo or test"), alone(places):
        pass
    with alone(places):
        pass


def test_tests_are_counted_by_stage_as_gates_report_them() -> None:
    def record(stage: str, details: dict[str, object]) -> SimpleNamespace:
        return SimpleNamespace(stage=stage, measurement=Measurement("", True, details))

    counted = count_tests([record("test", {"tests": 17}), record("test", {}), record("certify", {"tests": 9})])
    assert counted == {"test": 18, "certify": 9}


def test_a_result_is_kept_as_json(tmp_path: Path) -> None:
    Result(ok=True, told="fine", seconds={"lab": 1.5}).write(tmp_path / "result.json")
    assert '"told": "fine"' in (tmp_path / "result.json").read_text()


def test_a_missing_engine_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"No Docker engine answers.*scripts/setup"):
        DockerEngine(Connection("docker", host=str(tmp_path / "none.sock")))


def test_the_lab_can_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOENIX_LAB_HOME", raising=False)
    assert Places.find().run == Path("/run/phoenix-lab")
    monkeypatch.setenv("PHOENIX_LAB_HOME", str(tmp_path))
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))
    places = Places.find()
    assert (places.home, places.run, places.cache) == (tmp_path, tmp_path / "run", tmp_path / "cache")
