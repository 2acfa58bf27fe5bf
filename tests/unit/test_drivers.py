"""Convention finds drivers; every driver that is there keeps the form that the convention asks for."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import get_args

import pytest
from pydantic import BaseModel

from phoenix_fleet import drivers
from phoenix_fleet.domain.errors import InvalidConfig

SEAMS = get_args(drivers.Seam)
ALL = [(seam, name) for seam in SEAMS for name in drivers.names(seam)]


def test_names_are_the_modules_without_base() -> None:
    assert {"fake"} <= set(drivers.names("platforms"))
    assert {"fake", "none"} <= set(drivers.names("configurators"))
    assert {"fake", "none"} <= set(drivers.names("balancers"))
    assert all("base" not in drivers.names(seam) for seam in SEAMS)


def test_listing_names_imports_no_driver() -> None:
    code = (
        "import sys; from phoenix_fleet import drivers; drivers.names('platforms'); drivers.names('gates');"
        "print([m for m in sys.modules if m.startswith(('phoenix_fleet.platforms.', 'phoenix_fleet.gates.'))])"
    )
    path = drivers.__file__.rsplit("/", 2)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("seam", "name"), ALL)
def test_every_driver_has_the_seams_form(seam: drivers.Seam, name: str) -> None:
    driver = drivers.load(seam, name)
    bases = vars(importlib.import_module(f"phoenix_fleet.{seam}.base")).values()
    contract = next(
        found for found in bases
        if isinstance(found, type)
        and found.__module__.endswith(f"{seam}.base")
        and getattr(found, "__abstractmethods__", None)
    )  # fmt: skip
    assert issubclass(driver, contract)
    assert not driver.__abstractmethods__
    assert issubclass(driver.Settings, BaseModel)
    assert driver.Settings.model_config.get("extra") == "forbid", "unknown settings must be errors"
    assert driver.Settings.model_config.get("frozen")
    undescribed = [key for key, field in driver.Settings.model_fields.items() if not field.description]
    assert undescribed == []
    assert driver.__doc__
    assert sys.modules[driver.__module__].__doc__


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fkae", "Did you mean 'fake'?"), ("quantum", "Add platforms/quantum.py"), ("base", ""), ("../gates/fake", "")],
)
def test_an_unknown_driver_names_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        drivers.load("platforms", name)
    assert f"There is no '{name}' among the platforms: " in str(caught.value)
    assert hint in str(caught.value)


def test_loading_twice_gives_the_same_class() -> None:
    assert drivers.load("platforms", "fake") is drivers.load("platforms", "fake")
