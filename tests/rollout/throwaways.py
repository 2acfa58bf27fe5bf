"""Throw-away instances on fakes, and commands that run inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import Image, Instance
from phoenix_fleet.rollout.throwaway import Throwaways
from tests.rollout.scene import NEW, Scene


class Boots:
    """Runs commands inside fake machines: knows which boot each is in, and is away while one comes up."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.boot = 1
        self.away = 0
        self.works = True

    def __call__(self, instance: Instance, hostspec: str, argv: Sequence[str]) -> str:
        assert hostspec == f"fake://{instance.id}"
        if self.away:
            self.away -= 1
            raise errors.Unavailable(f"{instance.name} is away")
        if argv[0] == "reboot":
            self.boot += self.works
            self.away = 3
            raise errors.Unavailable("the connection broke")
        return f"boot-{self.boot}\n"


def pool(scene: Scene, purpose: str = "image.base/run-1", boots: Boots | None = None) -> Throwaways:
    return Throwaways(
        scene.platform,
        "fake",
        scene.catalog,
        purpose=purpose,
        probe=lambda instance: scene.probe(instance),
        run_inside=boots or Boots(scene),
        log=scene.story.append,
        authorized_key="ssh-ed25519 AAAA tests",
        clock=scene.clock,
    )


def image(scene: Scene) -> Image:
    return scene.catalog.images.get("base", NEW)


def poll(scene: Scene) -> Callable[[], None]:
    return lambda: scene.clock.advance(timedelta(seconds=1)) and None
