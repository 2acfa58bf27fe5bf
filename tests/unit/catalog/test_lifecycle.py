from __future__ import annotations

from datetime import timedelta

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.queue import SILENT_FOR
from phoenix_fleet.catalog.records import Errand, QueueState, RolloutKind, RolloutRecord
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Busy, Halted, IllegalTransition, NotFound, Refused
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version
from tests.unit.catalog.helpers import (
    LEASE,
    NOVEMBER,
    OCTOBER,
    V1,
    kinds,
    must_claim,
    open_rollout,
    release,
    slots,
)

V0, V2 = Version(OCTOBER, 1), Version(NOVEMBER, 2)
WHO = {"actor": "ann", "reason": "drops sessions"}


def replaced(catalog: Catalog) -> RolloutRecord:
    """A rollout to V1 that has replaced web-01, which ran V0, and begun with web-02."""
    for window, run in ((OCTOBER, "image-0"), (NOVEMBER, "image-1")):
        release(catalog, window, run)
    rollout = open_rollout(catalog)
    first = must_claim(catalog, rollout)
    catalog.rollouts.enter(first, Step.LAUNCH, new_instance="new-01", facts={"old": {"version": str(V0)}})
    catalog.rollouts.finish(first)
    second = must_claim(catalog, rollout, 1)
    catalog.rollouts.enter(second, Step.READY, new_instance="new-02")
    catalog.rollouts.give_back(second)
    return rollout


def back(rollout: RolloutRecord) -> Errand:
    return Errand(RolloutKind.ROLLBACK, undoes=rollout.id, undone=rollout.version)


def test_a_rollback_is_about_what_was_replaced_or_begun(catalog: Catalog) -> None:
    rollout = replaced(catalog)
    found = catalog.lifecycle.look_back("web")
    assert (found.undoes, found.undone, found.version, found.slots) == (rollout.id, V1, V0, ("web-01", "web-02"))
    assert catalog.rollouts.get(rollout.id).state == "open", "looking changes nothing"
    assert catalog.lifecycle.roll_back("web", **WHO) == found
    halted = catalog.rollouts.get(rollout.id)
    assert (halted.state, halted.halted_by, halted.halted_reason) == ("halted", "ann", "rolled back: drops sessions")
    (block,) = catalog.blocks.list_blocks("web")
    assert (block.version, block.actor) == (V1, "ann")
    count = len(kinds(catalog))
    assert catalog.lifecycle.roll_back("web", **WHO) == found
    assert len(kinds(catalog)) == count, "asked again, nothing happens"
    assert kinds(catalog)[-3:] == ["rollout.halted", "block.set", "rollout.undone"]


def test_a_rollback_takes_the_place_of_what_it_undoes_and_of_nothing_else(catalog: Catalog) -> None:
    rollout = replaced(catalog)
    catalog.lifecycle.roll_back("web", **WHO)
    with pytest.raises(Halted):
        open_rollout(catalog, slots(1), run="other", version=V0)
    with pytest.raises(Refused, match="left web-03 alone"):
        open_rollout(catalog, slots(1, 2), run="back", version=V0, errand=back(rollout))
    with pytest.raises(Refused, match="no rollback for db"):
        open_rollout(catalog, slots(1), fleet="db", run="back", version=V0, errand=back(rollout))
    opened = open_rollout(catalog, slots(1, 1), run="back", version=V0, errand=back(rollout))
    assert (opened.kind, opened.undoes, opened.undone) == ("rollback", rollout.id, V1)
    assert catalog.rollouts.get(rollout.id).state == "superseded"
    assert catalog.lifecycle.look_back("web").undoes == rollout.id, "a rollback is not rolled back"


def test_a_rollback_waits_for_whoever_is_at_it(catalog: Catalog, clock: ManualClock) -> None:
    rollout = replaced(catalog)
    must_claim(catalog, rollout, 1)
    catalog.lifecycle.roll_back("web", **WHO)
    with pytest.raises(Busy, match="is at web-02"):
        open_rollout(catalog, slots(1), run="back", version=V0, errand=back(rollout))
    clock.advance(LEASE)
    open_rollout(catalog, slots(1), run="back", version=V0, errand=back(rollout))


def test_another_rollout_stands_in_the_way_of_a_rollback(catalog: Catalog) -> None:
    replaced(catalog)
    catalog.rollouts.cancel("web", actor="bob", reason="x")
    later = open_rollout(catalog, run="run-2")
    with pytest.raises(Refused, match=rf"Rollout {later.id} of web .* is open.*Cancel rollout {later.id} first"):
        catalog.lifecycle.roll_back("web", **WHO)


def test_what_replaced_nothing_cannot_be_rolled_back(catalog: Catalog) -> None:
    open_rollout(catalog)
    with pytest.raises(NotFound, match="nothing to go back from"):
        catalog.lifecycle.roll_back("web", **WHO)
    with pytest.raises(Refused, match="needs somebody's name"):
        catalog.lifecycle.roll_back("web", actor=" ", reason="x")


