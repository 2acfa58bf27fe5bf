"""The release that the fleets start from: built for real by the project's own Packer, a window ago.

It takes half a minute to build, so the registry's storage with it is kept in the cache, by the fingerprint of what
went in, and laid out anew for each fresh lab.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lab.places import REPOSITORY, Places
from phoenix_fleet import packer
from phoenix_fleet.config import ImageFamily, Project, Target
from phoenix_fleet.configbuild import COMMON
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import NotFound
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact, Image
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.drivers import load
from phoenix_fleet.platforms.base import Platform

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

FAMILY = "debian-base"
ACTOR = "lab"
_GREETING = "Welcome to debian-base.\n"


def previous_window(now: datetime) -> Window:
    """The window before the one that ``now`` falls into."""
    window = Window.of(now)
    return Window(window.year - (window.month == 1), (window.month - 2) % 12 + 1)


def older_version() -> Version:
    """The version that the lab's fleets start from."""
    return Version(previous_window(datetime.now(UTC)), 1)


class OlderRelease:
    """The family's release of the window before this one."""

    def __init__(self, places: Places, connections: Connections) -> None:
        self._places, self._connections = places, connections
        self.version = older_version()
        self._family: ImageFamily | None = None

    @property
    def family(self) -> ImageFamily:
        """The family as it was then: with a greeting that has been dropped since, so its fingerprint differs."""
        if self._family is None:
            include = self._places.home / "older"
            shutil.rmtree(include, ignore_errors=True)
            home = include / "images" / FAMILY
            for name in (FAMILY, COMMON):
                shutil.copytree(REPOSITORY / "include" / "images" / name, home.parent / name)
            motd = home.parent / COMMON / "files" / "common" / "etc" / "motd"
            motd.parent.mkdir(parents=True, exist_ok=True)
            motd.write_text(_GREETING)
            self._family = Project(include).family(FAMILY)
        return self._family

    @property
    def kept(self) -> Path:
        """Where the registry's storage with this release is kept from one lab to the next."""
        key = f"{packer.inputs_fingerprint(self.family)} {self.version}"
        return self._places.cache / "older" / hashlib.sha256(key.encode()).hexdigest()[:16]

    def lay_out(self) -> bool:
        """Put the kept storage where the registry will look for it; whether there was one. Before it starts."""
        if self._places.registry.exists() or not self.kept.is_dir():
            return self._places.registry.exists()
        shutil.copytree(self.kept, self._places.registry)
        return True

    def build(self, log: Callable[[str], None]) -> Artefact:
        """The artefact, built and kept unless the registry has it already."""
        target = self.family.targets[0]
        try:
            return self._find(target)
        except NotFound:
            log(f"Building the older release {FAMILY} {self.version} with Packer; it is kept for the next time")
        workdir = self._places.home / "older" / "build"
        workdir.mkdir(parents=True, exist_ok=True)
        with (self._places.logs / "older-release.log").open("a") as file:
            packer.build(
                self.family,
                target,
                self.version,
                self._connections,
                workdir=workdir,
                log=lambda line: print(line, file=file, flush=True),
            )
        artefact = self._find(target)
        self._keep()
        return artefact

    def record(self, catalog: Catalog, artefact: Artefact) -> Image:
        """The release in the catalog, climbed rung by rung as the catalog demands, in the lab's own name."""
        images, window = catalog.images, self.version.window
        if released := images.newest_released(FAMILY):
            return released
        image = images.open_candidate(FAMILY, window, packer.inputs_fingerprint(self.family), ACTOR, run="lab")
        images.add_artefact(FAMILY, image.version, artefact)
        for rung in CLIMB[1:]:
            image = images.move(FAMILY, image.version, rung, actor=ACTOR, reason="what the lab starts from")
        images.settle_window(FAMILY, window, image.version, "released", actor=ACTOR, reason="what the lab starts from")
        return images.get(FAMILY, image.version)

    def _find(self, target: Target) -> Artefact:
        driver = load("platforms", target.platform.name)
        platform: Platform = driver(driver.Settings.model_validate(target.platform.settings), self._connections)
        for artefact, marks in platform.list_images(FAMILY):
            if marks.get("version") == str(self.version):
                return artefact
        raise NotFound(f"The registry has no {FAMILY} {self.version}.")

    def _keep(self) -> None:
        scratch = self.kept.with_suffix(".new")
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(self._places.registry, scratch)
        shutil.rmtree(self.kept, ignore_errors=True)
        os.replace(scratch, self.kept)
