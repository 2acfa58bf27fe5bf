"""Deployments, StatefulSets and DaemonSets: the cluster rolls them, we set the image by digest, watch, and go back.

Every change is one server-side apply under our own field manager, to exactly the object that was read. All else in a
workload (``imagePullPolicy``, pull secrets, strategy, replicas) stays whoever's it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import IntentMismatch, InUse, InvalidConfig, InvalidSpec, NotFound
from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.kubernetesapi import Changed, Cluster, Clusters, Object
from phoenix_fleet.workloads import _kubernetes_marks as marking
from phoenix_fleet.workloads import _kubernetes_rolls as rolls
from phoenix_fleet.workloads._kubernetes_marks import Marks, called
from phoenix_fleet.workloads.base import Place, Progress, Revision, Workload

_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_TRIES = 5
"""How often a change is tried on what has changed since it was read: status changes all the time in a roll."""


class Entry(BaseModel):
    """One workload by name, or several by their labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str = Field(description="Where they are.", pattern=_NAME)
    kind: Literal["Deployment", "StatefulSet", "DaemonSet"] = Field("Deployment", description="Default: Deployment.")
    name: str = Field("", description="Of one workload; or else say selector.", pattern=rf"({_NAME})|^$")
    selector: str = Field("", description="Label selector of several: app=shop,tier!=cache.", max_length=1000)
    container: str = Field("", description="Whose image is set. Default: the only one.", max_length=63)
    connection: str = Field("", description="Airflow connection of its cluster. Default: the one above.")
    address: str = Field("", description="Where gates reach what it serves: a host name. Default: nowhere.")

    @model_validator(mode="after")
    def _says_which(self) -> Entry:
        if bool(self.name) == bool(self.selector):
            raise ValueError("write either name or selector")
        return self


