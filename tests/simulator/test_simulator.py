"""The engine over a fake data centre: seeds that replay, stories on file, and a sample of many seeds.

``PHOENIX_UPDATE_GOLDEN=1 pytest tests/simulator`` writes the stories anew; ``scripts/simulator`` plays any number of
seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from phoenix_fleet.domain import planner
from phoenix_fleet.domain.fleets import Decision
from phoenix_fleet.rollout import going_away
from phoenix_fleet.rollout.planning import shape_of
from tests.simulator.campaign import campaign, explain
from tests.simulator.database import OLD
from tests.simulator.people import PATIENCE
from tests.simulator.play import Play, play
from tests.simulator.reporting import ROOT, add, leg_of
from tests.simulator.scenario import BAD_IMAGE

GOLDEN = Path(__file__).parent / "golden"
SAMPLE = int(os.environ.get("PHOENIX_SIMULATOR_SEEDS", "20"))
"""Seeds of the sample; the first ones of a campaign."""

STORIES = {
    "lost-replies": (11, ("lost replies",), 2),
    "dying-holders": (12, ("dying holders",), 2),
    "paused-holders": (13, ("paused holders", "many engines"), 2),
    "zone-failure": (14, ("zone failure",), 6),
    "clock-jumps": (15, ("clock jumps", "wrong clocks"), 2),
    "by-hand": (16, ("terminated by hand", "launched by hand", "balancer edits"), 3),
    "lag": (17, ("lag", "failed boots"), 2),
    "bad-image": (18, (BAD_IMAGE,), 3),
    "revoked-release": (19, ("revoked release",), 4),
}


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str) -> None:
    outcome = play(*STORIES[name])
    assert not outcome.violation
    story = "\n".join(line.rstrip() for line in outcome.story) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("PHOENIX_UPDATE_GOLDEN"):
        path.write_text(story, encoding="utf-8")
    assert story == path.read_text(encoding="utf-8")


def hash_of(seed: int, hash_seed: str) -> str:
    """What another process, with another order of its sets, says of that seed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulator", str(seed)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT / 'include'}:{ROOT}"},
    )
    return done.stdout.splitlines()[-1].removeprefix("sha256 ")


def test_a_seed_replays_bit_for_bit() -> None:
    seed = 24
    assert hash_of(seed, "1") == hash_of(seed, "2") == play(seed).hash


def test_another_seed_is_another_story() -> None:
    assert play(1, (), 1).hash != play(2, (), 1).hash


@pytest.mark.parametrize("seed", range(100, 106))
def test_a_bad_image_stops_at_the_canaries(seed: int) -> None:
    stage = Play(seed, (BAD_IMAGE,))
    outcome = stage.run()
    assert not outcome.violation
    taken = {
        subject
        for purpose, method, subject in stage.calls
        if purpose == "rollout-1" and method == "terminate" and stage.world.machines[subject].now.version == str(OLD)
    }
    assert len(taken) <= shape_of(stage.fleet).canary


def test_a_missing_floor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The laws have teeth: an engine that never asks whether the old instance may go is caught."""
    monkeypatch.setattr(planner, "check_floor", lambda *args, **kwargs: Decision(True, "who cares"))
    monkeypatch.setattr(going_away.planner, "may_take_out", lambda *args, **kwargs: Decision(True, "who cares"))
    found = [play(seed, ("crashed machines", "zone failure"), 3).violation for seed in range(12)]
    assert any(each.startswith(("I3", "I4")) for each in found), found


def test_a_fleet_that_comes_nearer_with_each_rollout_is_not_given_up() -> None:
    """Seed 13039: sessions outlast the drain's limit by a second, so that its policy halts once at every machine."""
    stage = Play(158, (), 20)
    for machine in stage.world.roster.values():
        machine.connections = 9
    outcome = stage.run()
    assert (outcome.violation, outcome.ending) == ("", "at rest")
    assert outcome.counts["rollouts"] > PATIENCE


def test_a_fleet_that_comes_no_nearer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nobody would notice a rollout that can never succeed."""
    stage = Play(158, (), 3)
    monkeypatch.setattr(stage.troubles, "calm", lambda: None)
    for machine in stage.world.roster.values():
        machine.stuck, machine.connections = machine.now.slot == stage.fleet.slots[0], 9
    outcome = stage.run()
    assert outcome.violation.startswith(f"I16: {PATIENCE} rollouts have brought the fleet no nearer")
    assert outcome.counts["rollouts"] == PATIENCE + 1, "the first one brought it nearer"


@pytest.mark.slow
def test_somebody_hears_of_a_halt_that_its_holder_did_not_live_to_tell() -> None:
    outcome = play(12954)
    halted = next(number for number, line in enumerate(outcome.story) if "configure failed" in line)
    assert "worker-2 dies" in "\n".join(outcome.story[halted:])
    assert (outcome.violation, outcome.ending) == ("", "at rest")


def test_a_sample_of_seeds() -> None:
    tally = campaign(0, SAMPLE, processes=2)
    assert tally.seeds == SAMPLE
    assert not tally.broken, "\n".join(map(explain, tally.broken))
    assert len(tally.by_trouble) >= 12


def test_a_report_adds_its_legs_up(tmp_path: Path) -> None:
    output = tmp_path / "simulator.md"
    tally = campaign(0, 2, processes=1)
    add(leg_of(tally, "abc"), output)
    after = replace(leg_of(tally, "abc"), first=2)
    (one,) = add(after, output)
    assert (one.first, one.seeds, one.rollouts) == (0, 4, 2 * tally.rollouts)
    assert len(add(replace(after, first=2, broken={"3": "I3 was broken"}), output)) == 2
    text = output.read_text()
    assert "| seeds | 6 |" in text
    assert "| abc | 0 to 3 |" in text
    assert "- seed 3 on abc: I3 was broken" in text
