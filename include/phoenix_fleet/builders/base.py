"""The builder seam: what a build on one platform needs besides its template, and what is left there of a killed one.

``packer.build`` does the same for every platform and asks a builder for the rest, in this order: ``check``, ``sweep``,
``prepare``, Packer, ``finish``; or ``clean_up``, if anything of it failed.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from phoenix_fleet.connections import Connections

if TYPE_CHECKING:
    from phoenix_fleet.configbuild import Seed, Target

Log = Callable[[str], None]

BUILD_MARK = "phoenix.build"
"""Mark of whatever belongs to a build that is not finished: its id."""
UNTIL_MARK = "phoenix.build-until"
"""Moment (Unix time) after which nothing of that build may exist."""
NAME = "phoenix-build-"
"""What names of a build's temporary things begin with; the build id follows."""
BUILD_ID = r"[a-z][a-z0-9-]{0,39}-\d{4}\.\d{2}-\d+-[0-9a-f]{8}"


@dataclass(frozen=True)
class Run:
    """One run of Packer."""

    family: str
    version: str
    build_id: str
    """On everything that it makes: ``<family>-<version>-<8 hex digits>``."""
    until: int
    """Moment (Unix time) after which nothing of this run may exist but what it was run for."""
    scratch: Path
    """A private folder that is gone afterwards."""
    common: Path
    """The folder that the families share."""

    @property
    def manifest(self) -> Path:
        """Where Packer writes what it has made."""
        return self.scratch / "manifest.json"

    @property
    def name(self) -> str:
        """Name of its temporary things."""
        return NAME + self.build_id


@dataclass(frozen=True)
class Inputs:
    """What Packer gets for one run, besides what every template gets."""

    variables: Mapping[str, Any] = field(default_factory=dict)
    """They go into a file of mode 0600, so they may hold secrets."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What must not be seen in any line that is kept or shown."""


class Builder(ABC):
    """Builds for one platform. Constructors do no I/O; errors are those of ``domain.errors``."""

    Settings: ClassVar[type[BaseModel]]
    """What ``build.settings`` in an image file may say for this platform."""
    seeds: ClassVar[tuple[str, ...]] = ()
    """What a build may start from, of ``suite``, ``image`` and ``url``; none if its settings say that."""
    pushes: ClassVar[bool] = False
    """Whether artefacts go to the registry that ``build.registry`` names."""

    def __init__(self, target: Target, connections: Connections, folder: Path) -> None:
        """``folder`` is a private one that is gone afterwards."""
        self.target = target
        self.settings: Any = self.Settings.model_validate(target.build.settings)
        self.connections = connections
        self.folder = folder

    @abstractmethod
    def check(self) -> None:
        """Return if a build can begin: minutes before its end is the time to find out. Changes nothing.

        :raises InvalidConfig: something is missing in the image file or a connection.
        :raises Unavailable: the platform, or what the artefact goes to, does not answer.
        """

    @abstractmethod
    def sweep(self, log: Log) -> None:
        """Remove what builds of ours have left that are past their own time, and nothing else. Repeating is harmless.

        Ours is what carries the owner's mark and a build id; a build that may still run is never touched, and nobody
        waits here: what is still in use is for the next sweep.
        """

    @abstractmethod
    def prepare(self, run: Run, log: Log) -> Inputs:
        """Everything that Packer needs, made ready; may take minutes."""

    @abstractmethod
    def finish(self, run: Run, made: str, log: Log) -> str:
        """Make of Packer's result what the platform lists as a candidate, whole or not at all; its reference.

        Empty if the platform knows it by its version alone. ``made`` is what Packer's manifest says, and is not
        believed: the platform is asked.

        :raises BuildFailed: the platform does not show what should be there.
        """

    @abstractmethod
    def clean_up(self, run: Run, log: Log) -> None:
        """Remove what this run, which failed and has ended, left behind."""

    def seed(self) -> Seed:
        """What the build starts from. :raises InvalidConfig: the file does not say."""
        from phoenix_fleet.domain.errors import InvalidConfig

        if self.target.build.seed is None:
            raise InvalidConfig(
                f"image.yaml: the target {self.target.platform.name} has no build.seed, and it starts from one.",
                remedy=f"Write seed: with {' or '.join(self.seeds)}.",
            )
        return self.target.build.seed


def is_over(build_id: str, until: str, now: float) -> bool:
    """Whether marks are those of a build that cannot run any more; those that make no sense are nobody's."""
    return bool(re.fullmatch(BUILD_ID, build_id) and re.fullmatch(r"\d{9,12}", until)) and int(until) < now
