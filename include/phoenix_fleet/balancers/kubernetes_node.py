"""A machine that is a node of a Kubernetes cluster: Ready and schedulable in service, and drained by evicting.

The machines are a fleet's on any platform; their first boot lets them join the cluster. What counts as connections are
pods that have to go elsewhere and volumes that are still attached. Evictions go through the eviction API, so no budget
(PodDisruptionBudget) is ever broken: one that allows nothing now makes the drain wait, and the fleet's drain policy
decides what happens at the limit. Pods of DaemonSets and mirror pods belong to the node and are left; pods that nobody
would start elsewhere are left too, and hold up the drain.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import InvalidSpec, NotFound, NotOurs, NotSupported, Throttled, Unavailable
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.kubernetesapi import Cluster, Clusters, Object

TOKEN, CORDONED = "phoenix.token", "phoenix.cordoned"
"""Annotations of a node: the token of the instance that it is, and that we have cordoned it."""
_MIRROR = "kubernetes.io/config.mirror"
_NODES, _PODS = "/api/v1/nodes", "/api/v1/pods"
_ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
_OVER = ("Succeeded", "Failed")


class Settings(BaseModel):
    """Which cluster, and how its nodes are told apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connection: str = Field(
        "kubernetes_default", description="Airflow connection of type kubernetes. Default: kubernetes_default."
    )
    node_by: Literal["address", "provider_id", "name"] = Field(
        "address",
        description="How an instance's node is found: one of its addresses is the instance's, its provider id ends in "
        "the instance's id, or it has the instance's name. Default: address.",
    )


