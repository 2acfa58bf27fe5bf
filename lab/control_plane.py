"""The control plane of one cluster: etcd, API server, controllers and scheduler, with TLS and RBAC, as processes.

The API server listens on the gateway of the pods' bridge, where the machine itself and the pods reach it, everything
else on loopback.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.certificates import Authority
from lab.kubeapi import Api, Identity, write_kubeconfig
from lab.kubernetes_build import PROGRAMS
from lab.processes import Processes
from lab.settings import HOST, choose_port
from phoenix_fleet import processes as programs

API, CONTROLLERS, SCHEDULER = PROGRAMS
ETCD = "etcd"
ALL = (ETCD, API, CONTROLLERS, SCHEDULER)

_SERVICES = "10.96.0.0/16"
_FIRST_SERVICE = "10.96.0.1"
_API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
_PATIENCE = 90


@dataclass(frozen=True)
class Ports:
    """Where each listens."""

    etcd: int
    peers: int
    api: int
    controllers: int
    scheduler: int


class ControlPlane:
    """The one in that folder, whose processes are started and stopped one by one."""

    def __init__(self, home: Path, processes: Processes, programs_folder: Path, gateway: str) -> None:
        """``gateway``: the address of the API server."""
        self._home, self._processes, self._programs, self._gateway = home, processes, programs_folder, gateway
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._authority = Authority(home / "pki")
        self._etcd_authority = Authority(home / "etcd-pki")
        self._ports = self._choose_ports()
        self.url = f"https://{gateway}:{self._ports.api}"

    def start(self) -> None:
        """Start what does not run; returns when the API server is ready."""
        for name, argv in self._commands().items():
            self._processes.start(name, argv, env=programs.bare_environment())
            if name == ETCD:
                self._processes.wait_ready(name, self._etcd_listens, seconds=_PATIENCE)
            if name == API:
                self._processes.wait_ready(name, self._api_answers, seconds=_PATIENCE)

    def identity(self, name: str, user: str, group: str = "") -> Identity:
        """A user of the API, of that group; ``name`` is for its file."""
        return Identity(self.url, str(self._authority.certificate), str(self._authority.issue(name, user, group=group)))

    def administrator(self) -> Identity:
        """Who may do everything."""
        return self.identity("admin", "kubernetes-admin", "system:masters")

    def node(self, name: str) -> Identity:
        """The kubelet of that node: may do what Kubernetes' node authorizer lets it."""
        return self.identity(f"node-{name}", f"system:node:{name}", "system:nodes")

    def kubeconfig(self, name: str, identity: Identity) -> Path:
        """The file with which that identity calls."""
        return write_kubeconfig(self._home / f"{name}.kubeconfig", identity, name)

    def _choose_ports(self) -> Ports:
        file = self._home / "ports.json"
        if not file.exists():
            chosen: list[int] = []
            while len(chosen) < 5:
                port = choose_port(0)
                if port not in chosen:
                    chosen.append(port)
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(asdict(Ports(*chosen))))
            fresh.rename(file)
        return Ports(**json.loads(file.read_text()))

    def _commands(self) -> Mapping[str, Sequence[str]]:
        return {
            ETCD: [ETCD, *_flags(self._etcd())],
            API: [str(self._programs / API), *_flags(self._api())],
            CONTROLLERS: [str(self._programs / CONTROLLERS), *_flags(self._controllers())],
            SCHEDULER: [str(self._programs / SCHEDULER), *_flags(self._scheduler())],
        }

    def _etcd(self) -> dict[str, str]:
        pem = self._etcd_pem()
        client, peer = (f"https://{HOST}:{port}" for port in (self._ports.etcd, self._ports.peers))
        return {
            "name": "lab",
            "data-dir": str(self._home / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"lab={peer}",
            **{f"{side}cert-file": pem for side in ("", "peer-")},
            **{f"{side}key-file": pem for side in ("", "peer-")},
            **{f"{side}trusted-ca-file": str(self._etcd_authority.certificate) for side in ("", "peer-")},
            **{f"{side}client-cert-auth": "true" for side in ("", "peer-")},
            "log-level": "warn",
            "logger": "zap",
        }

    def _api(self) -> dict[str, str]:
        pem = str(
            self._authority.issue("apiserver", API, addresses=(self._gateway, HOST, _FIRST_SERVICE), names=_API_NAMES)
        )
        accounts = self._accounts()
        return {
            "bind-address": self._gateway,
            "advertise-address": self._gateway,
            "secure-port": str(self._ports.api),
            "tls-cert-file": pem,
            "tls-private-key-file": pem,
            "client-ca-file": str(self._authority.certificate),
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "etcd-servers": f"https://{HOST}:{self._ports.etcd}",
            "etcd-cafile": str(self._etcd_authority.certificate),
            "etcd-certfile": self._etcd_pem(),
            "etcd-keyfile": self._etcd_pem(),
            "service-cluster-ip-range": _SERVICES,
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": accounts,
            "service-account-signing-key-file": accounts,
            "profiling": "false",
        }

    def _controllers(self) -> dict[str, str]:
        return {
            **self._component(CONTROLLERS, "system:kube-controller-manager", self._ports.controllers),
            "root-ca-file": str(self._authority.certificate),
            "service-account-private-key-file": self._accounts(),
            "use-service-account-credentials": "true",
        }

    def _scheduler(self) -> dict[str, str]:
        return self._component(SCHEDULER, "system:kube-scheduler", self._ports.scheduler)

    def _component(self, name: str, user: str, port: int) -> dict[str, str]:
        config = str(self.kubeconfig(name, self.identity(name, user)))
        return {
            "kubeconfig": config,
            "authentication-kubeconfig": config,
            "authorization-kubeconfig": config,
            "bind-address": HOST,
            "secure-port": str(port),
            "port": "0",
            # There is one of each, and it outlives an API server that is away for a while.
            "leader-elect": "false",
            "profiling": "false",
        }

    def _accounts(self) -> str:
        return str(self._authority.issue("service-accounts", "service-accounts"))

    def _etcd_pem(self) -> str:
        return str(self._etcd_authority.issue("etcd", ETCD, addresses=(HOST,)))

    def _etcd_listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((HOST, self._ports.etcd)) == 0

    def _api_answers(self) -> bool:
        api = Api(self.administrator())
        try:
            return api.answers()
        finally:
            api.close()


def _flags(values: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
