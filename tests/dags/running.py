"""Runs the project's DAGs with ``dag.test()`` over a world of fakes, answering approvals as a named person."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_fleet import packer
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import ImageFamily, Project, Target
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact, Instance, LaunchIntent
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.rollout.deps import load
from phoenix_fleet.steering import Steering
from tests.dags.conftest import load_dags
from tests.dags.fakeworld_project import write_project

OLD, NOW = Window.parse("2026-10"), Window.parse("2026-11")


@dataclass
class World:
    """One project on fakes with a fleet on an old release."""

    root: Path
    include: Path
    catalog: Catalog
    built: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path, patch: pytest.MonkeyPatch, **fleet: Any) -> World:
        """The world, with the environment that tasks read."""
        key = root / "id"
        key.with_suffix(".pub").write_text("ssh-ed25519 AAAA test\n")
        patch.setenv("PHOENIX_INCLUDE", str(write_project(root, **fleet)))
        patch.setenv("PHOENIX_CATALOG_URL", f"sqlite:///{root}/catalog.db")
        patch.setenv("PHOENIX_ARTEFACTS", str(root / "artefacts"))
        patch.setenv("PHOENIX_REPORTS", str(root / "reports"))
        patch.setenv("AIRFLOW_CONN_PHOENIX_SSH", json.dumps({"conn_type": "generic", "extra": {"key_file": str(key)}}))
        patch.setenv("AIRFLOW_CONN_FRONT", '{"conn_type": "http", "host": "127.0.0.1", "port": 1}')
        catalog = Catalog.from_environment()
        catalog.migrate()
        world = cls(root, root / "include", catalog)
        patch.setattr(packer, "build", world.build)
        return world

    @property
    def project(self) -> Project:
        return Project(self.include)

    def platform(self) -> Any:
        """The fake platform, shared through its state file."""
        return load("platforms", self.project.fleet("shop-staging").runs_on, lambda _: None)  # type: ignore[arg-type,return-value]

    def balancer(self) -> Any:
        """The fake balancer, shared through its state file."""
        return load("balancers", self.project.fleet("shop").balancer, lambda _: None)  # type: ignore[arg-type,return-value]

    def gates(self) -> Steering:
        """What every fake gate says."""
        return Steering(self.root / "state" / "gate.json")

    def build(self, family: ImageFamily, target: Target, version: Version, *_: Any, **__: Any) -> None:
        """Stands in for Packer: the fake platform just holds the artefact."""
        self.built.append(str(version))
        digest = f"sha256:{len(self.built):064d}"
        self.platform().add_image(Artefact("fake", f"mini@{digest}", digest), family.name, str(version))

    def release(self, window: Window, inputs: str = "older") -> Version:
        """A released image of that window."""
        image = self.catalog.images.open_candidate("mini", window, inputs, actor="test", run=f"seed/{len(self.built)}")
        self.build(self.project.family("mini"), None, image.version)  # type: ignore[arg-type]
        digest = f"sha256:{len(self.built):064d}"
        self.catalog.images.add_artefact("mini", image.version, Artefact("fake", f"mini@{digest}", digest))
        for rung in CLIMB[1:]:
            self.catalog.images.move("mini", image.version, rung, actor="test")
        return image.version

    def populate(self, version: Version) -> None:
        """Every slot of both fleets filled by a healthy instance of that version."""
        image, platform, balancer = self.catalog.images.get("mini", version), self.platform(), self.balancer()
        for name in ("shop", "shop-staging"):
            for slot in self.project.fleet(name).slots:
                artefact = image.artefacts["fake"]
                intent = LaunchIntent(name, slot, "seed", 1, "mini", str(version), artefact)
                born = platform.launch(intent)
                while platform.get_instance(born.id).state != "running":
                    pass
                instance = platform.get_instance(born.id)
                balancer.admit(instance)
                while balancer.state(instance).state != "healthy":
                    pass

    def stray(self, slot: str) -> str:
        """A second instance in that slot of the shop, which no launch in the catalog explains; its name comes back."""
        fleet = self.project.fleet("shop").name
        artefact = self.catalog.images.newest_released("mini").artefacts["fake"]
        born = self.platform().launch(LaunchIntent(fleet, slot, "by-hand", 1, "mini", "2026.10-1", artefact))
        return str(born.name)

    def versions(self, fleet: str) -> dict[str, str]:
        """What runs in each slot."""
        return {each.slot: each.version for each in self.alive(fleet)}

    def alive(self, fleet: str) -> list[Instance]:
        """Running instances."""
        return [each for each in self.platform().list_instances(fleet) if each.state == "running"]


@contextmanager
def answering(option: str, user: str = "approver") -> Iterator[None]:
    """Answers every approval with that option, as that user, through the API's own function."""
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    stop = threading.Event()
    person = SimpleNamespace(get_id=lambda: user, get_name=lambda: user)

    def answer() -> None:
        while not stop.wait(0.1):
            with create_session() as session:
                waiting = session.scalars(select(TaskInstance).where(TaskInstance.state == "awaiting_input")).all()
                for ti in waiting:
                    body = UpdateHITLDetailPayload(chosen_options=[option], params_input={"comment": "tested"})
                    update_hitl_detail(ti.dag_id, ti.run_id, ti.task_id, body, person, session, ti.map_index)  # type: ignore[arg-type]

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass
class Run:
    """What came of one run."""

    state: str
    tasks: dict[str, list[str]]
    """States of each task's instances, by map index."""
    seconds: float


def run_dag(dag_id: str, **conf: Any) -> Run:
    """Run the DAG to its end in this process."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db

    started = time.monotonic()
    bag = load_dags()
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, "dags-folder", None)
    dag = bag.dags[dag_id]
    run = dag.test(run_conf={"reason": "a test", **conf})
    tasks: dict[str, list[str]] = {}
    for ti in sorted(run.get_task_instances(), key=lambda ti: (ti.task_id, ti.map_index)):
        tasks.setdefault(ti.task_id, []).append(str(ti.state))
    return Run(str(run.state), tasks, time.monotonic() - started)
