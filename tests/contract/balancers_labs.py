"""The balancers under the contract tests: the fake, and a real HAProxy with real servers behind it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from phoenix_fleet.balancers import fake, haproxy, none
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from tests.contract import machinery

STATIC = "static-01-0123abcd"
_serial = itertools.count(1)


def instance(name: str, address: str) -> Instance:
    """An instance that runs there."""
    token = name.rpartition("-")[2] * 4
    return Instance(f"id-{name}", name, "web", name[:-9], "2026.11-1", token, InstanceState.RUNNING, address)


def new_name() -> str:
    number = next(_serial)
    return f"web-{number:02d}-{number:08x}"


class NoneLab:
    """Nothing between client and instance."""

    def __init__(self) -> None:
        self.balancer = none.Driver(none.Settings(), machinery.KnownConnections())

    def again(self) -> none.Driver:
        return none.Driver(none.Settings(), machinery.KnownConnections())

    def instance(self) -> Instance:
        return instance(new_name(), "127.0.0.1")


class Traits:
    """What differs between the balancers that send traffic."""

    counts = True
    """Whether the balancer tells how many connections are open."""
    drained = Backend.DRAINING
    """What it says of an instance once its last connection has ended."""
    addresses_change = True
    """Whether an instance may come back with another address."""

    def look_alike(self, address: str) -> Instance:
        """What has the name of a server that is not ours."""
        return instance(STATIC, address)


class FakeLab(Traits):
    """The fake balancer, with its world in a file."""

    def __init__(self, folder: Path) -> None:
        self.state = str(folder / "world.json")
        self.balancer = self.again()
        self.balancer.add_foreign(STATIC, "127.0.0.1")

    def again(self) -> fake.Driver:
        return fake.Driver(fake.Settings(state=self.state), machinery.KnownConnections())

    def instance(self) -> Instance:
        return instance(new_name(), f"127.66.0.{next(_serial) % 250 + 1}")

    def set_health(self, instance: Instance, healthy: bool) -> None:
        self.balancer.set_health(instance.name, healthy)

    def gets_traffic(self, instance: Instance) -> bool:
        return self.balancer.servers().get(instance.name) is Backend.HEALTHY

    @contextmanager
    def open_request(self, instance: Instance) -> Iterator[None]:
        self.balancer.set_connections(instance.name, 1)
        try:
            yield
        finally:
            self.balancer.set_connections(instance.name, 0)

    def names(self) -> set[str]:
        return set(self.balancer.servers())

    def restart(self) -> None:
        self.balancer.forget_all()


class Server(ThreadingHTTPServer):
    """What runs on an instance: it tells its name, its health, and can hold a request open."""

    daemon_threads = True

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.name = name
        self.healthy = True
        self.slowness = 0.0
        """Seconds that an answer to a check takes."""
        self.served = 0
        self.held = threading.Semaphore(0)
        self.let_go = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if self.path == "/healthz":
            time.sleep(self.server.slowness)
            self._answer(200 if self.server.healthy else 503)
            return
        self.server.served += 1
        if self.path == "/hold":
            self.server.held.release()
            self.server.let_go.wait(30)
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("X-Instance", self.server.name)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Silence."""


CONFIG = """
global
    stats socket {folder}/admin.sock mode 600 level admin
    stats socket {folder}/user.sock mode 600 level user
defaults
    mode http
    option redispatch
    retries 3
    timeout connect 2s
    timeout client 60s
    timeout server 60s
frontend front
    bind 127.0.0.1:{front}
    default_backend web
backend web
    balance roundrobin
    option httpchk GET /healthz
    http-check expect status 200
    server {static} 127.0.0.1:{port} disabled
backend hashed
    balance source
    hash-type map-based
"""


class HaproxyLab(Traits):
    """A HAProxy of its own with a front on loopback, and instances on addresses of 127.66.0.0/16."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.front, self.port = machinery.free_port(), machinery.free_port()
        self.servers: dict[str, Server] = {}
        (folder / "haproxy.cfg").write_text(
            CONFIG.format(folder=folder, front=self.front, port=self.port, static=STATIC)
        )
        self.connections = machinery.KnownConnections(
            Connection("haproxy_web", extra={"socket": str(folder / "admin.sock")}),
            Connection("user", extra={"socket": str(folder / "user.sock")}),
            Connection("nowhere", extra={"socket": str(folder / "no.sock")}),
            Connection("unset"),
        )
        self.balancer = self.again()

    def again(self, **settings: Any) -> haproxy.Driver:
        usual = {"connection": "haproxy_web", "backend": "web", "port": self.port, "check_interval_ms": 100}
        return haproxy.Driver(haproxy.Settings(**{**usual, **settings}), self.connections)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The process and, at the end, the end of all servers."""
        try:
            with self._process():
                yield
        finally:
            for server in self.servers.values():
                server.let_go.set()
                server.shutdown()
                server.server_close()

    def _process(self) -> Any:
        argv = ["haproxy", "-db", "-f", str(self.folder / "haproxy.cfg")]
        self._stack = machinery.Restartable(argv, self.folder / "haproxy.log", self._answers)
        return self._stack

    def _answers(self) -> bool:
        try:
            return self.get()[0] in (200, 503)
        except OSError:
            return False

    def instance(self) -> Instance:
        name, number = new_name(), next(_serial)
        return self.serve(instance(name, f"127.66.{number // 250}.{number % 250 + 1}"))

    def serve(self, instance: Instance) -> Instance:
        server = self.servers[instance.name] = Server(instance.name, (instance.address, self.port))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return instance

    def set_health(self, instance: Instance, healthy: bool) -> None:
        self.servers[instance.name].healthy = healthy

    def get(self, path: str = "/") -> tuple[int, str]:
        """Status and answering instance of one request through the front, on a connection of its own."""
        with closing(HTTPConnection("127.0.0.1", self.front, timeout=40)) as connection:
            connection.request("GET", path)
            reply = connection.getresponse()
            reply.read()
            return reply.status, reply.getheader("X-Instance", "")

    def gets_traffic(self, instance: Instance) -> bool:
        return instance.name in {self.get()[1] for _ in range(2 * len(self.servers) + 2)}

    @contextmanager
    def open_request(self, instance: Instance) -> Iterator[None]:
        """A request that really is open at the instance, for as long as the block lasts."""
        server = self.servers[instance.name]
        server.let_go.clear()
        with ThreadPoolExecutor(8) as pool:
            # Requests go round: as many as there are servers, and one of them comes to this one.
            requests = []
            while not server.held.acquire(timeout=0.2):
                requests.append(pool.submit(self.get, "/hold"))
            for other in self.servers.values():
                if other is not server:
                    other.let_go.set()
            try:
                yield
            finally:
                server.let_go.set()
        assert {request.result()[0] for request in requests} == {200}

    def names(self) -> set[str]:
        states = self.balancer._run("show servers state web").splitlines()[2:]
        return {line.split()[3] for line in states if line}

    def restart(self) -> None:
        self._stack.restart()
