"""``phoenix simulate --replay``: a past rollout again, with the seconds that it took, at other speeds and windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phoenix_fleet import cli_show
from phoenix_fleet.catalog.records import RolloutRecord, SlotRecord, SlotState
from phoenix_fleet.cli_asked import Asked
from phoenix_fleet.cli_simulate import Told, length, moment
from phoenix_fleet.domain.durations import Durations
from phoenix_fleet.domain.errors import InvalidConfig, NotFound
from phoenix_fleet.domain.montecarlo import replay, with_room
from phoenix_fleet.domain.pacing import Limits, Outlook, Todo, groups_of
from phoenix_fleet.rollout.history import History, history_of
from phoenix_fleet.rollout.pacing import deadline_of, limits_of
from phoenix_fleet.rollout.planning import calendar_of, frozen_fleet

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

_TRIED = (1, 2, 4, 8)
"""At so many at once it is played again, as far as its waves have so many."""
_CHANCE = ("size", "median", "p95", "failure_rate", "repair_hours", "start", "trials", "seed")


@dataclass(frozen=True)
class _Past:
    """What the catalog says of one replacement; moments in seconds after the rollout opened."""

    wave: int
    began: float
    ended: float
    seconds: float


def run(rollout_id: int, fleet: str | None, asked: Asked) -> Told:
    """What really happened, and the same again in other ways.

    :raises InvalidConfig: an option is given that leaves something to chance: here nothing is.
    :raises NotFound: there is no such rollout, or none of its replacements was measured.
    """
    from phoenix_fleet.catalog import Catalog

    asked.refuse(*_CHANCE, why="a replay leaves nothing to chance, and takes it from the rollout.")
    with Catalog.from_environment() as catalog:
        rollout = catalog.rollouts.get(rollout_id)
        if fleet is not None and fleet != rollout.fleet:
            raise InvalidConfig(f"Rollout {rollout_id} was of {rollout.fleet}, not of {fleet}.")
        past = _past_of(catalog, rollout)
        history = history_of(catalog, rollout.fleet, rollout.id)
    outlook = _outlook(rollout, past, asked)
    really = _really(past, outlook, history)
    again = [_again(outlook, past, count, asked) for count in _counts(outlook, asked)]
    late = None if outlook.deadline is None else (outlook.deadline - outlook.now).total_seconds()
    title = f"rollout {rollout.id} of {rollout.fleet} to {rollout.version}: {len(past)} replacements"
    rows = [really, *(each for each, _ in again)]
    data: dict[str, Any] = {
        "rollout": rollout.id,
        "fleet": rollout.fleet,
        "version": str(rollout.version),
        "replacements": len(past),
        "opened_at": rollout.opened_at.isoformat(),
        "deadline": outlook.deadline.isoformat() if outlook.deadline else None,
        "windows": [str(each) for each in outlook.calendar.windows],
        "seconds": [round(each.seconds, 1) for each in past],
        "courses": rows,
    }

    def draw(path: Path) -> None:
        from phoenix_fleet import cli_chart

        lines = [(str(row["how"]), ends) for row, ends in again]
        cli_chart.draw_replay(path, [("really", [each.ended for each in past]), *lines], late, title)

    return data, [_table(title, rows, rollout.opened_at, data["windows"])], draw


def _past_of(catalog: Catalog, rollout: RolloutRecord) -> list[_Past]:
    """Its finished replacements in the order in which they began."""
    slots = [each for each in catalog.rollouts.slots(rollout.id) if each.state is SlotState.DONE and each.new_instance]
    found = [_measured(each, rollout.opened_at) for each in slots]
    past = sorted((each for each in found if each), key=lambda each: (each.wave, each.began))
    if not past:
        raise NotFound(f"Rollout {rollout.id} of {rollout.fleet} has replaced nothing, so there is nothing to replay.")
    return past


def _measured(slot: SlotRecord, opened: datetime) -> _Past | None:
    if slot.began_at is None or slot.finished_at is None or slot.seconds is None:
        return None
    began, ended = (slot.began_at - opened).total_seconds(), (slot.finished_at - opened).total_seconds()
    return _Past(slot.wave, began, ended, max(0.0, slot.seconds))


def _outlook(rollout: RolloutRecord, past: Sequence[_Past], asked: Asked) -> Outlook:
    fleet = asked.over(frozen_fleet(rollout))
    start = rollout.opened_at
    return Outlook(
        now=start,
        groups=groups_of([Todo((each.wave,)) for each in past]),
        durations=Durations.guess(timedelta(seconds=1), timedelta(seconds=1)),  # every one is known
        limits=limits_of(fleet),
        calendar=asked.calendar(calendar_of(fleet)),
        deadline=asked.ends(start, deadline_of(fleet, rollout.window, start)),
    )


def _counts(outlook: Outlook, asked: Asked) -> list[int]:
    """How many at once it is played with: those that were asked for, or a few."""
    if asked.max_in_flight is not None or asked.max_surge is not None:
        return [outlook.limits.most]
    largest = max(group.count for group in outlook.groups)
    return sorted({outlook.limits.most, *(each for each in _TRIED if each <= largest)})


def _again(outlook: Outlook, past: Sequence[_Past], count: int, asked: Asked) -> tuple[dict[str, Any], Sequence[float]]:
    filed = count == outlook.limits.most and asked.max_in_flight is None and asked.max_surge is None
    limits = with_room(_narrow(outlook.limits, count), count)
    found = replay(replace(outlook, limits=limits), [each.seconds for each in past])
    row = {
        "how": f"again, {count} at once" + (", as its file said" if filed else ""),
        "at_once": count,
        "seconds": round(found.end, 1) if found.end != float("inf") else None,
        "in_time": found.in_time if outlook.deadline else None,
        "note": "no halts, no waiting for anybody",
    }
    return row, found.ends


def _narrow(limits: Limits, count: int) -> Limits:
    return replace(limits, max_in_flight=min(limits.max_in_flight, count))


def _really(past: Sequence[_Past], outlook: Outlook, history: History) -> dict[str, Any]:
    end, busy = max(each.ended for each in past), _busy(past)
    halted = sum(history.halts, timedelta()).total_seconds()
    note = f"{length(max(0.0, end - busy))} with nothing under way"
    if history.halts:
        note += f"; {len(history.halts)} halts, {length(halted)} in all"
    if history.failed:
        note += f"; {history.failed} attempts failed"
    late = outlook.deadline is not None and outlook.now + timedelta(seconds=end) > outlook.deadline
    return {
        "how": "really",
        "at_once": _most_at_once(past),
        "seconds": round(end, 1),
        "in_time": not late if outlook.deadline else None,
        "note": note,
    }


def _busy(past: Sequence[_Past]) -> float:
    """For how many seconds at least one was under way."""
    busy, until = 0.0, 0.0
    for each in sorted(past, key=lambda each: each.began):
        busy += max(0.0, each.ended - max(each.began, until))
        until = max(until, each.ended)
    return busy


def _most_at_once(past: Sequence[_Past]) -> int:
    changes: Counter[float] = Counter()
    for each in past:
        changes[each.began] += 1
        changes[each.ended] -= 1
    most = under_way = 0
    for at in sorted(changes):
        under_way += changes[at]
        most = max(most, under_way)
    return most


def _table(title: str, rows: Sequence[dict[str, Any]], start: datetime, windows: Sequence[str]) -> Any:
    cells = [
        [row["how"], row["at_once"], "never" if row["seconds"] is None else moment(start, row["seconds"]),
         {None: "no deadline", True: "yes", False: "no"}[row["in_time"]], row["note"]]
        for row in rows
    ]  # fmt: skip
    return cli_show.table(
        f"{title}; begins {'; '.join(windows) or 'at any time'}", ["", "at once", "done", "in time", ""], cells
    )
