"""What a task's process must do beyond its work: die with its supervisor, and keep its lease while it lives."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from phoenix_fleet.domain.errors import Fenced, PhoenixError

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

log = logging.getLogger("phoenix_fleet")

LEASE = timedelta(seconds=60)
"""How long a ticket stays with a holder that says nothing: the longest wait after a crash."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel (Linux, prctl(2)) for SIGTERM when the supervisor dies, which otherwise leaves its task alive.

    The ticket makes an orphan harmless; this makes it short-lived. Elsewhere it does nothing.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (AttributeError, OSError):
        return
    if os.getppid() == 1:
        log.warning("The task's supervisor is gone already.")


class LeaseKeeper:
    """Renews a ticket's lease in the background while the holder works; stops for good once it is fenced."""

    def __init__(self, catalog: Catalog, ticket: Any, lease: timedelta = LEASE) -> None:
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
