"""Parts of an image file: how each platform's artefact is built."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from phoenix_fleet import drivers, yamlmistakes
from phoenix_fleet.configfields import Duration, Frozen, PlatformDriver
from phoenix_fleet.domain.errors import InvalidConfig

COMMON = "common"
"""Folder beside the families that they share; it counts among the inputs of each."""


class Seed(Frozen):
    """The root file system that a build starts from, made from scratch with mmdebstrap."""

    suite: str = Field(description="Debian or Ubuntu suite, such as bookworm.", pattern=r"^[a-z][a-z0-9.-]*$")
    include: tuple[str, ...] = Field((), description="Packages that the seed must have before Packer starts.")
    image: str = Field("", description="Pull this image by digest instead, where a registry answers. Default: none.")


class Build(Frozen):
    """How one platform's artefact is built."""

    template: str = Field(
        description="Packer template, relative to the family's folder; ../common/ is shared by all families."
    )
    seed: Seed | None = Field(None, description="What a build from scratch starts from. Default: none.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="The settings of the platform's builder (docs/platforms/). Default: none."
    )
    variables: dict[str, Any] = Field(
        default_factory=dict, description="More variables for the template; no secrets. Default: none."
    )
    repository: str = Field("", description="Where the artefact is pushed, without host. Default: the family.")
    registry: str = Field("registry", description="Airflow connection id of the registry.")
    timeout: Duration = Field(timedelta(minutes=30), description="Packer is stopped after this long.")


class Target(Frozen):
    """One platform that the family is built for, and where its throw-away test instances run."""

    platform: PlatformDriver
    build: Build

    @field_validator("build")
    @classmethod
    def _build_fits(cls, build: Build, info: ValidationInfo) -> Build:
        platform = info.data.get("platform")
        if platform is not None and (build.settings or platform.name in drivers.names("builders")):
            try:
                model = drivers.load("builders", platform.name).Settings
                model.model_validate(build.settings)
            except InvalidConfig as error:
                raise yamlmistakes.Below([yamlmistakes.Mistake(("settings",), error.args[0], error.remedy)]) from None
            except ValidationError as error:
                raise yamlmistakes.Below(yamlmistakes.explain(model, error, under=("settings",))) from None
        return build


def chosen(targets: Sequence[Target]) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """The targets that this deployment builds, and the names of those left out: ``PHOENIX_TARGETS`` (decision 0081).

    None may be left: fleets of images that are built elsewhere are refreshed all the same.

    :raises InvalidConfig: it names what is no platform.
    """
    said = os.environ.get("PHOENIX_TARGETS", "").strip()
    if not said:
        return tuple(targets), ()
    wanted = [name.strip() for name in said.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - set(drivers.names("platforms"))):
        raise InvalidConfig(
            f"PHOENIX_TARGETS names {', '.join(unknown)}, which is no platform.",
            remedy=f"Use {', '.join(drivers.names('platforms'))}, with commas between.",
        )
    kept = tuple(target for target in targets if target.platform.name in wanted)
    return kept, tuple(target.platform.name for target in targets if target not in kept)
