"""``phoenix simulate``: how likely a rollout is to be in time, and what would make it likelier."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from phoenix_fleet import cli_show
from phoenix_fleet.cli_asked import DEFAULT_TRIALS, Asked
from phoenix_fleet.config import Project
from phoenix_fleet.domain.calendars import Calendar
from phoenix_fleet.domain.durations import Durations
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.fleets import FleetShape
from phoenix_fleet.domain.montecarlo import Simulation, Trouble, exactly, levers, simulate
from phoenix_fleet.domain.pacing import Group, Limits, Outlook, Quota, Todo, find_pace, groups_of
from phoenix_fleet.domain.waves import wave_of
from phoenix_fleet.domain.windows import Window

if TYPE_CHECKING:
    from rich.table import Table

    from phoenix_fleet.rollout.history import History

PERCENTS = (10, 50, 90, 99)
_TENTHS = range(90, -1, -10)

Told = tuple[dict[str, Any], "list[Table]", Callable[[Path], None]]
"""The same for programs, for people, and as a picture."""


@dataclass(frozen=True)
class Case:
    """What is to be simulated, and where its figures come from."""

    name: str
    outlook: Outlook
    trouble: Trouble
    durations_from: str
    trouble_from: str
    budget_key: str = "max_surge"


def command(
    fleet: Annotated[str | None, typer.Argument(help="Takes its file and its history. Default: the options.")] = None,
    size: Annotated[int | None, typer.Option(help="Machines to replace. Default: all that the file has.")] = None,
    median: Annotated[float | None, typer.Option(help="Seconds that one usually takes. Default: measured.")] = None,
    p95: Annotated[
        float | None, typer.Option(help="Seconds that 95 of 100 do not exceed. Default: measured, or twice --median.")
    ] = None,
    failure_rate: Annotated[
        float | None, typer.Option(help="Share of attempts that fail and halt it. Default: measured, or 0.01.")
    ] = None,
    repair_hours: Annotated[
        float | None, typer.Option(help="Hours from a halt until a person resumes. Default: measured, or 4.")
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(help="When replacements may begin: 'Mon-Fri 22:00-04:00 Europe/Berlin', or always. Repeatable."),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="'2026-11-30 00:00' (UTC), or 7d after the start. Default: the fleet's, or none.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="'2026-11-02 22:00' (UTC). Default: now.")] = None,
    max_in_flight: Annotated[
        int | None, typer.Option(help="Most under way at once. Default: the file's, or 1.")
    ] = None,
    max_surge: Annotated[
        int | None, typer.Option(help="Extra instances allowed. Default: the file's, or --max-in-flight.")
    ] = None,
    launches_per_hour: Annotated[
        int | None, typer.Option(help="Most launches that the platform takes. Default: the file's, or any number.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help=f"How often it is played. Default: {DEFAULT_TRIALS}.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same luck. Default: 0.")] = None,
    replay: Annotated[
        int | None, typer.Option(help="Play this past rollout again, with the seconds that it took.")
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw a picture: FILE.svg or FILE.png.")] = None,
    include: Annotated[
        Path | None, typer.Option(help="The project's include/ folder. Default: PHOENIX_INCLUDE, or ours.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Play a rollout many times: how likely it is in time, when it ends, and what would help. Touches nothing."""
    asked = Asked(
        size=size, median=median, p95=p95, failure_rate=failure_rate, repair_hours=repair_hours,
        windows=tuple(window) if window else None, deadline=deadline, start=start, max_in_flight=max_in_flight,
        max_surge=max_surge, launches_per_hour=launches_per_hour, trials=trials, seed=seed, chart=chart,
    )  # fmt: skip
    asked.check()
    if replay is not None:
        from phoenix_fleet import cli_replay

        data, tables, draw = cli_replay.run(replay, fleet, asked)
    elif fleet is not None:
        data, tables, draw = run(_by_fleet(Project(include) if include else Project.find(), fleet, asked), asked)
    else:
        data, tables, draw = run(_by_options(asked), asked)
    if chart is not None:
        draw(chart)
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    for each in tables:
        cli_show.console().print(each)
    if chart is not None:
        typer.echo(f"picture: {chart}")


