"""Deleting snapshots of data volumes that are older than those which a fleet's file wants kept: a few at a time.

Which may go is decided by ``domain.retention``. What was not asked for by one of our rollouts is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phoenix_fleet.catalog.reaping import RETENTION
from phoenix_fleet.config import Fleet
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.clock import Clock, SystemClock
from phoenix_fleet.domain.errors import Busy, NotFound, NotOurs, PhoenixError, Refused
from phoenix_fleet.domain.retention import Asked, surplus
from phoenix_fleet.domain.volumes import Snapshot, Volume
from phoenix_fleet.platforms.base import Volumes
from phoenix_fleet.rollout import deps
from phoenix_fleet.rollout.eyes import watchful
from phoenix_fleet.rollout.progress import plain
from phoenix_fleet.rollout.replacement import may_have_happened

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import Outcome

MOST = 20
"""So many are deleted by one run."""


@dataclass(frozen=True)
class Due:
    """A snapshot that may go."""

    snapshot: Snapshot
    volume: Volume
    asked: Asked


@dataclass(frozen=True)
class Thinned:
    """What one run came to."""

    due: tuple[Due, ...]
    deleted: tuple[str, ...] = ()
    spared: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """For people, a line per snapshot."""
        found = [
            f"snapshot {each.snapshot.id} of {each.volume.label} is of {each.asked.at:%Y-%m-%d}" for each in self.due
        ]
        found += [f"deleted: {name}" for name in self.deleted]
        return found + [f"spared {name}: {why}" for name, why in self.spared]


def snapshot_reaper_for(
    fleet: Fleet, catalog: Catalog, connections: Connections, *, log: Callable[[str], None]
) -> SnapshotReaper | None:
    """The one of a fleet; None if it has no data volumes, as none of workloads has.

    :raises InvalidConfig: a driver that its file names is missing or wrong.
    """
    volumes = deps.volumes_of(deps.load("platforms", fleet.platform, connections), fleet) if fleet.platform else None
    if volumes is None:
        return None
    return SnapshotReaper(volumes, catalog, fleet.name, {each.name: each.snapshots for each in fleet.volumes}, log=log)


class SnapshotReaper:
    """One run over the snapshots of a fleet's data volumes. Nothing is kept in memory between runs."""

    def __init__(
        self,
        volumes: Volumes,
        catalog: Catalog,
        fleet: str,
        keep: Mapping[str, int],
        *,
        log: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        """Name what it works on; ``keep`` is how many of a volume stay, by its name in the fleet's file."""
        self.volumes = watchful(volumes)
        self.catalog = catalog
        self.fleet = fleet
        self.keep = dict(keep)
        self.log = log
        self.clock: Clock = clock or SystemClock()

    def look(self) -> Thinned:
        """What a run would delete now; touches nothing.

        :raises Blind: the platform gives no complete list.
        """
        return Thinned(self._due(self._listed()))

    def run(self) -> Thinned:
        """Delete what is due; safe to run again after a crash.

        :raises Blind: the platform gives no complete list; nothing was touched.
        :raises PhoenixError: a call failed; what is left is for the next run.
        """
        listed = self._listed()
        self._settle({each.id for found in listed.values() for each in found})
        due, deleted, spared = self._due(listed), list[str](), list[tuple[str, str]]()
        for each in due:
            if why := self._delete(each):
                spared.append((each.snapshot.id, why))
            else:
                deleted.append(each.snapshot.id)
        done = Thinned(due, tuple(deleted), tuple(spared))
        for line in done.lines():
            self.log(line)
        return done

    def _listed(self) -> dict[Volume, list[Snapshot]]:
        found = {}
        for volume in self.volumes.list_volumes(self.fleet):
            if volume.name in self.keep:
                found[volume] = list(self.volumes.list_snapshots(volume.id))
        return found

    def _due(self, listed: Mapping[Volume, list[Snapshot]]) -> tuple[Due, ...]:
        # The platform was listed before the catalog is read: what it lists was written down before it was asked for.
        asked = self.catalog.reaping.snapshots(each.token for found in listed.values() for each in found)
        rollout = self.catalog.rollouts.current(self.fleet)
        alive = {rollout.purpose} if rollout is not None else set[str]()
        now = self.clock.now()
        found = [
            Due(each, volume, asked[each.token])
            for volume, snapshots in listed.items()
            for each in surplus(snapshots, asked, keep=self.keep[volume.name], alive=alive, now=now)
        ]
        return tuple(sorted(found, key=lambda each: each.asked.at)[:MOST])

    def _delete(self, due: Due) -> str:
        """Why it was left after all; empty once it is deleted."""
        snapshot, volume = due.snapshot, due.volume
        params = {"fleet": self.fleet, "slot": volume.slot, "name": volume.label, "volume": volume.id}
        try:
            intent = self.catalog.reaping.begin(
                "delete_snapshot", snapshot.id, params, purpose=due.asked.purpose, token=RETENTION
            )
        except (Refused, Busy) as error:
            return plain(error)
        try:
            self.volumes.delete_snapshot(volume.id, snapshot.id)
        except PhoenixError as error:
            outcome: Outcome = "unknown" if may_have_happened(error) else "failed"
            self.catalog.intents.outcome(intent.id, outcome, {"error": type(error).__name__, "message": str(error)})
            if isinstance(error, NotFound | NotOurs):
                return plain(error)
            raise
        self.catalog.intents.outcome(intent.id, "done", {})
        return ""

    def _settle(self, listed: set[str]) -> None:
        """Close the intents of a run that died or did not hear the reply, where what it deleted is really gone."""
        for intent in self.catalog.reaping.pending(self.fleet, RETENTION):
            if intent.target not in listed:
                self.catalog.intents.outcome(intent.id, "done", {"seen_later": "it is not listed any more"})
