"""What Airflow does by itself, seen to happen: the reasons for tickets, tokens and one task per replacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.orchestration.project import moment
from tests.orchestration.stack import Stack, until

pytestmark = [pytest.mark.orchestration, pytest.mark.filterwarnings("ignore")]

DAGS = ("plain.siblings", "plain.fail_fast", "plain.groups", "plain.start_from_trigger", "plain.approval")


@pytest.fixture(scope="module")
def runs(stack: Stack) -> dict[str, str]:
    """A run of each, all at once."""
    return {dag_id: stack.user.trigger(dag_id, {}) for dag_id in DAGS}


def started(tasks: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Task and map index, in the order in which they started."""
    ran = [each for each in tasks if each["start_date"]]
    ran.sort(key=lambda each: moment(each["start_date"]))
    return [(each["task_id"].rpartition(".")[2], int(each["map_index"])) for each in ran]


def test_mapped_siblings_go_on_after_a_failure(stack: Stack, runs: dict[str, str]) -> None:
    assert stack.user.wait("plain.siblings", runs["plain.siblings"]) == "failed"
    states = stack.user.states("plain.siblings", runs["plain.siblings"], "fails_at_one")
    assert states == ["success", "failed", "success"]


def test_fail_fast_stops_no_sibling_and_ends_green(stack: Stack, runs: dict[str, str]) -> None:
    assert stack.user.wait("plain.fail_fast", runs["plain.fail_fast"]) == "success"
    states = stack.user.states("plain.fail_fast", runs["plain.fail_fast"], "fails_at_one")
    assert states == ["success", "failed", "success"]
    assert stack.user.states("plain.fail_fast", runs["plain.fail_fast"], "after") == ["skipped"]


def test_mapped_groups_interleave(stack: Stack, runs: dict[str, str]) -> None:
    assert stack.user.wait("plain.groups", runs["plain.groups"]) == "success"
    order = started(stack.user.tasks("plain.groups", runs["plain.groups"]))
    assert order.index(("drain", 1)) < order.index(("replace", 0)) or order.index(("drain", 2)) < order.index(
        ("replace", 1)
    ), order


def test_start_from_trigger_ignores_every_limit(stack: Stack, runs: dict[str, str]) -> None:
    dag_id, run_id = "plain.start_from_trigger", runs["plain.start_from_trigger"]
    tasks = until(_all_ended(stack, dag_id, run_id), "every wait to end")
    first_end = min(moment(each["end_date"]) for each in tasks)
    assert len(tasks) == 4
    assert all(moment(each["start_date"]) < first_end for each in tasks), "one at a time would be one after another"


def test_a_rejected_approval_lets_the_next_but_one_go_ahead(stack: Stack, runs: dict[str, str]) -> None:
    dag_id, run_id = "plain.approval", runs["plain.approval"]
    (question,) = until(lambda: stack.approver.questions(dag_id, run_id), "the question")
    stack.approver.answer(question["task_instance"], "Reject", "no")
    assert stack.user.wait(dag_id, run_id) == "success"
    assert stack.user.states(dag_id, run_id, "wave_2") == ["success"]


def _all_ended(stack: Stack, dag_id: str, run_id: str) -> Callable[[], list[dict[str, Any]]]:
    def ended() -> list[dict[str, Any]]:
        tasks = stack.user.tasks(dag_id, run_id)
        return tasks if tasks and all(each["end_date"] for each in tasks) else []

    return ended
