"""Parts of an image file: how each platform's artefact is built."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from phoenix_fleet import downloads, drivers, yamlmistakes
from phoenix_fleet.configfields import Duration, Frozen, PlatformDriver
from phoenix_fleet.domain.errors import InvalidConfig

COMMON = "common"
"""Folder beside the families that they share; it counts among the inputs of each."""
SEEDS = ("suite", "image", "url")
"""What a build may start from."""


class Seed(Frozen):
    """What a build starts from: made from scratch, or published by somebody and pinned by its digest."""

    suite: str = Field(
        "",
        description="Debian or Ubuntu suite that mmdebstrap makes from scratch, such as bookworm.",
        pattern=r"^$|^[a-z][a-z0-9.-]*$",
    )
    include: tuple[str, ...] = Field((), description="Packages that a suite must have before Packer starts.")
    image: str = Field(
        "",
        description="Container image that somebody publishes, by digest: name@sha256:…",
        pattern=r"^$|^[a-z0-9][a-z0-9._:/-]*@sha256:[0-9a-f]{64}$",
    )
    url: str = Field(
        "", description="Cloud image that somebody publishes: a qcow2 disk that boots by itself and runs cloud-init."
    )
    sha256: str = Field("", description="The SHA-256 of what url names.", pattern=r"^$|^[0-9a-f]{64}$")

    @property
    def kind(self) -> str:
        """``suite``, ``image`` or ``url``."""
        return next(kind for kind in SEEDS if getattr(self, kind))

    @field_validator("url")
    @classmethod
    def _may_be_fetched(cls, url: str) -> str:
        if url:
            downloads.check_url(url)
        return url

    @model_validator(mode="after")
    def _is_one_thing(self) -> Seed:
        given = [kind for kind in SEEDS if getattr(self, kind)]
        if len(given) != 1:
            said = f"this says {' and '.join(given) or 'nothing to start from'}."
            raise _mistake(given[1:2], said, f"Write exactly one of {', '.join(SEEDS)}.")
        if bool(self.url) != bool(self.sha256):
            wrong = "sha256" if self.sha256 else "url"
            raise _mistake([wrong], "url and sha256 belong together.", "Write both: what is not pinned is not used.")
        if self.include and not self.suite:
            remedy = "Leave it out, or start from a suite: provisioning installs packages."
            raise _mistake(["include"], "only a suite is made with packages.", remedy)
        return self


class Build(Frozen):
    """How one platform's artefact is built."""

    template: str = Field(
        description="Packer template, relative to the family's folder; ../common/ is shared by all families."
    )
    seed: Seed | None = Field(
        None,
        description="What a build for Docker or libvirt starts from. Others say it in their settings. Default: none.",
    )
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
                driver = drivers.load("builders", platform.name)
                driver.Settings.model_validate(build.settings)
            except InvalidConfig as error:
                raise _mistake(["settings"], error.args[0], error.remedy) from None
            except ValidationError as error:
                raise yamlmistakes.Below(yamlmistakes.explain(driver.Settings, error, under=("settings",))) from None
            if build.seed and build.seed.kind not in driver.seeds:
                others = " or ".join(driver.seeds)
                remedy = f"Write {others}." if others else "Leave seed out and say it in settings."
                message = f"a build for {platform.name} does not start from it."
                raise _mistake(["seed", build.seed.kind], message, f"{remedy} See docs/platforms/.")
        return build


def _mistake(location: Sequence[str], message: str, remedy: str) -> yamlmistakes.Below:
    return yamlmistakes.Below([yamlmistakes.Mistake(tuple(location), message, remedy)])


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