class Driver(Balancer):
    """The nodes of one cluster. Safe from any thread."""

    Settings = Settings
    drains_in_turns: ClassVar[bool] = True

    def __init__(self, settings: Any, connections: Connections) -> None:
        super().__init__(settings, connections)
        self._clusters = Clusters(connections)

    # The seam

    def admit(self, instance: Instance) -> None:
        """Mark the node as the instance's and make it schedulable.

        ``Unavailable`` until it has joined, ``NotOurs`` if somebody else has cordoned it since it was admitted.
        """
        if not instance.address:
            raise InvalidSpec(f"{instance.name} has no address.", remedy="Admit it once it is running.")
        node = self._find(instance)
        if node is None:
            raise Unavailable(f"{instance.name} has not joined the cluster yet.", remedy="See its first boot's log.")
        marks = _annotations(node)
        cordoned = bool(node["spec"].get("unschedulable"))
        if cordoned and TOKEN in marks and CORDONED not in marks:
            raise NotOurs(
                f"The node {_name(node)} was cordoned by somebody else.", remedy="Uncordon it, if it is to serve."
            )
        if cordoned or marks.get(TOKEN) != instance.token or CORDONED in marks:
            self._mark(node, {TOKEN: instance.token, CORDONED: None}, unschedulable=None)

    def drain(self, instance: Instance) -> None:
        """Cordon the node, then ask for the eviction of every pod that has to go and is not going yet.

        To be called again until none is left: a budget allows some now and others later.
        """
        node = self._find(instance)
        if node is None:
            return
        if not node["spec"].get("unschedulable"):
            self._mark(node, {TOKEN: instance.token, CORDONED: "true"}, unschedulable=True)
        for pod in self._pods(node):
            if _has_controller(pod) and not pod["metadata"].get("deletionTimestamp"):
                self._evict(pod)

    def remove(self, instance: Instance) -> None:
        """Delete the node of a machine that is gone; as long as the machine is there its node stays, cordoned."""
        node = self._find(instance)
        if node is None or instance.state is not InstanceState.GONE:
            return
        if _is_ready(node):
            raise Unavailable(f"{instance.name} is gone, and its node {_name(node)} still says that it is ready.")
        self._cluster.delete(f"{_NODES}/{_name(node)}", node["metadata"]["uid"])

    def state(self, instance: Instance) -> BackendStatus:
        """Healthy if Ready and schedulable; draining if cordoned, with what is still to go as connections."""
        try:
            node = self._find(instance)
        except NotOurs:
            return BackendStatus(Backend.ABSENT)
        if node is None:
            return BackendStatus(Backend.ABSENT)
        if node["spec"].get("unschedulable") and TOKEN in _annotations(node):
            return BackendStatus(Backend.DRAINING, len(self._pods(node)) + self._attached(node))
        if node["spec"].get("unschedulable") or not _is_ready(node):
            joined = TOKEN in _annotations(node)
            return BackendStatus(Backend.UNHEALTHY if joined else Backend.STARTING)
        return BackendStatus(Backend.HEALTHY)

    # Inside

    @property
    def _cluster(self) -> Cluster:
        return self._clusters(self.settings.connection)

    def _find(self, instance: Instance) -> Object | None:
        """The instance's node, by its mark or else as the settings say; None if it has not joined, or has left.

        :raises NotOurs: what is found by its address or name was admitted as another instance.
        """
        nodes = self._cluster.list_all(_NODES)
        found = [each for each in nodes if _annotations(each).get(TOKEN) == instance.token]
        found = found or [each for each in nodes if self._is_node_of(each, instance)]
        if len(found) > 1:
            names = ", ".join(map(_name, found))
            raise Unavailable(f"{instance.name} could be any of the nodes {names}.", remedy="Correct node_by.")
        if not found:
            return None
        if _annotations(found[0]).get(TOKEN, instance.token) != instance.token:
            raise NotOurs(
                f"The node {_name(found[0])} is another instance than {instance.name}.",
                remedy="Nothing is to be done: an address or a name is used again.",
            )
        return found[0]

    def _is_node_of(self, node: Object, instance: Instance) -> bool:
        if self.settings.node_by == "name":
            return _name(node) == instance.name
        if self.settings.node_by == "provider_id":
            return str(node["spec"].get("providerID", "")).rpartition("/")[2] == instance.id
        addresses = (node.get("status") or {}).get("addresses") or []
        return bool(instance.address) and instance.address in [each.get("address") for each in addresses]

    def _mark(self, node: Object, annotations: dict[str, str | None], *, unschedulable: bool | None) -> None:
        metadata = {"resourceVersion": node["metadata"]["resourceVersion"], "annotations": annotations}
        self._cluster.merge(f"{_NODES}/{_name(node)}", {"metadata": metadata, "spec": {"unschedulable": unschedulable}})

    def _pods(self, node: Object) -> list[Object]:
        """Those that have to go before the machine may."""
        listed = self._cluster.list_all(_PODS, fieldSelector=f"spec.nodeName={_name(node)}")
        return [each for each in listed if not _belongs_to_node(each)]

    def _attached(self, node: Object) -> int:
        """How many volumes are attached to it."""
        listed = self._cluster.list_all(_ATTACHMENTS)
        there = [each for each in listed if each["spec"].get("nodeName") == _name(node)]
        return sum(bool((each.get("status") or {}).get("attached")) for each in there)

    def _evict(self, pod: Object) -> None:
        """Ask for it; a budget that allows none now, and a pod that has gone meanwhile, are no errors."""
        metadata = pod["metadata"]
        where = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/eviction"
        body = {
            "apiVersion": self._eviction_version(),
            "kind": "Eviction",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "deleteOptions": {"preconditions": {"uid": metadata["uid"]}},
        }
        try:
            self._cluster.create(where, body)
        except (Throttled, NotFound):
            return

    def _eviction_version(self) -> str:
        """``policy/v1`` from API 1.22 on, ``policy/v1beta1`` before: as the API says of its own subresource."""
        for each in self._cluster.get("/api/v1").get("resources") or []:
            if each.get("name") == "pods/eviction":
                return f"{each.get('group', 'policy')}/{each.get('version', 'v1beta1')}"
        raise NotSupported(f"The cluster of {self.settings.connection} has no eviction API.", remedy="Renew it.")


def _name(found: Object) -> str:
    return str(found["metadata"]["name"])


def _annotations(found: Object) -> dict[str, str]:
    return found["metadata"].get("annotations") or {}


def _is_ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _controller(pod: Object) -> str:
    """The kind of what would start it elsewhere; empty if nothing would."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(each.get("kind")) for each in owners if each.get("controller")), "")


def _has_controller(pod: Object) -> bool:
    return bool(_controller(pod))


def _belongs_to_node(pod: Object) -> bool:
    """Whether it ends with its node, or has ended: mirror pods, those of DaemonSets, and those that are over."""
    over = (pod.get("status") or {}).get("phase") in _OVER
    return over or _MIRROR in _annotations(pod) or _controller(pod) == "DaemonSet"
