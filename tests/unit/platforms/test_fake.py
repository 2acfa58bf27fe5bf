"""The fake platform: what a test can order from it, and that the orders hold across drivers and processes."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import (
    CapacityExhausted,
    IntentMismatch,
    InvalidSpec,
    NotFound,
    Throttled,
    Unavailable,
)
from phoenix_fleet.domain.models import Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms.fake import Driver, Settings

ARTEFACT = Artefact("fake", "fake.test/base@sha256:1", "sha256:1")


def nothing(conn_id: str) -> Connection:
    raise AssertionError(conn_id)


def intent(slot: str = "web-01", attempt: int = 1, artefact: Artefact = ARTEFACT) -> LaunchIntent:
    return LaunchIntent("web", slot, "rollout-1", attempt, "base", "2026.11-1", artefact)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 1, tzinfo=UTC))


def states(driver: Driver, instance: Instance, reads: int) -> list[str]:
    return [str(driver.get_instance(instance.id).state) for _ in range(reads)]


def test_it_is_found_by_its_name() -> None:
    assert drivers.load("platforms", "fake") is Driver


def test_boots_by_reads() -> None:
    driver = Driver(Settings(boot_reads=2), nothing)
    instance = driver.launch(intent())

    assert states(driver, instance, 4) == ["starting", "starting", "running", "running"]


def test_boots_by_time_when_it_is_due_and_not_when_somebody_looks(clock: ManualClock) -> None:
    driver = Driver(Settings(boot_reads=0, boot_seconds=30), nothing, clock=clock)
    instance = driver.launch(intent())
    clock.advance(timedelta(seconds=29))
    assert states(driver, instance, 2) == ["starting", "starting"]
    clock.advance(timedelta(seconds=100))
    driver.lag(98)

    assert states(driver, instance, 1) == ["running"]


def test_stops_by_reads_and_time(clock: ManualClock) -> None:
    driver = Driver(Settings(boot_reads=0, stop_reads=1, stop_seconds=10), nothing, clock=clock)
    instance = driver.launch(intent())
    driver.get_instance(instance.id)
    driver.terminate(instance.id)

    assert states(driver, instance, 2) == ["stopping", "stopping"]
    clock.advance(timedelta(seconds=10))
    with pytest.raises(NotFound):
        driver.get_instance(instance.id)
    assert list(driver.list_instances("web")) == []


def test_shows_gone_ones_if_told_to() -> None:
    driver = Driver(Settings(show_gone=True, stop_reads=0), nothing)
    instance = driver.launch(intent())
    driver.terminate(instance.id)

    assert driver.get_instance(instance.id).state is InstanceState.GONE
    assert driver.list_instances("web")[0].state is InstanceState.GONE


def test_a_token_of_a_dead_instance_gives_that_one() -> None:
    driver = Driver(Settings(stop_reads=0), nothing)
    instance = driver.launch(intent())
    driver.terminate(instance.id)

    again = driver.launch(intent())

    assert (again.id, again.state) == (instance.id, InstanceState.GONE)


def test_fails_the_next_call_and_only_that() -> None:
    driver = Driver(Settings(), nothing)
    driver.fail_next("launch", CapacityExhausted("full", remedy="wait"))
    driver.fail_next("launch", Unavailable("away"))

    with pytest.raises(CapacityExhausted, match=r"full Remedy: wait"):
        driver.launch(intent())
    assert list(driver.list_instances("web")) == []
    with pytest.raises(Unavailable):
        driver.launch(intent())
    driver.launch(intent())
    assert [call.outcome for call in driver.calls("launch")] == ["CapacityExhausted", "Unavailable", "ok"]


def test_loses_a_reply_after_the_effect() -> None:
    driver = Driver(Settings(), nothing)
    driver.lose_reply("launch")

    with pytest.raises(Unavailable):
        driver.launch(intent())

    assert [instance.token for instance in driver.list_instances("web")] == [intent().token]


def test_throttles_so_many_calls_without_effect() -> None:
    driver = Driver(Settings(), nothing)
    driver.throttle(2)

    for call in (lambda: driver.launch(intent()), lambda: driver.list_instances("web")):
        with pytest.raises(Throttled):
            call()
    assert list(driver.list_instances("web")) == []


def test_lag_hides_what_is_new_and_shows_what_is_gone(clock: ManualClock) -> None:
    driver = Driver(Settings(boot_reads=0, stop_reads=0), nothing, clock=clock)
    old = driver.launch(intent())
    clock.advance(timedelta(seconds=100))
    driver.get_instance(old.id)
    driver.lag(60)
    new = driver.launch(intent("web-02"))
    driver.terminate(old.id)

    assert [instance.id for instance in driver.list_instances("web")] == [old.id]
    assert driver.get_instance(old.id).state is InstanceState.RUNNING
    for call in (driver.get_instance, driver.terminate):
        with pytest.raises(NotFound):
            call(new.id)
    assert driver.launch(intent("web-02")).id == new.id
    clock.advance(timedelta(seconds=60))
    assert [instance.id for instance in driver.list_instances("web")] == [new.id]
    driver.lag(0)
    assert driver.machines()[new.id]["state"] is InstanceState.RUNNING


def test_boots_another_image_than_asked_for() -> None:
    driver = Driver(Settings(boot_reads=0), nothing)
    driver.boot_wrong("sha256:evil")

    wrong, right = (driver.get_instance(driver.launch(intent(slot)).id) for slot in ("web-01", "web-02"))

    assert (wrong.digest, right.digest) == ("sha256:evil", "sha256:1")


def test_fails_a_boot() -> None:
    driver = Driver(Settings(), nothing)
    driver.fail_boot("kernel panic")
    instance = driver.launch(intent())

    assert states(driver, instance, 2) == ["starting", "failed"]
    assert driver.get_instance(instance.id).message == "kernel panic"
    assert driver.get_instance(driver.launch(intent("web-02")).id).state is InstanceState.STARTING


def test_has_no_more_room_than_told() -> None:
    driver = Driver(Settings(capacity=1, stop_reads=0), nothing)
    first = driver.launch(intent())
    with pytest.raises(CapacityExhausted):
        driver.launch(intent("web-02"))
    assert driver.launch(intent()).id == first.id
    driver.terminate(first.id)
    driver.launch(intent("web-02"))


def test_takes_any_image_unless_told_to_be_strict() -> None:
    Driver(Settings(), nothing).launch(intent())
    with pytest.raises(InvalidSpec):
        Driver(Settings(strict_images=True), nothing).launch(intent())


def test_ids_and_addresses_are_the_same_every_time(clock: ManualClock) -> None:
    worlds = [Driver(Settings(boot_reads=0), nothing, clock=clock) for _ in range(2)]
    seen = [[world.get_instance(world.launch(intent(f"web-{n:03d}")).id) for n in range(300)] for world in worlds]

    assert seen[0] == seen[1]
    assert len({instance.address for instance in seen[0]}) == 300


@pytest.mark.parametrize("position", ["before", "after"])
def test_a_hook_may_crash_before_or_after_the_effect(position: str) -> None:
    class Crash(BaseException):
        pass

    def hook(where: str, method: str, subject: str) -> None:
        assert subject == intent().token
        if (where, method) == (position, "launch"):
            raise Crash

    driver = Driver(Settings(), nothing, hook=hook)
    with pytest.raises(Crash):
        driver.launch(intent())

    assert len(driver.machines()) == (1 if position == "after" else 0)


def test_a_file_is_one_world_with_its_orders_and_its_journal(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path / "deep" / "world.json"))
    one, two = Driver(settings, nothing), Driver(settings, nothing)
    instance = one.launch(intent())
    one.fail_next("terminate", Unavailable("not now"))

    with pytest.raises(Unavailable, match="not now"):
        two.terminate(instance.id)
    assert [(call.method, call.outcome) for call in one.calls()] == [("launch", "ok"), ("terminate", "Unavailable")]
    with pytest.raises(IntentMismatch):
        two.launch(intent(artefact=Artefact("fake", "other", "sha256:2")))


def _launch_some(path: str, first: int, together: Barrier) -> None:
    driver = Driver(Settings(state=path), nothing)
    together.wait(60)
    for number in range(first, first + 20):
        driver.launch(intent(f"web-{number:02d}"))


def test_processes_share_a_file_without_losing_anything(tmp_path: Path) -> None:
    path = str(tmp_path / "world.json")
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    # Ten of the slots are launched by both.
    processes = [context.Process(target=_launch_some, args=(path, first, together)) for first in (0, 10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    driver = Driver(Settings(state=path), nothing)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(machine["slot"] for machine in driver.machines().values()) == [f"web-{n:02d}" for n in range(30)]
    assert len(driver.calls("launch")) == 40
