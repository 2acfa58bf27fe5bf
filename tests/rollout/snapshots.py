"""What outlives a process, kept in memory; and a clock that can go wrong."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from phoenix_fleet.domain.clock import Clock


class Skewed:
    """A clock that is off by so much."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.off = timedelta()

    def now(self) -> datetime:
        return self.clock.now() + self.off


@dataclass(frozen=True)
class Snapshot:
    """All that outlives a process."""

    catalog: bytes
    platform: str
    balancer: str
    now: datetime
    applied: dict[str, str]

    @property
    def key(self) -> str:
        """The same for worlds in which the same will happen: the journal of calls decides nothing."""
        worlds = [{**json.loads(each), "calls": []} for each in (self.platform, self.balancer)]
        rest = json.dumps([worlds, self.now.isoformat(), self.applied], sort_keys=True)
        return hashlib.sha256((_text(self.catalog) + rest).encode()).hexdigest()


@contextlib.contextmanager
def opened(catalog: bytes) -> Iterator[sqlite3.Connection]:
    """A database in memory with that content."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        # Bytes 18 and 19 say "write-ahead log", which a database in memory cannot have (sqlite.org/fileformat).
        connection.deserialize(catalog[:18] + b"\x01\x01" + catalog[20:])
        yield connection


@functools.lru_cache(maxsize=4)
def _text(catalog: bytes) -> str:
    """What is written in it: files with the same content differ in their counters."""
    with opened(catalog) as connection:
        return "\n".join(connection.iterdump())
