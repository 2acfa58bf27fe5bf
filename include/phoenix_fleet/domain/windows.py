"""Refresh windows: a month, named by its start (``2026-11``), and the versions of images built for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from phoenix_fleet.domain.errors import InvalidConfig

_NAME = re.compile(r"(?P<year>\d{4})-(?P<month>0[1-9]|1[0-2])")
_VERSION = re.compile(r"(?P<year>\d{4})\.(?P<month>0[1-9]|1[0-2])-(?P<build>[1-9]\d*)")


@dataclass(frozen=True, order=True)
class Window:
    """One month in UTC. Windows order by time."""

    year: int
    month: int

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    @classmethod
    def parse(cls, name: str) -> Window:
        """The window with that name.

        :raises InvalidConfig: if it is not ``YYYY-MM``.
        """
        match = _NAME.fullmatch(name)
        if not match:
            raise InvalidConfig(f"'{name}' is not a window.", remedy="Write it as YYYY-MM, such as 2026-11.")
        return cls(int(match["year"]), int(match["month"]))

    @classmethod
    def of(cls, moment: datetime) -> Window:
        """The window that an aware moment falls into, in UTC."""
        utc = moment.astimezone(UTC)
        return cls(utc.year, utc.month)

    @property
    def start(self) -> datetime:
        """Its first moment, UTC."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment after it, UTC: also its deadline."""
        return self.next().start

    def next(self) -> Window:
        """The window after this one."""
        return Window(self.year + self.month // 12, self.month % 12 + 1)

    def previous(self) -> Window:
        """The window before this one."""
        return Window(self.year - 1, 12) if self.month == 1 else Window(self.year, self.month - 1)


@dataclass(frozen=True, order=True)
class Version:
    """An image's version: its window and a build number, ``2026.11-2``. Versions order by time built for."""

    window: Window
    build: int

    def __str__(self) -> str:
        return f"{self.window.year:04d}.{self.window.month:02d}-{self.build}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """The version written so.

        :raises InvalidConfig: if it is not ``YYYY.MM-N``.
        """
        match = _VERSION.fullmatch(text)
        if not match:
            raise InvalidConfig(
                f"'{text}' is not an image version.", remedy="Write it as YYYY.MM-N, such as 2026.11-1."
            )
        return cls(Window(int(match["year"]), int(match["month"])), int(match["build"]))
