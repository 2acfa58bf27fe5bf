"""Parts of a fleet file: by when it must be refreshed, when replacements may begin, and what is excused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from phoenix_fleet.configfields import Count, Frozen
from phoenix_fleet.domain.calendars import DAYS, Calendar, Freeze, Weekly
from phoenix_fleet.domain.pacing import Quota


def _time(value: Any) -> time:
    text = value.strftime("%H:%M") if isinstance(value, time) else str(value)
    try:
        return datetime.strptime(text, "%H:%M").time()
    except ValueError:
        raise ValueError(f"'{value}' is not a time of day: write 22:00") from None


def _local(value: Any) -> datetime:
    text = value.strftime("%Y-%m-%d %H:%M") if isinstance(value, datetime) else str(value)
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M")
    except ValueError:
        raise ValueError(f"'{value}' is not a moment: write 2026-12-20 00:00") from None


def _day(value: Any) -> date:
    try:
        return datetime.strptime(str(value), "%Y-%m-%d").date()
    except ValueError:
        raise ValueError(f"'{value}' is not a day: write 2026-12-31") from None


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError(f"'{value}' is not a time zone: write its IANA name, such as Europe/Berlin")
    return value


TimeOfDay = Annotated[
    time,
    BeforeValidator(_time, json_schema_input_type=Annotated[str, Field(pattern=r"^\d\d:\d\d$")]),
    PlainSerializer(lambda value: value.strftime("%H:%M"), return_type=str, when_used="json"),
]
LocalMoment = Annotated[
    datetime,
    BeforeValidator(_local, json_schema_input_type=Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d \d\d:\d\d$")]),
    PlainSerializer(lambda value: value.strftime("%Y-%m-%d %H:%M"), return_type=str, when_used="json"),
]
Day = Annotated[date, BeforeValidator(_day, json_schema_input_type=Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")])]
Zone = Annotated[str, AfterValidator(_zone)]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_EVERY_DAY: tuple[Weekday, ...] = get_args(Weekday)


class Maintenance(Frozen):
    """A weekly time in which replacements may begin; one that has begun then goes on to its end."""

    days: tuple[Weekday, ...] = Field(
        _EVERY_DAY, min_length=1, description="On which days it opens. Default: every day."
    )
    opens: TimeOfDay = Field(description="When it opens, by the clock of its zone, such as 22:00.")
    closes: TimeOfDay = Field(description="When it closes: on the next day, if not later than it opens.")
    zone: Zone = Field("UTC", description="IANA name of the time zone, such as Europe/Berlin. Default: UTC.")

    def weekly(self) -> Weekly:
        """The same for calculating."""
        return Weekly(frozenset(map(DAYS.index, self.days)), self.opens, self.closes, self.zone)


class FreezeTime(Frozen):
    """A time in which no replacement begins."""

    begins: LocalMoment = Field(description="When it begins, such as 2026-12-20 00:00.")
    ends: LocalMoment = Field(description="When it ends.")
    zone: Zone = Field("UTC", description="IANA name of the time zone of both. Default: UTC.")
    reason: str = Field(min_length=1, description="Why, for whoever waits.")

    @model_validator(mode="after")
    def _in_order(self) -> FreezeTime:
        if self.begins >= self.ends:
            raise ValueError("a freeze must end after it begins")
        return self

    def freeze(self) -> Freeze:
        """The same for calculating."""
        zone = ZoneInfo(self.zone)
        return Freeze(self.begins.replace(tzinfo=zone), self.ends.replace(tzinfo=zone), self.reason)


class Waiver(Frozen):
    """A named, reasoned and expiring permission to miss the deadline with one slot: it is not replaced meanwhile."""

    slot: str = Field(description="The slot, such as web-03.")
    owner: str = Field(min_length=1, description="Who answers for it.")
    reason: str = Field(min_length=1, description="Why it may stay as it is.")
    until: Day = Field(description="It expires when this day begins in UTC, such as 2026-12-31.")

    @property
    def ends(self) -> datetime:
        """When it expires."""
        return datetime.combine(self.until, time(), UTC)

    def __str__(self) -> str:
        return f"waived until {self.until} by {self.owner}: {self.reason}"


class QuotaLimits(Frozen):
    """What the platform takes, where that is less than the driver says or the driver says nothing."""

    at_once: Count | None = Field(
        None, ge=1, description="Most replacements under way at once. Default: what the platform's driver says."
    )
    launches_per_hour: Count | None = Field(
        None, ge=1, description="Most launches in an hour. Default: what the platform's driver says."
    )

    def over(self, driver: Quota) -> Quota:
        """The driver's own limits with these in their place."""
        return Quota(
            driver.at_once if self.at_once is None else self.at_once,
            driver.launches_per_hour if self.launches_per_hour is None else self.launches_per_hour,
        )


def check_waivers(waivers: tuple[Waiver, ...], slots: Sequence[str]) -> None:
    """Return if each is for a slot of the fleet, and none is waived twice.

    :raises ValueError: otherwise.
    """
    waived = [each.slot for each in waivers]
    if twice := sorted({slot for slot in waived if waived.count(slot) > 1}):
        raise ValueError(f"{', '.join(twice)}: one waiver for each slot")
    if slots and (unknown := sorted(set(waived) - set(slots))):
        raise ValueError(f"the fleet has no slot {', '.join(unknown)}: its slots are {slots[0]} to {slots[-1]}")


def calendar(maintenance: tuple[Maintenance, ...], freezes: tuple[FreezeTime, ...]) -> Calendar:
    """When replacements may begin."""
    return Calendar(tuple(each.weekly() for each in maintenance), tuple(each.freeze() for each in freezes))


__all__ = ["FreezeTime", "Maintenance", "QuotaLimits", "Waiver", "calendar", "check_waivers"]
