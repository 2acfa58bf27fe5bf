"""Whole rollouts that are paced: windows, freezes, waivers, the verdict before, forecasts after, the alarm once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutRecord
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.errors import Refused
from phoenix_fleet.domain.feasibility import Verdict
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout.durations import durations_of
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.pacing import (
    Pacer,
    check_feasible,
    forecast_of,
    limits_of,
    record_verdict,
    subject_of,
    verdict_of_plan,
)
from phoenix_fleet.rollout.planning import draw_plan
from phoenix_fleet.rollout.progress import DeadlineAlarm, Progress
from phoenix_fleet.rollout.waits import waits_of, waits_of_plan
from tests.rollout.acts import mutations
from tests.rollout.scene import NEW, START, Scene

Stage = Callable[..., Scene]
HOUR = timedelta(hours=1)
NIGHT = [{"opens": "06:00", "closes": "06:20", "zone": "Europe/Berlin"}]  # 05:00 UTC in November; it starts at 04:00
LATER = {"begins": "2026-11-01 00:00", "ends": "2026-11-01 05:30", "reason": "election"}


def judge(scene: Scene) -> tuple[RolloutRecord, Verdict, DeadlineAlarm | None]:
    """Plan, verdict and opening, as the DAG does it."""
    now = scene.clock.now()
    plan = draw_plan(scene.deps(), scene.fleet, scene.catalog.images.get("base", NEW))
    verdict = verdict_of_plan(scene.catalog, scene.fleet, plan, NEW.window, now)
    rollout = scene.open()
    return rollout, verdict, record_verdict(scene.catalog, rollout, scene.fleet, plan, verdict, now)


def events(scene: Scene, rollout: RolloutRecord, kind: str) -> list[dict[str, Any]]:
    """Payloads of that kind, in order."""
    found = scene.catalog.events.list_events(subject_of(rollout))
    return [dict(each.payload) for each in reversed(found) if each.kind == kind]


def drive(scene: Scene, rollout: RolloutRecord, engine: Engine | None = None) -> list[Progress]:
    """One replacement to its end; whoever must be told is told at once."""
    engine = engine or scene.engine(rollout)
    left = [each.wave for each in scene.catalog.rollouts.slots(rollout.id) if each.state != "done"]
    ticket = scene.claim(engine, min(left), scene.holder())
    assert ticket is not None
    found = []
    while not found or found[-1].state != "done":
        found.append(engine.advance(ticket))
        if alarm := found[-1].alarm:
            engine.pacer.told(alarm)
        scene.clock.advance(found[-1].check_after)
    return found


@pytest.mark.parametrize(
    ("changes", "opens", "why"),
    [
        ({"maintenance": NIGHT}, 60, "outside the maintenance windows (every day 06:00-06:20 Europe/Berlin)"),
        ({"freezes": [LATER]}, 90, "frozen until 2026-11-01 05:30 UTC (election)"),
    ],
)
def test_nothing_begins_while_it_is_closed(stage: Stage, changes: dict[str, Any], opens: int, why: str) -> None:
    scene = stage(**changes)
    rollout = scene.open()
    before, engine = mutations(scene), scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    waited = timedelta()
    while (progress := engine.advance(ticket)).state == "waiting" and progress.step is Step.CHECK:
        assert progress.message.startswith(why)
        assert mutations(scene) == before
        (first, *_) = waits_of(scene.catalog, rollout, scene.catalog.rollouts.slots(1), scene.clock.now())
        assert (first.slot, first.reason) == ("web-01", progress.message)
        assert first.begins_in == START + opens * timedelta(minutes=1) - scene.clock.now()
        waited += progress.check_after
        scene.clock.advance(progress.check_after)
    assert waited == opens * timedelta(minutes=1), "it begins the moment that it opens"
    scene.drive(engine, ticket)
    (took,) = scene.catalog.rollouts.recent_seconds("web")
    assert took < 300, "waiting for the window is not what a replacement takes"


def test_what_has_begun_in_a_window_ends_after_it_and_the_next_one_waits(stage: Stage) -> None:
    scene = stage(maintenance=NIGHT, watch_time="30m")
    rollout = scene.open()
    scene.clock.advance(HOUR)
    steps = drive(scene, rollout)
    assert all(progress.step is not Step.CHECK for progress in steps if progress.state == "waiting")
    ended = scene.clock.now() - START
    assert ended > timedelta(hours=1, minutes=20), "the window has closed meanwhile"
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 1, scene.holder())
    assert ticket is not None
    assert "it opens at 2026-11-02 05:00 UTC" in engine.advance(ticket).message


def test_a_plan_says_when_each_begins_by_the_calendar(stage: Stage) -> None:
    scene = stage(maintenance=NIGHT)
    drawn = draw_plan(scene.deps(), scene.fleet, scene.catalog.images.get("base", NEW))
    each = durations_of(scene.catalog, scene.fleet).typical
    found = waits_of_plan(scene.catalog, scene.fleet, drawn, scene.clock.now())
    assert [wait.begins_in for wait in found] == [HOUR, HOUR + each, HOUR + 2 * each]


def test_a_waived_slot_is_left_alone_until_the_waiver_expires(stage: Stage) -> None:
    waiver = {"slot": "web-02", "owner": "alice", "reason": "licence dongle", "until": "2026-11-03"}
    scene = stage(waivers=[waiver])
    rollout, _, _ = judge(scene)
    why = "waived until 2026-11-03 by alice: licence dongle"
    assert f"leave web-02: {why}" in scene.story
    scene.run(rollout)
    assert scene.versions() == {"web-01": [str(NEW)], "web-02": ["2026.10-1"], "web-03": [str(NEW)]}
    assert events(scene, rollout, "rollout.verdict")[0]["waived"] == [["web-02", why]]
    scene.clock.advance(timedelta(days=2))
    scene.run(scene.open("run-2"))
    assert set(map(tuple, scene.versions().values())) == {(str(NEW),)}


def test_a_waived_slot_alone_is_no_plan_and_an_empty_one_is_filled(stage: Stage) -> None:
    waiver = {"slot": "web-02", "owner": "alice", "reason": "licence dongle", "until": "2026-11-03"}
    scene = stage(waivers=[waiver])
    image = scene.catalog.images.get("base", NEW)
    alone = draw_plan(scene.deps(), scene.fleet, image, only=["web-02"])
    assert (alone.slots, [slot for slot, _ in alone.waived]) == ((), ["web-02"])
    scene.raised = False
    (gone,) = (key for key, machine in scene.living().items() if machine["slot"] == "web-02")
    scene.platform.terminate(gone)
    scene.clock.advance(HOUR)
    scene.platform.list_instances("web")
    found = draw_plan(scene.deps(), scene.fleet, image)
    assert [each.reason for each in found.slots if each.slot == "web-02"] == ["empty slot"]


def test_the_verdict_comes_before_the_first_replacement_and_may_refuse(stage: Stage) -> None:
    scene = stage(size=4, deadline="245m", watch_time="10m", when_late="refuse")
    before = mutations(scene)
    rollout, verdict, alarm = judge(scene)
    assert mutations(scene) == before
    assert not verdict.feasible
    assert verdict.shortage
    assert alarm is not None
    assert alarm.raised
    assert f"short of {verdict.shortage}" in alarm.message
    (kept,) = events(scene, rollout, "rollout.verdict")
    assert kept["standing"] == "at risk"
    assert kept["cures"] == [str(cure) for cure in verdict.cures]
    with pytest.raises(Refused, match=r"cannot be refreshed in time.*rollout-deadline-at-risk"):
        check_feasible(scene.fleet, verdict)
    check_feasible(scene.fleet.model_copy(update={"when_late": "alarm"}), verdict)


def test_the_owners_are_told_once_and_nothing_else_stops(stage: Stage) -> None:
    scene = stage(size=4, deadline="245m", watch_time="10m")
    rollout, _, alarm = judge(scene)
    assert alarm is not None
    pacer = Pacer(scene.catalog, scene.fleet, rollout)
    assert pacer.alarm(scene.clock.now()) == alarm, "whoever died before telling comes again"
    pacer.told(alarm)
    assert pacer.alarm(scene.clock.now()) is None
    while any(each.state != "done" for each in scene.catalog.rollouts.slots(rollout.id)):
        assert [progress.alarm for progress in drive(scene, rollout) if progress.alarm] == []
    assert len(events(scene, rollout, "rollout.alarm")) == 1
    scene.catalog.rollouts.complete(rollout.id)
    scene.check_at_rest()


def test_a_rollout_that_slows_down_raises_the_alarm_before_it_is_late(stage: Stage) -> None:
    scene = stage(size=8, deadline="6h", watch_time="5m")
    rollout, verdict, alarm = judge(scene)
    assert (verdict.standing, alarm) == ("tight", None), "nothing was measured yet"
    forecasts: list[dict[str, Any]] = []
    for done in range(1, 5):
        drive(scene, rollout)
        forecasts = events(scene, rollout, "rollout.forecast")
        assert [each["left"] for each in forecasts] == list(range(7, 7 - done, -1))
    assert forecasts[-1]["standing"] == "on time"
    # The next one is held up for most of the time that is left.
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 1, scene.holder())
    assert ticket is not None
    deadline, raised = START - 4 * HOUR + 6 * HOUR, None
    scene.drive(engine, ticket, until=lambda progress: progress.step is Step.WATCH)
    while raised is None:
        scene.clock.advance(timedelta(minutes=1))
        raised = engine.pacer.while_waiting(scene.clock.now())
        assert scene.clock.now() < deadline, "it was never raised"
    assert raised.raised
    engine.pacer.told(raised)
    told = forecast_of(scene.catalog, rollout, scene.fleet, scene.clock.now())
    assert told is not None
    assert told["standing"] == "at risk"
    assert datetime.fromisoformat(told["deadline"]) == deadline
    assert events(scene, rollout, "rollout.alarm") == [{"alarm": True, "message": raised.message}]


def test_the_pace_bounds_what_is_in_flight_and_says_why(stage: Stage) -> None:
    scene = stage(size=6, max_surge="3", max_in_flight=3, canary="1")
    rollout, verdict, _ = judge(scene)
    assert verdict.pace.concurrency == 1
    drive(scene, rollout)
    assert scene.engine(rollout).in_flight_limit() == (1, "1 at once make the deadline")
    hurried = stage(size=6, max_surge="3", max_in_flight=3, canary="1", deadline="250m")
    rollout, verdict, _ = judge(hurried)
    assert verdict.pace.concurrency == 3
    drive(hurried, rollout)
    assert hurried.engine(rollout).in_flight_limit()[0] > 1


def test_history_of_the_fleet_and_of_its_platform_is_used(stage: Stage) -> None:
    scene = stage(size=6)
    guessed = durations_of(scene.catalog, scene.fleet)
    assert guessed.typical == timedelta(seconds=100)
    scene.run(scene.open())
    own = durations_of(scene.catalog, scene.fleet)
    assert (own.known, own.typical < timedelta(seconds=60)) == (6, True)
    other = Fleet.model_validate(
        {**scene.fleet.model_dump(mode="json"), "fleet": "db", "platform": "fake", "balancer": "fake",
         "configurator": "fake", "watch_time": "70s"}
    )  # fmt: skip
    beside = durations_of(scene.catalog, other)
    assert beside.typical == own.typical + timedelta(seconds=60), "the same, watched a minute longer"
    assert beside.known == 1


def test_quotas_of_the_driver_and_of_the_file(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from phoenix_fleet.domain.pacing import Quota
    from phoenix_fleet.platforms import fake

    monkeypatch.setattr(fake.Driver, "limits", Quota(4, 100))
    scene = stage(max_in_flight=9, max_surge="100%", quota={"at_once": 2})
    limits = limits_of(scene.fleet)
    assert (limits.most, limits.quota, limits.why()) == (2, Quota(2, 100), "the platform's quota is 2 at once")
