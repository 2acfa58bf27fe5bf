"""Where in vCenter's inventory the fields of a fleet file lead; each mistake names its field and what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from phoenix_fleet.domain.errors import InvalidSpec
from phoenix_fleet.platforms._vmware_collect import Seen, listed

_MOST_NAMED = 12


@dataclass(frozen=True)
class Places:
    """The managed objects that a launch needs."""

    folder: Any
    pool: Any
    datastore: Any
    host: Any = None
    cluster: Any = None
    network: Any = None


@dataclass(frozen=True)
class Entry:
    """One object of the inventory."""

    ref: Any
    name: str
    seen: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its type's short name."""
        return type(self.ref).__name__.rpartition(".")[2]


def datacenter(content: Any, name: str) -> Entry:
    """The datacenter of that name.

    :raises InvalidSpec: there is none.
    """
    from pyVmomi import vim

    paths = {vim.Datacenter: ("name", "vmFolder")}
    found = _entries(listed(content, content.rootFolder, paths))
    return _named("datacenter", name, found)


def resolve(content: Any, center: Entry, settings: Any) -> Places:
    """Everything that the settings name, from one listing.

    :raises InvalidSpec: something is not there, or does not belong together.
    """
    from pyVmomi import vim

    paths = {
        vim.Folder: ("name", "parent"),
        vim.ComputeResource: ("name", "resourcePool", "datastore", "network"),
        vim.HostSystem: ("name", "parent"),
        vim.ResourcePool: ("name", "parent", "owner"),
        vim.Datastore: ("name",),
        vim.Network: ("name",),
    }
    found = _entries(listed(content, center.ref, paths))
    compute, host = _compute(settings, found)
    return Places(
        folder=_folder(settings.folder, center.seen["vmFolder"], found),
        pool=_pool(settings.resource_pool, compute, found),
        datastore=_within("datastore", settings.datastore, compute, found),
        host=host,
        cluster=compute.ref if compute.kind == "ClusterComputeResource" else None,
        network=_within("network", settings.network, compute, found) if settings.network else None,
    )


def _entries(seen: Sequence[Seen]) -> list[Entry]:
    # vCenter writes "/" and "%" in names as %2f and %25 (ManagedEntity.name).
    return [Entry(ref, unquote(str(properties.get("name", ""))), properties) for ref, properties in seen]


def _named(field: str, name: str, found: Sequence[Entry], where: str = "") -> Entry:
    matching = [entry for entry in found if entry.name == name]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise InvalidSpec(f"{field}: vCenter has {len(matching)} of the name '{name}'{where}.", remedy="Rename them.")
    names = sorted({entry.name for entry in found})
    there = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "") if names else "none"
    raise InvalidSpec(
        f"{field}: vCenter has no '{name}'{where}; there is: {there}.",
        remedy=f"Correct `{field}` in the fleet file, or let the login see it.",
    )


def _compute(settings: Any, found: Sequence[Entry]) -> tuple[Entry, Any]:
    if settings.cluster:
        clusters = [entry for entry in found if entry.kind == "ClusterComputeResource"]
        return _named("cluster", settings.cluster, clusters), None
    host = _named("host", settings.host, [entry for entry in found if entry.kind == "HostSystem"])
    (compute,) = [entry for entry in found if entry.ref == host.seen["parent"]]
    return compute, host.ref


def _folder(path: str, root: Any, found: Sequence[Entry]) -> Any:
    here = root
    for name in filter(None, path.split("/")):
        below = [entry for entry in found if entry.kind == "Folder" and entry.seen.get("parent") == here]
        here = _named("folder", name, below, f" in '{path}'").ref
    return here


def _pool(path: str, compute: Entry, found: Sequence[Entry]) -> Any:
    here = compute.seen["resourcePool"]
    for name in filter(None, path.split("/")):
        below = [entry for entry in found if entry.kind == "ResourcePool" and entry.seen.get("parent") == here]
        here = _named("resource_pool", name, below, f" in {compute.name}").ref
    return here


def _within(field: str, name: str, compute: Entry, found: Sequence[Entry]) -> Any:
    reached = set(compute.seen.get(field) or ())
    return _named(field, name, [entry for entry in found if entry.ref in reached], f" at {compute.name}").ref
