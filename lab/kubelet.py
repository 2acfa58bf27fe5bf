"""A stand-in for the kubelets of one cluster: several nodes in one process, each pod a few containers in Docker.

``python -m lab.kubelet FILE`` with a file that says which cluster. Which nodes there are stands in a folder, one file
each: a node whose file comes registers, and one whose file goes is a machine that was switched off: its pods end at
once and nothing tells the API.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import guests, kubelet_engine
from lab.kubeapi import Api, Conflict, Identity, Object
from lab.kubelet_pod import Host, PodWorker
from lab.kubelet_status import moment
from phoenix_fleet.domain.errors import NotFound, PhoenixError

VERSION = "v1.20.2-phoenix-lab"
_RENEW_SECONDS, _LEASE_SECONDS = 10, 40
"""A kubelet's own figures."""
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_CAPACITY = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "64Gi"}


@dataclass(frozen=True)
class Node:
    """One node, as its file says it."""

    name: str
    address: str
    identity: dict[str, str]
    provider_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """What all nodes share."""

    owner: str
    network: str
    pause: str
    nodes: str
    """The folder of their files."""
    volumes: str
    given: dict[str, str]
    """Variables of every container."""


class NodeAgent:
    """The kubelet of one node."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self._cluster, self._node = cluster, node
        self._api = Api(Identity(**node.identity))
        self._over = threading.Event()
        self._workers: dict[str, PodWorker] = {}
        self._lock = threading.Lock()
        self._host = Host(
            name=node.name,
            address=node.address,
            api=self._api,
            owner=cluster.owner,
            network=cluster.network,
            pause=cluster.pause,
            folder=Path(cluster.volumes),
            given=cluster.given,
        )
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._beat, self._follow)]

    def start(self) -> None:
        """Register the node and run its pods."""
        for thread in self._threads:
            thread.start()

    def switch_off(self) -> None:
        """The machine is no more."""
        self._over.set()
        with self._lock:
            for worker in self._workers.values():
                worker.abandon()
        kubelet_engine.sweep({guests.LABEL: self._cluster.owner, kubelet_engine.NODE: self._node.name})

    def _beat(self) -> None:
        """Register once; then say that the node lives, for as long as it does."""
        registered = False
        while not self._over.is_set():
            try:
                if not registered:
                    self._register()
                    registered = True
                self._renew()
                self._api.patch(f"/api/v1/nodes/{self._node.name}/status", {"status": self._status()})
            except NotFound:
                pass  # somebody has removed the node, and a kubelet that runs does not register again
            except PhoenixError as error:
                print(f"{self._node.name}: {error}", flush=True)
                self._over.wait(1)
                continue
            self._over.wait(_RENEW_SECONDS)

    def _register(self) -> None:
        name = self._node.name
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        spec = {"providerID": self._node.provider_id} if self._node.provider_id else {}
        try:
            self._api.create(
                "/api/v1/nodes",
                {"metadata": {"name": name, "labels": {**labels, **self._node.labels}}, "spec": spec},
            )
        except Conflict:
            return

    def _renew(self) -> None:
        path, now = f"{_LEASES}/{self._node.name}", moment().replace("Z", ".000000Z")
        spec = {"holderIdentity": self._node.name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now}
        try:
            self._api.patch(path, {"spec": spec}, how="merge")
        except NotFound:
            self._api.create(_LEASES, {"metadata": {"name": self._node.name}, "spec": spec})

    def _status(self) -> Object:
        now = moment()
        told = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID"),
            ("Ready", "True", "KubeletReady"),
        ]
        return {
            "capacity": _CAPACITY,
            "allocatable": _CAPACITY,
            "addresses": [
                {"type": "InternalIP", "address": self._node.address},
                {"type": "Hostname", "address": self._node.name},
            ],
            "conditions": [
                {"type": kind, "status": value, "reason": reason, "message": "", "lastHeartbeatTime": now}
                for kind, value, reason in told
            ],
            "nodeInfo": {
                **dict.fromkeys(("machineID", "systemUUID", "bootID"), self._node.name),
                "kernelVersion": os.uname().release,
                "osImage": "Docker",
                "containerRuntimeVersion": f"docker://{kubelet_engine.version()}",
                "kubeletVersion": VERSION,
                "kubeProxyVersion": VERSION,
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }

    def _follow(self) -> None:
        selector = f"spec.nodeName={self._node.name}"
        for kind, found in self._api.follow("/api/v1/pods", self._over, fieldSelector=selector):
            if kind == "LISTED":
                self._take_stock(found["items"])
            else:
                self._hear(kind, found)

    def _take_stock(self, pods: list[Object]) -> None:
        """The whole list: what runs here and is not in it has no business here any more."""
        known = {each["metadata"]["uid"] for each in pods}
        for each in pods:
            self._hear("MODIFIED", each)
        with self._lock:
            for uid, worker in self._workers.items():
                if uid not in known:
                    worker.gone()
            strays = kubelet_engine.pods(self._cluster.owner, self._node.name) - known - self._workers.keys()
        for uid in strays:
            kubelet_engine.sweep({kubelet_engine.UID: uid})

    def _hear(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        with self._lock:
            worker = self._workers.get(uid)
            if kind == "DELETED":
                if worker:
                    worker.gone()
            elif worker:
                worker.update(pod)
            else:
                worker = self._workers[uid] = PodWorker(self._host, pod, lambda: self._forget(uid))
                worker.start()

    def _forget(self, uid: str) -> None:
        with self._lock:
            self._workers.pop(uid, None)


class Kubelets:
    """All nodes of the cluster, as the folder has them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._agents: dict[str, NodeAgent] = {}

    def look(self) -> None:
        """Begin and end what the folder says."""
        wanted = {file.stem: file for file in Path(self._cluster.nodes).glob("*.json")}
        for name in self._agents.keys() - wanted.keys():
            self._agents.pop(name).switch_off()
        for name in wanted.keys() - self._agents.keys():
            agent = self._agents[name] = NodeAgent(self._cluster, Node(**json.loads(wanted[name].read_text())))
            agent.start()


def main(file: Path) -> None:
    """Until told to end; pods live on."""
    over = threading.Event()

    def end(*_: Any) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    kubelets = Kubelets(Cluster(**json.loads(file.read_text())))
    while not over.wait(0.25):
        kubelets.look()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
