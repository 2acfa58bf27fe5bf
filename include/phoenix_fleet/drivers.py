"""Convention finds drivers: a name in a YAML file is a module's name in the seam's folder.

``platform: docker`` is ``platforms/docker.py``, which holds exactly one class named ``Driver`` with a pydantic
model ``Settings`` of its own. Nothing is registered by hand, and a module is imported only when it is named.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from typing import Any, Literal

from phoenix_fleet.domain.errors import InvalidConfig

Seam = Literal["platforms", "builders", "balancers", "configurators", "gates", "workloads"]


def names(seam: Seam) -> list[str]:
    """Every driver of a seam, by name, without importing any of them."""
    package = importlib.import_module(f"phoenix_fleet.{seam}")
    return sorted(
        found.name
        for found in pkgutil.iter_modules(package.__path__)
        if found.name != "base" and not found.name.startswith("_")
    )


@cache
def load(seam: Seam, name: str) -> Any:
    """The ``Driver`` class of that name.

    :raises InvalidConfig: if there is none, naming what there is and the nearest match.
    """
    known = names(seam)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Add {seam}/{name}.py or use one of those."
        raise InvalidConfig(f"There is no '{name}' among the {seam}: {', '.join(known)}.", remedy=hint)
    return importlib.import_module(f"phoenix_fleet.{seam}.{name}").Driver
