"""A JSON file that steers fakes in other processes, and the journal in which they say what they were asked.

A test writes the file, a fake in some worker process reads it at each call. Known keys: ``outcome`` (what every
call gives), ``next`` (a list that is used up first, one per call) and ``subjects`` (outcome by a part of the
subject's name). Beside it, ``<file>.calls`` has one JSON object per call.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phoenix_fleet.domain.errors import InvalidConfig

_KEYS = frozenset({"outcome", "next", "subjects"})


class Steering:
    """One steering file. It may be missing, which means that nobody steers. Safe between processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path.with_name(path.name + ".calls")

    def steer(self, **state: Any) -> None:
        """Replace what the file says: ``outcome``, ``next``, ``subjects``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._write(state)

    def draw(self, subject: str, default: str) -> str:
        """The outcome for a call on ``subject``: of ``next``, else of ``subjects``, else ``outcome``.

        :raises InvalidConfig: if the file is not such a JSON object.
        """
        if not self.path.parent.is_dir():
            return default
        with self._locked():
            state = self._read()
            queue = list(state.get("next", []))
            if queue:
                self._write({**state, "next": queue[1:]})
                return str(queue[0])
        for part, outcome in state.get("subjects", {}).items():
            if part in subject:
                return str(outcome)
        return str(state.get("outcome", default))

    def record(self, call: Mapping[str, Any]) -> None:
        """Append one call to the journal."""
        if self.path.parent.is_dir():
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(call, sort_keys=True) + "\n")

    def calls(self) -> list[dict[str, Any]]:
        """Every call so far, in order, of all processes."""
        if not self.journal.exists():
            return []
        return [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_name(self.path.name + ".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, Any]:
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InvalidConfig(f"{self.path}: this is not JSON: {error}.", remedy="Write an object.") from None
        if not isinstance(state, dict) or not state.keys() <= _KEYS:
            raise InvalidConfig(
                f"{self.path}: it must be an object with keys out of {', '.join(sorted(_KEYS))}.",
                remedy="Remove what else is there.",
            )
        return state

    def _write(self, state: Mapping[str, Any]) -> None:
        scratch = self.path.with_name(self.path.name + ".new")
        scratch.write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
        os.replace(scratch, self.path)
