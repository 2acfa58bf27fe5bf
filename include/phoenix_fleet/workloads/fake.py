"""Workloads without replicas, for tests and simulations: they keep every promise of the seam, and break on order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet import fakeworld
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.clock import Clock
from phoenix_fleet.domain.errors import IntentMismatch, InUse, InvalidSpec, NotFound, NotOurs
from phoenix_fleet.domain.models import OWNER, LaunchIntent
from phoenix_fleet.workloads.base import Place, Progress, Revision, Workload

_DIGEST = "sha256:" + 64 * "0"


class Settings(BaseModel):
    """How the fake behaves; by default it is quick and in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str = Field("", description="JSON file that processes share. Default: none, in memory.")
    workloads: tuple[str, ...] = Field(("one",), description="Names; those before a slash are zones: east/shop.")
    replicas: int = Field(3, ge=0, description="How many each has. Default: 3.")
    roll_reads: int = Field(1, ge=0, description="How many reads see a roll under way. Default: 1.")
    roll_seconds: float = Field(0.0, ge=0, description="How long a roll takes at least, in seconds.")


class Driver(fakeworld.Faults, Workload):
    """The fake workloads, with what a test needs to set them up and to look into them."""

    Settings = Settings
    artefacts = "fake"

    def __init__(
        self,
        settings: Any,
        connections: Connections,
        *,
        clock: Clock | None = None,
        hook: fakeworld.Hook | None = None,
    ) -> None:
        super().__init__(settings, connections)
        self.world = fakeworld.World("workload", settings.state, clock, hook)

    # The seam

    def list_workloads(self, fleet: str) -> Sequence[Place]:
        """Those that the settings name."""
        with self.world.call("list_workloads", fleet) as data:
            found = []
            for name in self.settings.workloads:
                known = self._known(data).get(name)
                if known is None:
                    raise NotFound(f"There is no workload {name}.", remedy="Correct workloads, or make it.")
                _check_ours(known)
                if known["fleet"] not in ("", fleet):
                    raise NotOurs(f"{name} belongs to {known['fleet']}, not to {fleet}.", remedy="Ask whose it is.")
                found.append(Place(known["id"], name.rpartition("/")[0], f"{name.rpartition('/')[2]}.fake.test"))
            return found

    def progress(self, workload_id: str) -> Progress:
        """As reads show it; each call brings a roll a read further."""
        with self.world.call("progress", workload_id) as data:
            known = self._look(data, workload_id)
            known["reads_left"] = max(0, known["reads_left"] - 1)
            return self._seen(known)

    def start(self, workload_id: str, intent: LaunchIntent, *, dry_run: bool = False) -> None:
        """A roll begins, unless this token has begun one before."""
        with self.world.call("rehearse" if dry_run else "start", intent.token) as data:
            known = self._look(data, workload_id)
            token = intent.token
            if token in known["started"]:
                if known["started"][token] != intent.fingerprint:
                    raise IntentMismatch(f"{known['name']} was started by {token} with other parameters.")
                return
            if known["previous"]:
                raise InUse(f"The last roll of {known['name']} is not settled.", remedy="Undo or settle it first.")
            if dry_run:
                return
            artefact = intent.artefact
            revision = Revision(artefact.reference, artefact.digest, intent.version, token, self._moment())
            known["started"][token] = intent.fingerprint
            known.update(previous=known["current"], undone=None)
            self._roll(known, revision.data())

    def undo(self, workload_id: str, key: str) -> None:
        """A roll back begins, unless it has begun before."""
        with self.world.call("undo", key) as data:
            known = self._look(data, workload_id)
            if known["undone"] and Revision.of(known["undone"]).key == key:
                return
            if not known["previous"] or Revision.of(known["current"]).key != key:
                raise InvalidSpec(f"{known['name']} does not run {key}, so there is nothing to go back from.")
            known.update(undone=known["current"])
            self._roll(known, known["previous"])
            known.update(previous=None)

    def settle(self, workload_id: str, key: str) -> None:
        """Forget what was before."""
        with self.world.call("settle", key) as data:
            known = self._look(data, workload_id)
            if Revision.of(known["current"]).key == key:
                known["previous"] = None

    # What a test sets up and looks at

    def retag(self, name: str, **marks: str) -> None:
        """Somebody changed marks of that workload by hand: its ``owner`` or ``fleet``."""
        with self.world.transaction() as data:
            self._known(data)[name].update(marks)

    def remove(self, name: str) -> None:
        """Somebody deleted that workload."""
        with self.world.transaction() as data:
            del self._known(data)[name]

    def set_available(self, name: str, count: int | None) -> None:
        """From now on so many of its replicas are in service, whatever happens; None: as many as it has."""
        with self.world.transaction() as data:
            self._known(data)[name]["available"] = count

    def fail_roll(self, name: str, message: str) -> None:
        """Its next roll comes to no end, with these words."""
        with self.world.transaction() as data:
            self._known(data)[name]["fate"] = message

    def set_image(self, name: str, reference: str, version: str = "") -> None:
        """It was on that image from the beginning, or somebody has set it by hand."""
        with self.world.transaction() as data:
            revision = Revision(reference, reference.rpartition("@")[2], version, "", self._moment())
            self._known(data)[name]["current"] = revision.data()

    def workloads(self) -> dict[str, dict[str, Any]]:
        """The truth: every workload by name, with its revisions as data and whether it is ``complete``."""
        with self.world.transaction() as data:
            return {name: {**known, "complete": self._is_complete(known)} for name, known in self._known(data).items()}

    # Inside

    def _known(self, data: dict[str, Any]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = data.setdefault("workloads", {})
        for name in self.settings.workloads:
            if name not in data.setdefault("made", []):
                data["made"].append(name)
                data["serial"] += 1
                found[name] = {
                    "id": f"fake/{name}/{data['serial']:08d}", "name": name, "owner": OWNER, "fleet": "",
                    "current": Revision(f"fake.test/old@{_DIGEST}", _DIGEST, "", "", self._moment()).data(),
                    "previous": None, "undone": None, "started": {}, "since": self.world.now(), "reads_left": 0,
                    "rolls": False, "fate": "", "failure": "", "available": None,
                }  # fmt: skip
        return found

    def _look(self, data: dict[str, Any], workload_id: str) -> dict[str, Any]:
        known = next((each for each in self._known(data).values() if each["id"] == workload_id), None)
        if known is None:
            raise NotFound(f"There is no workload {workload_id}.", remedy="Make it, or correct the fleet's file.")
        _check_ours(known)
        return known

    def _roll(self, known: dict[str, Any], to: dict[str, str]) -> None:
        known.update(
            current=to, rolls=True, since=self.world.now(), reads_left=self.settings.roll_reads,
            failure=known["fate"], fate="",
        )  # fmt: skip

    def _is_complete(self, known: dict[str, Any]) -> bool:
        if known["rolls"] and not known["failure"] and known["reads_left"] <= 0:
            known["rolls"] = self.world.now() < known["since"] + self.settings.roll_seconds
        return not known["rolls"]

    def _seen(self, known: dict[str, Any]) -> Progress:
        complete, desired = self._is_complete(known), self.settings.replicas
        available = desired if known["available"] is None else int(known["available"])
        current = Revision.of(known["current"])
        updated = desired if complete else desired // 2
        return Progress(
            current=current,
            desired=desired,
            updated=updated,
            available=available,
            minimum=max(0, desired - 1),
            complete=complete,
            previous=Revision.of(known["previous"]) if known["previous"] else None,
            undone=Revision.of(known["undone"]) if known["undone"] else None,
            failure=known["failure"],
            running=current.digest if complete else "",
            message=f"{updated} of {desired} updated, {available} available",
        )

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self.world.now(), tz=UTC)


def _check_ours(known: dict[str, Any]) -> None:
    if known["owner"] != OWNER:
        raise NotOurs(f"The workload {known['name']} is not ours.", remedy="Mark it, if it is to be rolled by us.")
