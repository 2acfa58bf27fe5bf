"""A platform of instant machines for benchmarks: thousands of them, at next to no cost, shared between processes.

The public fake keeps its world in one JSON file, which is right for tests and too slow here. This one keeps a row per
machine in SQLite and in each process a copy that follows by the rows' change numbers.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet import drivers
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import NotFound
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms import fake
from phoenix_fleet.platforms.base import Platform
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.progress import Progress

TICKETS_ALONE_FROM = 1000
"""In fleets of this size and above the engine's steps are left out, and what is measured is all that is around them."""

_TABLES = """
create table if not exists machine (
    id text primary key, name text, fleet text, slot text, version text, token text unique, digest text,
    state text, address text, born real, change integer
);
create index if not exists by_change on machine (change);
create table if not exists image (digest text primary key, reference text, family text, version text);
"""
_COLUMNS = "id, name, fleet, slot, version, token, digest, state, address, born, change"


class Driver(Platform):
    """Machines that run as soon as they are launched and are gone as soon as they are told to terminate."""

    Settings = fake.Settings

    def __init__(self, settings: Any, connections: Connections) -> None:
        super().__init__(settings, connections)
        self._known: dict[str, Instance] = {}
        self._change = 0
        self._pid, self._kept = 0, None

    _kept: sqlite3.Connection | None

    @property
    def _database(self) -> sqlite3.Connection:
        if self._kept is None or self._pid != os.getpid():
            path = Path(self.settings.state).with_suffix(".db")
            self._kept, self._pid = sqlite3.connect(path, timeout=30, isolation_level=None), os.getpid()
            self._kept.executescript("pragma journal_mode = wal; pragma synchronous = off;" + _TABLES)
        return self._kept

    def launch(self, intent: LaunchIntent) -> Instance:
        """The token's machine, running."""
        born = (intent.name, intent.fleet, intent.slot, str(intent.version), intent.token, intent.artefact.digest)
        self._database.execute(
            "insert or ignore into machine select printf('i-%08d', n), ?, ?, ?, ?, ?, ?, 'running', "
            "printf('127.%d.%d.%d', 1 + n / 62500, n / 250 % 250, 1 + n % 250), ?, n "
            "from (select coalesce(max(change), 0) + 1 as n from machine)",
            (*born, datetime.now(UTC).timestamp()),
        )
        self._follow()
        return next(each for each in reversed(self._known.values()) if each.token == intent.token)

    def get_instance(self, instance_id: str) -> Instance:
        """That machine, also when it is gone."""
        self._follow()
        if instance_id not in self._known:
            raise NotFound(f"There is no instance {instance_id}.")
        return self._known[instance_id]

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """Those that are not gone."""
        self._follow()
        return [each for each in self._known.values() if each.state is InstanceState.RUNNING]

    def terminate(self, instance_id: str) -> None:
        """Gone."""
        self._database.execute(
            "update machine set state = 'gone', change = (select max(change) + 1 from machine) where id = ?",
            (instance_id,),
        )

    def hostspec(self, instance: Instance) -> str:
        """As the fake's."""
        return f"fake://{instance.id}"

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """What ``add_image`` told."""
        rows = self._database.execute("select digest, reference, version from image where family = ?", (family,))
        return [(Artefact("fake", reference, digest), {"version": version}) for digest, reference, version in rows]

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """The artefact."""
        return artefact

    def delete_image(self, artefact: Artefact) -> None:
        """Forget it."""
        self._database.execute("delete from image where digest = ?", (artefact.digest,))

    def add_image(self, artefact: Artefact, family: str, version: str) -> None:
        """Let the platform hold that artefact."""
        row = (artefact.digest, artefact.reference, family, version)
        self._database.execute("insert or replace into image values (?, ?, ?, ?)", row)

    def populate(self, intents: Sequence[LaunchIntent]) -> None:
        """Launch all of these in one transaction."""
        self._database.execute("begin")
        for intent in intents:
            self._database.execute(
                "insert into machine select printf('i-%08d', n), ?, ?, ?, ?, ?, ?, 'running', "
                "printf('127.%d.%d.%d', 1 + n / 62500, n / 250 % 250, 1 + n % 250), 0, n "
                "from (select coalesce(max(change), 0) + 1 as n from machine)",
                (intent.name, intent.fleet, intent.slot, str(intent.version), intent.token, intent.artefact.digest),
            )
        self._database.execute("commit")

    def _follow(self) -> None:
        query = f"select {_COLUMNS} from machine where change > ? order by change"  # noqa: S608 - our own columns
        for row in self._database.execute(query, (self._change,)):
            machine = _instance(row)
            self._known[machine.id] = machine
            self._change = row[-1]


def _instance(row: tuple[Any, ...]) -> Instance:
    machine_id, name, fleet, slot, version, token, digest, state, address, born, _ = row
    return Instance(
        id=machine_id,
        name=name,
        fleet=fleet,
        slot=slot,
        version=version,
        token=token,
        state=InstanceState(state),
        address=address,
        digest=digest,
        launched_at=datetime.fromtimestamp(born, tz=UTC),
        host_keys=("ssh-ed25519 AAAA",),
    )


_advance = Engine.advance


def advance(engine: Engine, ticket: Any) -> Progress:
    """The engine's own look, the next one right after it, or in large fleets none: the slot is just done."""
    if engine.fleet.size < TICKETS_ALONE_FROM:
        return replace(_advance(engine, ticket), check_after=timedelta())
    engine.deps.catalog.rollouts.holds(ticket)
    engine.deps.catalog.rollouts.finish(ticket)
    return Progress("done", ticket.step, "left out")


def stand_in() -> None:
    """From now on this process's fake platform is this one, and nothing pauses between two looks."""
    fake.Driver = Driver  # type: ignore[misc,assignment]
    drivers.load.cache_clear()
    Engine.advance = advance  # type: ignore[method-assign]
