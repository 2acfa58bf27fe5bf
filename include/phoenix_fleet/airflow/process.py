"""What a task's process must do beyond its work: die with its supervisor, and keep its lease while it lives."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from phoenix_fleet.domain.errors import Fenced, InvalidConfig, PhoenixError

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

log = logging.getLogger("phoenix_fleet")

LEASE = timedelta(seconds=30)
"""How long a ticket stays with a holder that says nothing, unless ``PHOENIX_LEASE_SECONDS`` says otherwise."""
SHORTEST_LEASE = timedelta(seconds=5)
"""A shorter one would run out between two renewals whenever the machine is busy; safe, but nothing would get on."""

_LONGEST_LEASE = timedelta(hours=1)
_PR_SET_PDEATHSIG = 1


def lease() -> timedelta:
    """How long a ticket stays with a holder that says nothing: the longest wait after a crash.

    :raises InvalidConfig: ``PHOENIX_LEASE_SECONDS`` is no number of seconds, or below the shortest lease.
    """
    said = os.environ.get("PHOENIX_LEASE_SECONDS", "")
    if not said:
        return LEASE
    shortest = SHORTEST_LEASE.total_seconds()
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not shortest <= seconds <= _LONGEST_LEASE.total_seconds():
        raise InvalidConfig(
            f"PHOENIX_LEASE_SECONDS is '{said}'.",
            remedy=f"Give seconds from {shortest:.0f} to {_LONGEST_LEASE.total_seconds():.0f}, the same everywhere.",
        )
    return timedelta(seconds=seconds)


def die_with_parent() -> None:
    """Ask the kernel (Linux, prctl(2)) for SIGTERM when the supervisor dies, which otherwise leaves its task alive.

    The ticket makes an orphan harmless; this makes it short-lived. Elsewhere it does nothing. Airflow's handler of
    SIGTERM calls the operator's ``on_kill`` and lets the task go on, so ``on_kill`` has to end it: ``end_now``.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (AttributeError, OSError):
        return
    if os.getppid() == 1:
        log.warning("The task's supervisor is gone already.")


def end_now() -> NoReturn:
    """Leave from wherever the main thread is, with what it has open closed; for ``on_kill``.

    No clean-up in the world: another may hold the ticket by now, and whoever goes on looks at the world first.
    """
    log.warning("The task was told to end; whoever goes on with it takes over where it is.")
    raise SystemExit(128 + signal.SIGTERM)


class LeaseKeeper:
    """Renews a ticket's lease in the background while the holder works; stops for good once it is fenced."""

    def __init__(self, catalog: Catalog, ticket: Any, lease: timedelta) -> None:
        self._catalog = catalog
        self._ticket = ticket
        self._lease = lease
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{ticket.slot}", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _keep(self) -> None:
        while not self._stop.wait(self._lease.total_seconds() / 4):
            try:
                self._catalog.rollouts.renew(self._ticket, self._lease)
            except Fenced as error:
                log.warning("The lease of %s is lost: %s", self._ticket.slot, error)
                return
            except PhoenixError as error:
                log.warning("The lease of %s could not be renewed yet: %s", self._ticket.slot, error)
