"""The catalog's front: one database, nine stores."""

from __future__ import annotations

import os
from datetime import timedelta
from types import TracebackType

from phoenix_fleet.catalog import migration
from phoenix_fleet.catalog.blocking import BlockStore
from phoenix_fleet.catalog.database import Database
from phoenix_fleet.catalog.events import EventStore
from phoenix_fleet.catalog.images import ImageStore
from phoenix_fleet.catalog.intents import IntentStore
from phoenix_fleet.catalog.lifecycle import LifecycleStore
from phoenix_fleet.catalog.measurements import MeasurementStore
from phoenix_fleet.catalog.queue import QueueStore
from phoenix_fleet.catalog.reaping import ReapStore
from phoenix_fleet.catalog.rollouts import RolloutStore
from phoenix_fleet.domain.clock import Clock

DEFAULT_URL = "sqlite:////var/lib/phoenix-fleet/catalog.db"
LOCK_TIMEOUT = timedelta(seconds=30)
"""How long a transaction waits for its turn before it says ``Unavailable``."""


class Catalog:
    """The book of record. Its methods are single transactions that append their event to the chain.

    Any of them raises ``Unavailable`` while the database does not answer, ``AuthenticationFailed`` if it refuses
    us, and ``InvalidConfig`` if it cannot be used as it is (place not writable, tables missing). Safe to share
    between threads and to keep across a fork.
    """

    def __init__(self, url: str, clock: Clock | None = None, *, lock_timeout: timedelta = LOCK_TIMEOUT) -> None:
        """Name the database; nothing is opened yet.

        :param url: ``sqlite:////absolute/file`` or ``postgresql+psycopg2://user:password@host/database``.
        :param clock: what time it is. Default: the PostgreSQL server's clock; for a SQLite file, this machine's.
        :raises InvalidConfig: for any other.
        """
        self._database = Database(url, clock, lock_timeout)
        self.images = ImageStore(self._database)
        self.measurements = MeasurementStore(self._database)
        self.rollouts = RolloutStore(self._database)
        self.intents = IntentStore(self._database)
        self.queue = QueueStore(self._database)
        self.blocks = BlockStore(self._database)
        self.lifecycle = LifecycleStore(self._database)
        self.events = EventStore(self._database)
        self.reaping = ReapStore(self._database, self.intents)

    @property
    def clock(self) -> Clock:
        """The one clock that everything written here is dated by; whoever compares with that reads it too."""
        return self._database

    @classmethod
    def from_environment(cls, clock: Clock | None = None) -> Catalog:
        """The catalog at ``PHOENIX_CATALOG_URL``, or in ``/var/lib/phoenix-fleet``."""
        return cls(os.environ.get("PHOENIX_CATALOG_URL") or DEFAULT_URL, clock)

    def migrate(self) -> None:
        """Make the tables, or bring them up to date. Idempotent; of several at once one does it and the others wait.

        :raises InvalidConfig: if a newer release of the product has migrated the database already.
        """
        migration.upgrade(self._database)

    def close(self) -> None:
        """Give all connections back. Using the catalog again opens new ones."""
        self._database.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Catalog({str(self._database)!r})"
