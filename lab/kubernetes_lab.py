"""Kubernetes on this machine: ``python -m lab kubernetes up``, ``down``, ``status``, ``expose``.

A real control plane with a kubelet stand-in for three nodes, a registry with three releases of a service, and an
HAProxy for each Service that is exposed. ``--name`` has another cluster beside the first, without an own registry.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lab import fronts, guests, kubelet_engine, registry
from lab.commands import console
from lab.control_plane import API, ControlPlane
from lab.endpoints import Exposed
from lab.engine import DockerEngine
from lab.fronts import Front, owner_of
from lab.kubeapi import Api, Identity
from lab.kubelet import Cluster, Node
from lab.kubernetes_build import PAUSE, VERSION, build
from lab.places import REPOSITORY, Places
from lab.processes import Processes
from lab.settings import HOST, choose_port
from phoenix_fleet import processes as programs
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import NotFound, PhoenixError

NAME = "kubernetes"
KUBELET, REGISTRY = "kubelet", "registry"
NODES = ("node-1", "node-2", "node-3")
_BACKEND = "web"
_PATIENCE = 60


@dataclass(frozen=True)
class Told:
    """What there is in the lab's cluster."""

    url: str
    kubeconfig: str
    """Path of the administrator's."""
    network: str
    """The bridge that pods are on."""
    images: dict[str, str]
    """The image of each release by digest, in the lab's registry."""


class KubernetesLab:
    """The lab's cluster, which has those places to itself."""

    def __init__(self, places: Places, log: Callable[[str], None], *, with_registry: bool = True) -> None:
        """``with_registry``: False for one whose pods run images of another's registry."""
        self._places, self._log, self._with_registry = places, log, with_registry
        self._processes = Processes(places.pids, places.logs)
        self._home = places.home / NAME
        self._nodes = self._home / "nodes"
        self.owner = owner_of(places, NAME)

    def up(self) -> Told:
        """Everything of it; what runs is left alone, and what has ended is started again."""
        began = self._home.exists()
        self._places.make()
        try:
            self._start()
        except BaseException:
            if not began:  # nothing half-way is left, whatever ended it
                self.down()
            raise
        return self.told()

    def down(self) -> None:
        """Remove all of it, also what one that was killed has left; images and programs stay for the next."""
        self._processes.stop(*self._processes.names(), grace=20)
        kubelet_engine.sweep({guests.LABEL: self.owner})
        guests.sweep(self.owner)
        port = self._read("registry.json").get("port") if (self._home / "registry.json").exists() else None
        if port:
            engine = DockerEngine(Connection("docker", guests.SOCKET))
            try:
                engine.remove_images(f"{HOST}:{port}")
            finally:
                engine.close()
        for folder in (self._places.home, self._places.run):
            shutil.rmtree(folder, ignore_errors=True)

    def running(self) -> bool:
        """Whether the API and the kubelets run."""
        return self._processes.running(API) and self._processes.running(KUBELET)

    def told(self) -> Told:
        """What there is.

        :raises NotFound: it is not up.
        """
        return Told(**self._read("told.json"))

    def api(self) -> Api:
        """A client that may do everything; close it. :raises NotFound: it is not up."""
        return Api(self._administrator())

    def pid(self, name: str = API) -> int | None:
        """The process of that part of it; None while it does not run. ``up`` starts what was killed."""
        return self._processes.pid(name)

    def join(
        self, name: str, *, address: str = "", provider_id: str = "", labels: Mapping[str, str] | None = None
    ) -> None:
        """A machine becomes a node: it registers within a second, with that address, or the bridge's."""
        gateway = self._network()[1]
        plane = self._plane(gateway)
        node = Node(name, address or gateway, asdict(plane.node(name)), provider_id, dict(labels or {}))
        self._write(f"nodes/{name}.json", asdict(node))

    def leave(self, name: str) -> None:
        """That machine is switched off: its pods end at once, and the cluster has to find out by itself."""
        (self._nodes / f"{name}.json").unlink(missing_ok=True)

    def expose(self, namespace: str, service: str) -> Front:
        """An HAProxy that follows the ready endpoints of that Service, wherever they come and go."""
        name = f"front-{namespace}-{service}"
        record = self._home / f"{name}.json"
        if not (self._processes.running(name) and record.exists()):
            self._write(record.name, asdict(fronts.start(self._places, self._processes, name, _BACKEND)))
        front = Front(**self._read(record.name))
        exposed = Exposed(asdict(self._administrator()), namespace, service, front.control, _BACKEND)
        self._write(f"{name}-feed.json", asdict(exposed))
        self._run(f"{name}-feed", "lab.endpoints", self._home / f"{name}-feed.json")
        return front

    def nodes(self) -> dict[str, str]:
        """Whether each node is ready, in the API's words."""
        api = self.api()
        try:
            return {each["metadata"]["name"]: _ready(each) for each in api.get("/api/v1/nodes")["items"]}
        finally:
            api.close()

    def left_over(self) -> list[str]:
        """What there still is of it: processes, containers, networks, files."""
        found = [each["Names"][0] for each in guests.containers(self.owner)]
        found += [each["Name"] for each in guests.networks(self.owner)]
        return [*self._processes.names(), *found, *([str(self._places.home)] if self._places.home.exists() else [])]

    def _start(self) -> None:
        folder = build(self._places.cache, self._log)
        first = not self._nodes.exists()
        self._nodes.mkdir(parents=True, mode=0o700, exist_ok=True)
        self._home.chmod(0o700)
        network, gateway = self._network()
        images = self._start_registry() if self._with_registry else {}
        plane = self._plane(gateway)
        plane.start()
        self._write("administrator.json", asdict(plane.administrator()))
        config = plane.kubeconfig("admin", plane.administrator())
        for node in NODES if first else ():
            self.join(node)
        self._start_kubelet(folder / PAUSE, network, gateway, plane.url)
        self._processes.wait_ready(KUBELET, self._all_ready, seconds=_PATIENCE)
        self._write("told.json", asdict(Told(plane.url, str(config), network, images)))

    def _start_registry(self) -> dict[str, str]:
        """The registry with the releases in it."""
        if not (self._home / "registry.json").exists():
            self._write("registry.json", {"port": choose_port(0)})
        port = self._read("registry.json")["port"]
        self._processes.start(REGISTRY, registry.argv(self._places, port), env=programs.bare_environment())
        self._processes.wait_ready(REGISTRY, lambda: registry.answers(self._places, port))
        if not (self._home / "images.json").exists():
            self._write("images.json", guests.push(guests.pod_images(self._log), f"{HOST}:{port}"))
        return self._read("images.json")

    def _start_kubelet(self, pause: Path, network: str, gateway: str, url: str) -> None:
        cluster = Cluster(
            owner=self.owner,
            network=network,
            pause=kubelet_engine.pause_image(pause),
            nodes=str(self._nodes),
            volumes=str(self._home / "pods"),
            given={"KUBERNETES_SERVICE_HOST": gateway, "KUBERNETES_SERVICE_PORT": url.rpartition(":")[2]},
        )
        self._write("cluster.json", asdict(cluster))
        self._run(KUBELET, "lab.kubelet", self._home / "cluster.json")

    def _run(self, name: str, module: str, file: Path) -> None:
        env = programs.bare_environment(PYTHONPATH=str(REPOSITORY / "include"))
        self._processes.start(name, [sys.executable, "-m", module, str(file)], cwd=REPOSITORY, env=env)

    def _all_ready(self) -> bool:
        try:
            ready = self.nodes()
        except PhoenixError:
            return False
        return all(ready.get(each.stem) == "True" for each in self._nodes.glob("*.json"))

    def _network(self) -> tuple[str, str]:
        """Name and gateway of the pods' bridge, made unless it is there."""
        for each in guests.networks(self.owner):
            return str(each["Name"]), str(each["IPAM"]["Config"][0]["Gateway"])
        cidr = guests.make_bridge(self.owner)
        return guests.bridge_name(self.owner, cidr), f"{cidr.rpartition('.')[0]}.1"

    def _plane(self, gateway: str) -> ControlPlane:
        folder = build(self._places.cache, self._log)
        return ControlPlane(self._home / "control-plane", self._processes, folder, gateway)

    def _administrator(self) -> Identity:
        return Identity(**self._read("administrator.json"))

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._home / name).read_text())
        except FileNotFoundError:
            raise NotFound("The lab's Kubernetes is not up.", remedy="Run `python -m lab kubernetes up`.") from None
        return found

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        """Whole or not at all, for root alone: readers look at any time."""
        file = self._home / name
        fresh = file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(data))
        fresh.rename(file)


