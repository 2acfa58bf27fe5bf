"""A platform without machines, for tests and simulations: it keeps every promise of the seam, and breaks on order.

It is as strict as the strictest real one: a token is remembered after its instance is gone, so a launch with it gives
the dead instance back and never a second one, as Amazon EC2 does.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet import fakeworld
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.clock import Clock
from phoenix_fleet.domain.errors import (
    CapacityExhausted,
    IntentMismatch,
    InUse,
    InvalidSpec,
    NotFound,
    NotOurs,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms._fake_volumes import FakeVolumes
from phoenix_fleet.platforms.base import Platform


class Settings(BaseModel):
    """How the fake behaves; by default it is quick and in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str = Field("", description="JSON file that processes share. Default: none, in memory.")
    boot_reads: int = Field(1, ge=0, description="How many reads see a new instance starting. Default: 1.")
    boot_seconds: float = Field(0.0, ge=0, description="How long an instance is at least starting, in seconds.")
    stop_reads: int = Field(1, ge=0, description="How many reads see a terminated instance stopping. Default: 1.")
    stop_seconds: float = Field(0.0, ge=0, description="How long an instance is at least stopping, in seconds.")
    capacity: int = Field(0, ge=0, description="Room for so many instances at once; 0 for any number.")
    show_gone: bool = Field(False, description="Whether reads go on showing an instance that is gone, as gone.")
    zones: tuple[str, ...] = Field((), description="Zones that machines are put into in turn. Default: none.")
    hosts: int = Field(0, ge=0, description="How many hosts each zone has, used in turn. Default: none is told.")
    volume_seconds: float = Field(0.0, ge=0, description="How long a change of a data volume takes, in seconds.")
    strict_images: bool = Field(False, description="Whether only artefacts told by add_image can be launched.")


