"""Stages and machines as they are shown."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from lab.progress import Screen, clock, label, machine_table, stage_table, stages
from phoenix_fleet.catalog.records import SlotRecord, SlotState
from phoenix_fleet.domain.steps import Step

BEGAN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
NOW = BEGAN + timedelta(seconds=90)


def task(task_id: str, state: str | None, *, began: int | None = 0, ended: int | None = None, index: int = -1) -> Any:
    def at(seconds: int | None) -> str | None:
        return None if seconds is None else (BEGAN + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    return {
        "task_id": task_id,
        "state": state,
        "map_index": index,
        "rendered_map_index": None,
        "start_date": at(began),
        "end_date": at(ended),
    }


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([None, None], "waiting"),
        (["success", None], "running"),
        (["running", "success"], "running"),
        (["queued", None], "running"),
        (["success", "success"], "done"),
        (["success", "skipped"], "done"),
        (["skipped", "skipped"], "skipped"),
        (["upstream_failed", "upstream_failed"], "skipped"),
        (["success", "failed", "upstream_failed"], "failed"),
        (["failed", "running"], "failed"),
        (["awaiting_input"], "waits for you"),
    ],
)
def test_the_state_of_a_stage(states: list[str | None], expected: str) -> None:
    tasks = [task(f"test.t{number}", state) for number, state in enumerate(states)]
    assert [stage.state for stage in stages(tasks, NOW)] == [expected]


def test_stages_come_in_their_order_with_side_roads_only_when_taken() -> None:
    tasks = [
        task("release.publish", None, began=None),
        task("gate", "success", ended=70),
        task("reject", "skipped"),
        task("build.packer", "success", ended=40, index=0),
        task("approve", "awaiting_input", began=71),
    ]
    assert [stage.name for stage in stages(tasks, NOW)] == ["build", "gate", "approve", "release"]
    assert [stage.name for stage in stages([task("reject", "failed"), task("gate", "success")], NOW)] == [
        "gate",
        "reject",
    ]


def test_a_stage_counts_its_time_and_names_what_is_busy() -> None:
    one = task("test.measure", "running", began=30, index=1) | {"rendered_map_index": "docker: hygiene"}
    (stage,) = stages([one, task("test.launch", "success", began=10, ended=29)], NOW)
    assert (stage.done, stage.total, stage.seconds) == (1, 2, 80)
    assert stage.busy == ("test.measure [docker: hygiene]",)
    (over,) = stages([task("test.launch", "success", began=10, ended=29)], NOW)
    assert over.seconds == 19


def test_labels() -> None:
    assert label(task("gate", "success")) == "gate"
    assert label(task("build.packer", "success", index=2)) == "build.packer [2]"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1:00"), (125, "2:05")])
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def slot(name: str, state: SlotState, step: Step | None, **more: Any) -> SlotRecord:
    return SlotRecord(
        seq=1,
        slot=name,
        wave=0,
        state=state,
        step=step,
        attempt=1,
        token=1,
        holder="",
        lease_until=None,
        old_instance="",
        new_instance="",
        reason="outdated: 2026.10-1",
        **more,
    )


def screen() -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=100)
    return Screen(console, lambda: {"sent": 7, "failed": 0, "p99_ms": 3.0, "releases": {}}), out


def test_without_a_terminal_each_change_is_one_line() -> None:
    shown, out = screen()
    machine = slot("web-01", SlotState.RUNNING, Step.LAUNCH)
    with shown:
        work = stages([task("build.packer", "running")], NOW)
        shown.show("image.x", work, [])
        shown.show("image.x", work, [])
        shown.show("fleet.web", [], [machine, slot("web-02", SlotState.WAITING, None)])
        shown.show(
            "fleet.web",
            [],
            [
                slot(
                    "web-01", SlotState.DONE, Step.TERMINATE, started_at=BEGAN, finished_at=BEGAN + timedelta(seconds=9)
                )
            ],
        )
    assert out.getvalue().splitlines() == [
        "  image.x build: running",
        "  fleet.web web-01: running at launch",
        "  fleet.web web-01: done after 9 s",
    ]


def test_tables_show_what_people_need() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120)
    failed = slot("web-02", SlotState.FAILED, Step.VERIFY, message="health: status 503", started_at=BEGAN)
    console.print(machine_table([slot("web-01", SlotState.RUNNING, Step.WATCH, started_at=BEGAN), failed], NOW))
    console.print(stage_table(stages([task("certify.x", "failed", ended=61)], NOW)))
    text = out.getvalue()
    for part in ("web-01", "watch", "1:30", "web-02", "verify", "health: status 503", "certify", "failed", "1:01"):
        assert part in text