def _ready(node: dict[str, Any]) -> str:
    return next((each["status"] for each in node["status"].get("conditions", []) if each["type"] == "Ready"), "Unknown")


app = typer.Typer(help="The lab's Kubernetes: a real control plane, and pods in Docker.", no_args_is_help=True)
_Name = Annotated[str, typer.Option("--name", help="Another cluster beside the first, of that name.")]


def _lab(name: str) -> KubernetesLab:
    places = Places.find().beside(f"{NAME}-{name}" if name else NAME)
    return KubernetesLab(places, _say, with_registry=not name)


def _say(line: str) -> None:
    console.print(f"· {line}", highlight=False, soft_wrap=True)


@app.command()
def up(name: _Name = "") -> None:
    """Start it; what runs is left alone, what has ended is started again."""
    told = _lab(name).up()
    _say(f"Kubernetes {VERSION} answers on {told.url}")
    _say(f"kubeconfig of its administrator: {told.kubeconfig}")
    _say(f"network of its pods: {told.network}")
    for version, image in told.images.items():
        _say(f"image {version}: {image}")


@app.command()
def down(
    name: _Name = "",
    images: Annotated[bool, typer.Option("--images", help="Remove the pods' images from the engine too.")] = False,
) -> None:
    """Remove all of it; the programs stay in the cache."""
    _lab(name).down()
    if images:
        guests.remove_images()


@app.command()
def status(name: _Name = "") -> None:
    """Show whether it runs, its nodes and its containers."""
    found = _lab(name)
    console.print("runs" if found.running() else "does not run")
    if found.running():
        for node, ready in found.nodes().items():
            _say(f"{node}: ready {ready}")
    for each in guests.containers(found.owner):
        _say(f"{each['Names'][0].lstrip('/')}: {each['Status']}, {each['Image']}")


@app.command()
def expose(service: Annotated[str, typer.Argument(help="NAMESPACE/SERVICE")], name: _Name = "") -> None:
    """Have an HAProxy follow a Service's endpoints."""
    namespace, _, of = service.rpartition("/")
    _say(f"{service} answers on {_lab(name).expose(namespace or 'default', of).url}")