class Driver(fakeworld.Faults, FakeVolumes, Platform):
    """The fake platform, with what a test needs to set it up and to look into it."""

    Settings = Settings

    def __init__(
        self,
        settings: Any,
        connections: Connections,
        *,
        clock: Clock | None = None,
        hook: fakeworld.Hook | None = None,
    ) -> None:
        super().__init__(settings, connections)
        self.world = fakeworld.World("platform", settings.state, clock, hook)

    # The seam

    def launch(self, intent: LaunchIntent) -> Instance:
        """A new instance in ``starting``, or the one that the token gave before, even if that is gone."""
        token = intent.token
        with self.world.call("launch", token) as data:
            machines, launched = _machines(data), _launched(data)
            if token in launched:
                return self._same(machines[launched[token]], intent)
            self._check_room(data, intent)
            data["serial"] += 1
            machine = self._born(data, intent, data["serial"])
            machines[machine["id"]] = machine
            launched[token] = machine["id"]
            return _instance(machine, InstanceState.STARTING)

    def get_instance(self, instance_id: str) -> Instance:
        """The instance as reads show it; each call brings a starting or stopping one a read further."""
        with self.world.call("get_instance", instance_id) as data:
            machine, state = self._look(data, instance_id)
            keys = _host_keys(instance_id) if state is InstanceState.RUNNING else ()
            return _instance(machine, state, keys)

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """As reads show them; each call brings starting and stopping ones a read further."""
        with self.world.call("list_instances", fleet) as data:
            found = []
            for machine in _machines(data).values():
                if _ours(machine) and machine["fleet"] == fleet:
                    state = self._read(data, machine)
                    if state is not None:
                        found.append(_instance(machine, state))
            return sorted(found, key=lambda instance: instance.name)

    def terminate(self, instance_id: str) -> None:
        """Let it be stopping, and gone after ``stop_reads`` and ``stop_seconds``."""
        with self.world.call("terminate", instance_id) as data:
            machine, _ = self._look(data, instance_id, counts=False)
            now = machine["timeline"][-1][1]
            stops = bool(machine.pop("stops", False)) and now == InstanceState.STOPPING
            if stops or now not in (InstanceState.STOPPING, InstanceState.GONE):
                fakeworld.put(machine["timeline"], self.world.now(), InstanceState.STOPPING)
                machine["reads_left"] = self.settings.stop_reads

    def stop(self, instance_id: str) -> None:
        """Let it be stopping, and failed, which is down and not gone, after as much as a termination takes."""
        with self.world.call("stop", instance_id) as data:
            machine, _ = self._look(data, instance_id, counts=False)
            if machine["timeline"][-1][1] in (InstanceState.STARTING, InstanceState.RUNNING):
                fakeworld.put(machine["timeline"], self.world.now(), InstanceState.STOPPING)
                machine.update(reads_left=self.settings.stop_reads, stops=True, message="it was stopped")

    def hostspec(self, instance: Instance) -> str:
        """``fake://<id>``."""
        return f"fake://{instance.id}"

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """What ``add_image`` told, by version."""
        with self.world.call("list_images", family) as data:
            return [
                (_artefact(digest, image), {"version": image["version"], "status": image["status"]})
                for digest, image in sorted(_images(data).items(), key=lambda item: (item[1]["version"], item[0]))
                if image["family"] == family
            ]

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """The artefact; ``NotFound`` if ``add_image`` never told of it."""
        with self.world.call("tag_image", artefact.digest) as data:
            image = _images(data).get(artefact.digest)
            if image is None:
                raise NotFound(f"There is no image {artefact.reference}.", remedy="Build it again.")
            image["status"] = str(status)
            return _artefact(artefact.digest, image)

    def delete_image(self, artefact: Artefact) -> None:
        """Forget the artefact, unless a machine runs it."""
        with self.world.call("delete_image", artefact.digest) as data:
            for machine in _machines(data).values():
                if machine["artefact"] == artefact.digest and self._state_now(machine) is not InstanceState.GONE:
                    raise InUse(
                        f"{artefact.reference} is still run by {machine['name']}.", remedy="Replace that one first."
                    )
            _images(data).pop(artefact.digest, None)

    # What a test sets up and looks at

    def add_image(self, artefact: Artefact, family: str, version: str, status: Rung = Rung.CANDIDATE) -> None:
        """Let the platform hold that artefact, as if a build had left it there."""
        with self.world.transaction() as data:
            _images(data)[artefact.digest] = {
                "platform": artefact.platform,
                "reference": artefact.reference,
                "family": family,
                "version": version,
                "status": str(status),
            }

    def add_foreign(self, name: str, **marks: str) -> str:
        """Put a machine there that is not ours, whatever marks it shows off; its id comes back."""
        with self.world.transaction() as data:
            data["serial"] += 1
            machine_id = f"i-{data['serial']:08d}"
            blank = dict.fromkeys(
                ("fleet", "slot", "version", "token", "fingerprint", "purpose", "digest", "owner"), ""
            )
            _machines(data)[machine_id] = {
                **blank,
                **marks,
                "id": machine_id,
                "name": name,
                "artefact": "",
                "address": _address(data["serial"]),
                "timeline": [[self.world.now(), str(InstanceState.RUNNING)]],
                "reads_left": 0,
                "fate": str(InstanceState.RUNNING),
                "message": "",
                "authorized_key": "",
            }
            return machine_id

    def boot_wrong(self, digest: str) -> None:
        """The next launched instance really runs another image than asked for."""
        with self.world.transaction() as data:
            data["wrong_digest"] = digest

    def fail_boot(self, message: str) -> None:
        """The next launched instance ends up failed, with these words, instead of running."""
        with self.world.transaction() as data:
            data["fail_boot"] = message

    def set_state(self, instance_id: str, state: InstanceState, message: str = "") -> None:
        """Something outside happened to that machine: it crashed, was stopped by hand or is gone."""
        with self.world.transaction() as data:
            machine = _machines(data)[instance_id]
            fakeworld.put(machine["timeline"], self.world.now(), str(state))
            machine.update(reads_left=0, fate=str(state), message=message)

    def retag(self, instance_id: str, **marks: str) -> None:
        """Somebody changed marks of that machine by hand: its ``fleet``, ``slot``, ``version`` or ``owner``."""
        with self.world.transaction() as data:
            _machines(data)[instance_id].update(marks)

    def machines(self) -> dict[str, dict[str, Any]]:
        """The truth without lag or reading effects: every machine ever, by id, with its ``state`` now and its marks."""
        with self.world.transaction() as data:
            return {
                machine_id: {**machine, "state": self._state_now(machine)}
                for machine_id, machine in _machines(data).items()
            }

    # Inside

    def _same(self, machine: dict[str, Any], intent: LaunchIntent) -> Instance:
        if machine["fingerprint"] != intent.fingerprint:
            raise IntentMismatch(
                f"{machine['name']} was launched with the same token and other parameters.",
                remedy="Launch a new attempt; parameters are frozen with an intent.",
            )
        return _instance(machine, self._state_now(machine))

    def _check_room(self, data: dict[str, Any], intent: LaunchIntent) -> None:
        if self.settings.strict_images and intent.artefact.digest not in _images(data):
            raise InvalidSpec(f"There is no image {intent.artefact.reference}.", remedy="Build or push it again.")
        name, machines = intent.name, _machines(data).values()
        for machine in machines:
            if machine["name"] == name and self._state_now(machine) is not InstanceState.GONE:
                raise NotOurs(f"A machine named {name} exists and is not ours.", remedy="Ask whose it is.")
        if self.settings.capacity:
            living = sum(self._state_now(machine) is not InstanceState.GONE for machine in machines)
            if living >= self.settings.capacity:
                raise CapacityExhausted(f"No room: {living} of {self.settings.capacity} instances exist.")

    def _born(self, data: dict[str, Any], intent: LaunchIntent, serial: int) -> dict[str, Any]:
        message = data.pop("fail_boot", "")
        return {
            "id": f"i-{serial:08d}",
            "name": intent.name,
            "owner": OWNER,
            "fleet": intent.fleet,
            "slot": intent.slot,
            "version": intent.version,
            "purpose": intent.purpose,
            "token": intent.token,
            "fingerprint": intent.fingerprint,
            "artefact": intent.artefact.digest,
            "digest": data.pop("wrong_digest", intent.artefact.digest),
            "authorized_key": intent.authorized_key,
            "address": _address(serial),
            "timeline": [[self.world.now(), str(InstanceState.STARTING)]],
            "reads_left": self.settings.boot_reads,
            "fate": str(InstanceState.FAILED if message else InstanceState.RUNNING),
            "message": message,
            **self._place(intent.zone, serial),
        }

    def _place(self, zone: str, serial: int) -> dict[str, str]:
        """The zone that was asked for, or the next one in turn, and a host in it."""
        zones, hosts = self.settings.zones, self.settings.hosts
        place = zone or (zones[(serial - 1) % len(zones)] if zones else "")
        turn = (serial - 1) // max(1, len(zones))
        return {"zone": place, "host": f"{place or 'host'}-{turn % hosts + 1}" if hosts else ""}

    def _look(
        self, data: dict[str, Any], instance_id: str, *, counts: bool = True
    ) -> tuple[dict[str, Any], InstanceState]:
        machine = _machines(data).get(instance_id)
        state = self._read(data, machine, counts=counts) if machine else None
        if machine is None or state is None:
            raise NotFound(f"There is no instance {instance_id} to be seen.", remedy="Look again; it may be late.")
        if not _ours(machine):
            raise NotOurs(f"{machine['name']} ({instance_id}) is not ours.", remedy="Ask whose it is.")
        return machine, state

    def _read(self, data: dict[str, Any], machine: dict[str, Any], *, counts: bool = True) -> InstanceState | None:
        """What a read sees of it, or None for nothing; a read that counts brings the machine one read on."""
        self._advance(machine)
        if counts and machine["reads_left"] > 0:
            machine["reads_left"] -= 1
        word = fakeworld.seen(machine["timeline"], self.world.horizon(data))
        if word is None or (word == InstanceState.GONE and not self.settings.show_gone):
            return None
        return InstanceState(word)

    def _state_now(self, machine: dict[str, Any]) -> InstanceState:
        self._advance(machine)
        return InstanceState(machine["timeline"][-1][1])

    def _advance(self, machine: dict[str, Any]) -> None:
        since, state = machine["timeline"][-1]
        if state == InstanceState.STARTING:
            seconds, reads, after = self.settings.boot_seconds, self.settings.boot_reads, machine["fate"]
        elif state == InstanceState.STOPPING:
            after = str(InstanceState.FAILED if machine.get("stops") else InstanceState.GONE)
            seconds, reads = self.settings.stop_seconds, self.settings.stop_reads
        else:
            return
        now = self.world.now()
        if machine["reads_left"] <= 0 and now >= since + seconds:
            # By time alone it happened when it was due, not when somebody looked.
            fakeworld.put(machine["timeline"], now if reads else since + seconds, after)