def test_a_blocked_release_comes_back_only_by_name(catalog: Catalog) -> None:
    replaced(catalog)
    catalog.lifecycle.roll_back("web", **WHO)
    catalog.rollouts.cancel("web", actor="bob", reason="x")
    newest, elsewhere = catalog.blocks.newest_good("web", "debian-base"), catalog.images.newest_released("debian-base")
    assert newest is not None
    assert elsewhere is not None
    assert (newest.version, elsewhere.version) == (V0, V1)
    with pytest.raises(Refused, match=r"2026.11-1 is blocked for web by ann.*phoenix unblock web 2026.11-1"):
        open_rollout(catalog, run="next")
    open_rollout(catalog, fleet="db", run="next")
    with pytest.raises(Refused, match="somebody's name"):
        catalog.blocks.lift("web", "debian-base", V1, actor="", reason="x")
    catalog.blocks.lift("web", "debian-base", V1, actor="bob", reason="it was the network")
    with pytest.raises(NotFound):
        catalog.blocks.lift("web", "debian-base", V1, actor="bob", reason="again")
    open_rollout(catalog, run="next")


def test_revoking_halts_every_rollout_of_it_at_once(catalog: Catalog, clock: ManualClock) -> None:
    release(catalog)
    open_rollout(catalog)
    other = open_rollout(catalog, fleet="db", version=V0)
    image, halted = catalog.lifecycle.revoke("debian-base", V1, actor="carol", reason="CVE-2026-1")
    assert (image.rung, halted) == ("revoked", ["web"])
    assert catalog.rollouts.get(other.id).state == "open"
    assert catalog.lifecycle.revoke("debian-base", V1, actor="carol", reason="CVE-2026-1")[1] == ["web"]
    with pytest.raises(Refused, match="which is revoked"):
        catalog.rollouts.resume("web", actor="bob", reason="go on")
    revoked_at = clock.now()
    clock.advance(timedelta(hours=3))
    errand = Errand(RolloutKind.EMERGENCY, undone=V1, deadline_in=timedelta(hours=24))
    opened = open_rollout(catalog, slots(1), run="away", version=V0, errand=errand)
    assert opened.deadline == revoked_at + timedelta(hours=24), "it runs from the revocation"


def test_only_a_release_is_revoked_and_only_that_is_an_emergency(catalog: Catalog) -> None:
    release(catalog)
    with pytest.raises(NotFound):
        catalog.lifecycle.revoke("debian-base", V2, actor="carol", reason="x")
    with pytest.raises(Refused, match="is not revoked"):
        open_rollout(catalog, errand=Errand(RolloutKind.EMERGENCY, undone=V1))
    catalog.lifecycle.revoke("debian-base", V1, actor="carol", reason="x")
    with pytest.raises(IllegalTransition):
        catalog.images.move("debian-base", V1, catalog.images.list_images("debian-base")[0].rung.RELEASED, actor="x")


def ask(
    catalog: Catalog, run: str, version: Version, kind: RolloutKind = RolloutKind.REFRESH, whole: bool = True
) -> str:
    return catalog.queue.ask("web", run, version, kind, whole=whole).state


def test_of_those_that_queue_the_newest_release_wins(catalog: Catalog) -> None:
    assert ask(catalog, "a", V1) == "waiting"
    assert ask(catalog, "b", V0, whole=False) == "waiting", "what is about some slots has its own reason"
    assert ask(catalog, "c", V2) == "waiting"
    assert ask(catalog, "a", V1) == "superseded"
    place = catalog.queue.find("web", "a")
    assert place is not None
    assert place.note == "superseded by 2026.11-2, which c waits with"
    assert ask(catalog, "d", V1) == "superseded"
    assert [each.run for each in catalog.queue.waiting("web")] == ["b", "c"]
    with pytest.raises(Busy, match=r"a has nothing to do for web: superseded by 2026.11-2"):
        open_rollout(catalog, run="a")
    open_rollout(catalog, run="c", version=V2)
    assert [each.run for each in catalog.queue.waiting("web")] == ["b"]


def test_going_back_goes_first(catalog: Catalog) -> None:
    ask(catalog, "a", V2)
    assert ask(catalog, "back", V0, RolloutKind.ROLLBACK) == "waiting", "no newer release makes a rollback needless"
    with pytest.raises(Busy, match=r"the rollback of back to 2026.10-1 goes first"):
        open_rollout(catalog, run="a", version=V2)
    catalog.queue.leave("web", "back")
    open_rollout(catalog, run="a", version=V2)


def test_a_dead_run_stands_in_nobodys_way(catalog: Catalog, clock: ManualClock) -> None:
    ask(catalog, "dead", V2)
    clock.advance(SILENT_FOR)
    assert ask(catalog, "a", V1) == QueueState.WAITING
    assert [each.run for each in catalog.queue.waiting("web")] == ["a"]
    open_rollout(catalog, run="a")
