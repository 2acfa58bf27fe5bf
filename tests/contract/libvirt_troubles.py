"""Troubles between the libvirt platform and its host, as libvirt itself would raise them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from phoenix_fleet.domain.models import Instance, InstanceState
from tests.contract.machinery import wait_for
from tests.contract.platforms_libvirt import LibvirtLab, leases


def running(lab: LibvirtLab, instance: Instance) -> Instance:
    def look() -> Instance | None:
        seen = lab.platform.get_instance(instance.id)
        return seen if seen.state is InstanceState.RUNNING and seen.host_keys else None

    return wait_for(look, f"{instance.name} to run")


def broken(code: str, text: str) -> Exception:
    """An error as libvirt raises it."""
    error: Exception = libvirt.libvirtError(text)
    number = getattr(libvirt, f"VIR_ERR_{code}")
    error.err = (number, 0, text, 2, text, None, None, 0, 0)  # type: ignore[attr-defined]
    return error


def once(method: str, trouble: Callable[[Callable[[], Any]], Any]) -> Callable[..., Any]:
    """Trouble at the first call of that method, and leases as ever."""
    left = [method]

    def meddle(real: Any, name: str, call: Callable[[], Any], args: list[Any]) -> Any:
        if name in left:
            left.remove(name)
            return trouble(call)
        return leases(real, name, call, args)

    return meddle


def fails(code: str, text: str) -> Callable[[Callable[[], Any]], Any]:
    def trouble(_call: Callable[[], Any]) -> Any:
        raise broken(code, text)

    return trouble
