"""A configurator that only remembers: for tests and for learning how the chain reacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from phoenix_fleet.config import Frozen
from phoenix_fleet.configurators.base import Configurator
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import AuthenticationFailed, InvalidConfig, StepFailed, TimedOut, Unavailable
from phoenix_fleet.domain.models import Environment, Instance
from phoenix_fleet.steering import Steering

Outcome = Literal["done", "failed", "unavailable", "lost_reply", "impostor", "timeout"]


class Settings(Frozen):
    """How the fake behaves."""

    outcome: Outcome = Field("done", description="How every run ends; lost_reply does the work and then fails.")
    state: str = Field("", description="Steering file (JSON: outcome, next, subjects) read at each run. Default: none.")


class Driver(Configurator):
    """Remembers in ``applied`` what each instance has, in ``calls`` what it was asked, and changes nothing else."""

    Settings = Settings

    def __init__(self, settings: Any, connections: Connections) -> None:
        super().__init__(settings, connections)
        self.calls: list[tuple[Instance, Environment]] = []
        self.applied: dict[str, str] = {}
        """By instance id: what it was configured with, as JSON."""
        self.next: list[Outcome] = []
        """Outcomes of the next runs, used up one by one."""

    def apply(self, instance: Instance, environment: Environment, log: Callable[[str], None]) -> None:
        """Remember it, or fail as told by ``next``, the steering file or the settings, in this order."""
        self.calls.append((instance, environment))
        outcome = self.next.pop(0) if self.next else self._steered(instance, environment)
        if outcome not in get_args(Outcome):
            raise InvalidConfig(
                f"A fake configurator cannot end as '{outcome}'.", remedy=f"Known: {', '.join(get_args(Outcome))}."
            )
        _raise_before(outcome, instance)
        wanted = json.dumps(
            [environment.name, [[part.name, part.version] for part in environment.components], environment.variables],
            sort_keys=True,
            default=str,
        )
        changed = self.applied.get(instance.id) != wanted
        self.applied[instance.id] = wanted
        for component in environment.components:
            log(f"{instance.name}: {component.name} {component.version}: {'changed' if changed else 'ok'}")
        log(f"{instance.name}: {environment.name}: {'changed' if changed else 'unchanged'}")
        if outcome == "lost_reply":
            raise Unavailable(f"{instance.name}: the connection broke after the work was done.")

    def _steered(self, instance: Instance, environment: Environment) -> str:
        default: str = self.settings.outcome
        if not self.settings.state:
            return default
        steering = Steering(Path(self.settings.state))
        outcome = steering.draw(instance.name, default)
        steering.record({"instance": instance.name, "environment": environment.name, "outcome": outcome})
        return outcome


def _raise_before(outcome: str, instance: Instance) -> None:
    """Fail before anything has changed, with the error a real configurator would give."""
    name = instance.name
    if not instance.address:
        raise Unavailable(f"{name} has no address yet.")
    if not instance.host_keys or outcome == "impostor":
        raise AuthenticationFailed(
            f"{name} at {instance.address}: its host key is not one that the platform reports.",
            remedy="Find out who answers there before anything else.",
        )
    if outcome == "failed":
        raise StepFailed(f"{name}: task 'fake : told to fail' failed: the fake was told to fail.")
    if outcome == "unavailable":
        raise Unavailable(f"{name} at {instance.address} does not answer.")
    if outcome == "timeout":
        raise TimedOut(f"{name}: configuration took too long.")