def run(case: Case, asked: Asked) -> Told:
    """The simulation of that case and of everything that might help it."""
    trials, seed = asked.trials or DEFAULT_TRIALS, asked.seed or 0
    might = levers(case.outlook, case.trouble, budget_key=case.budget_key)
    with progress(trials * (1 + len(might))) as tick:
        found = simulate(case.outlook, case.trouble, trials=trials, seed=seed, tick=tick)
        others = [
            (each.change, simulate(each.outlook, each.trouble, trials=trials, seed=seed, tick=tick)) for each in might
        ]
    data = _data(case, found, others, seed)

    def draw(path: Path) -> None:
        from phoenix_fleet import cli_chart

        cli_chart.draw_simulation(path, found, case.name)

    return data, list(_tables(case, found, data)), draw


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """What to call after each of so many; shows a bar where somebody looks, and leaves nothing behind."""
    console = cli_show.console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def groups_in(shape: FleetShape, count: int) -> tuple[Group, ...]:
    """So many replacements in the waves of that fleet; the first goes alone."""
    waves = (wave_of(position, shape.canary, shape.waves) for position in range(count))
    return groups_of([Todo((wave,)) for wave in waves], one_first=True)


def _by_options(asked: Asked) -> Case:
    """A fleet that has no file, in the waves of a file that says nothing of them."""
    if asked.size is None or asked.median is None:
        raise InvalidConfig("Nothing says what to simulate.", remedy="Name a fleet, or give --size and --median.")
    at_once, start = asked.max_in_flight or 1, asked.begins()
    surge = at_once if asked.max_surge is None else asked.max_surge
    shape = FleetShape("", (), 1, (math.ceil(asked.size / 4), asked.size), surge, 0, at_once)
    budget = shape.budget
    outlook = Outlook(
        now=start,
        groups=groups_in(shape, asked.size),
        durations=_given(asked.median, asked.p95),
        limits=Limits(at_once, budget.max_surge or budget.max_unavailable, Quota(None, asked.launches_per_hour)),
        calendar=asked.calendar(Calendar()),
        deadline=asked.ends(start),
    )
    return Case("a fleet", outlook, _trouble(asked, Trouble(0.01)), "given", _trouble_from(asked, "guessed"))


def _by_fleet(project: Project, name: str, asked: Asked) -> Case:
    """What its file and its history say, and what was asked in their place."""
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.rollout.durations import durations_of
    from phoenix_fleet.rollout.history import history_of
    from phoenix_fleet.rollout.pacing import budget_key, deadline_of, limits_of
    from phoenix_fleet.rollout.planning import calendar_of, shape_of

    fleet = project.fleet(name)
    with Catalog.from_environment() as catalog:
        durations, history = durations_of(catalog, fleet), history_of(catalog, name)
        measured = len(catalog.rollouts.recent_seconds(name))
    start = asked.begins()
    fleet = asked.over(fleet)
    waived = sum(1 for each in fleet.waivers if each.ends > start)
    if asked.median is not None or asked.p95 is not None:
        durations = _given(asked.median or durations.typical.total_seconds(), asked.p95)
    outlook = Outlook(
        now=start,
        groups=groups_in(shape_of(fleet), fleet.size - waived),
        durations=durations,
        limits=limits_of(fleet),
        calendar=asked.calendar(calendar_of(fleet)),
        deadline=asked.ends(start, deadline_of(fleet, Window.of(start), start)),
    )
    given = asked.median is not None or asked.p95 is not None
    return Case(
        name=name,
        outlook=outlook,
        trouble=_trouble(asked, history.trouble),
        durations_from="given" if given else f"{measured} measured" if measured else "guessed",
        trouble_from=_trouble_from(asked, _told(history)),
        budget_key=budget_key(fleet),
    )


def _given(median: float, p95: float | None) -> Durations:
    slow = 2 * median if p95 is None else p95
    if slow < median:
        raise InvalidConfig(
            f"--p95 {slow:g} is less than the median, {median:g} seconds.", remedy="Give --median as well."
        )
    return exactly(timedelta(seconds=median), timedelta(seconds=slow))


def _trouble(asked: Asked, default: Trouble) -> Trouble:
    rate = default.rate if asked.failure_rate is None else asked.failure_rate
    hours = default.repair / timedelta(hours=1) if asked.repair_hours is None else asked.repair_hours
    return Trouble(rate, timedelta(hours=hours))


def _told(history: History) -> str:
    """What was seen of failures and halts, for people."""
    tried = history.done + history.failed
    return f"{history.failed} of {tried} attempts failed, {len(history.halts)} halts resumed" if tried else "guessed"


def _trouble_from(asked: Asked, default: str) -> str:
    given = [name for name in ("failure_rate", "repair_hours") if getattr(asked, name) is not None]
    return "given" if len(given) == 2 else f"{given[0].replace('_', ' ')} given; {default}" if given else default


