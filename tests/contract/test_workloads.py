"""What every driver of workloads must keep of the promises in ``workloads/base.py``."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import ANY

import pytest

from phoenix_fleet.domain.errors import IntentMismatch, InUse, InvalidSpec, NotFound, NotOurs
from phoenix_fleet.workloads.base import Progress
from tests.contract.workloads_labs import REPLICAS, FakeLab, KubernetesLab, digest, intent_for, reference

Lab = FakeLab | KubernetesLab


@pytest.fixture
def one(workload_lab: Lab) -> str:
    """The id of the first workload."""
    return workload_lab.driver.list_workloads(workload_lab.fleet)[0].id


def seen(lab: Lab, workload: str) -> Progress:
    """As another process sees it."""
    return lab.again().progress(workload)


class TestLooking:
    def test_all_are_listed_in_their_order(self, workload_lab: Lab) -> None:
        first, second = workload_lab.again("two", "one").list_workloads(workload_lab.fleet)
        assert [each.id for each in workload_lab.driver.list_workloads(workload_lab.fleet)] == [second.id, first.id]

    def test_one_that_is_missing_is_an_error_and_not_left_out(self, workload_lab: Lab) -> None:
        workload_lab.remove("two")
        with pytest.raises(NotFound, match="two"):
            workload_lab.driver.list_workloads(workload_lab.fleet)

    def test_one_that_is_not_marked_as_ours_is_an_error(self, workload_lab: Lab) -> None:
        workload_lab.disown("two")
        with pytest.raises(NotOurs, match="two"):
            workload_lab.driver.list_workloads(workload_lab.fleet)

    def test_one_of_another_fleet_is_an_error(self, workload_lab: Lab) -> None:
        workload_lab.give_to("till", "two")
        with pytest.raises(NotOurs, match="two"):
            workload_lab.driver.list_workloads(workload_lab.fleet)

    def test_what_somebody_else_brought_is_a_revision_too(self, workload_lab: Lab, one: str) -> None:
        progress = seen(workload_lab, one)
        assert (progress.current.reference, progress.current.digest) == (reference("a"), digest("a"))
        assert (progress.current.version, progress.current.token) == ("", "")
        assert progress.current.started_at is not None
        assert progress.complete
        assert progress.healthy
        assert (progress.previous, progress.undone, progress.failure) == (None, None, "")
        assert (progress.desired, progress.updated, progress.available) == (REPLICAS,) * 3

    def test_one_that_is_gone_is_not_found(self, workload_lab: Lab, one: str) -> None:
        workload_lab.remove()
        with pytest.raises(NotFound):
            workload_lab.driver.progress(one)


class TestStart:
    def test_sets_the_image_by_digest_and_waits_for_nothing(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        before = seen(workload_lab, one).current
        workload_lab.driver.start(one, intent)
        assert workload_lab.image() == reference("b")
        progress = seen(workload_lab, one)
        assert not progress.complete
        assert (progress.current.digest, progress.current.version) == (digest("b"), intent.version)
        assert progress.current.key == intent.token
        assert progress.previous == before

    def test_is_complete_once_the_platform_has_rolled_it(self, workload_lab: Lab, one: str) -> None:
        workload_lab.driver.start(one, intent_for(workload_lab.fleet))
        workload_lab.finish()
        progress = seen(workload_lab, one)
        assert progress.complete
        assert progress.healthy
        assert progress.previous is not None

    def test_twice_is_once(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        once = workload_lab.truth()
        workload_lab.again().start(one, intent)
        assert workload_lab.truth() == once

    def test_the_same_token_with_other_parameters_is_refused(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        once = workload_lab.truth()
        with pytest.raises(IntentMismatch):
            workload_lab.driver.start(one, replace(intent, version="2026.11-2"))
        assert workload_lab.truth() == once

    def test_none_begins_before_the_last_is_settled(self, workload_lab: Lab, one: str) -> None:
        workload_lab.driver.start(one, intent_for(workload_lab.fleet))
        once = workload_lab.truth()
        with pytest.raises(InUse):
            workload_lab.driver.start(one, intent_for(workload_lab.fleet, "c", attempt=2))
        assert workload_lab.truth() == once

    def test_no_other_workload_is_touched(self, workload_lab: Lab, one: str) -> None:
        before = workload_lab.truth("two")
        workload_lab.driver.start(one, intent_for(workload_lab.fleet))
        assert workload_lab.truth("two") == before

    def test_a_rehearsal_changes_nothing(self, workload_lab: Lab, one: str) -> None:
        before = workload_lab.truth()
        workload_lab.driver.start(one, intent_for(workload_lab.fleet), dry_run=True)
        assert workload_lab.truth() == before
        workload_lab.driver.start(one, intent_for(workload_lab.fleet))
        assert workload_lab.image() == reference("b")

    def test_what_is_not_ours_is_not_touched(self, workload_lab: Lab, one: str) -> None:
        workload_lab.disown()
        before = workload_lab.truth()
        with pytest.raises(NotOurs):
            workload_lab.driver.start(one, intent_for(workload_lab.fleet))
        assert workload_lab.truth() == before

    def test_one_that_is_gone_is_not_found_and_not_made(self, workload_lab: Lab, one: str) -> None:
        workload_lab.remove()
        with pytest.raises(NotFound):
            workload_lab.driver.start(one, intent_for(workload_lab.fleet))


class TestProgress:
    def test_says_why_a_roll_comes_to_no_end(self, workload_lab: Lab, one: str) -> None:
        workload_lab.driver.start(one, intent_for(workload_lab.fleet))
        workload_lab.get_stuck()
        assert "ImagePullBackOff: there is no such image" in seen(workload_lab, one).failure

    def test_says_how_many_are_in_service(self, workload_lab: Lab, one: str) -> None:
        workload_lab.set_available(0)
        progress = seen(workload_lab, one)
        assert progress.available == 0
        assert not progress.healthy

    def test_an_image_that_somebody_sets_is_none_of_ours(self, workload_lab: Lab, one: str) -> None:
        workload_lab.driver.start(one, intent_for(workload_lab.fleet))
        workload_lab.set_by_hand(reference("f"))
        current = seen(workload_lab, one).current
        assert (current.digest, current.version, current.token) == (digest("f"), "", "")


class TestUndo:
    def test_goes_back_to_the_revision_before(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        before = seen(workload_lab, one).current
        workload_lab.driver.start(one, intent)
        workload_lab.driver.undo(one, intent.token)
        assert workload_lab.image() == reference("a")
        progress = seen(workload_lab, one)
        assert progress.current == before
        assert progress.previous is None
        assert progress.undone is not None
        assert progress.undone.key == intent.token
        workload_lab.finish()
        assert seen(workload_lab, one).complete

    def test_twice_is_once(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        workload_lab.driver.undo(one, intent.token)
        once = workload_lab.truth()
        workload_lab.again().undo(one, intent.token)
        assert workload_lab.truth() == once

    def test_what_was_undone_is_not_started_again_but_another_attempt_is(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        workload_lab.driver.undo(one, intent.token)
        workload_lab.driver.start(one, intent)
        assert workload_lab.image() == reference("a")
        again = intent_for(workload_lab.fleet, attempt=2)
        workload_lab.driver.start(one, again)
        assert workload_lab.image() == reference("b")
        assert seen(workload_lab, one).current.key == again.token

    def test_what_a_person_did_meanwhile_stays(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        workload_lab.set_by_hand(reference("f"))
        with pytest.raises(InvalidSpec):
            workload_lab.driver.undo(one, intent.token)
        assert workload_lab.image() == reference("f")

    def test_what_is_settled_is_not_undone(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        workload_lab.driver.settle(one, intent.token)
        with pytest.raises(InvalidSpec):
            workload_lab.driver.undo(one, intent.token)
        assert workload_lab.image() == reference("b")

    def test_what_is_not_ours_is_not_touched(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        workload_lab.disown()
        before = workload_lab.truth()
        for change in (workload_lab.driver.undo, workload_lab.driver.settle):
            with pytest.raises(NotOurs):
                change(one, intent.token)
        assert workload_lab.truth() == before


class TestSettle:
    def test_lets_what_was_before_be_over_and_rolls_nothing(self, workload_lab: Lab, one: str) -> None:
        intent = intent_for(workload_lab.fleet)
        workload_lab.driver.start(one, intent)
        workload_lab.finish()
        workload_lab.driver.settle(one, intent.token)
        progress = seen(workload_lab, one)
        assert progress.previous is None
        assert progress.current.key == intent.token
        workload_lab.finish()
        assert seen(workload_lab, one) == replace(progress, complete=True, updated=REPLICAS, message=ANY)
        assert workload_lab.image() == reference("b")

    def test_twice_is_once_and_of_another_revision_nothing(self, workload_lab: Lab, one: str) -> None:
        first, second = intent_for(workload_lab.fleet), intent_for(workload_lab.fleet, "c", attempt=2)
        workload_lab.driver.start(one, first)
        workload_lab.driver.settle(one, first.token)
        workload_lab.driver.start(one, second)
        once = workload_lab.truth()
        workload_lab.again().settle(one, first.token)
        assert workload_lab.truth() == once
        progress = seen(workload_lab, one)
        assert progress.previous is not None
        assert progress.previous.key == first.token
