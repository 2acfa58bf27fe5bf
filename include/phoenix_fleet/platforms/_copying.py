"""Copying an artefact's disks here: how much and how long, and files that have holes where nothing is."""

from __future__ import annotations

import threading
import time
from typing import IO

from phoenix_fleet.domain.errors import InvalidSpec, TimedOut
from phoenix_fleet.domain.models import Bounds


class Meter:
    """Counts what has been copied of one artefact. Safe from several threads."""

    def __init__(self, what: str, bounds: Bounds) -> None:
        self._what, self._bounds = what, bounds
        self._end = time.monotonic() + bounds.time.total_seconds()
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """So many bytes more.

        :raises InvalidSpec: it is more than the bounds allow.
        :raises TimedOut: it took longer than they allow.
        """
        with self._lock:
            self._bytes += count
            if self._bytes > self._bounds.bytes:
                raise InvalidSpec(
                    f"{self._what} stores more than {self._bounds.bytes} bytes.",
                    remedy="Raise the gate's max_bytes, or make the image smaller.",
                )
        self.check_time()

    def check_time(self) -> None:
        """Return if there is time left. :raises TimedOut: otherwise."""
        if time.monotonic() > self._end:
            raise TimedOut(
                f"{self._what} was not copied within {self._bounds.time.total_seconds():g} s.",
                remedy="Raise the gate's timeout.",
            )


def write(file: IO[bytes], at: int, data: bytes) -> None:
    """Put bytes at a place of a file, unless they are all zeros: then a hole stays."""
    if data.strip(b"\0"):
        file.seek(at)
        file.write(data)
