"""How much is read before a reader gives up, and the error with which it does."""

from __future__ import annotations

from dataclasses import dataclass


class Unreadable(Exception):
    """It cannot be read whole, so nothing is known about it."""


@dataclass(frozen=True)
class Limits:
    """How much a scan takes before it gives up."""

    total: int
    """Unpacked bytes."""
    entries: int
    """Files, folders, links and whatever else has a name."""


class Budget:
    """Counts what has been read. :raises Unreadable: it is more than the limits allow."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._entries = 0

    def take(self, count: int) -> None:
        """So many bytes more."""
        self._bytes += count
        if self._bytes > self._limits.total:
            raise Unreadable(f"it is larger than {self._limits.total} bytes")

    def entry(self) -> None:
        """One entry more."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise Unreadable(f"it has more than {self._limits.entries} entries")