class Settings(BaseModel):
    """Which workloads, in which clusters, in the order in which they are rolled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connection: str = Field(
        "kubernetes_default", description="Airflow connection of type kubernetes. Default: kubernetes_default."
    )
    workloads: tuple[Entry, ...] = Field(
        min_length=1, max_length=200, description="In this order, the canary first; the cluster is the failure domain."
    )
    pulls_from: str = Field(
        "",
        description="Host and port by which nodes reach the registry. Default: as in the artefact's reference.",
        pattern=r"^([A-Za-z0-9.-]{1,253}(:\d{1,5})?)?$",
    )
    take_over: bool = Field(
        False, description="Take the image from whoever else set it, which the first roll needs. Default: false."
    )


@dataclass(frozen=True)
class _Found:
    """One workload as read now."""

    cluster: Cluster
    path: str
    entry: Entry
    object: Object


class Driver(Workload):
    """The workloads of one fleet, in any number of clusters. Safe from any thread."""

    Settings = Settings
    artefacts = "docker"

    def __init__(self, settings: Any, connections: Connections) -> None:
        super().__init__(settings, connections)
        self._clusters = Clusters(connections)

    # The seam

    def list_workloads(self, fleet: str) -> Sequence[Place]:
        """Those that the entries name or select; ``NotOurs`` if one of them lacks the fleet's labels."""
        places = []
        for entry in self.settings.workloads:
            for found in self._select(entry):
                marking.check_ours(found.object, fleet)
                places.append(Place(_id_of(found), found.cluster.name, entry.address))
        twice = sorted({each.id for each in places if [other.id for other in places].count(each.id) > 1})
        if twice:
            raise InvalidConfig(f"{twice[0]} is selected twice.", remedy="Correct the entries below workloads.")
        return places

    def progress(self, workload_id: str) -> Progress:
        """From the status, once it is about the last change, and from the pods with the current image."""
        found = self._look(workload_id)
        marks = marking.read(found.object, found.entry.container)
        roll = rolls.roll_of(found.object)
        current = marks.current
        name = marking.container_of(found.object, found.entry.container)["name"]
        pods = rolls.look_at(self._pods(found), name, current.reference, current.digest)
        told = f"{roll.updated} of {roll.desired} updated, {roll.available} available"
        return Progress(
            current=current,
            desired=roll.desired,
            updated=roll.updated,
            available=roll.available,
            minimum=roll.minimum,
            complete=roll.complete,
            previous=marks.previous,
            undone=marks.undone,
            failure=roll.failure or pods.failure,
            running=pods.running,
            message=f"{told}; {pods.waiting}" if pods.waiting else told,
        )

    def start(self, workload_id: str, intent: LaunchIntent, *, dry_run: bool = False) -> None:
        """One server-side apply of the image and the marks."""

        def change(found: _Found) -> Marks | None:
            marking.check_ours(found.object, intent.fleet)
            rolls.roll_of(found.object)
            marks = marking.read(found.object, found.entry.container)
            if _was_started(found, marks, intent):
                return None
            if marks.previous:
                raise InUse(
                    f"The last roll of {called(found.object)} is not settled.", remedy="Undo it, or let it be settled."
                )
            return Marks(
                self._revision(intent),
                previous=marks.current,
                fingerprint=intent.fingerprint,
                cause=f"phoenix-fleet: {intent.family} {intent.version} by {intent.purpose}",
            )

        self._change(workload_id, change, force=self.settings.take_over, dry_run=dry_run)

    def undo(self, workload_id: str, key: str) -> None:
        """One server-side apply of the image before."""

        def change(found: _Found) -> Marks | None:
            marks = marking.read(found.object, found.entry.container)
            if marks.undone and marks.undone.key == key:
                return None
            if marks.previous is None or marks.current.key != key:
                raise InvalidSpec(
                    f"{called(found.object)} runs {marks.current.reference}, which is not what is to be undone.",
                    remedy="Look who has set it, and whether it is to stay.",
                )
            cause = f"phoenix-fleet: back from {marks.current.version}"
            return Marks(marks.previous, undone=marks.current, cause=cause)

        self._change(workload_id, change)

    def settle(self, workload_id: str, key: str) -> None:
        """One server-side apply without the mark of what was before; nothing of the pods changes."""

        def change(found: _Found) -> Marks | None:
            marks = marking.read(found.object, found.entry.container)
            return replace(marks, previous=None) if marks.previous and marks.current.key == key else None

        self._change(workload_id, change)

    # Inside

    def _change(
        self,
        workload_id: str,
        change: Callable[[_Found], Marks | None],
        *,
        force: bool = False,
        dry_run: bool = False,
    ) -> None:
        """Apply what ``change`` makes of the workload as it is now; None: nothing is to be done."""
        for remaining in reversed(range(_TRIES)):
            found = self._look(workload_id)
            marks = change(found)
            if marks is None:
                return
            body = marking.written(found.object, found.entry.container, marks)
            try:
                found.cluster.apply(found.path, body, force=force, dry_run=dry_run)
            except Changed:
                if not remaining:
                    raise
            else:
                return

    def _revision(self, intent: LaunchIntent) -> Revision:
        reference = intent.artefact.reference
        if self.settings.pulls_from:
            reference = f"{self.settings.pulls_from}/{reference.partition('/')[2]}"
        if marking.digest_of(reference) != intent.artefact.digest:
            raise InvalidSpec(
                f"{reference} does not name the digest {intent.artefact.digest}.", remedy="Build the image again."
            )
        return Revision(reference, intent.artefact.digest, intent.version, intent.token, datetime.now(UTC))

    def _select(self, entry: Entry) -> list[_Found]:
        cluster = self._clusters(entry.connection or self.settings.connection)
        where = _collection(entry)
        if entry.name:
            path = f"{where}/{entry.name}"
            return [_Found(cluster, path, entry, _whole(cluster.get(path), entry.kind))]
        listed = cluster.list_all(where, labelSelector=entry.selector)
        listed.sort(key=lambda each: str(each["metadata"]["name"]))
        return [
            _Found(cluster, f"{where}/{each['metadata']['name']}", entry, _whole(each, entry.kind)) for each in listed
        ]

    def _look(self, workload_id: str) -> _Found:
        """That workload, if it is ours and still the same."""
        conn_id, namespace, kind, name, uid = workload_id.rsplit("/", 4)
        for entry in self.settings.workloads:
            there = (entry.connection or self.settings.connection, entry.namespace, entry.kind)
            if there == (conn_id, namespace, kind) and entry.name in ("", name):
                cluster, path = self._clusters(conn_id), f"{_collection(entry)}/{name}"
                found = _Found(cluster, path, entry, _whole(cluster.get(path), kind))
                if found.object["metadata"]["uid"] != uid:
                    break
                marking.check_ours(found.object)
                return found
        raise NotFound(f"There is no {kind} {namespace}/{name} with uid {uid}.", remedy="Look who has replaced it.")

    def _pods(self, found: _Found) -> list[Object]:
        where = f"/api/v1/namespaces/{found.entry.namespace}/pods"
        return found.cluster.list_all(where, labelSelector=rolls.selector_of(found.object))


def _collection(entry: Entry) -> str:
    return f"/apis/apps/v1/namespaces/{entry.namespace}/{rolls.PLURALS[entry.kind]}"


def _id_of(found: _Found) -> str:
    metadata = found.object["metadata"]
    return "/".join((found.cluster.name, metadata["namespace"], found.entry.kind, metadata["name"], metadata["uid"]))


def _whole(found: Object, kind: str) -> Object:
    """The object with its kind, which the entries of a list come without."""
    return {**found, "kind": kind}


def _was_started(found: _Found, marks: Marks, intent: LaunchIntent) -> bool:
    """Whether that launch has begun before, also if it was undone since.

    :raises IntentMismatch: it has, with other parameters.
    """
    if marks.current.token == intent.token and marks.fingerprint not in ("", intent.fingerprint):
        raise IntentMismatch(
            f"{called(found.object)} was started by the same token with other parameters.",
            remedy="Launch a new attempt; parameters are frozen with an intent.",
        )
    return intent.token in (marks.current.token, marks.undone.token if marks.undone else "")
