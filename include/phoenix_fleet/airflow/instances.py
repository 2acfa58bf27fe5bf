"""Throw-away instances of the test, certify and freshness tasks: launched, used, and gone for certain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phoenix_fleet.airflow import world
from phoenix_fleet.domain.models import Component, Environment, Image, Instance, Subject

if TYPE_CHECKING:
    from pathlib import Path

    from phoenix_fleet.config import ImageFamily
    from phoenix_fleet.rollout.throwaway import Throwaways

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Running:
    """A throw-away instance and how to reach it."""

    instance: Instance
    hostspec: str


def _throwaways(family: ImageFamily, platform: str, context: Any) -> Throwaways:
    from phoenix_fleet.rollout.throwaway import throwaways_for

    return throwaways_for(
        family, platform, world.catalog(), world.connections, purpose=world.run_key(context), log=world.log.info
    )


def launch(family: ImageFamily, image: Image, platform: str, *, slot: str, context: Any) -> Running:
    """Launch the instance of that slot, or find it again, and return once it is ready."""
    pool = _throwaways(family, platform, context)
    instance = pool.launch(image, slot, poll=lambda: time.sleep(POLL_SECONDS))
    return Running(instance, pool.hostspec(instance))


def running(family: ImageFamily, image: Image, platform: str, *, slot: str, context: Any) -> Running:
    """The instance that an earlier task launched, as it is now."""
    return launch(family, image, platform, slot=slot, context=context)


def retire(family: ImageFamily, image: Image, platform: str, *, slot: str, context: Any) -> None:
    """Terminate the instance of that slot and return once it is gone for certain; none is fine."""
    pool = _throwaways(family, platform, context)
    pool.retire(slot, poll=lambda: time.sleep(POLL_SECONDS))


@contextmanager
def throwaway(family: ImageFamily, image: Image, platform: str, *, slot: str, context: Any) -> Iterator[Running]:
    """A throw-away instance for the length of a block."""
    try:
        yield launch(family, image, platform, slot=slot, context=context)
    finally:
        retire(family, image, platform, slot=slot, context=context)


def reboot(family: ImageFamily, image: Image, platform: str, here: Running, *, context: Any) -> Running:
    """Reboot the instance from inside and return it once it is ready again."""
    pool = _throwaways(family, platform, context)
    instance = pool.reboot(here.instance, poll=lambda: time.sleep(POLL_SECONDS))
    return Running(instance, pool.hostspec(instance))


def configure(family: ImageFamily, image: Image, here: Running, component: str) -> None:
    """Apply one component's role with the values of the ``certify`` environment."""
    from phoenix_fleet import drivers

    driver = drivers.load("configurators", family.configurator.name)
    configurator = driver(driver.Settings.model_validate(family.configurator.settings), world.connections)
    whole = family.environment("certify")
    environment = Environment("certify", (family.component(component),), whole.variables)
    configurator.apply(here.instance, environment, world.log.info)


def subject(
    image: Image,
    name: str,
    context: Any,
    *,
    platform: str = "",
    running: Running | None = None,
    component: Component | None = None,
    endpoint: str = "",
    facts: dict[str, Any] | None = None,
) -> Subject:
    """What a gate is shown: with the facts that every suite may rely on (family, version) and those given."""
    folder: Path = world.workdir(context)
    return Subject(
        name=name,
        workdir=str(folder),
        artefact=image.artefacts.get(platform),
        instance=running.instance if running else None,
        hostspec=running.hostspec if running else "",
        endpoint=endpoint,
        component=component,
        facts={"family": image.family, "version": str(image.version), **(facts or {})},
    )
