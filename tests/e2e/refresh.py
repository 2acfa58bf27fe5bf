"""A fleet of the lab's machines, refreshed by the engine itself under traffic; and what there is of it afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import traffic
from lab.fleet import Founder, driver
from lab.guests import BAD, FAMILY, NEW, OLD, PORT
from lab.places import REPOSITORY
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import Project
from phoenix_fleet.domain.errors import StepFailed
from phoenix_fleet.domain.models import Artefact, Backend, Instance
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.progress import Progress
from tests.contract.machinery import KnownConnections, wait_for
from tests.dags.fakeworld_project import write_project
from tests.orchestration import project
from tests.orchestration.alone import roll_out

WINDOWS = {OLD: project.OLD, NEW: project.NOW, BAD: project.NEXT}
RATE = 120
"""Requests per second."""
SLOW_SECONDS = 2.0
"""How long a slow order takes to be sent: what draining waits for."""
SIZE = 3
_ROLE = """\
- name: Say which environment this is
  ansible.builtin.copy: {content: "{{ colour }}\\n", dest: /etc/lab-service/environment, mode: "0644"}
"""
_TIMEOUTS = {"ready": "1m", "configure": "1m", "verify": "1m", "admit": "1m", "terminate": "1m"}


@dataclass
class Ground:
    """One project with its catalog, on one platform."""

    folder: Path
    connections: KnownConnections
    artefacts: Mapping[str, Artefact]
    """Those of the three releases, by version."""
    family: str = FAMILY
    lines: list[str] = field(default_factory=list)
    """What the engine has said."""
    fleets: list[str] = field(default_factory=list)
    """Those that were declared."""
    founded: set[str] = field(default_factory=set)
    """Ids of the instances that no rollout has launched."""

    def __post_init__(self) -> None:
        write_project(self.folder)
        project.add_family(self.include, self.family)
        role = self.include / "images" / self.family / "components" / "app" / "role" / "tasks" / "main.yml"
        role.write_text(_ROLE)
        self.catalog = Catalog(f"sqlite:///{self.folder / 'catalog.db'}")
        self.catalog.migrate()
        for version, artefact in self.artefacts.items():
            assert str(project.release(self.catalog, self.family, WINDOWS[version], artefact)) == version

    @property
    def include(self) -> Path:
        return self.folder / "include"

    @property
    def files(self) -> Project:
        return Project(self.include)

    def declare(
        self, name: str, *, platform: dict[str, Any], balancer: dict[str, Any] | str, size: int = SIZE, **says: Any
    ) -> None:
        """A fleet file: configured by Ansible over SSH, verified by its own service's answers, unless it says else."""
        self.fleets.append(name)
        usual = {
            "configurator": "ansible",
            "verify": [{"health": {"port": PORT, "path": "/healthz", "samples": 2, "interval": 0.1}}],
            "timeouts": _TIMEOUTS,
        }
        project.add_fleet(
            self.include,
            name,
            size=size,
            family=self.family,
            platform=platform,
            balancer=balancer,
            **{**usual, **says},
        )

    def fill(self, name: str, version: str = OLD) -> None:
        """Every slot with an instance of that release, in service."""
        founder = Founder(self.files, self.connections, self.key.with_suffix(".pub"), self.folder)
        founder.fill([name], self.catalog.images.get(self.family, Version.parse(version)), self.lines.append)
        self.founded |= {each.id for each in self.instances(name)}

    def refresh(self, name: str, version: str, between: Callable[[Progress], None] = lambda _: None) -> None:
        """The fleet on that release. :raises StepFailed: it was halted."""
        image = self.catalog.images.get(self.family, Version.parse(version))
        proof = self.folder / "proof"
        proof.mkdir(exist_ok=True)
        roll_out(
            self.catalog,
            self.files,
            name,
            image,
            WINDOWS[version],
            self.connections,
            proof,
            run=version,
            log=self.lines.append,
            between=between,
        )

    @property
    def key(self) -> Path:
        return Path(str(self.connections("phoenix_ssh").extra["key_file"]))

    def platform(self, name: str) -> Any:
        return driver("platforms", self.files.fleet(name).runs_on, self.connections)

    def instances(self, name: str) -> list[Instance]:
        return list(self.platform(name).list_instances(name))

    def serving(self, name: str) -> dict[str, str]:
        """The release of every instance that the balancer finds healthy, by slot."""
        balancer = driver("balancers", self.files.fleet(name).balancer, self.connections)
        return {
            each.slot: each.version for each in self.instances(name) if balancer.state(each).state is Backend.HEALTHY
        }

    def promised(self) -> set[str]:
        """Ids of the instances that there must be: those that were there, and what the catalog says was done since."""
        living = set(self.founded)
        for intent in self.catalog.intents.list_intents():
            assert intent.outcome == "done", intent
            if intent.action == "launch":
                living.add(intent.result["instance"])
            elif intent.action == "terminate":
                living.discard(intent.target)
        return living


def make_key(folder: Path) -> Path:
    """A private SSH key with its public half beside it."""
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


@contextmanager
def requests(url: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Traffic for as long as the block lasts; what became of it is in the mapping afterwards."""
    file, totals = folder / "traffic.json", dict[str, Any]()
    argv = [sys.executable, "-m", "lab.traffic", url, str(file), str(RATE), str(SLOW_SECONDS)]
    process = subprocess.Popen(argv, cwd=REPOSITORY)
    try:
        wait_for(file.exists, "traffic")
        began = time.monotonic()
        yield totals
        totals["seconds"] = time.monotonic() - began
    finally:
        process.terminate()
        process.wait(timeout=40)
    totals.update(traffic.read(file))
    file.unlink()


def check_served(totals: Mapping[str, Any], releases: set[str]) -> None:
    """Not one request failed, and there were at least 100 of them a second, answered by exactly those releases."""
    assert totals["failed"] == 0, (totals["reasons"], totals["failures"])
    assert totals["finished"], totals
    assert totals["ok"] == totals["sent"] >= 100 * totals["seconds"], totals
    assert totals["releases"].keys() == releases, totals["releases"]


def refresh_under_traffic(ground: Ground, name: str, front: str, census: Callable[[], None]) -> None:
    """The whole story of a fleet: refreshed without a failed request, then halted at the canary by a bad image."""
    ground.fill(name)
    with requests(front, ground.folder) as totals:
        ground.refresh(name, NEW)
    check_served(totals, {OLD, NEW})
    slots = ground.files.fleet(name).slots
    assert ground.serving(name) == dict.fromkeys(slots, NEW)
    census()
    before = ground.instances(name)
    with requests(front, ground.folder) as totals:
        check_halted(ground, name, "verify", lambda: ground.refresh(name, BAD))
    check_served(totals, {NEW})
    assert ground.serving(name) == dict.fromkeys(slots, NEW)
    assert ground.instances(name) == before
    census()


def check_halted(ground: Ground, name: str, step: str, rollout: Callable[[], None]) -> str:
    """The rollout halts at its first replacement, in that step; the reason."""
    try:
        rollout()
    except StepFailed:
        halted = ground.catalog.rollouts.current(name)
        assert halted is not None
        assert (halted.state, halted.halted_step) == ("halted", step), halted
        begun = {each.slot for each in ground.catalog.rollouts.slots(halted.id) if each.step is not None}
        assert begun == {halted.halted_slot}
        return halted.halted_reason
    raise AssertionError("nothing halted the rollout")
