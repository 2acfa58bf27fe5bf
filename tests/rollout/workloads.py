"""A scene whose fleet is of workloads, on the public fake of their seam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from phoenix_fleet.config import Fleet
from phoenix_fleet.configurators import none as no_configurator
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.deps import Deps
from phoenix_fleet.rollout.revisions import InService, Revisions
from phoenix_fleet.workloads import fake
from tests.rollout.scene import NEW, OLD, START, Scene, digest_of, no_connections


def image_of(version: Version) -> str:
    """What a workload on that version runs."""
    return f"registry/base@{digest_of(version)}"


class WorkloadScene(Scene):
    """Workloads by name, in the order of their slots; those before a slash are their clusters."""

    def __init__(self, folder: Path, *names: str, replicas: int = 6, roll_seconds: float = 20, **fleet: Any) -> None:
        super().__init__(folder, balanced=False)
        self.names = names
        self.workload = fake.Driver(
            fake.Settings(workloads=names, replicas=replicas, roll_seconds=roll_seconds, roll_reads=0),
            no_connections,
            clock=self.clock,
            hook=self._at_workload,
        )
        self.revisions = Revisions(self.workload, "web", len(names), self.platform)
        self.fleet = Fleet.model_validate(
            {
                "fleet": "web",
                "family": "base",
                "owners": {"team": "shop"},
                "size": len(names),
                "workload": {"fake": {"workloads": names}},
                "watch_time": "10s",
                "waves": ["100%"],
                **fleet,
            }
        )

    def prepare(self) -> WorkloadScene:
        """The catalog with two releases, and every workload on the older one, brought by somebody else."""
        self.catalog.migrate()
        for version in (OLD, NEW):
            self.release(version)
        for name in self.names:
            self.workload.set_image(name, image_of(OLD), str(OLD))
        self.clock.advance(START - self.clock.now())
        return self

    def deps(self) -> Deps:
        return replace(
            super().deps(),
            platform=self.revisions,
            balancer=InService(self.revisions),
            configurator=no_configurator.Driver(no_configurator.Settings(), no_connections),
            ssh_probe=None,
            rehearse=self.revisions.rehearse,
        )

    def images(self) -> dict[str, str]:
        """What each workload is told to run: the truth."""
        return {name: str(each["current"]["reference"]) for name, each in self.workload.workloads().items()}

    def open_ends(self) -> list[str]:
        """Workloads whose last roll is neither complete and settled nor undone."""
        return [name for name, each in self.workload.workloads().items() if each["previous"] or not each["complete"]]

    def check_workloads(self, version: Version = NEW) -> None:
        """Every workload is on that version, settled, and every call has an intent with an outcome."""
        assert self.images() == dict.fromkeys(self.names, image_of(version))
        assert not self.open_ends()
        self.check_record()

    def check_record(self) -> None:
        """Every call that changed something had been meant, and nothing is left unknown."""
        intents = self.catalog.intents.list_intents()
        assert not [each for each in intents if each.outcome is None]
        launches = {each.token for each in intents if each.action == "launch"}
        ended = {each.params["token"] for each in intents if each.action == "terminate"}
        assert {call.subject for call in self.workload.calls("start")} <= launches
        assert {call.subject for call in self.workload.calls("undo")} <= ended
        # The one before is settled by terminating it: as often as that was meant, at most.
        told = [each for each in intents if each.action == "terminate"]
        assert len({call.subject for call in self.workload.calls("settle")}) <= len({each.target for each in told})
        self.catalog.events.verify()

    def _at_workload(self, position: str, method: str, subject: str) -> None:
        self.on_call(position, method, subject)
