"""The data volumes of the fake platform: they change by themselves after so many seconds, and never go."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet import fakeworld
from phoenix_fleet.domain.errors import IntentMismatch, InUse, NotFound, NotOurs
from phoenix_fleet.domain.models import OWNER, InstanceState
from phoenix_fleet.domain.volumes import Snapshot, Volume, VolumeIntent, VolumeState
from phoenix_fleet.platforms.base import Volumes


class VolumeSettings(BaseModel):
    """What a fleet file may say of a volume of the fake."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field("plain", description="Anything. Default: plain.", pattern=r"^[a-z]{1,20}$")


class FakeVolumes(Volumes):
    """Data volumes over the world of a fake platform, with what a test needs to look into them."""

    VolumeSettings = VolumeSettings
    world: fakeworld.World
    settings: Any

    # The seam

    def list_volumes(self, fleet: str) -> Sequence[Volume]:
        """As reads show them, with the lag that the world has."""
        with self.world.call("list_volumes", fleet) as data:
            found = [self._shown(data, each) for each in _volumes(data).values() if _ours(each)]
            return sorted((each for each in found if each and each.fleet == fleet), key=lambda each: each.label)

    def create_volume(self, intent: VolumeIntent) -> Volume:
        """A new volume, or the one that the token gave before."""
        fingerprint = hashlib.sha256(repr(sorted(intent.facts().items())).encode()).hexdigest()
        with self.world.call("create_volume", intent.token) as data:
            volumes = _volumes(data)
            for each in volumes.values():
                if each["token"] == intent.token:
                    if each["fingerprint"] != fingerprint:
                        raise IntentMismatch(f"{intent.label} was made with other parameters.")
                    return _volume(each, self._now(data, each))
            data["serial"] += 1
            made: dict[str, Any] = {
                "id": f"vol-{data['serial']:08d}",
                "owner": OWNER,
                "fleet": intent.fleet,
                "slot": intent.slot,
                "name": intent.name,
                "zone": intent.zone,
                "token": intent.token,
                "fingerprint": fingerprint,
                "written_by": [],
                "snapshots": [],
                "timeline": [],
            }
            volumes[made["id"]] = made
            self._let(made, VolumeState.CREATING, "", VolumeState.FREE, "")
            return _volume(made, self._now(data, made))

    def snapshot_volume(self, volume_id: str, token: str) -> Snapshot:
        """One per token; it holds what was written until now."""
        with self.world.call("snapshot_volume", volume_id) as data:
            volume = self._find(data, volume_id)
            known = next((each for each in volume["snapshots"] if each["token"] == token), None)
            if known is None:
                data["serial"] += 1
                holder = _machine(data, self._now(data, volume)[1])
                known = {
                    "id": f"snap-{data['serial']:08d}",
                    "token": token,
                    "at": self.world.now(),
                    "clean": holder is None or self._is_down(holder),
                    "holds": list(volume["written_by"]),
                    "failed": data.pop("fail_snapshot", ""),
                }
                volume["snapshots"].append(known)
            return self._snapshot(volume, known)

    def list_snapshots(self, volume_id: str) -> Sequence[Snapshot]:
        """As they are, less the lag."""
        with self.world.call("list_snapshots", volume_id) as data:
            volume = self._find(data, volume_id)
            horizon = self.world.horizon(data)
            return [self._snapshot(volume, each) for each in volume["snapshots"] if each["at"] <= horizon]

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """At once."""
        with self.world.call("delete_snapshot", snapshot_id) as data:
            volume = self._find(data, volume_id)
            volume["snapshots"] = [each for each in volume["snapshots"] if each["id"] != snapshot_id]

    def detach_volume(self, volume_id: str, instance_id: str) -> None:
        """Detaching for a while, then free."""
        with self.world.call("detach_volume", volume_id) as data:
            volume = self._find(data, volume_id)
            machine = self._own_machine(data, instance_id)
            word, holder = self._now(data, volume)
            if holder != instance_id or word == VolumeState.DETACHING:
                return
            if machine is not None and not self._is_down(machine):
                raise InUse(f"{machine['name']} runs.", remedy="Stop it first.")
            self._let(volume, VolumeState.DETACHING, instance_id, VolumeState.FREE, "")

    def attach_volume(self, volume_id: str, instance_id: str) -> None:
        """Attaching for a while, then attached; from then on the instance writes to it."""
        with self.world.call("attach_volume", volume_id) as data:
            volume = self._find(data, volume_id)
            machine = self._own_machine(data, instance_id)
            if machine is None:
                raise NotFound(f"There is no instance {instance_id} to be seen.", remedy="Look again.")
            word, holder = self._now(data, volume)
            if holder == instance_id:
                return
            if word != VolumeState.FREE:
                raise InUse(f"{volume['slot']}/{volume['name']} is {word}, {holder or 'with nobody'}.")
            volume["written_by"].append(machine["token"])
            self._let(volume, VolumeState.ATTACHING, instance_id, VolumeState.ATTACHED, instance_id)

    # What a test sets up and looks at

    def volumes(self) -> dict[str, dict[str, Any]]:
        """The truth: every volume by id, with who has it now as ``attached_to``."""
        with self.world.transaction() as data:
            found = _volumes(data).items()
            return {key: {**each, "attached_to": self._now(data, each)[1]} for key, each in found}

    def add_volume(self, name: str, *, attached_to: str = "", **marks: str) -> str:
        """A volume that was there before, whoever's it is; its id comes back."""
        blank = dict.fromkeys(("owner", "fleet", "slot", "zone", "token", "fingerprint"), "")
        with self.world.transaction() as data:
            data["serial"] += 1
            made: dict[str, Any] = {"id": f"vol-{data['serial']:08d}", **blank, **marks, "name": name}
            made |= {"written_by": [], "snapshots": [], "timeline": []}
            if holder := _machine(data, attached_to):
                made["written_by"].append(holder["token"])
            word = VolumeState.ATTACHED if attached_to else VolumeState.FREE
            fakeworld.put(made["timeline"], self.world.now(), [str(word), attached_to])
            _volumes(data)[made["id"]] = made
            return str(made["id"])

    def fail_snapshot(self, message: str) -> None:
        """The next snapshot never gets whole."""
        with self.world.transaction() as data:
            data["fail_snapshot"] = message

    # Inside

    def _let(self, volume: dict[str, Any], now: VolumeState, holder: str, then: VolumeState, after: str) -> None:
        at, seconds = self.world.now(), self.settings.volume_seconds
        if seconds:
            fakeworld.put(volume["timeline"], at, [str(now), holder])
        fakeworld.put(volume["timeline"], at + seconds, [str(then), after])

    def _now(self, data: dict[str, Any], volume: dict[str, Any]) -> tuple[str, str]:
        return self._at(data, volume, self.world.now()) or (str(VolumeState.CREATING), "")

    def _at(self, data: dict[str, Any], volume: dict[str, Any], moment: float) -> tuple[str, str] | None:
        """State and holder; what an instance had that is gone is free."""
        seen = fakeworld.seen(volume["timeline"], moment)
        if seen is None:
            return None
        machine = _machine(data, seen[1])
        if machine is not None and machine["timeline"][-1][1] == InstanceState.GONE:
            return str(VolumeState.FREE), ""
        return seen[0], seen[1]

    def _shown(self, data: dict[str, Any], volume: dict[str, Any]) -> Volume | None:
        seen = self._at(data, volume, self.world.horizon(data))
        return _volume(volume, seen) if seen else None

    def _find(self, data: dict[str, Any], volume_id: str) -> dict[str, Any]:
        volume = _volumes(data).get(volume_id)
        if volume is None or self._shown(data, volume) is None:
            raise NotFound(f"There is no volume {volume_id} to be seen.", remedy="Look again; it may be late.")
        if not _ours(volume):
            raise NotOurs(f"The volume {volume_id} is not ours.", remedy="Ask whose it is.")
        return volume

    def _own_machine(self, data: dict[str, Any], instance_id: str) -> dict[str, Any] | None:
        machine = _machine(data, instance_id)
        if machine is not None and machine["owner"] != OWNER:
            raise NotOurs(f"{machine['name']} ({instance_id}) is not ours.", remedy="Ask whose it is.")
        return machine

    def _is_down(self, machine: dict[str, Any]) -> bool:
        return machine["timeline"][-1][1] in (InstanceState.FAILED, InstanceState.GONE)

    def _snapshot(self, volume: dict[str, Any], each: dict[str, Any]) -> Snapshot:
        taken = not each["failed"] and self.world.now() >= each["at"] + self.settings.volume_seconds
        return Snapshot(each["id"], volume["id"], each["token"], taken, each["failed"])


def _volumes(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    volumes: dict[str, dict[str, Any]] = data.setdefault("volumes", {})
    return volumes


def _machine(data: dict[str, Any], instance_id: str) -> dict[str, Any] | None:
    machines: dict[str, dict[str, Any]] = data.get("machines", {})
    return machines.get(instance_id)


def _ours(volume: dict[str, Any]) -> bool:
    return bool(volume["owner"] == OWNER and volume["slot"] and volume["name"])


def _volume(volume: dict[str, Any], seen: tuple[str, str]) -> Volume:
    word, holder = seen
    return Volume(
        id=volume["id"],
        fleet=volume["fleet"],
        slot=volume["slot"],
        name=volume["name"],
        state=VolumeState(word),
        attached_to=holder,
        device=f"/dev/disk/by-id/fake-{volume['id']}" if word == VolumeState.ATTACHED else "",
        zone=volume["zone"],
    )
