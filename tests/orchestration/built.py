"""Stands in for Packer inside the tests' Airflow: the fake platform just holds the artefact."""

from __future__ import annotations

import hashlib
from typing import Any

from phoenix_fleet import packer
from phoenix_fleet.config import ImageFamily, Target
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.deps import load


def digest_of(family: str, version: Version) -> str:
    """The digest that this version's artefact has on every fake platform."""
    return f"sha256:{hashlib.sha256(f'{family} {version}'.encode()).hexdigest()}"


def artefact_of(family: str, version: Version) -> Artefact:
    """That artefact."""
    digest = digest_of(family, version)
    return Artefact("fake", f"{family}@{digest}", digest)


def build(family: ImageFamily, target: Target, version: Version, *_: Any, **__: Any) -> None:
    """What ``packer.build`` ends with: the platform holds the artefact."""
    platform = load("platforms", target.platform, lambda _: None)  # type: ignore[arg-type,return-value]
    platform.add_image(artefact_of(family.name, version), family.name, str(version))


def stand_in() -> None:
    """From now on this process builds so."""
    packer.build = build
