"""The steps of one replacement, and the order they are taken in."""

from __future__ import annotations

from enum import StrEnum


class Step(StrEnum):
    """One step of replacing what fills a slot. Each is safe to run again."""

    CHECK = "check"
    LAUNCH = "launch"
    READY = "ready"
    CONFIGURE = "configure"
    VERIFY = "verify"
    ADMIT = "admit"
    WATCH = "watch"
    DRAIN = "drain"
    TERMINATE = "terminate"


_BRING_UP = (Step.LAUNCH, Step.READY, Step.CONFIGURE, Step.VERIFY, Step.ADMIT, Step.WATCH)
_TAKE_DOWN = (Step.DRAIN, Step.TERMINATE)


def order(max_surge: int) -> tuple[Step, ...]:
    """The steps in order: the new instance comes up first, unless no extra instance is allowed (``max_surge`` 0).

    :raises ValueError: if ``max_surge`` is negative.
    """
    if max_surge < 0:
        raise ValueError(f"max_surge is a count of instances, not {max_surge}")
    if max_surge == 0:
        return (Step.CHECK, *_TAKE_DOWN, *_BRING_UP)
    return (Step.CHECK, *_BRING_UP, *_TAKE_DOWN)
