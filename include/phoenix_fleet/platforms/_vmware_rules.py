"""The DRS rule that keeps a fleet's machines on different hosts: one of our own per fleet, and never another's."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from phoenix_fleet.domain.errors import InvalidSpec, Unavailable
from phoenix_fleet.platforms._vmware_collect import ended, looked_at
from phoenix_fleet.platforms._vmware_errors import is_a, of_fault

_WAIT = 30
_ROUNDS = 4
_lock = threading.Lock()


def rule_name(fleet: str) -> str:
    """The name of a fleet's rule."""
    return f"phoenix-{fleet}"


def keep_apart(content: Any, cluster: Any, fleet: str, machines: Sequence[Any]) -> None:
    """Let the fleet's rule name all these machines; nothing to do while there is but one.

    A rule is replaced whole, so another process may write over what we wrote: it is read again afterwards.

    :raises InvalidSpec: somebody else's rule has its name.
    :raises Unavailable: others changed it again and again.
    """
    if len(machines) < 2:  # a rule of one is refused
        return
    wanted = set(machines)
    with _lock:
        for _ in range(_ROUNDS):
            present = _find(content, cluster, fleet)
            if present is not None and wanted <= set(present.vm):
                return
            _write(content, cluster, fleet, present, wanted)
    raise Unavailable(
        f"The DRS rule {rule_name(fleet)} is changed by others all the time.", remedy="See who changes it."
    )


def _find(content: Any, cluster: Any, fleet: str) -> Any:
    from pyVmomi import vim

    ((_, seen),) = looked_at(content, cluster, {type(cluster): ("configurationEx",)})
    for rule in seen["configurationEx"].rule or ():
        if rule.name != rule_name(fleet):
            continue
        if not isinstance(rule, vim.cluster.AntiAffinityRuleSpec):
            raise InvalidSpec(
                f"The cluster has a DRS rule {rule.name} of another kind, which is not ours.",
                remedy="Rename that rule.",
            )
        return rule
    return None


def _write(content: Any, cluster: Any, fleet: str, present: Any, wanted: set[Any]) -> None:
    from pyVmomi import vim

    rule = present or vim.cluster.AntiAffinityRuleSpec(name=rule_name(fleet), enabled=True, userCreated=True)
    rule.vm = sorted(wanted, key=lambda ref: str(ref._moId))
    change = vim.cluster.RuleSpec(operation="edit" if present else "add", info=rule)
    info = ended(
        content, cluster.ReconfigureComputeResource_Task(vim.cluster.ConfigSpecEx(rulesSpec=[change]), True), _WAIT
    )
    # What another process added or removed in between is found out by the next look.
    if info.state == "error" and not is_a(info.error, "DuplicateName", "InvalidArgument", "ConcurrentAccess"):
        raise of_fault(f"keep {fleet} apart", info.error)
