"""Machines of ours in one vCenter: found, listed, powered on, ended."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from phoenix_fleet.domain.errors import NotFound, NotOurs, Unavailable
from phoenix_fleet.domain.models import Instance
from phoenix_fleet.platforms import _vmware_disks as disks
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms._vmware_collect import Seen, ended, listed, looked_at
from phoenix_fleet.platforms._vmware_errors import is_a, of_fault, passing

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_POWER_EVENTS = [
    "VmPoweredOnEvent",
    "DrsVmPoweredOnEvent",
    "VmPoweredOffEvent",
    "VmSuspendedEvent",
    "VmFailedToPowerOnEvent",
    "VmGuestShutdownEvent",
]
_POWER_OFF_WITHIN = 30
_MARKED_WITHIN = 10


def by_id(content: Any, instance_id: str) -> Any:
    """The virtual machine with that ``instanceUuid``, or None."""
    if not _ID.fullmatch(instance_id):
        return None
    return content.searchIndex.FindByUuid(None, instance_id, True, True)


def seen(content: Any, machine: Any) -> dict[str, Any]:
    """The machine's properties, and the name of its host as ``host``.

    :raises NotFound: it is gone.
    """
    from pyVmomi import vim, vmodl

    paths = {vim.VirtualMachine: view.VM_PATHS, vim.HostSystem: ("name",)}
    try:
        found = looked_at(content, machine, paths, then="runtime.host")
    except vmodl.fault.ManagedObjectNotFound:
        raise NotFound("It was gone while it was looked at.", remedy="Look again.") from None
    own = next((each for ref, each in found if ref == machine), {})
    return {**own, "host": next((each.get("name", "") for ref, each in found if ref != machine), "")}


def ours(content: Any, instance_id: str) -> tuple[Any, dict[str, Any]]:
    """Exactly that machine of ours, and its properties.

    :raises NotFound: it is not to be seen.
    :raises NotOurs: it lacks our marks.
    """
    machine = by_id(content, instance_id)
    if machine is None:
        raise NotFound(f"There is no virtual machine {instance_id!r} to be seen.", remedy="Look again.")
    found = seen(content, machine)
    if "config.extraConfig" not in found:
        raise Unavailable(f"vCenter does not tell the marks of {found.get('name')} now.", remedy="Look again.")
    if found.get("config.instanceUuid") != instance_id:
        raise NotFound(f"There is no virtual machine {instance_id!r} to be seen.", remedy="Look again.")
    if not view.is_ours(found):
        raise NotOurs(
            f"The virtual machine {found.get('name')} ({instance_id}) is not ours.", remedy="Ask whose it is."
        )
    return machine, found


def of_fleet(content: Any, center: Any, fleet: str) -> Iterator[Seen]:
    """Every machine of that fleet in the datacenter, with its properties.

    :raises Unavailable: one may be of it, and its marks cannot be read.
    """
    for machine, found in everything(content, center):
        check_readable(found, fleet)
        if view.is_ours(found) and view.options(found)[view.FLEET_MARK] == fleet:
            yield machine, found


def check_readable(found: Mapping[str, Any], fleet: str = "") -> None:
    """Return unless its marks cannot be read and it is named as if it were of that fleet, or of any of ours.

    :raises Unavailable: otherwise.
    """
    if view.may_be_ours(found, fleet):
        raise Unavailable(
            f"vCenter does not tell the marks of {found['name']} now, so nobody knows whose it is.",
            remedy="Look again; if it lasts, see why vCenter cannot read its configuration.",
        )


def everything(content: Any, center: Any) -> list[Seen]:
    """Every machine in the datacenter that is no template, with its properties and ``host``."""
    from pyVmomi import vim

    found = listed(content, center, {vim.VirtualMachine: view.VM_PATHS, vim.HostSystem: ("name",)})
    hosts = {ref: str(each.get("name", "")) for ref, each in found if isinstance(ref, vim.HostSystem)}
    return [
        (ref, {**each, "host": hosts.get(each.get("runtime.host"), "")})
        for ref, each in found
        if isinstance(ref, vim.VirtualMachine) and not each.get("config.template")
    ]


def as_instance(content: Any, machine: Any, found: Mapping[str, Any], now: datetime, *, keys: bool) -> Instance:
    """The machine in our words."""
    return view.instance(found, found.get("host", ""), powered(content, machine, found), now, keys=keys)


def powered(content: Any, machine: Any, found: Mapping[str, Any]) -> str:
    """What vCenter says of the last change of the machine's power; empty while it is on, or if there was none."""
    from pyVmomi import vim

    if found.get("runtime.powerState") == "poweredOn":
        return ""
    whose = vim.event.EventFilterSpec.ByEntity(entity=machine, recursion="self")
    asked = vim.event.EventFilterSpec(entity=whose, eventTypeId=_POWER_EVENTS)
    events = content.eventManager.QueryEvents(asked) or ()
    if not events:
        return ""
    last = max(events, key=lambda event: (event.createdTime, event.key))
    name = type(last).__name__.rpartition(".")[2]
    return str(getattr(last, "fullFormattedMessage", "") or f"{name} at {last.createdTime:%Y-%m-%d %H:%M:%S}")


def power_on(content: Any, machine: Any, name: str, seconds: float) -> None:
    """Power on a machine that never was; one that cannot be is removed again, and the reason raised."""
    from pyVmomi import vim

    try:
        info = ended(content, machine.PowerOnVM_Task(), seconds)
        refused = info.error if info.state == "error" else None
    except vim.fault.NotAuthenticated:
        raise
    except (vim.fault.VimFault, vim.fault.NoPermission) as fault:
        refused = fault
    if refused is not None and not is_busy(refused):
        undo(machine)
        raise of_fault(f"launch {name}", refused) from refused


def undo(machine: Any) -> None:
    """Remove what was made and cannot run; one that runs after all is refused by vCenter, and stays."""
    with passing("InvalidPowerState", "TaskInProgress", "ManagedObjectNotFound", "InvalidState"):
        machine.Destroy_Task()


def is_busy(fault: Any) -> bool:
    """Whether vCenter itself, or another caller, is at that machine: cloning it, or changing its power."""
    named = type(fault).__name__.rpartition(".")[2]
    # Not what comes after InvalidState in general, such as a host in maintenance.
    return is_a(fault, "InvalidPowerState", "TaskInProgress") or named in ("InvalidState", "MethodDisabled")


def end(content: Any, machine: Any, found: Mapping[str, Any], now: datetime) -> None:
    """Mark it as on its way out, power it off and ask for its removal, which is not waited for."""
    with passing("ManagedObjectNotFound", "TaskInProgress"):  # somebody has ended it, or is ending it
        _mark(content, machine, now)
        if found.get("runtime.powerState") != "poweredOff":
            with passing("InvalidPowerState"):
                _power_off(content, machine)
        with passing("InvalidPowerState"):  # its power is not off yet: it is told again if it stays
            # vCenter removes a machine with all its disks; data is none of them.
            disks.let_go(content, machine, "terminate")
            machine.Destroy_Task()


def _mark(content: Any, machine: Any, now: datetime) -> None:
    from pyVmomi import vim

    mark = vim.option.OptionValue(key=view.TERMINATING_MARK, value=now.isoformat(timespec="seconds"))
    with passing("InvalidState", "FileFault"):  # what cannot be marked can still go
        ended(content, machine.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[mark])), _MARKED_WITHIN)


def _power_off(content: Any, machine: Any) -> None:
    info = ended(content, machine.PowerOffVM_Task(), _POWER_OFF_WITHIN)
    if info.state == "error":
        raise info.error
