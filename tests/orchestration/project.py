"""The project on fakes that these tests run: a fleet for each of them, with a world of its own."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import Project
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact, InstanceState, LaunchIntent
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.rollout.deps import load
from phoenix_fleet.steering import Steering
from tests.dags.fakeworld_project import write_project
from tests.orchestration.built import artefact_of

OLD, NOW, NEXT = Window.parse("2026-10"), Window.parse("2026-11"), Window.parse("2026-12")
QUICK = {"boot_reads": 0, "stop_reads": 0, "show_gone": True}
"""A machine is there and gone at once."""
HELD = {**QUICK, "boot_seconds": 86_400}
"""It boots when the test says so (``boot``), so that something can be killed meanwhile, however slow all else is."""


def add_family(include: Path, name: str) -> None:
    """Another family like ``mini``."""
    home = include / "images" / name
    shutil.copytree(include / "images" / "mini", home)
    yaml = YAML()
    said = yaml.load(home / "image.yaml")
    said["family"] = name
    yaml.dump(said, home / "image.yaml")


def add_fleet(include: Path, name: str, *, size: int = 3, machines: dict[str, Any] | None = None, **says: Any) -> None:
    """A fleet whose platform, balancer and gates are fakes of its own."""
    state = include.parent / "state" / name
    state.mkdir(parents=True)
    fleet = {
        "fleet": name,
        "family": "mini",
        "owners": {"team": "testers"},
        "size": size,
        "platform": {"fake": {"state": str(state / "platform.json"), **(machines or QUICK)}},
        "balancer": {"fake": {"state": str(state / "balancer.json"), "start_reads": 0}},
        "configurator": "fake",
        "timeouts": {"ready": "1h"},
        "verify": [{"fake": {"state": str(state / "gate.json")}}],
        "watch_time": "0s",
        "waves": ["100%"],
        "schedule": None,
        **says,
    }
    (include / "fleets" / f"{name}.yaml").write_text(json.dumps(fleet))


def write(root: Path) -> Path:
    """The ``include`` folder, without the tests' own fleets."""
    include = write_project(root, schedule=None)
    add_family(include, "late")
    return include


def release(catalog: Catalog, family: str, window: Window, artefact: Artefact | None = None) -> Version:
    """A released image of that window; without an artefact of its own one for the fake platform, which has none yet."""
    image = catalog.images.open_candidate(family, window, "inputs", actor="test", run=f"seed/{family}/{window}")
    catalog.images.add_artefact(family, image.version, artefact or artefact_of(family, image.version))
    for rung in CLIMB[1:]:
        catalog.images.move(family, image.version, rung, actor="test")
    return image.version


@dataclass(frozen=True)
class FleetWorld:
    """One fleet and what it runs on, as a test sees and disturbs it."""

    include: Path
    name: str

    @property
    def project(self) -> Project:
        """The project's files."""
        return Project(self.include)

    @property
    def dag(self) -> str:
        """Its DAG."""
        return f"fleet.{self.name}"

    @property
    def platform(self) -> Any:
        """Its fake platform, shared with Airflow through the state file."""
        return load("platforms", self.project.fleet(self.name).runs_on, lambda _: None)  # type: ignore[arg-type,return-value]

    @property
    def balancer(self) -> Any:
        """Its fake balancer, shared likewise."""
        return load("balancers", self.project.fleet(self.name).balancer, lambda _: None)  # type: ignore[arg-type,return-value]

    @property
    def gates(self) -> Steering:
        """What its verify gate says."""
        return Steering(self.include.parent / "state" / self.name / "gate.json")

    def populate(self, *versions: Version) -> None:
        """The platform holds these versions, and every slot is filled by a healthy machine of the first."""
        fleet, platform, balancer = self.project.fleet(self.name), self.platform, self.balancer
        for version in versions:
            artefact = artefact_of(fleet.family, version)
            platform.add_image(artefact, fleet.family, str(version))
        for slot in fleet.slots:
            artefact = artefact_of(fleet.family, versions[0])
            born = platform.launch(LaunchIntent(fleet.name, slot, "seed", 1, fleet.family, str(versions[0]), artefact))
            platform.set_state(born.id, "running")
            balancer.admit(platform.get_instance(born.id))
        for instance in platform.list_instances(self.name):
            balancer.state(instance)

    def boot(self) -> None:
        """What is starting runs now."""
        platform = self.platform
        for machine_id, machine in platform.machines().items():
            if machine["state"] == InstanceState.STARTING:
                platform.set_state(machine_id, InstanceState.RUNNING)

    def running(self) -> dict[str, list[str]]:
        """Versions of what runs now, by slot."""
        found: dict[str, list[str]] = {}
        for machine in self.platform.machines().values():
            if machine["state"] == "running":
                found.setdefault(machine["slot"], []).append(machine["version"])
        return {slot: sorted(found[slot]) for slot in sorted(found)}

    def born(self, version: str) -> list[str]:
        """Slots of every machine of that version ever launched, in the order of their birth."""
        machines = [each for each in self.platform.machines().values() if each["version"] == version]
        return [each["slot"] for each in sorted(machines, key=lambda each: float(each["timeline"][0][0]))]

    def overlaps(self, version: str) -> list[str]:
        """Pairs of slots whose replacements overlapped: the later was launched while the earlier's old one lived."""
        machines = list(self.platform.machines().values())
        new = sorted((each for each in machines if each["version"] == version), key=_birth)
        ends = {each["slot"]: each["timeline"][-1] for each in machines if each["version"] != version}
        found = []
        for earlier, later in itertools.pairwise(new):
            at, state = ends[earlier["slot"]]
            if state != "gone" or float(at) > _birth(later):
                found.append(f"{earlier['slot']} and {later['slot']}")
        return found

    def changes(self) -> list[tuple[str, str]]:
        """Every mutating call that reached platform or balancer, without those that populated the fleet."""
        return [
            (call.method, call.subject)
            for driver in (self.platform, self.balancer)
            for call in driver.calls()
            if call.method in ("launch", "terminate", "admit", "drain", "remove")
        ]


def _birth(machine: dict[str, Any]) -> float:
    return float(machine["timeline"][0][0])


def moment(text: str) -> datetime:
    """A moment as Airflow's API writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
