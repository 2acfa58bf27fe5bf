"""Replacements under way at once stay within one zone or host, and the new instance stands where the old one did."""

from __future__ import annotations

from collections.abc import Callable

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState, SlotState, Ticket
from phoenix_fleet.domain.errors import Busy
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.rollout.scene import LEASE, NEW, Scene

Stage = Callable[..., Scene]


def together(scene: Scene, rollout: RolloutRecord, at_once: int = 2) -> list[tuple[str, ...]]:
    """The whole rollout by several holders in turn; which slots had left their check, each time that this changed."""
    engine, held, seen = scene.engine(rollout), dict[str, Ticket](), list[tuple[str, ...]]()
    for _ in range(2000):
        slots = scene.catalog.rollouts.slots(rollout.id)
        left = [each.wave for each in slots if each.state is not SlotState.DONE]
        if not left:
            return seen
        if len(held) < at_once:
            try:
                limit, _ = engine.in_flight_limit()
                ticket = scene.catalog.rollouts.claim(
                    rollout.id, min(left), scene.holder(), lease=LEASE, max_in_flight=limit
                )
                if ticket is not None:
                    held[ticket.slot] = ticket
            except Busy:
                pass
        for slot, ticket in list(held.items()):
            scene.catalog.rollouts.renew(ticket, LEASE)
            if engine.advance(ticket).state == "done":
                del held[slot]
        under_way = scene.catalog.rollouts.under_way(rollout.id)
        begun = tuple(sorted(each.slot for each in under_way if each.step not in (None, Step.CHECK)))
        if begun and (not seen or seen[-1] != begun):
            seen.append(begun)
        scene.clock.advance(LEASE / 60)
    raise AssertionError("it never ends")


def zones(scene: Scene) -> dict[str, str]:
    return {str(each["slot"]): str(each["zone"]) for each in scene.living().values()}


def test_two_zones_are_never_under_way_at_once(stage: Stage) -> None:
    scene = stage(size=6, platform={"zones": ["a", "b"]}, max_surge="2", max_in_flight=2)
    before = zones(scene)
    assert list(before.values()) == ["a", "b", "a", "b", "a", "b"]
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == [
        "web-01", "web-03", "web-05", "web-02", "web-04", "web-06"
    ]  # fmt: skip
    seen = together(scene, rollout)
    assert ("web-03", "web-05") in seen, "two at once within a zone"
    assert ("web-02", "web-04") in seen
    for begun in seen:
        assert len({before[slot] for slot in begun}) == 1, f"two zones at once: {begun}"
    assert zones(scene) == before, "each new one stands where the old one did"
    assert scene.catalog.rollouts.complete(rollout.id).state is RolloutState.DONE
    scene.check_at_rest()


def test_hosts_one_after_another_where_the_fleet_says_so(stage: Stage) -> None:
    scene = stage(size=4, platform={"hosts": 2}, max_surge="2", max_in_flight=2, failure_domain="host")
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-01", "web-03", "web-02", "web-04"]
    seen = together(scene, rollout)
    for begun in seen:
        assert begun in {("web-01",), ("web-03",), ("web-02",), ("web-04",), ("web-01", "web-03"), ("web-02", "web-04")}
    scene.check_at_rest()


def test_anywhere_where_the_fleet_says_so(stage: Stage) -> None:
    scene = stage(size=3, platform={"zones": ["a", "b", "c"]}, max_surge="2", max_in_flight=2, failure_domain="none")
    assert ("web-02", "web-03") in together(scene, scene.open())
    scene.check_at_rest()


def test_the_last_of_its_zone_without_surge_is_refused_by_the_plan(stage: Stage) -> None:
    scene = stage(size=3, platform={"zones": ["a", "b"]}, max_surge="0", max_unavailable="1")
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-01", "web-03"]
    assert "refuse web-02: outdated: 2026.10-1, but" in "\n".join(scene.story)
    assert scene.run(rollout).state is RolloutState.DONE
    assert sorted(scene.versions().items())[1] == ("web-02", ["2026.10-1"])


def test_without_surge_the_new_one_still_comes_to_the_same_zone(stage: Stage) -> None:
    scene = stage(size=4, platform={"zones": ["a", "b"]}, max_surge="0", max_unavailable="1")
    before = zones(scene)
    assert scene.run(scene.open()).state is RolloutState.DONE
    assert zones(scene) == before
    assert {each["version"] for each in scene.living().values()} == {str(NEW)}


def test_one_at_a_time_needs_no_look_at_the_fleet_to_draw_a_ticket(stage: Stage) -> None:
    scene = stage()
    engine = scene.engine(scene.open())
    before = len(scene.platform.calls()) + len(scene.balancer.calls())
    assert engine.in_flight_limit() == (1, "max_in_flight is 1")
    assert len(scene.platform.calls()) + len(scene.balancer.calls()) == before


def test_a_slot_that_is_empty_goes_first_and_stands_in_nobodys_way(stage: Stage) -> None:
    scene = stage(size=3, platform={"zones": ["a", "b"]})
    gone = next(key for key, each in scene.living().items() if each["slot"] == "web-02")
    scene.platform.set_state(gone, InstanceState.GONE)
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-02", "web-01", "web-03"]
    assert scene.run(rollout).state is RolloutState.DONE
