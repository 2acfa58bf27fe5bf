"""The whole lab: up, down, and what there is of it. Up is idempotent, down removes all that up has made."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lab.airflow import SETTINGS, Airflow
from lab.engine import DockerEngine, stop_engine
from lab.fleet import Founder, driver
from lab.older import OlderRelease, older_version
from lab.places import REPOSITORY, Places
from lab.processes import Processes
from lab.services import Services
from lab.settings import HOST, Overrides
from lab.traffic import RATE
from phoenix_fleet.config import Project
from phoenix_fleet.connections import SettingsFile
from phoenix_fleet.domain.errors import Busy
from phoenix_fleet.domain.models import Backend, Image

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

Log = Callable[[str], None]
FLEETS = ("web", "web-staging")


@contextmanager
def alone(places: Places) -> Iterator[None]:
    """Nobody else uses the lab of this machine meanwhile.

    :raises Busy: if somebody does.
    """
    places.cache.mkdir(parents=True, exist_ok=True)
    with (places.cache / "lab.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("Another demo or test uses the lab of this machine.", remedy="Wait for it, or end it.") from None
        yield


@dataclass(frozen=True)
class Lab:
    """One lab on this machine."""

    places: Places
    log: Log
    fleets: tuple[str, ...] = FLEETS
    """Those that it fills."""
    rate: float = RATE
    """Requests per second."""

    @cached_property
    def processes(self) -> Processes:
        """What it runs."""
        return Processes(self.places.pids, self.places.logs)

    @cached_property
    def overrides(self) -> Overrides:
        """Where it differs from ``airflow_settings.yaml``; in this process's environment from here on."""
        overrides = Overrides.read(self.places.environment_file)
        overrides.apply()
        return overrides

    @cached_property
    def services(self) -> Services:
        """Registry, balancers, alert receiver."""
        return Services(self.places, self.processes, self.overrides)

    @cached_property
    def airflow(self) -> Airflow:
        """Its Airflow, which ``up`` does not start."""
        return Airflow(self.places, self.processes, self.overrides)

    @cached_property
    def connections(self) -> SettingsFile:
        """Connections as drivers want them."""
        return SettingsFile(SETTINGS)

    def catalog(self) -> Catalog:
        """Its catalog, brought up to date."""
        from phoenix_fleet.catalog import Catalog

        catalog = Catalog(self.places.catalog_url)
        catalog.migrate()
        return catalog

    @property
    def front(self) -> str:
        """The URL at which the fleet ``web`` serves."""
        return f"http://{HOST}:{self.services.port('haproxy_web')}"

    def up(self, *, fresh: bool = False, beside: Callable[[], None] | None = None) -> None:
        """Everything but Airflow, with traffic flowing; from nothing if ``fresh``, else what is missing.

        ``beside`` runs in a thread while the fleets are filled, which mostly waits.
        """
        if fresh:
            self.down()
        self.places.make()
        self._make_key()
        older = OlderRelease(self.places, self.connections)
        older.lay_out()
        engine = DockerEngine(self.connections("docker"))
        catalog = self.catalog()
        try:
            engine.make_network()
            self.services.start(self.log)
            self.overrides.apply()
            os.environ.setdefault("PHOENIX_CACHE", str(self.places.cache))
            image = older.record(catalog, older.build(self.log))
        finally:
            catalog.close()
            engine.close()
        with ThreadPoolExecutor(max_workers=1) as pool:
            other = pool.submit(beside or (lambda: None))
            try:
                self._fill(image)
                self.start_traffic()
                other.result()
            except BaseException:  # Ctrl-C too: the other thread must not start what nobody would stop
                self.processes.forbid()
                self.airflow.stop()
                raise

    def _fill(self, image: Image) -> None:
        # As the repository has it, whatever the demo breaks for what comes after.
        project = Project(REPOSITORY / "include")
        founder = Founder(project, self.connections, self._public_key, self.places.logs)
        self.log(f"Filling {' and '.join(self.fleets)} with instances of {image}")
        founder.fill(list(self.fleets), image, self.log)

    def start_traffic(self) -> None:
        """The stream of requests, as a process of its own."""
        if not self.processes.running("traffic"):
            for old in (self.places.traffic, self.places.traffic.with_suffix(".jsonl")):
                old.unlink(missing_ok=True)
            argv = [sys.executable, "-m", "lab.traffic", self.front, str(self.places.traffic), str(self.rate)]
            self.processes.start("traffic", argv, cwd=REPOSITORY)
            self.processes.wait_ready("traffic", self.places.traffic.exists)
            self.log(f"Traffic flows through {self.front}")

    def stop_traffic(self) -> None:
        """End the stream; what is under way is answered first."""
        self.processes.stop("traffic", grace=40)

    def stop(self) -> None:
        """End everything that runs, containers and network too; state stays to be looked at until the next lab."""
        with ThreadPoolExecutor() as pool:
            for stopped in [pool.submit(self.airflow.stop), pool.submit(self.processes.stop, "traffic", grace=2)]:
                stopped.result()
        self.processes.stop(*self.processes.names())
        self.processes.sweep()
        engine = DockerEngine(self.connections("docker"))
        try:
            engine.remove_containers()
            engine.remove_network()
        finally:
            engine.close()

    def down(self, *, engine: bool = False, purge: bool = False) -> None:
        """Remove everything that the lab made; the cache too if ``purge``, the Docker engine if ``engine``."""
        self.stop()
        self._remove_images(purge=purge)
        for folder in (self.places.home, self.places.run, *((self.places.cache,) if purge else ())):
            shutil.rmtree(folder, ignore_errors=True)
        self.overrides.clear()
        if engine and stop_engine(self.places.engine):
            shutil.rmtree(self.places.engine.parent, ignore_errors=True)
            self.log("Stopped the Docker engine that scripts/setup had started")

    def serving(self, fleet: str) -> dict[str, str]:
        """The version of each instance of a fleet that its balancer finds healthy, by the instance's name."""
        project = Project(REPOSITORY / "include")
        declared = project.fleet(fleet)
        platform = driver("platforms", declared.runs_on, self.connections)
        balancer = driver("balancers", declared.balancer, self.connections)
        return {
            instance.name: instance.version
            for instance in platform.list_instances(fleet)
            if balancer.state(instance).state == Backend.HEALTHY
        }

    def status(self) -> dict[str, str]:
        """Each part with what it does now."""
        found = {name: "running" for name in self.processes.names() if self.processes.running(name)}
        engine = DockerEngine(self.connections("docker"))
        try:
            for container in engine.containers():
                found[container.name] = f"{container.status}, {container.labels.get('phoenix.version', '?')}"
        finally:
            engine.close()
        return found

    @property
    def _registry(self) -> str:
        return f"{HOST}:{self.services.port('registry')}"

    @property
    def _public_key(self) -> Path:
        return self.places.key_file.with_suffix(".pub")

    def _make_key(self) -> None:
        if self.places.key_file.exists():
            return
        self.places.key_file.parent.mkdir(mode=0o700, exist_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "phoenix-lab", "-f", str(self.places.key_file)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    def _remove_images(self, *, purge: bool) -> None:
        engine = DockerEngine(self.connections("docker"))
        try:
            engine.remove_images(self._registry, but="" if purge else str(older_version()))
            if purge:
                engine.remove_seeds()
        finally:
            engine.close()
