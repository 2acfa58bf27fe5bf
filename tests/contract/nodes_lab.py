"""Nodes of a cluster under the tests of balancers: they join, and the tests play kubelet and controllers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from phoenix_fleet.balancers import kubernetes_node
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Instance
from phoenix_fleet.kubernetesapi import Cluster, Object
from tests.contract.balancers_labs import instance, new_name
from tests.contract.machinery import KnownConnections

NODES = "/api/v1/nodes"


class NodesLab:
    """A cluster whose nodes are the instances of a fleet."""

    def __init__(self, connections: Mapping[str, Connection], policy: str = "policy/v1") -> None:
        self.policy = policy
        self.connections = KnownConnections(*connections.values())
        self.api = Cluster(self.connections("admin"))
        self.namespace = f"t{uuid.uuid4().hex[:8]}"
        self.api.create("/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": self.namespace}})
        account = {"kind": "ServiceAccount", "metadata": {"name": "default"}}
        self.api.create(f"/api/v1/namespaces/{self.namespace}/serviceaccounts", account)
        self.pods = f"/api/v1/namespaces/{self.namespace}/pods"
        self.balancer = self.again()
        self.joined: list[str] = []

    def again(self, **settings: Any) -> kubernetes_node.Driver:
        told = kubernetes_node.Settings(connection="phoenix", **settings)
        return kubernetes_node.Driver(told, self.connections)

    def instance(self) -> Instance:
        """A machine that has joined and is ready."""
        name = new_name()
        number = int(name.rpartition("-")[2], 16)
        who = instance(name, f"10.66.{number // 250}.{number % 250 + 1}")
        self.join(who)
        return who

    def join(self, who: Instance, **spec: Any) -> None:
        """Its kubelet registers it, and says that it is ready."""
        node = {"kind": "Node", "metadata": {"name": who.name}, "spec": {"providerID": f"test:///{who.id}", **spec}}
        self.api.create(NODES, node)
        self.joined.append(who.name)
        addresses = [{"type": "InternalIP", "address": who.address}]
        self.api.merge(f"{NODES}/{who.name}/status", {"status": {"addresses": addresses}})
        self.set_ready(who, True)

    def leave(self) -> None:
        """Nothing of this lab is left in the cluster."""
        for each in self.api.list_all(NODES):
            if each["metadata"]["name"] in self.joined:
                self.api.delete(f"{NODES}/{each['metadata']['name']}", each["metadata"]["uid"])

    def set_ready(self, who: Instance, ready: bool) -> None:
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        self.api.merge(f"{NODES}/{who.name}/status", {"status": {"conditions": conditions}})

    def node(self, who: Instance) -> Object:
        return self.api.get(f"{NODES}/{who.name}")

    def cordon_by_hand(self, who: Instance) -> None:
        self.api.merge(f"{NODES}/{who.name}", {"spec": {"unschedulable": True}})

    def start_pod(
        self, who: Instance, app: str = "shop", *, controller: str = "ReplicaSet", mirror: bool = False
    ) -> str:
        """A pod on that node."""
        name = f"{app}-{uuid.uuid4().hex[:6]}"
        owner = {"apiVersion": "apps/v1", "kind": controller, "name": app, "uid": uuid.uuid4().hex, "controller": True}
        metadata = {
            "name": name,
            "labels": {"app": app},
            "ownerReferences": [owner] if controller else [],
            "annotations": {"kubernetes.io/config.mirror": "x"} if mirror else {},
        }
        spec = {
            "nodeName": who.name,
            "containers": [{"name": app, "image": "shop"}],
            "automountServiceAccountToken": False,
        }
        self.api.create(self.pods, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        ready = [{"type": "Ready", "status": "True"}]
        self.api.merge(f"{self.pods}/{name}/status", {"status": {"phase": "Running", "conditions": ready}})
        return name

    def going(self) -> set[str]:
        """Pods that were told to go, and are still there."""
        return {
            each["metadata"]["name"]
            for each in self.api.list_all(self.pods)
            if each["metadata"].get("deletionTimestamp")
        }

    def staying(self) -> set[str]:
        """Pods that nobody told to go."""
        listed = self.api.list_all(self.pods)
        return {each["metadata"]["name"] for each in listed if not each["metadata"].get("deletionTimestamp")}

    def budget(self, app: str, allowed: int) -> None:
        """A budget that allows so many disruptions now, as its controller would write it."""
        where = f"/apis/{self.policy}/namespaces/{self.namespace}/poddisruptionbudgets"
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}}
        body = {"apiVersion": self.policy, "kind": "PodDisruptionBudget", "metadata": {"name": app}, "spec": spec}
        self.api.create(where, body)
        self.allow(app, allowed)

    def allow(self, app: str, allowed: int) -> None:
        where = f"/apis/{self.policy}/namespaces/{self.namespace}/poddisruptionbudgets/{app}"
        status = {
            "observedGeneration": self.api.get(where)["metadata"].get("generation", 1),
            "disruptionsAllowed": allowed,
            "currentHealthy": allowed + 1,
            "desiredHealthy": 1,
            "expectedPods": allowed + 1,
        }
        self.api.merge(f"{where}/status", {"status": status})
