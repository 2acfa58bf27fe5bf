"""What the public fakes share: a world in memory or in a file, a journal of calls, and faults to order.

A fake keeps its state in a ``World``. In memory it belongs to one driver object; with a path it is a JSON file
that every process with the same path shares, under a file lock. Faults and the journal are part of the state, so a
test can order a failure in one process and see another process meet it.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phoenix_fleet.domain import errors
from phoenix_fleet.domain.clock import Clock, SystemClock

Hook = Callable[[Literal["before", "after"], str, str], None]
"""Called with (position, method, subject) around every call; raising there is a crash at that very point."""


@dataclass(frozen=True)
class Call:
    """One call that a fake received."""

    method: str
    subject: str
    """What it was about: an instance's id or name, a token, a fleet, a digest."""
    at: float
    """Seconds since the epoch by the fake's clock."""
    outcome: str
    """``ok``, or the name of the error that the caller got."""


class World:
    """The state of one fake; transactions exclude each other between threads and, with a path, processes."""

    def __init__(self, section: str, path: str = "", clock: Clock | None = None, hook: Hook | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.hook = hook
        self._section = section
        self._path = Path(path) if path else None
        self._lock = threading.RLock()
        self._memory: dict[str, Any] = _empty()

    def now(self) -> float:
        """Seconds since the epoch by the world's clock."""
        return self.clock.now().timestamp()

    @contextmanager
    def transaction(self) -> Iterator[dict[str, Any]]:
        """The state, to read and to change in place; what was changed is kept even when the block raises."""
        with self._lock:
            if self._path is None:
                yield self._memory
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(f"{self._path}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                whole = json.loads(self._path.read_text()) if self._path.exists() else {}
                data = whole.setdefault(self._section, _empty())
                try:
                    yield data
                finally:
                    self._save(whole)

    def _save(self, whole: dict[str, Any]) -> None:
        # Written beside and renamed, so that a process killed here leaves the old state and not half a file.
        assert self._path is not None  # noqa: S101
        beside = Path(f"{self._path}.new")
        beside.write_text(json.dumps(whole))
        os.replace(beside, self._path)

    @contextmanager
    def call(self, method: str, subject: str) -> Iterator[dict[str, Any]]:
        """A transaction for one call of the seam: journalled, and with the ordered faults."""
        if self.hook:
            self.hook("before", method, subject)
        with self.transaction() as data:
            entry = {"method": method, "subject": subject, "at": self.now(), "outcome": "ok"}
            data["calls"].append(entry)
            try:
                lost = _meet_faults(data, method)
                yield data
                if lost:
                    raise errors.Unavailable(f"{method}({subject}): the connection broke before the reply came.")
            except errors.PhoenixError as error:
                entry["outcome"] = type(error).__name__
                raise
        if self.hook:
            self.hook("after", method, subject)

    def horizon(self, data: dict[str, Any]) -> float:
        """The moment whose state reads show: now, less the lag."""
        return self.now() - float(data["lag"])


class Faults:
    """What a test can order from any fake."""

    world: World

    def calls(self, method: str = "") -> list[Call]:
        """Every call so far, oldest first; only those of one method if it is named."""
        with self.world.transaction() as data:
            found = [Call(**entry) for entry in data["calls"]]
        return [call for call in found if method in ("", call.method)]

    def fail_next(self, method: str, error: errors.PhoenixError) -> None:
        """The next call of that method has no effect and raises this error; orders queue up."""
        with self.world.transaction() as data:
            order = {"method": method, "kind": type(error).__name__, "message": error.args[0], "remedy": error.remedy}
            data["faults"].append(order)

    def lose_reply(self, method: str) -> None:
        """The next call of that method takes effect, and the caller gets ``Unavailable`` instead of the reply."""
        with self.world.transaction() as data:
            data["faults"].append({"method": method, "kind": "", "message": "", "remedy": ""})

    def throttle(self, calls: int) -> None:
        """The next so many calls, whatever the method, have no effect and raise ``Throttled``."""
        with self.world.transaction() as data:
            data["throttle"] = calls

    def lag(self, seconds: float) -> None:
        """Reads show the world as it was that long ago, until another lag is set."""
        with self.world.transaction() as data:
            data["lag"] = seconds


def put(timeline: list[Any], at: float, value: Any) -> None:
    """Append what holds from ``at`` on, in seconds since the epoch."""
    timeline.append([at, value])


def seen(timeline: list[Any], at: float) -> Any:
    """What held at that moment; None before the first entry."""
    return next((value for since, value in reversed(timeline) if since <= at), None)


def _empty() -> dict[str, Any]:
    return {"calls": [], "faults": [], "throttle": 0, "lag": 0.0, "serial": 0}


def _meet_faults(data: dict[str, Any], method: str) -> bool:
    """Raise what was ordered for this call; True if its reply is to be lost."""
    if data["throttle"] > 0:
        data["throttle"] -= 1
        raise errors.Throttled(f"{method}: slow down.", remedy="Try again later; it says nothing about health.")
    order = next((order for order in data["faults"] if order["method"] == method), None)
    if order is None:
        return False
    data["faults"].remove(order)
    if not order["kind"]:
        return True
    raise getattr(errors, order["kind"])(order["message"], remedy=order["remedy"])
