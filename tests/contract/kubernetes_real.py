"""A real API server with etcd and nothing else: what it keeps of fields, generations and budgets is the real thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.control_plane import API, ETCD, ControlPlane
from lab.kubernetes_build import build
from lab.places import Places
from lab.processes import Processes
from lab.settings import HOST
from phoenix_fleet.connections import Connection


class ApiAlone(ControlPlane):
    """Without controllers and scheduler."""

    def _commands(self) -> Mapping[str, Sequence[str]]:
        return {name: argv for name, argv in super()._commands().items() if name in (ETCD, API)}


@contextmanager
def opened(folder: Path) -> Iterator[Connection]:
    """A connection with all rights to it, for as long as the block lasts."""
    places = Places(folder, folder / "run", Places.find().cache)
    places.make()
    processes = Processes(places.pids, places.logs)
    plane = ApiAlone(folder / "plane", processes, build(places.cache, print), HOST)
    try:
        plane.start()
        config = plane.kubeconfig("admin", plane.administrator())
        yield Connection("admin", extra={"kube_config_path": str(config)})
    finally:
        processes.stop(*processes.names(), grace=20)
