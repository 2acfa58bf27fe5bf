"""How much may be under way at once: the surge, the replacements in flight, and their failure domains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.domain.planner import check_domain, check_surge, in_flight_limit
from phoenix_fleet.domain.windows import Version
from tests.unit.domain.fleet_of import NEW, OLD, SHAPE, TARGET, UNHEALTHY, fleet, machine, seen


@pytest.mark.parametrize(
    ("domain", "mine", "others", "refused"),
    [
        ("zone", ("a", "h1"), [], ""),
        ("zone", ("a", "h1"), [("web-02", ("a", "h2"))], ""),
        ("zone", ("a", ""), [("web-02", ("b", ""))], "web-02 in zone b is under way, and zone a begins after it"),
        ("zone", ("", ""), [("web-02", ("b", ""))], ""),
        ("zone", ("a", ""), [("web-02", ("", ""))], ""),
        ("host", ("a", "h1"), [("web-02", ("a", "h1"))], ""),
        ("host", ("a", "h1"), [("web-02", ("a", "h2"))], "web-02 in host h2 is under way, and host h1 begins after it"),
        ("host", ("a", "h1"), [("web-02", ("b", "h1"))], "web-02 in zone b is under way, and zone a begins after it"),
        ("none", ("a", "h1"), [("web-02", ("b", "h2"))], ""),
    ],
)
def test_never_two_failure_domains_at_once(
    domain: str, mine: tuple[str, str], others: list[tuple[str, tuple[str, str]]], refused: str
) -> None:
    decision = check_domain(replace(SHAPE, failure_domain=domain), mine, others)  # type: ignore[arg-type]
    assert (not decision.allowed, decision.reason if refused else "") == (bool(refused), refused)


@pytest.mark.parametrize(
    ("sick", "under_way", "limit"),
    [((), (), 3), (("web-01",), (), 2), (("web-01", "web-02"), (), 1), (("web-01",), ("web-01",), 3),
     (("web-01", "web-02", "web-03"), (), 1)],
)  # fmt: skip
def test_every_new_instance_out_of_service_takes_one_off(
    sick: tuple[str, ...], under_way: tuple[str, ...], limit: int
) -> None:
    shape = replace(SHAPE, max_surge=3, max_in_flight=3)
    observed = fleet(NEW, **{slot.replace("-", "_"): UNHEALTHY for slot in sick})
    assert in_flight_limit(shape, TARGET, observed, under_way)[0] == limit


@pytest.mark.parametrize(
    ("extra", "allowed"),
    [
        ((), True),
        ((machine("web-01", NEW, name="x", state=InstanceState.STARTING),), False),
        ((machine("web-01", NEW, name="x", state=InstanceState.STOPPING),), False),
        ((machine("web-01", NEW, name="x", state=InstanceState.FAILED),), False),
        ((machine("web-01", NEW, name="x", state=InstanceState.GONE),), True),
        ((machine("web-77", NEW, name="x"),), True),
    ],
)
def test_the_surge_bound_counts_all_that_is_not_gone(extra: tuple[Instance, ...], allowed: bool) -> None:
    assert check_surge(SHAPE, seen(*fleet().instances, *extra)).allowed is allowed


@pytest.mark.parametrize(
    ("version", "changes", "limit"),
    [
        (OLD, {"max_in_flight": 3, "max_surge": 3}, 1),
        (NEW, {"max_in_flight": 3, "max_surge": 3}, 3),
        (NEW, {"max_in_flight": 3, "max_surge": 1}, 1),
        (NEW, {"max_in_flight": 3, "max_surge": 0, "max_unavailable": 2}, 2),
        (NEW, {"max_in_flight": 3, "max_surge": 0, "max_unavailable": 0}, 1),
    ],
)
def test_how_many_at_once(version: Version, changes: dict[str, int], limit: int) -> None:
    found, why = in_flight_limit(replace(SHAPE, **changes), TARGET, fleet(version))  # type: ignore[arg-type]
    assert (found, bool(why)) == (limit, True)
