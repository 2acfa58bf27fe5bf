"""Data volumes as a fleet file declares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from phoenix_fleet import drivers, yamlmistakes
from phoenix_fleet.configfields import Driver, Frozen, Name
from phoenix_fleet.yamlmistakes import Mistake

_GIB = {"g": 1, "t": 1024}


class DataVolume(Frozen):
    """One data volume of every slot."""

    name: Name = Field(description="What it is called; a slot has one of each name.")
    size: str = Field(description="Size when it is made, such as 100g or 2t.", pattern=r"^[1-9]\d{0,4}[gt]$")
    mount: str = Field(
        "",
        description="Where the configurator mounts it, an absolute path. Default: left to the role.",
        pattern=r"^(/[A-Za-z0-9_.-]{1,64}){0,8}$",
    )
    filesystem: Literal["ext4", "xfs"] = Field("ext4", description="What a blank one is formatted with. Default: ext4.")
    snapshots: int = Field(
        3,
        ge=1,
        le=1000,
        description="How many of its snapshots the reaper leaves in each slot, the newest; those of a rollout under "
        "way are kept beside them. Default: 3.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="The platform's own options for it.")

    @property
    def size_gib(self) -> int:
        """Its size in GiB."""
        return int(self.size[:-1]) * _GIB[self.size[-1]]

    @field_validator("mount")
    @classmethod
    def _stays_below(cls, value: str) -> str:
        if any(part in (".", "..") for part in value.split("/")):
            raise ValueError(f"'{value}' must not go up or stay where it is")
        return value


def check_volumes(volumes: Sequence[DataVolume], platform: Driver | None, max_surge: int) -> None:
    """Return if a fleet on that platform may have these.

    :raises Below: otherwise, with every mistake.
    """
    if not volumes or platform is None:
        return
    wrong: list[Mistake] = []
    if max_surge:
        wrong.append(
            Mistake(
                (),
                "a data volume is at one machine at a time, so no extra instance can stand beside the old one.",
                "Set max_surge: 0 and max_unavailable: 1.",
            )
        )
    for kind in ("name", "mount"):
        said = [getattr(each, kind) for each in volumes if getattr(each, kind)]
        for twice in sorted({each for each in said if said.count(each) > 1}):
            wrong.append(Mistake((), f"two of them have the {kind} '{twice}'.", f"Give each a {kind} of its own."))
    wrong += _check_options(volumes, platform)
    if wrong:
        raise yamlmistakes.Below(wrong)


def _check_options(volumes: Sequence[DataVolume], platform: Driver) -> list[Mistake]:
    model = getattr(drivers.load("platforms", platform.name), "VolumeSettings", None)
    if model is None:
        able = "docs/howto/stateful-fleets.md names the platforms that have them."
        return [Mistake((), f"the platform {platform.name} has no data volumes.", able)]
    wrong: list[Mistake] = []
    for number, each in enumerate(volumes):
        try:
            model.model_validate(each.options)
        except ValidationError as error:
            wrong += yamlmistakes.explain(model, error, under=(number, "options"))
    return wrong
