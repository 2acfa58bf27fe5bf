"""What ``phoenix simulate`` was asked: its options, each checked and turned into what the domain calculates with."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from phoenix_fleet.config import Duration, Fleet
from phoenix_fleet.configcalendar import LocalMoment, Maintenance
from phoenix_fleet.domain.calendars import DAYS, Calendar, Weekly
from phoenix_fleet.domain.errors import InvalidConfig

MOST_MACHINES, MOST_TRIALS = 100_000, 1_000_000
DEFAULT_TRIALS = 1000
PICTURES = (".svg", ".png")
_NUMBERS: dict[str, tuple[float, float, str]] = {
    "size": (1, MOST_MACHINES, "machines"),
    "median": (1, 30 * 86400, "seconds"),
    "p95": (1, 30 * 86400, "seconds"),
    "failure_rate": (0, 0.9, "of all attempts: write 0.02 for two in a hundred"),
    "repair_hours": (0, 1000, "hours"),
    "max_in_flight": (1, MOST_MACHINES, "at once"),
    "max_surge": (0, MOST_MACHINES, "extra instances"),
    "launches_per_hour": (1, 1_000_000, "launches"),
    "trials": (10, MOST_TRIALS, "trials"),
    "seed": (0, 2**63, "as a seed"),
}
_WINDOW = re.compile(
    r"(?:(?P<days>[A-Za-z]+(?:[-,][A-Za-z]+)*) +)?(?P<opens>\d\d:\d\d) *- *(?P<closes>\d\d:\d\d)(?: +(?P<zone>\S+))?"
)


@dataclass(frozen=True)
class Asked:
    """The options as they were given; None for those that were not."""

    size: int | None = None
    median: float | None = None
    p95: float | None = None
    failure_rate: float | None = None
    repair_hours: float | None = None
    windows: tuple[str, ...] | None = None
    deadline: str | None = None
    start: str | None = None
    max_in_flight: int | None = None
    max_surge: int | None = None
    launches_per_hour: int | None = None
    trials: int | None = None
    seed: int | None = None
    chart: Path | None = None

    def check(self) -> None:
        """Return if each makes sense by itself. :raises InvalidConfig: naming the first that does not."""
        for name, (least, most, unit) in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and least <= value <= most):
                raise InvalidConfig(f"{option(name)} {value:g}: it must be from {least:g} to {most:g} {unit}.")
        if self.p95 is not None and self.median is not None and self.p95 < self.median:
            raise InvalidConfig(
                f"--p95 {self.p95:g} is less than --median {self.median:g}.",
                remedy="--p95 is what 95 of 100 replacements do not exceed.",
            )
        self.calendar(Calendar())
        if self.deadline is not None:
            self.ends(self.begins())
        if self.chart is not None:
            _check_picture(self.chart)

    def refuse(self, *names: str, why: str) -> None:
        """Return if none of those was given. :raises InvalidConfig: naming the first that was, and why it is wrong."""
        for name in names:
            if getattr(self, name) is not None:
                raise InvalidConfig(f"{option(name)}: {why}", remedy="Leave it out.")

    def begins(self) -> datetime:
        """When the rollout begins. Default: now."""
        return _moment("--start", self.start) if self.start is not None else datetime.now(UTC).replace(microsecond=0)

    def ends(self, start: datetime, default: datetime | None = None) -> datetime | None:
        """The deadline of a rollout that begins then."""
        if self.deadline is None:
            return default
        try:
            found = start + TypeAdapter(timedelta).validate_python(_duration(self.deadline))
        except ValidationError:
            found = _moment("--deadline", self.deadline)
        if found <= start:
            raise InvalidConfig(f"--deadline {self.deadline} is not after the start, {start:%Y-%m-%d %H:%M} UTC.")
        return found

    def calendar(self, default: Calendar) -> Calendar:
        """When replacements may begin; given windows take the place of the fleet's, and its freezes stay."""
        if self.windows is None:
            return default
        always = any(each.strip().lower() == "always" for each in self.windows)
        return Calendar(() if always else tuple(_weekly(each) for each in self.windows), default.freezes)

    def over(self, fleet: Fleet) -> Fleet:
        """The fleet's file with what was asked in its place."""
        changes: dict[str, Any] = {}
        if self.size is not None:
            changes["size"] = self.size
            changes["waivers"] = ()
        if self.max_in_flight is not None:
            changes["max_in_flight"] = self.max_in_flight
        if self.max_surge is not None:
            changes["max_surge"] = str(self.max_surge)
        if self.launches_per_hour is not None:
            changes["quota"] = fleet.quota.model_copy(update={"launches_per_hour": self.launches_per_hour})
        # What is kept for later, such as the names of the slots, must be made anew.
        return Fleet.model_construct(**{name: getattr(fleet, name) for name in Fleet.model_fields} | changes)


def option(name: str) -> str:
    """How the command calls a field of what was asked."""
    return {"windows": "--window"}.get(name, f"--{name.replace('_', '-')}")


def _duration(text: str) -> timedelta:
    found: timedelta = TypeAdapter(Duration).validate_python(text)
    return found


def _moment(name: str, text: str) -> datetime:
    try:
        found: datetime = TypeAdapter(LocalMoment).validate_python(text)
    except ValidationError:
        also = " or 7d" if name == "--deadline" else ""
        raise InvalidConfig(f"{name} '{text}' is no moment: write '2026-11-30 00:00' (UTC){also}.") from None
    return found.replace(tzinfo=UTC)


def _weekly(text: str) -> Weekly:
    """``Mon-Fri 22:00-04:00 Europe/Berlin``; without days every day, without a zone UTC."""
    match = _WINDOW.fullmatch(text.strip())
    if not match:
        raise _no_window(text, "it does not read like one")
    days = {"days": _days(text, match["days"])} if match["days"] else {}
    zone = {"zone": match["zone"]} if match["zone"] else {}
    try:
        return Maintenance(opens=match["opens"], closes=match["closes"], **days, **zone).weekly()
    except ValidationError as error:
        raise _no_window(text, str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None


def _days(text: str, named: str) -> tuple[str, ...]:
    found: list[str] = []
    for part in named.split(","):
        ends = [each.lower() for each in part.split("-")]
        if len(ends) > 2 or any(each not in DAYS for each in ends):
            raise _no_window(text, f"'{part}' are no days")
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        found += [DAYS[number % 7] for number in range(first, last + (7 if last < first else 0) + 1)]
    return tuple(dict.fromkeys(found))


def _no_window(text: str, why: str) -> InvalidConfig:
    return InvalidConfig(
        f"--window '{text}' is no maintenance window: {why}.",
        remedy="Write 'Mon-Fri 22:00-04:00 Europe/Berlin', 'Sat,Sun 00:00-00:00', or always.",
    )


def _check_picture(path: Path) -> None:
    if path.suffix.lower() not in PICTURES:
        raise InvalidConfig(f"--chart {path}: a picture is a file that ends in {' or '.join(PICTURES)}.")
    if not path.absolute().parent.is_dir():
        raise InvalidConfig(f"--chart {path}: there is no folder {path.absolute().parent}.", remedy="Make it first.")
