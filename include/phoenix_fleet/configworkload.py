"""What a fleet file says of where its instances run: a platform, or workloads that replace their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phoenix_fleet import drivers, yamlmistakes
from phoenix_fleet.configfields import Driver
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.yamlmistakes import Mistake

_NO_MEANING = {
    "balancer": "what sends traffic to replicas is the affair of the platform that rolls them.",
    "configurator": "nobody logs in to replicas: what they need is in their image and their workload.",
    "volumes": "replicas have the volumes that their workload gives them.",
}
"""Keys of machines, and why a fleet of workloads has none of them."""


def check_where(platform: Driver | None, workload: Driver | None, others: Mapping[str, Any], max_surge: int) -> None:
    """Return if a fleet says in one way where it runs, and nothing else that does not go with it.

    :param others: the fleet's ``balancer``, ``configurator`` and ``volumes``.
    :raises Below: otherwise, with every mistake.
    """
    if (platform is None) == (workload is None):
        both = "only one of platform and workload can say where it runs." if platform else "nothing says where it runs."
        remedy = "Write platform for machines, or workload for what rolls by itself."
        raise yamlmistakes.Below([Mistake(("workload" if platform else "platform",), both, remedy)])
    if workload is None:
        return
    wrong = [
        Mistake((key,), f"it has no meaning beside workload: {why}", "Remove it.")
        for key, why in _NO_MEANING.items()
        if _is_said(others[key])
    ]
    if not max_surge:
        message = "a workload's revisions stand beside each other while it rolls."
        wrong.append(
            Mistake(("max_surge",), message, "Leave it at 1; the workload's own strategy bounds its replicas.")
        )
    if wrong:
        raise yamlmistakes.Below(wrong)


def artefact_platform(platform: Driver | None, workload: Driver | None) -> str:
    """Name of the platform whose artefacts a fleet runs."""
    if workload is not None:
        return str(drivers.load("workloads", workload.name).artefacts)
    return where(platform, workload).name


def where(platform: Driver | None, workload: Driver | None) -> Driver:
    """Whichever of the two a fleet has.

    :raises InvalidConfig: it has none.
    """
    found = platform or workload
    if found is None:
        raise InvalidConfig("The fleet says neither platform nor workload.", remedy="Write one of them.")
    return found


def _is_said(value: Any) -> bool:
    return value.name != "none" if isinstance(value, Driver) else bool(value)
