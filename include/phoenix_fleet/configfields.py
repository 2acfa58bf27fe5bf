"""The kinds of values that configuration is made of: names, durations, portions, and drivers with their settings."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict, ValidationError

from phoenix_fleet import drivers, yamlmistakes
from phoenix_fleet.domain.errors import InvalidConfig

NAME = r"[a-z][a-z0-9-]{0,39}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Count = Annotated[int, Strict()]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", str(value))
    if not match:
        raise ValueError(f"'{value}' is not a duration: write 30s, 5m, 2h or 35d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def duration_text(value: timedelta) -> str:
    """The duration as a file writes it, in the largest unit that fits: ``90m``, ``35d``."""
    seconds = int(value.total_seconds())
    unit = next((unit for unit in "dhm" if seconds and seconds % _UNITS[unit] == 0), "s")
    return f"{seconds // _UNITS[unit]}{unit}"


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=r"^\d{1,6}[smhd]$")]),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
]


class Frozen(BaseModel):
    """Base of all configuration: immutable, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Owners(Frozen):
    """Who is told when something needs them."""

    team: str = Field(description="The team's name, for messages.")
    email: str = Field("", description="Address that mails go to; needs an SMTP connection. Default: none.")
    webhook: str = Field("", description="Airflow connection id of a webhook. Default: none.")


class Access(Frozen):
    """How instances are reached over SSH."""

    connection: str = Field(
        "phoenix_ssh",
        description="Airflow connection whose extra.key_file is the private key; its .pub lies beside.",
    )
    user: str = Field("root", description="Login name.")


def _portion(value: Any) -> Any:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,6}%?", str(value)):
        raise ValueError(f"'{value}' is not a portion: write a count such as 2 or a share such as 25%")
    if str(value).endswith("%") and int(str(value)[:-1]) > 100:
        raise ValueError(f"'{value}' is more than all: write at most 100%")
    return str(value)


class _Portion(str):
    """A count (``2``) or a share of the fleet (``25%``)."""

    __slots__ = ()

    def of(self, total: int, *, up: bool) -> int:
        """How many of ``total``: shares round up or down as the caller says; counts are cut at ``total``."""
        if self.endswith("%"):
            exact = total * int(self[:-1]) / 100
            return math.ceil(exact) if up else math.floor(exact)
        return min(int(self), total)


Portion = Annotated[
    str,
    BeforeValidator(_portion, json_schema_input_type=Annotated[str, Field(pattern=r"^\d{1,6}%?$")] | int),
]


def portion(value: str, total: int, *, up: bool) -> int:
    """How many of ``total`` a portion means: shares round up or down as told, counts are cut at ``total``."""
    return _Portion(value).of(total, up=up)


class Driver(Frozen):
    """A driver with its settings, written ``docker`` or ``docker: {network: lab, …}``."""

    name: str = Field(description="Module name in the seam's folder.")
    settings: dict[str, Any] = Field(default_factory=dict, description="The driver's own settings.")


def _driver(seam: drivers.Seam, *, optional: bool = False) -> BeforeValidator:
    def check(value: Any) -> Driver | None:
        if isinstance(value, Driver) or (optional and value is None):
            return value
        if isinstance(value, str):
            name, settings = value, dict[str, Any]()
        elif isinstance(value, dict) and len(value) == 1:
            ((name, settings),) = value.items()
        else:
            raise ValueError("write a driver's name, or one name with its settings below it")
        settings = {} if settings is None else settings
        try:
            model = drivers.load(seam, str(name)).Settings
            model.model_validate(settings)
        except InvalidConfig as error:
            at = () if isinstance(value, str) else (name,)
            raise yamlmistakes.Below([yamlmistakes.Mistake(at, error.args[0], error.remedy)]) from None
        except ValidationError as error:
            raise yamlmistakes.Below(yamlmistakes.explain(model, error, under=(name,))) from None
        return Driver(name=name, settings=settings)

    schema = Annotated[str, Field(description=f"a module of {seam}/")] | Annotated[dict[str, Any], Field(max_length=1)]
    return BeforeValidator(check, json_schema_input_type=schema | None if optional else schema)


PlatformDriver = Annotated[Driver, _driver("platforms")]
OptionalPlatformDriver = Annotated[Driver | None, _driver("platforms", optional=True)]
OptionalWorkloadDriver = Annotated[Driver | None, _driver("workloads", optional=True)]
BalancerDriver = Annotated[Driver, _driver("balancers")]
ConfiguratorDriver = Annotated[Driver, _driver("configurators")]
GateDriver = Annotated[Driver, _driver("gates")]
