"""The fake platform under the contract tests, with its world in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import OWNER, Artefact, InstanceState, LaunchIntent
from phoenix_fleet.domain.volumes import VolumeIntent
from phoenix_fleet.platforms import fake
from tests.contract.machinery import KnownConnections


class FakeLab:
    """What the contract tests ask of a platform's surroundings."""

    name = "fake"
    settings: Mapping[str, Any] = {}

    def __init__(self, folder: Path) -> None:
        self.state = folder / "world.json"
        self.platform = self.again()
        self.standard = self.artefact("lab", "2026.11-1")

    def again(self) -> fake.Driver:
        """Another driver object for the same world."""
        return fake.Driver(fake.Settings(state=str(self.state), strict_images=True), KnownConnections())

    def artefact(self, family: str, version: str, *, ours: bool = True) -> Artefact:
        digest = f"sha256:{hashlib.sha256(f'{family} {version}'.encode()).hexdigest()}"
        artefact = Artefact("fake", f"fake.test/{family}@{digest}", digest)
        self.platform.add_image(artefact, family if ours else f"{family}-of-others", version)
        return artefact

    def foreign(self, name: str, marks: Mapping[str, str]) -> str:
        return self.platform.add_foreign(name, **{key.removeprefix("phoenix."): value for key, value in marks.items()})

    # Data volumes

    def volume_intent(self, fleet: str, name: str = "data") -> VolumeIntent:
        """A volume that can be made, beside instances of slot 01."""
        return VolumeIntent(fleet, f"{fleet}-01", name, 10)

    def foreign_volume(self, fleet: str, name: str) -> str:
        """One with our words on it, but not as ours."""
        return self.platform.add_volume(name, owner="phoenix", fleet=fleet, slot=f"{fleet}-01")

    def volume_exists(self, volume_id: str) -> bool:
        return volume_id in self.platform.volumes()

    @contextmanager
    def losing_the_reply(self, method: str) -> Iterator[None]:
        """The next call of that method takes effect, and the caller hears nothing."""
        self.platform.lose_reply(method)
        with pytest.raises(Unavailable):
            yield

    def is_alive(self, instance_id: str) -> bool:
        machine = self.platform.machines().get(instance_id)
        return machine is not None and machine["state"] is InstanceState.RUNNING

    def count(self, token: str) -> int:
        """How many machines carry the token, in truth, living or not."""
        return sum(machine["token"] == token for machine in self.platform.machines().values())

    def authorized_key(self, instance_id: str) -> str:
        return str(self.platform.machines()[instance_id]["authorized_key"])

    def marks(self, instance_id: str) -> dict[str, str]:
        machine = self.platform.machines()[instance_id]
        kinds = ("owner", "fleet", "slot", "version", "purpose", "token")
        assert machine["owner"] == OWNER
        return {f"phoenix.{kind}": machine[kind] for kind in kinds}

    def crash_in_launch(self, intent: LaunchIntent) -> None:
        """Launch, and die before the reply."""
        self.platform.lose_reply("launch")
        try:
            self.platform.launch(intent)
        except Unavailable:
            return
        raise AssertionError("the reply was not lost")

    def break_down(self, instance_id: str) -> None:
        """Let the machine end by itself, for good."""
        self.platform.set_state(instance_id, InstanceState.FAILED, "kernel panic")
