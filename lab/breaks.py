"""One thing broken for real, in a copy of ``include/``, for each gate to show what it is there for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.older import FAMILY
from phoenix_fleet.configbuild import COMMON
from phoenix_fleet.domain.errors import InvalidConfig


@dataclass(frozen=True)
class Break:
    """One way to break the chain, and where it must then stop."""

    name: str
    told: str
    """What is broken, for people."""
    stops_at: tuple[str, ...]
    """Stages (what stands before the first dot of a task's id) of which one must fail first."""
    do: Callable[[Path], None]
    """Breaks it, in the folder that families share."""
    dag: str = f"image.{FAMILY}"
    """The DAG that must stop."""


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if text.count(old) != 1:
        raise InvalidConfig(f"{file} has {text.count(old)} times '{old}', so the demo cannot break it there.")
    file.write_text(text.replace(old, new))


def _build(common: Path) -> None:
    _replace(common / "provision.sh", 'PACKAGES="', 'PACKAGES="phoenix-no-such-package ')


def _test(common: Path) -> None:
    _replace(common / "provision.sh", 'say "hardening"\nharden\n', "")


def _certify(common: Path) -> None:
    source = common / "components" / "shop-api" / "src" / "shop_api.py"
    _replace(source, "not 1 <= quantity <= self.config.order_limit", "not 1 <= quantity <= 1 + self.config.order_limit")


def _stage(common: Path) -> None:
    _replace(common / "environments" / "staging.yaml", "shop_order_limit: 20", "shop_order_limit: 1")


def _release(common: Path) -> None:
    """Nothing is wrong with the image: a person says no."""


def _rollout(common: Path) -> None:
    file = common / "components" / "shop-front" / "role" / "templates" / "nginx.conf"
    only_here = "{{ '127.0.0.1:' if phoenix_environment == 'production' else '' }}"
    _replace(file, "listen 8080 ", f"listen {only_here}8080 ")


BREAKS = {
    found.name: found
    for found in (
        Break("build", "the provisioning asks for a package that does not exist", ("build",), _build),
        Break("test", "somebody dropped the hardening from the provisioning", ("test",), _test),
        Break("certify", "the shop's API takes orders that are too large", ("certify",), _certify),
        Break("stage", "the staging values let nobody order more than one piece", ("stage",), _stage),
        Break("release", "nothing is broken, but the approver says no", ("approve",), _release),
        Break("rollout", "in production alone, the front listens on loopback only", ("canary",), _rollout, "fleet.web"),
    )
}


def make(name: str, include: Path, copy: Path) -> Break:
    """Copy the project's files (not its code) and break one thing there; returns what was broken.

    :raises InvalidConfig: if the files have changed so that this break no longer fits.
    """
    found = BREAKS[name]
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(include, copy, ignore=shutil.ignore_patterns("phoenix_fleet", "__pycache__"))
    found.do(copy / "images" / COMMON)
    return found
