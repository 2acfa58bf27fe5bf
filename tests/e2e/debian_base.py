"""One run's own builds of ``debian-base``: their names, and short words for what is done with their instances."""

from __future__ import annotations

import dataclasses
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phoenix_fleet.config import ImageFamily, Target
from phoenix_fleet.domain.models import Artefact, Instance, InstanceState, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.gates import testinfra as checks_gate
from phoenix_fleet.platforms.docker import Driver as Docker

RUN = uuid.uuid4().hex[:8]
# Build numbers of this run's own: others may be building the same family on this engine.
FIRST = int(RUN[:6], 16) + 10
VERSION, BROKEN, TERMED, KILLED = (Version.parse(f"2026.11-{FIRST + number}") for number in range(4))
USER, PASSWORD = "builder", f"only-for-{RUN}"


def wait_for(condition: Callable[[], Any], seconds: float = 30, every: float = 0.05) -> Any:
    """What the condition gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(every)
    return found


def remove_containers(engine: Any, network: str) -> None:
    """Every container that has joined this run's own network."""
    for container in engine.containers.list(all=True, filters={"network": network}):
        container.remove(force=True, v=True)


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def own_target(family: ImageFamily) -> Target:
    """The family's target for Docker, with a repository that is this run's own."""
    target = family.target("docker")
    return target.model_copy(update={"build": target.build.model_copy(update={"repository": f"e2e-{RUN}"})})


@dataclasses.dataclass(frozen=True)
class Built:
    artefact: Artefact
    marks: dict[str, str]
    log: list[str]
    workdir: Path


def ready_now(platform: Docker, instance_id: str) -> Instance | None:
    seen = platform.get_instance(instance_id)
    good = seen.state is InstanceState.RUNNING and seen.address and seen.host_keys and listens(seen.address, 22)
    return seen if good else None


def facts(family: ImageFamily, environment: str = "certify", **changed: Any) -> dict[str, Any]:
    """What suites are told."""
    made = family.environment(environment)
    return {
        "family": family.name,
        "version": str(VERSION),
        "environment": environment,
        "values": dict(made.variables),
        "components": {component.name: component.version for component in made.components},
        "dataset": made.variables["dataset"],
        **changed,
    }


def checked(
    family: ImageFamily, platform: Docker, connections: Any, instance: Instance, folder: Path, **changed: Any
) -> Measurement:
    """What the family's checks say of an instance."""
    gate = checks_gate.Driver(checks_gate.Settings(suite="../common/checks"), connections, family.home)
    subject = Subject(
        name=instance.name,
        workdir=str(folder),
        instance=instance,
        hostspec=platform.hostspec(instance),
        facts=facts(family, **changed),
    )
    return gate.measure(subject)


def inside(engine: Any, instance: Instance, *argv: str) -> str:
    code, output = engine.containers.get(instance.id).exec_run(list(argv))
    assert code == 0, output
    return str(output.decode())
