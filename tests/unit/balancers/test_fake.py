"""The fake balancer and the balancer that is none: what tests can order from the one, what the other says."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.balancers import fake, none
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import InUse, Throttled, Unavailable
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState


def nothing(conn_id: str) -> Connection:
    raise AssertionError(conn_id)


WHO = Instance("i-1", "web-01-0123abcd", "web", "web-01", "2026.11-1", "t", InstanceState.RUNNING, "127.66.0.2")


def states(driver: fake.Driver, reads: int) -> list[str]:
    return [str(driver.state(WHO).state) for _ in range(reads)]


@pytest.mark.parametrize(("name", "module"), [("fake", fake), ("none", none)])
def test_it_is_found_by_its_name(name: str, module: object) -> None:
    assert drivers.load("balancers", name) is getattr(module, "Driver")  # noqa: B009


def test_starts_by_reads() -> None:
    driver = fake.Driver(fake.Settings(start_reads=2), nothing)
    driver.admit(WHO)

    assert states(driver, 3) == ["starting", "starting", "healthy"]


def test_starts_by_time() -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    driver = fake.Driver(fake.Settings(start_reads=0, start_seconds=5), nothing, clock=clock)
    driver.admit(WHO)

    assert states(driver, 2) == ["starting", "starting"]
    clock.advance(timedelta(seconds=5))
    assert states(driver, 1) == ["healthy"]


def test_health_and_connections_are_as_told() -> None:
    driver = fake.Driver(fake.Settings(start_reads=0), nothing)
    driver.set_health(WHO.name, False)
    driver.set_connections(WHO.name, 3)
    assert driver.state(WHO) == BackendStatus(Backend.ABSENT, 0)
    driver.admit(WHO)

    assert driver.state(WHO) == BackendStatus(Backend.UNHEALTHY, 3)
    driver.set_health(WHO.name, True)
    assert driver.state(WHO) == BackendStatus(Backend.HEALTHY, 3)
    driver.drain(WHO)
    with pytest.raises(InUse, match="3 open"):
        driver.remove(WHO)
    driver.set_connections(WHO.name, 0)
    driver.remove(WHO)
    assert driver.servers() == {}


def test_lag_shows_the_state_of_before() -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    driver = fake.Driver(fake.Settings(start_reads=0), nothing, clock=clock)
    driver.lag(30)
    driver.admit(WHO)
    assert states(driver, 1) == ["absent"]
    clock.advance(timedelta(seconds=30))
    assert states(driver, 1) == ["healthy"]
    driver.drain(WHO)

    assert states(driver, 1) == ["healthy"]
    assert driver.servers() == {WHO.name: Backend.DRAINING}


def test_orders_and_journal_are_shared_by_a_file(tmp_path: Path) -> None:
    settings = fake.Settings(state=str(tmp_path / "world.json"))
    one, two = fake.Driver(settings, nothing), fake.Driver(settings, nothing)
    one.lose_reply("admit")
    with pytest.raises(Unavailable):
        two.admit(WHO)
    assert one.servers() == {WHO.name: Backend.STARTING}
    one.throttle(1)
    with pytest.raises(Throttled):
        two.drain(WHO)
    one.fail_next("state", Unavailable("away"))
    with pytest.raises(Unavailable, match="away"):
        two.state(WHO)

    assert [(call.method, call.subject, call.outcome) for call in one.calls()] == [
        ("admit", WHO.name, "Unavailable"),
        ("drain", WHO.name, "Throttled"),
        ("state", WHO.name, "Unavailable"),
    ]


@pytest.mark.parametrize(
    ("state", "address", "expected"),
    [
        (InstanceState.RUNNING, "10.0.0.1", Backend.HEALTHY),
        (InstanceState.RUNNING, "", Backend.ABSENT),
        (InstanceState.STARTING, "10.0.0.1", Backend.ABSENT),
        (InstanceState.FAILED, "10.0.0.1", Backend.ABSENT),
    ],
)
def test_without_a_balancer_what_runs_is_in_service(state: InstanceState, address: str, expected: Backend) -> None:
    who = dataclasses.replace(WHO, state=state, address=address)

    assert none.Driver(none.Settings(), nothing).state(who) == BackendStatus(expected, 0)