def _data(case: Case, found: Simulation, others: list[tuple[str, Simulation]], seed: int) -> dict[str, Any]:
    outlook, pace = case.outlook, find_pace(case.outlook)
    dated = outlook.deadline is not None
    return {
        "fleet": case.name,
        "replacements": outlook.left,
        "at_once": outlook.limits.most,
        "at_once_because": outlook.limits.why(),
        "pace": {"at_once": pace.concurrency, "reason": pace.reason},
        "median_seconds": round(outlook.durations.typical.total_seconds(), 1),
        "p95_seconds": round(outlook.durations.slow.total_seconds(), 1),
        "durations_from": case.durations_from,
        "failure_rate": round(case.trouble.rate, 4),
        "repair_hours": round(case.trouble.repair / timedelta(hours=1), 2),
        "trouble_from": case.trouble_from,
        "windows": [str(each) for each in outlook.calendar.windows],
        "freezes": [each.reason for each in outlook.calendar.freezes],
        "start": outlook.now.isoformat(),
        "deadline": outlook.deadline.isoformat() if outlook.deadline else None,
        "trials": found.trials,
        "seed": seed,
        "probability": round(found.probability, 4) if dated else None,
        "probability_bounds": [round(each, 4) for each in found.bounds] if dated else None,
        "expected_halts": round(found.expected_halts, 2),
        "finish_seconds": {f"p{each}": _number(found.done_by(each)) for each in PERCENTS},
        "levers": [
            {
                "change": change,
                "probability": round(each.probability, 4) if dated else None,
                "finish_seconds": {f"p{percent}": _number(each.done_by(percent)) for percent in PERCENTS},
            }
            for change, each in others
        ],
        "burn_down": [
            {"left": left, **{f"p{each}_seconds": _number(at) for each, at in zip((10, 50, 90), times, strict=True)}}
            for left, times in found.band(10, 50, 90)
        ],
    }


def _tables(case: Case, found: Simulation, data: dict[str, Any]) -> Iterator[Table]:
    outlook = case.outlook
    left, at_once = data["replacements"], data["at_once"]
    took = f"{length(data['median_seconds'])}, 95 of 100 within {length(data['p95_seconds'])}"
    facts = [
        ("each takes", f"{took} ({case.durations_from})"),
        ("attempts that fail", f"{case.trouble.rate:.1%}, resumed after {data['repair_hours']:g} h "
                               f"({case.trouble_from})"),
        ("may begin", "; ".join(data["windows"]) or "always"),
        ("begins", moment(outlook.now, 0.0)),
        ("deadline", moment(outlook.deadline, 0.0) if outlook.deadline else "none"),
        ("at once", f"{at_once}: {data['at_once_because']}; the pacer would take {data['pace']['at_once']}: "
                    f"{data['pace']['reason']}"),
        ("in time", _likely(found)),
        *((f"done, p{each}", moment(outlook.now, found.done_by(each))) for each in PERCENTS),
        ("halts", f"{found.expected_halts:.1f} expected"),
    ]  # fmt: skip
    yield cli_show.table(
        f"{case.name}: {left} replacements, {found.trials} trials, seed {data['seed']}", ["", ""], facts
    )
    if data["levers"]:
        rows = [
            [
                each["change"],
                _share(each["probability"]),
                *(_after(each["finish_seconds"][f"p{key}"]) for key in (50, 90)),
            ]
            for each in data["levers"]
        ]
        now = ["as it is", _share(data["probability"]), _after(found.done_by(50)), _after(found.done_by(90))]
        yield cli_show.table("what would change that", ["change", "in time", "p50", "p90"], [now, *rows])
    band = {row[0]: row[1] for row in found.band(10, 50, 90)}
    tenths = dict.fromkeys(min(band, key=lambda key: abs(key - left * tenth / 100)) for tenth in _TENTHS)
    rows = [[key, *(_after(at) for at in band[key])] for key in tenths]
    yield cli_show.table("how many are left, and when", ["left", "p10", "p50", "p90"], rows)


def length(seconds: float | None) -> str:
    """So much time, for people."""
    if seconds is None or not math.isfinite(seconds):
        return "never"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def moment(start: datetime, seconds: float) -> str:
    """That long after the start, for people."""
    if not math.isfinite(seconds):
        return "never"
    when = start + timedelta(seconds=round(seconds))
    return f"{when:%Y-%m-%d %H:%M} UTC" + (f" (after {length(seconds)})" if seconds else "")


def _after(seconds: float | None) -> str:
    return "never" if seconds is None or not math.isfinite(seconds) else f"after {length(seconds)}"


def _share(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.1%}"


def _likely(found: Simulation) -> str:
    if found.outlook.deadline is None:
        return "there is no deadline"
    low, high = found.bounds
    return f"{found.probability:.1%} of the trials: a probability of {low:.1%} to {high:.1%}"


def _number(seconds: float) -> float | None:
    return round(seconds, 1) if math.isfinite(seconds) else None
