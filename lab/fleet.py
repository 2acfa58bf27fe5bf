"""Fleets as they would be found: every slot filled by an instance of the older release, configured and in service.

Launched by the product's own drivers, but by nobody's rollout: their purpose mark says ``lab``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phoenix_fleet.config import Driver, Fleet, Project
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import TimedOut, TransientError
from phoenix_fleet.domain.models import Backend, Environment, Image, Instance, InstanceState, LaunchIntent
from phoenix_fleet.drivers import Seam, load

PURPOSE = "lab"
PATIENCE = 180.0
"""Seconds that one instance may take for each of its stages."""
PAUSE = 0.3
"""Seconds between two looks at one."""


def driver(seam: Seam, declared: Driver, connections: Connections) -> Any:
    """The driver that a file declares, ready to be used."""
    found = load(seam, declared.name)
    return found(found.Settings.model_validate(declared.settings), connections)


@dataclass(frozen=True)
class Member:
    """One slot to fill."""

    fleet: Fleet
    slot: str
    environment: Environment


class Founder:
    """Fills fleets with instances of one image."""

    def __init__(self, project: Project, connections: Connections, public_key: Path, logs: Path) -> None:
        self._project, self._connections, self._logs = project, connections, logs
        self._key = public_key.read_text().strip()
        self._given_up = threading.Event()

    def fill(self, fleets: list[str], image: Image, log: Callable[[str], None]) -> None:
        """Every slot that is empty gets an instance, all at once; returns when the balancers call all healthy."""
        members = [member for name in fleets for member in self._missing(name)]
        with ThreadPoolExecutor(max_workers=max(1, len(members))) as pool:
            try:
                for future in as_completed([pool.submit(self._found, member, image, log) for member in members]):
                    future.result()
            except BaseException:  # Ctrl-C too: whoever clears up after us must not find threads at work
                self._given_up.set()
                raise

    def _missing(self, name: str) -> list[Member]:
        fleet = self._project.fleet(name)
        environment = self._project.family(fleet.family).environment(fleet.environment)
        taken = {
            instance.slot
            for instance in driver("platforms", fleet.runs_on, self._connections).list_instances(name)
            if instance.state == InstanceState.RUNNING
        }
        return [Member(fleet, slot, environment) for slot in fleet.slots if slot not in taken]

    def _found(self, member: Member, image: Image, log: Callable[[str], None]) -> None:
        fleet = member.fleet
        began = time.monotonic()
        platform = driver("platforms", fleet.runs_on, self._connections)
        intent = LaunchIntent(
            fleet=fleet.name,
            slot=member.slot,
            purpose=PURPOSE,
            attempt=1,
            family=image.family,
            version=str(image.version),
            artefact=image.artefacts[fleet.runs_on.name],
            authorized_key=self._key,
            settings=fleet.runs_on.settings,
        )
        launched = self._until(f"{member.slot} is launched", lambda: platform.launch(intent), bool)
        instance: Instance = self._until(
            f"{member.slot} runs", lambda: platform.get_instance(launched.id), lambda found: bool(_reachable(found))
        )
        self._configure(member, instance)
        balancer = driver("balancers", fleet.balancer, self._connections)
        balancer.admit(instance)
        self._until(
            f"{member.slot} is healthy", lambda: balancer.state(instance), lambda seen: seen.state == Backend.HEALTHY
        )
        log(f"{member.slot} serves {image.version} after {time.monotonic() - began:.0f} s")

    def _configure(self, member: Member, instance: Instance) -> None:
        configurator = driver("configurators", member.fleet.configurator, self._connections)
        with (self._logs / f"{member.slot}.log").open("a") as file:

            def write(line: str) -> None:
                print(line, file=file, flush=True)

            def apply() -> bool:
                configurator.apply(instance, member.environment, write)
                return True

            self._until(f"{member.slot} is configured", apply, bool)

    def _until(self, what: str, look: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
        """What ``look`` gives once it is enough.

        :raises TimedOut: if that takes too long, or another slot has failed meanwhile.
        """
        deadline = time.monotonic() + PATIENCE
        last = ""
        while time.monotonic() < deadline and not self._given_up.wait(PAUSE):
            try:
                found = look()
                if enough(found):
                    return found
                last = str(found)
            except TransientError as error:
                last = str(error)
        raise TimedOut(f"{what}: not within {PATIENCE:.0f} s. Last seen: {last}")


def _reachable(instance: Instance) -> bool:
    return instance.state == InstanceState.RUNNING and bool(instance.address) and bool(instance.host_keys)
