"""What a fleet or image file may say about EC2."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from phoenix_fleet.platforms import _ec2_view as view


class Settings(BaseModel):
    """Where and how instances run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connection: str = Field("aws_default", description="Airflow connection of type aws. Default: aws_default.")
    subnets: tuple[str, ...] = Field(
        min_length=1, description="Ids of the subnets that instances go to, one or more for each zone."
    )
    security_groups: tuple[str, ...] = Field(min_length=1, description="Ids of the instances' security groups.")
    instance_type: str = Field(description="Such as m7i.large.", pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")
    instance_profile: str = Field(
        "", description="Name of the instances' IAM instance profile. Default: none.", pattern=r"^[\w+=,.@-]{0,128}$"
    )
    address: str = Field(
        "private",
        description="Which address instances are reached at, private or public. Default: private.",
        pattern=r"^(private|public)$",
    )
    addresses: Mapping[str, str] = Field(
        default_factory=dict,
        description="Private IPv4 address of a slot, kept from instance to instance; only with max_surge: 0. Default: "
        "any in the subnet.",
    )
    hostname: Literal["instance", "slot"] = Field(
        "instance",
        description="What the guest calls itself: its own name, new each time, or its slot's, which stays, and "
        "which two would have at once unless max_surge is 0. Default: instance.",
    )
    tags: Mapping[str, str] = Field(
        default_factory=dict, description="More tags on instances and volumes, for the bill say. Default: none."
    )

    @field_validator("subnets", "security_groups")
    @classmethod
    def _are_ids(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        beginning = "subnet-" if info.field_name == "subnets" else "sg-"
        for each in value:
            number = each.removeprefix(beginning)
            if not each.startswith(beginning) or not number.isalnum() or len(number) < 8:
                raise ValueError(f"{each!r} is no id such as {beginning}0123456789abcdef0")
        if len(set(value)) != len(value):
            raise ValueError("one of them is there twice")
        return value

    @field_validator("addresses")
    @classmethod
    def _are_addresses(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for slot, text in value.items():
            try:
                IPv4Address(text)
            except ValueError:
                raise ValueError(f"{text!r} of {slot} is no IPv4 address") from None
        if len(set(value.values())) != len(value):
            raise ValueError("two slots have the same address")
        return value

    @field_validator("tags")
    @classmethod
    def _are_free(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for key, text in value.items():
            if key == view.NAME or key.lower().startswith(("aws:", "phoenix.")):
                raise ValueError(f"the tag {key!r} is not free to use")
            if not 0 < len(key) <= 128 or len(text) > 256:
                raise ValueError(f"the tag {key!r} is too long")
        return value
