"""What the demo shows while it runs: stages, machines and traffic; live on a terminal, line by line elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from phoenix_fleet.catalog.records import SlotRecord

STAGES = ("build", "test", "certify", "stage", "gate", "approve", "release")
_STYLES = {"done": "green", "success": "green", "failed": "bold red", "running": "cyan", "waits for you": "bold yellow"}
_UNDER_WAY = ("running", "queued", "scheduled", "deferred", "up_for_retry", "restarting", "awaiting_input")


@dataclass(frozen=True)
class Stage:
    """One stage of a run, as its tasks say."""

    name: str
    state: str
    """``waiting``, ``running``, ``waits for you``, ``done``, ``skipped`` or ``failed``."""
    done: int
    total: int
    busy: tuple[str, ...]
    """What is being worked on now."""
    seconds: float


def stages(tasks: Sequence[Mapping[str, Any]], now: datetime) -> list[Stage]:
    """The stages of an image run in their order. A stage is what stands before the first dot of a task's id."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for task in tasks:
        groups.setdefault(str(task["task_id"]).partition(".")[0], []).append(task)
    known = [name for name in STAGES if name in groups]
    others = [name for name in groups if name not in STAGES and _state(groups[name]) not in ("waiting", "skipped")]
    return [_stage(name, groups[name], now) for name in (*known, *others)]


def _stage(name: str, tasks: Sequence[Mapping[str, Any]], now: datetime) -> Stage:
    busy = [label(task) for task in tasks if task["state"] in _UNDER_WAY and task["start_date"]]
    begun = [_moment(task["start_date"]) for task in tasks if task["start_date"]]
    state = _state(tasks)
    over = state in ("done", "failed", "skipped")
    end = max((_moment(task["end_date"]) for task in tasks if task["end_date"]), default=now) if over else now
    seconds = (end - min(begun)).total_seconds() if begun else 0.0
    done = sum(task["state"] in ("success", "skipped", "removed") for task in tasks)
    return Stage(name, state, done, len(tasks), tuple(busy), seconds)


def _state(tasks: Sequence[Mapping[str, Any]]) -> str:
    states = {task["state"] for task in tasks}
    if "awaiting_input" in states:
        return "waits for you"
    if states & {"failed"}:
        return "failed"
    if states & set(_UNDER_WAY):
        return "running"
    if states <= {"skipped", "removed", "upstream_failed"}:
        return "skipped"
    return "done" if states <= {"success", "skipped", "removed"} else "running" if "success" in states else "waiting"


def label(task: Mapping[str, Any]) -> str:
    """A task instance in few words: ``certify.docker.unit_tests [shop-api]``."""
    mapped = task.get("rendered_map_index") or (str(task["map_index"]) if task["map_index"] >= 0 else "")
    return f"{task['task_id']} [{mapped}]" if mapped else str(task["task_id"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def clock(seconds: float) -> str:
    """Seconds for people: ``7 s``, ``2:05``."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


class Screen:
    """The terminal. ``say`` leaves a line for good; ``show`` replaces what is shown of the work under way."""

    def __init__(self, console: Console, traffic: Callable[[], Mapping[str, Any]]) -> None:
        self.console = console
        self._traffic = traffic
        self._live: Live | None = None
        self._told: dict[str, str] = {}

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def hide(self) -> None:
        """Show nothing of work under way any more."""
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """One line that stays."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def show(self, title: str, work: Sequence[Stage], machines: Sequence[SlotRecord]) -> None:
        """How far things are now."""
        if self._live:
            self._live.update(Group(Text(title, style="bold"), *self._tables(work, machines), self._traffic_line()))
            return
        for stage in work:
            took = f" in {clock(stage.seconds)}" if stage.state in ("done", "failed") else ""
            self._tell(f"{title} {stage.name}", f"{stage.state}{took}")
        for machine in machines:
            step = f" at {machine.step}" if machine.step and machine.state != "done" else ""
            took = f" after {clock(machine.seconds)}" if machine.seconds else ""
            self._tell(f"{title} {machine.slot}", f"{machine.state}{step}{took}")

    def _tell(self, what: str, state: str) -> None:
        # Once over, only a change of state is news: a stage's time may still grow while it clears up.
        if self._told.get(what, "waiting").split(" in ")[0] == state.split(" in ")[0]:
            return
        self._told[what] = state
        self.say(f"  {what}: {state}")

    def _tables(self, work: Sequence[Stage], machines: Sequence[SlotRecord]) -> list[RenderableType]:
        found: list[RenderableType] = []
        if work:
            found.append(stage_table(work))
        if machines:
            found.append(machine_table(machines, datetime.now(UTC)))
        return found

    def _traffic_line(self) -> Text:
        seen = self._traffic()
        shares = ", ".join(f"{count} by {release}" for release, count in sorted(seen["releases"].items()))
        text = f"traffic: {seen['sent']} sent, {seen['failed']} failed, p99 {seen['p99_ms']:.0f} ms ({shares})"
        return Text(text, style="bold red" if seen["failed"] else "green")


def stage_table(work: Sequence[Stage]) -> Table:
    """Stages, one a line."""
    table = Table("stage", "state", "tasks", "time", "now", box=None, header_style="dim")
    for stage in work:
        state = Text(stage.state, style=_STYLES.get(stage.state, "dim"))
        took = clock(stage.seconds) if stage.seconds else ""
        table.add_row(stage.name, state, f"{stage.done}/{stage.total}", took, ", ".join(stage.busy)[:80])
    return table


def machine_table(machines: Sequence[SlotRecord], now: datetime) -> Table:
    """Machines in the order of their replacement."""
    table = Table("machine", "wave", "state", "step", "time", "why", box=None, header_style="dim")
    for machine in machines:
        seconds = machine.seconds
        if seconds is None and machine.started_at and machine.state == "running":
            seconds = (now - machine.started_at).total_seconds()
        table.add_row(
            machine.slot,
            str(machine.wave) if machine.wave else "canary",
            Text(str(machine.state), style=_STYLES.get(str(machine.state), "dim")),
            str(machine.step or ""),
            clock(seconds) if seconds is not None else "",
            machine.message or machine.reason,
        )
    return table
