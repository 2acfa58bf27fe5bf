"""The surroundings of each driver of workloads under the contract tests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import OWNER, Artefact, LaunchIntent
from phoenix_fleet.kubernetesapi import MERGE, Cluster, Object
from phoenix_fleet.workloads import fake, kubernetes
from tests.contract.machinery import KnownConnections

REPLICAS = 3


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


def reference(letter: str) -> str:
    return f"registry.test:5000/shop@{digest(letter)}"


def intent_for(fleet: str, letter: str = "b", *, attempt: int = 1, version: str = "2026.11-1") -> LaunchIntent:
    """A launch that would work."""
    return LaunchIntent(
        fleet=fleet,
        slot=f"{fleet}-01",
        purpose="rollout-1",
        attempt=attempt,
        family="shop",
        version=version,
        artefact=Artefact("docker", reference(letter), digest(letter)),
    )


class FakeLab:
    """The fake, with its world in a file."""

    name = "fake"

    def __init__(self, folder: Path) -> None:
        self.state = folder / "world.json"
        self.fleet = "shop"
        self.driver = self.again()
        for name in ("one", "two"):
            self.driver.retag(name, fleet=self.fleet)
            self.driver.set_image(name, reference("a"))

    def again(self, *names: str) -> fake.Driver:
        """Another driver object for the same world, of both workloads unless some are named."""
        settings = fake.Settings(
            state=str(self.state), workloads=names or ("one", "two"), replicas=REPLICAS, roll_reads=10**6
        )
        return fake.Driver(settings, KnownConnections())

    def image(self, name: str = "one") -> str:
        return str(self.driver.workloads()[name]["current"]["reference"])

    def finish(self, name: str = "one") -> None:
        """The platform has rolled it."""
        with self.driver.world.transaction() as data:
            data["workloads"][name]["reads_left"] = 0

    def get_stuck(self, name: str = "one") -> None:
        """Its roll comes to no end."""
        with self.driver.world.transaction() as data:
            data["workloads"][name]["failure"] = "ImagePullBackOff: there is no such image"

    def set_available(self, count: int, name: str = "one") -> None:
        self.driver.set_available(name, count)

    def set_by_hand(self, image: str, name: str = "one") -> None:
        self.driver.set_image(name, image)

    def disown(self, name: str = "one") -> None:
        self.driver.retag(name, owner="somebody")

    def give_to(self, fleet: str, name: str = "one") -> None:
        self.driver.retag(name, fleet=fleet)

    def remove(self, name: str = "one") -> None:
        self.driver.remove(name)

    def truth(self, name: str = "one") -> Any:
        """Everything of it that a driver could change."""
        return self.driver.workloads()[name]


class KubernetesLab:
    """A namespace with two Deployments, in which the tests play the controllers."""

    name = "kubernetes"

    def __init__(self, connections: Mapping[str, Connection], namespace: str = "") -> None:
        self.connections = KnownConnections(*connections.values())
        self.api = Cluster(self.connections("admin"))
        self.namespace = namespace or f"t{uuid.uuid4().hex[:8]}"
        self.fleet = "shop"
        self.api.create("/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": self.namespace}})
        self.pods = f"/api/v1/namespaces/{self.namespace}/pods"
        account = {"kind": "ServiceAccount", "metadata": {"name": "default"}}  # which a controller would make
        self.api.create(f"/api/v1/namespaces/{self.namespace}/serviceaccounts", account)
        for name in ("one", "two"):
            self.make(name)
        self.driver = self.again()

    def again(self, *names: str, **settings: Any) -> kubernetes.Driver:
        """Another driver object for both workloads, or those that are named."""
        entries = [{"namespace": self.namespace, "name": name} for name in names or ("one", "two")]
        told = {"connection": "phoenix", "workloads": entries, "take_over": True, **settings}
        return kubernetes.Driver(kubernetes.Settings.model_validate(told), self.connections)

    def collection(self, kind: str = "Deployment") -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/{kind.lower()}s"

    def make(self, name: str, kind: str = "Deployment", image: str = "", **spec: Any) -> Object:
        """A workload as its team deploys it, rolled."""
        labels = {"app": name}
        container = {"name": "shop", "image": image or reference("a"), "imagePullPolicy": "IfNotPresent"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [container], "imagePullSecrets": [{"name": "registry"}]},
        }
        replicas = {} if kind == "DaemonSet" else {"replicas": REPLICAS}
        service = {"serviceName": name} if kind == "StatefulSet" else {}
        metadata = {"name": name, "labels": {"phoenix.owner": OWNER, "phoenix.fleet": self.fleet}}
        whole = {"selector": {"matchLabels": labels}, "template": template, **replicas, **service, **spec}
        made = self.api.create(
            self.collection(kind), {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": whole}
        )
        self.finish(name, kind)
        return made

    def get(self, name: str = "one", kind: str = "Deployment") -> Object:
        return self.api.get(f"{self.collection(kind)}/{name}")

    def image(self, name: str = "one") -> str:
        return str(self.get(name)["spec"]["template"]["spec"]["containers"][0]["image"])

    def finish(self, name: str = "one", kind: str = "Deployment") -> None:
        """The controllers have rolled it: its status says so, about its present generation."""
        generation = self.get(name, kind)["metadata"]["generation"]
        statuses = {
            "Deployment": {
                "replicas": REPLICAS,
                "updatedReplicas": REPLICAS,
                "readyReplicas": REPLICAS,
                "availableReplicas": REPLICAS,
                "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
            },
            "StatefulSet": {
                "replicas": REPLICAS,
                "updatedReplicas": REPLICAS,
                "readyReplicas": REPLICAS,
                "currentRevision": f"r{generation}",
                "updateRevision": f"r{generation}",
            },
            "DaemonSet": {
                "desiredNumberScheduled": REPLICAS,
                "currentNumberScheduled": REPLICAS,
                "numberMisscheduled": 0,
                "numberReady": REPLICAS,
                "updatedNumberScheduled": REPLICAS,
                "numberAvailable": REPLICAS,
            },
        }
        self.set_status(name, kind, observedGeneration=generation, **statuses[kind])

    def set_status(self, name: str, kind: str = "Deployment", **status: Any) -> None:
        self.api.merge(f"{self.collection(kind)}/{name}/status", {"status": status})

    def add_pod(self, name: str = "one", letter: str = "b", **status: Any) -> str:
        """A pod of that workload with that image and that status of its container."""
        pod = f"{name}-{uuid.uuid4().hex[:6]}"
        containers = [{"name": "shop", "image": reference(letter)}]
        spec = {"containers": containers, "automountServiceAccountToken": False}
        metadata = {"name": pod, "labels": {"app": name}}
        self.api.create(self.pods, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        whole = {"name": "shop", "image": "", "imageID": "", "ready": False, "restartCount": 0, **status}
        self.api.merge(f"{self.pods}/{pod}/status", {"status": {"containerStatuses": [whole]}})
        return pod

    def get_stuck(self, name: str = "one") -> None:
        """A pod with the new image waits for an image that is not there."""
        self.add_pod(name, state={"waiting": {"reason": "ImagePullBackOff", "message": "there is no such image"}})

    def set_available(self, count: int, name: str = "one") -> None:
        self.set_status(name, availableReplicas=count)

    def set_by_hand(self, image: str, name: str = "one") -> None:
        found = self.get(name)
        containers = found["spec"]["template"]["spec"]["containers"]
        containers[0]["image"] = image
        self.change(f"{self.collection()}/{name}", {"spec": {"template": {"spec": {"containers": containers}}}})

    def disown(self, name: str = "one") -> None:
        self.label(name, **{"phoenix.owner": "somebody"})

    def give_to(self, fleet: str, name: str = "one") -> None:
        self.label(name, **{"phoenix.fleet": fleet})

    def label(self, name: str, **labels: Any) -> None:
        self.change(f"{self.collection()}/{name}", {"metadata": {"labels": labels}})

    def change(self, path: str, body: Object) -> None:
        """Somebody changes an object by hand, under another name than ours."""
        self.api._call("PATCH", path, body, query={"fieldManager": "kubectl"}, content_type=MERGE)

    def remove(self, name: str = "one") -> None:
        self.api.delete(f"{self.collection()}/{name}", self.get(name)["metadata"]["uid"])

    def truth(self, name: str = "one") -> Any:
        found = self.get(name)
        return found["spec"], found["metadata"].get("annotations"), found["metadata"]["labels"]