_MARKS = ("owner", "fleet", "slot", "version", "purpose", "token", "fingerprint", "digest")


def _machines(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    machines: dict[str, dict[str, Any]] = data.setdefault("machines", {})
    return machines


def _launched(data: dict[str, Any]) -> dict[str, str]:
    """Id by token, of every launch ever."""
    launched: dict[str, str] = data.setdefault("launched", {})
    return launched


def _images(data: dict[str, Any]) -> dict[str, dict[str, str]]:
    images: dict[str, dict[str, str]] = data.setdefault("images", {})
    return images


def _ours(machine: dict[str, Any]) -> bool:
    return bool(machine["owner"] == OWNER and machine["token"] and machine["fingerprint"])


def _address(serial: int) -> str:
    # On loopback, so that whoever really connects is refused at once; distinct, so that a mix-up shows.
    return f"127.66.{serial // 250 % 250}.{serial % 250 + 1}"


def _host_keys(instance_id: str) -> tuple[str, ...]:
    return (f"ssh-ed25519 {base64.b64encode(hashlib.sha256(instance_id.encode()).digest()).decode()}",)


def _artefact(digest: str, image: dict[str, str]) -> Artefact:
    return Artefact(image["platform"], image["reference"], digest)


def _instance(machine: dict[str, Any], state: InstanceState, host_keys: tuple[str, ...] = ()) -> Instance:
    known = state in (InstanceState.RUNNING, InstanceState.STOPPING)
    return Instance(
        id=machine["id"],
        name=machine["name"],
        fleet=machine["fleet"],
        slot=machine["slot"],
        version=machine["version"],
        token=machine["token"],
        state=state,
        address=machine["address"] if known else "",
        digest=machine["digest"] if known else "",
        launched_at=datetime.fromtimestamp(machine["timeline"][0][0], tz=UTC),
        host_keys=host_keys,
        message=machine["message"] if state is InstanceState.FAILED else "",
        zone=machine.get("zone", ""),
        host=machine.get("host", ""),
    )
