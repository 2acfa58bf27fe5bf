"""The planner's two exceptions: what is rolled back goes although newer, what is ordered goes although it is good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phoenix_fleet.domain.models import Backend, BackendStatus, InstanceState
from phoenix_fleet.domain.planner import Target, may_begin, plan, view_slot
from tests.unit.domain.fleet_of import ABSENT, NEW, NEWER, NOW, OLD, SHAPE, TARGET, UNHEALTHY, fleet, machine, seen

BACK = Target(OLD, "sha256:old", {OLD: "sha256:old", NEW: "sha256:new", NEWER: ""}, undone=NEW)
DRAINING = BackendStatus(Backend.DRAINING)


def test_only_the_version_that_is_undone_may_be_downgraded() -> None:
    look = seen(machine("web-01", NEW), machine("web-02", OLD), machine("web-03", NEWER))
    assert view_slot(SHAPE, "web-01", BACK, look, NOW).reason == "rolled back: 2026.11-1"
    assert view_slot(SHAPE, "web-01", replace(BACK, undone=None), look, NOW).note == "on newer 2026.11-1"
    assert view_slot(SHAPE, "web-02", BACK, look, NOW).note == "on 2026.10-1"
    assert view_slot(SHAPE, "web-03", BACK, look, NOW).note == "on newer 2026.12-1"


def test_what_is_rolled_back_and_old_goes_too_and_what_is_newer_still_does_not() -> None:
    look = seen(machine("web-01", NEW, days=40), machine("web-02", NEWER, days=40))
    assert view_slot(SHAPE, "web-01", BACK, look, NOW).reason == "rolled back: 2026.11-1"
    assert "never a downgrade" in view_slot(SHAPE, "web-02", BACK, look, NOW).refused


@pytest.mark.parametrize("status", [DRAINING, ABSENT])
def test_what_was_being_replaced_comes_back_and_what_came_for_it_goes(status: BackendStatus) -> None:
    old, new = machine("web-01", OLD, name="old"), machine("web-01", NEW, name="new")
    rest = [machine(slot, OLD) for slot in SHAPE.slots[1:]]
    look, back = seen(old, new, *rest, old=status), replace(BACK, returning=frozenset({old.id}))
    view = view_slot(SHAPE, "web-01", back, look, NOW)
    assert (view.old, view.new, view.surplus) == (new, old, ())
    assert may_begin(SHAPE, view, look).allowed, "the one that comes back will serve before the other goes"
    assert view_slot(SHAPE, "web-01", BACK, look, NOW).surplus == (old,), "without the order it is left over"


def test_it_comes_back_alone_where_nothing_has_come_for_it() -> None:
    old = machine("web-01", OLD, name="old")
    view = view_slot(SHAPE, "web-01", replace(BACK, returning=frozenset({old.id})), seen(old, old=DRAINING), NOW)
    assert (view.old, view.new) == (None, old)
    assert view.reason == "old was to be replaced and comes back into service"


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, UNHEALTHY), ({"state": InstanceState.FAILED}, DRAINING), ({"digest": "sha256:other"}, DRAINING)],
)
def test_what_is_not_sound_does_not_come_back(changes: dict[str, object], status: BackendStatus) -> None:
    old, new = machine("web-01", OLD, name="old", **changes), machine("web-01", NEW, name="new")
    view = view_slot(SHAPE, "web-01", replace(BACK, returning=frozenset({old.id})), seen(old, new, old=status), NOW)
    assert (view.old, view.surplus) == (new, (old,))


def test_an_order_is_about_exactly_that_machine() -> None:
    look = fleet(NEW)
    ordered = replace(TARGET, forced=frozenset({"i-web-02"}))
    drawn = plan(SHAPE, ordered, look, NOW)
    assert [(each.slot, each.reason) for each in drawn.slots] == [("web-02", "up to date, and replaced by order")]
    beside = seen(machine("web-02", NEW), machine("web-02", NEW, name="new"))
    view = view_slot(SHAPE, "web-02", ordered, beside, NOW)
    assert (view.old, view.new) == (machine("web-02", NEW), machine("web-02", NEW, name="new"))


def test_an_order_is_no_leave_to_downgrade() -> None:
    view = view_slot(SHAPE, "web-01", Target(OLD, "", {NEW: ""}, forced=frozenset({"i-web-01"})), fleet(NEW), NOW)
    assert view.refused == (
        "up to date, and replaced by order, but on 2026.11-1, which is newer than 2026.10-1: never a downgrade"
    )
