"""What a rollout sees with: drivers whose reads say in one word that there is no complete view.

Whether a platform is away, slow, throttles us or does not know us any more: a read that fails has shown nothing, and
nothing may follow from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from phoenix_fleet.domain.errors import AuthenticationFailed, Blind, Throttled, TimedOut, Unavailable

_READS = frozenset({"get_instance", "list_instances", "list_images", "list_volumes", "list_snapshots", "state"})

Seam = TypeVar("Seam")


def watchful(driver: Seam) -> Seam:
    """The same driver, but that its reads raise ``Blind`` where they would raise that they cannot be made now."""
    return driver if isinstance(driver, _Watchful) else cast(Seam, _Watchful(driver))


class _Watchful:
    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        return _read(found) if name in _READS else found


def _read(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def read(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Blind:
            raise
        except (Unavailable, Throttled, TimedOut, AuthenticationFailed) as error:
            raise Blind(*error.args, remedy=error.remedy) from error

    return read
