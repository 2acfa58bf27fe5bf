"""What one look at a replacement comes back with: for the caller, and between the steps and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from phoenix_fleet.domain.steps import Step

AT_ONCE = timedelta(seconds=0.1)
"""Until the first look at something that may be over in a moment."""
SOON = timedelta(seconds=1)
"""Between two looks at something that takes seconds."""
LATER = timedelta(seconds=5)
"""Between two looks at something that depends on others."""

PATIENCE = timedelta(minutes=1)
"""Between two looks at something that others must do, which may take hours."""

LONG_PATIENCE = timedelta(minutes=15)
"""Between two looks at something that is known to take hours: no longer, so that a cancel is seen."""


@dataclass(frozen=True)
class DeadlineAlarm:
    """What the owners must be told of a rollout's deadline: that it will be missed, or that this is averted."""

    raised: bool
    message: str


@dataclass(frozen=True)
class Progress:
    """Where a replacement stands after one ``advance``."""

    state: Literal["moved", "waiting", "done"]
    """``moved`` to the next step; ``waiting`` in this one; ``done``: the ticket has nothing more to do."""
    step: Step
    """The step that was performed."""
    message: str
    check_after: timedelta = timedelta()
    """How long the caller should wait before the next ``advance``."""
    alarm: DeadlineAlarm | None = None
    """What the owners must be told now; whoever has told them says so to the pacer, or it comes again."""


@dataclass(frozen=True)
class Moved:
    """The step is done; the next one in order follows."""

    message: str
    new_instance: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """Not yet; look again after a while."""

    message: str
    check_after: timedelta = SOON
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What must be remembered until then, whoever looks."""
    patient: bool = False
    """The step's limit does not run meanwhile: it waits for what others must do, however long that takes."""


@dataclass(frozen=True)
class Finished:
    """The whole replacement is done, or was not needed."""

    message: str


@dataclass(frozen=True)
class GivesWay:
    """It cannot go on as long as that other slot, which waits behind it, has nothing in service."""

    message: str
    to: str


Result = Moved | Waiting | Finished | GivesWay


Alarm = Literal["meltdown", "blind"]


class Failing(Exception):
    """A step cannot succeed any more; the engine cleans up, and then the rollout halts."""

    def __init__(
        self, reason: str, *, hands_off: bool = False, postpone: bool = False, alarm: Alarm | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hands_off = hands_off
        """Touch nothing: only a person can tell what is right now."""
        self.postpone = postpone
        """Clean up and come back to this slot at the end, instead of halting."""
        self.alarm = alarm
        """Not this replacement's own failure: nothing is done but that what was being drained serves again."""


def runbook(step: Step, alarm: str = "") -> str:
    """Path of the runbook for a failed step or for an alarm, within the project."""
    return f"docs/runbooks/rollout-{alarm}.md" if alarm else f"docs/runbooks/rollout-{step}-failed.md"


def plain(error: Exception) -> str:
    """What went wrong, without the remedy and the full stop: to be part of a longer sentence."""
    return str(error.args[0] if error.args else type(error).__name__).removesuffix(".")


def pause(whole: timedelta) -> timedelta:
    """How long to wait between two looks at something that takes that long: about ten looks, 1 s to 30 s apart."""
    return min(max(whole / 10, SOON), timedelta(seconds=30))


def soon(passed: timedelta, most: timedelta = SOON) -> timedelta:
    """How long until the next look at something under way for that long: a quarter of it, from 0.1 s to ``most``.

    What is over in a moment is seen at once, and what takes long costs few looks more than one each ``most``.
    """
    return min(max(passed / 4, AT_ONCE), most)


def words(duration: timedelta) -> str:
    """A duration for people: ``90 s``, ``5 min``, ``2 h``."""
    seconds = int(duration.total_seconds())
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
