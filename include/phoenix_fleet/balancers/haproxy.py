"""HAProxy by its runtime API: servers come and go in a backend while it runs, without a reload.

The backend is the administrator's, and needs this (HAProxy 2.6 or newer)::

    global
        stats socket /run/…/haproxy.sock mode 600 level admin
    defaults
        mode http
        option redispatch         # a request that meets a server that just died goes to another one
        retries 3
    backend web
        balance roundrobin        # or another dynamic algorithm: servers cannot be added to a static one
        option httpchk GET /healthz
        http-check expect status 200

It must not hold clients to a server (``cookie``, ``stick``): such clients come back to one that is draining. Servers
that were added at run time are gone after a restart or a reload of HAProxy, whatever ``load-server-state-from-file``
says; ``state`` then answers ``absent`` and ``admit`` adds them again.

Facts of 2.6.12 behind the code, each seen on the running program: a server that leaves maintenance counts as up
until its first check fails, so it would get traffic unproven; ``del server`` deletes servers of the configuration
file too; a server that was added inherits nothing from ``default-server``; a host name as an address is accepted and
never resolved.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InUse,
    InvalidConfig,
    InvalidSpec,
    NotOurs,
    Unavailable,
)
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance

_TIMEOUT = 5.0
"""Seconds until the runtime API counts as not answering."""
_LARGEST = 16 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,126}")

_MARK = 7007
"""Milliseconds of ``pool-purge-delay`` on every server that we add: our ownership mark.

The runtime API lets nobody put a label on a server or ask where one came from. This value means nothing on a server
that keeps no idle connections (``pool-max-conn 0``), and ``show servers conn`` tells it.
"""

_IN_MAINTENANCE = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
_IN_DRAIN = 0x08 | 0x10
_STOPPED, _STOPPING = 0, 3
_NEVER_CHECKED = (0, 1)
_CHECK_PASSED = (6, 9, 15, 16, 20)
"""``srv_check_status`` (``enum healthcheck_status`` in HAProxy's ``check-t.h``): unknown and initialising; passed on
layer 4, on 6, on 7, on 7 with a condition, by a program. The last one stays while the next check is under way, which
``srv_check_result`` does not: that is unknown for as long as a check takes.
"""


class Settings(BaseModel):
    """Which backend, and how its servers are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connection: str = Field(description="Airflow connection with extra.socket: path of the stats socket, level admin.")
    backend: str = Field(description="Name of the backend in HAProxy's configuration.", pattern=rf"^{_NAME.pattern}$")
    port: int = Field(ge=1, le=65535, description="TCP port that instances serve on.")
    check_interval_ms: int = Field(
        1000, ge=50, le=60000, description="Time between two checks, in ms; a quarter while they change. Default: 1000."
    )
    rise: int = Field(2, ge=1, le=20, description="Checks passed in a row before a server is up. Default: 2.")
    fall: int = Field(3, ge=1, le=20, description="Checks failed in a row before a server is down. Default: 3.")


class Driver(Balancer):
    """One backend of one HAProxy. Safe from any thread: every command has a connection of its own."""

    Settings = Settings

    # The seam

    def admit(self, instance: Instance) -> None:
        """Add the server if need be, and let it up once its checks have passed: it gets no request before."""
        address = _address(instance)
        server = self._look(instance)
        if server is None:
            self._add(instance, address)
            self._up_by_checks(instance)
        elif server.address != address or server.port != self.settings.port:
            # It came back from a reboot with another address.
            self._set(instance, "state maint")
            self._set(instance, f"addr {address} port {self.settings.port}")
            self._up_by_checks(instance)
        elif server.in_maintenance or (server.in_drain and server.unproven):
            self._up_by_checks(instance)
        elif server.in_drain:
            self._set(instance, "state ready")

    def drain(self, instance: Instance) -> None:
        """Weight nothing from now on; one in maintenance gets no connections as it is."""
        server = self._look(instance)
        if server is not None and not server.in_maintenance and not server.in_drain:
            self._set(instance, "state drain")

    def remove(self, instance: Instance) -> None:
        """Delete the server; ``InUse`` as long as connections are open, because HAProxy never cuts them for this."""
        server = self._look(instance)
        if server is None:
            return
        if server.connections:
            raise InUse(f"{instance.name} still has {server.connections} open connections.", remedy="Drain it first.")
        self._set(instance, "state maint")
        answer = self._run(f"del server {self._path(instance)}")
        if "still has connections" in answer:
            raise InUse(f"{instance.name} got a connection meanwhile.", remedy="Wait for it to end.")
        self._expect(answer, "", "Server deleted.", "No such server.")

    def state(self, instance: Instance) -> BackendStatus:
        """HAProxy's word; ``starting`` until a check has passed, ``unhealthy`` when it checks another address."""
        server = self._look(instance)
        if server is None:
            return BackendStatus(Backend.ABSENT)
        moved = bool(instance.address) and server.address != _address(instance)
        return BackendStatus(Backend.UNHEALTHY if moved else server.state, server.connections)

    # Inside

    def _add(self, instance: Instance, address: str) -> None:
        settings = self.settings
        quick = max(50, settings.check_interval_ms // 4)
        answer = self._run(
            f"add server {self._path(instance)} {_with_port(address, settings.port)} check"
            f" inter {settings.check_interval_ms} fastinter {quick} downinter {quick}"
            f" rise {settings.rise} fall {settings.fall} pool-max-conn 0 pool-purge-delay {_MARK}ms"
        )
        if answer.startswith("Already exists"):
            return  # another caller was quicker
        self._expect(answer, "New server registered.")

    def _up_by_checks(self, instance: Instance) -> None:
        # Leaving maintenance makes a server "up" unchecked. So it leaves into drain, is called down there, and only
        # then may take traffic: the checks bring it up, and no request can reach it before.
        self._expect(self._run(f"enable health {self._path(instance)}"), "")
        self._set(instance, "state drain")
        self._set(instance, "health down")
        self._set(instance, "state ready")

    def _set(self, instance: Instance, what: str) -> None:
        answer = self._run(f"set server {self._path(instance)} {what}")
        if what.startswith("addr ") and ("changed from" in answer or "no need to change" in answer):
            return
        self._expect(answer, "")

    def _path(self, instance: Instance) -> str:
        if not _NAME.fullmatch(instance.name):
            raise InvalidSpec(
                f"{instance.name!r} cannot be a server's name.", remedy="Use letters, digits, dots and dashes."
            )
        return f"{self.settings.backend}/{instance.name}"

    def _look(self, instance: Instance) -> _Server | None:
        """The server of the instance's name as it is now.

        :raises NotOurs: we did not add it.
        """
        path, backend = self._path(instance), self.settings.backend
        answer = self._run(f"show servers state {backend};show servers conn {backend};show stat {backend} 4 -1")
        tables = list(_tables(answer))
        if len(tables) != 3:
            self._expect(answer)  # raises
        states, connections, statistics = tables
        state = _row(states, be_name=backend, srv_name=instance.name)
        use = _row(connections, **{"bkname/svname": path})
        load = _row(statistics, pxname=backend, svname=instance.name)
        if state is None or use is None or load is None:
            return None
        try:
            server = _Server.read(state, use, load)
        except (KeyError, ValueError) as error:
            raise Unavailable(f"HAProxy described {path} in words that are not known: {error!r}.") from error
        if not server.ours:
            raise NotOurs(f"HAProxy has a server {path} that we did not add.", remedy="Rename or remove that one.")
        return server

    def _run(self, command: str) -> str:
        """HAProxy's answer to one line."""
        connection = self.connections(self.settings.connection)
        path = str(connection.extra.get("socket") or "")
        if not path:
            raise InvalidConfig(
                f"The connection '{connection.id}' has no extra.socket.", remedy="Set it to HAProxy's stats socket."
            )
        content = b""
        try:
            with socket.socket(socket.AF_UNIX) as runtime:
                runtime.settimeout(_TIMEOUT)
                runtime.connect(path)
                runtime.sendall(f"{command}\n".encode("ascii"))
                while chunk := runtime.recv(65536):
                    content += chunk
                    if len(content) > _LARGEST:
                        raise Unavailable(f"HAProxy at {path} has no end of an answer.")
        except PermissionError as error:
            raise AuthenticationFailed(
                f"{path} may not be used: {error}.", remedy="Correct its owner or mode."
            ) from error
        except OSError as error:
            raise Unavailable(
                f"HAProxy at {path} does not answer: {error}.", remedy="See that it runs and owns that socket."
            ) from error
        return content.decode("ascii", "replace").strip()

    def _expect(self, answer: str, *good: str) -> None:
        """Return if that is a good answer; otherwise raise what it means."""
        if answer in good:
            return
        said = f"HAProxy answered {answer[:200]!r} about the backend '{self.settings.backend}'."
        if "Permission denied" in answer:
            raise AuthenticationFailed(said, remedy="Give the stats socket 'level admin'.")
        if "backend" in answer.lower():  # unknown, or with an algorithm that servers cannot join
            raise InvalidConfig(said, remedy="Correct the fleet's backend, or HAProxy's configuration of it.")
        raise Unavailable(said, remedy="Look at HAProxy's log and version (2.6 or newer is needed).")


@dataclass(frozen=True)
class _Server:
    """One server as the runtime API shows it."""

    address: str
    port: int
    operation: int
    admin: int
    check_status: int
    connections: int
    """Those that carry a request now, or wait for their turn; idle ones that clients keep open do not count."""
    ours: bool

    @classmethod
    def read(cls, state: Mapping[str, str], use: Mapping[str, str], load: Mapping[str, str]) -> _Server:
        return cls(
            address=state["srv_addr"],
            port=int(state["srv_port"]),
            operation=int(state["srv_op_state"]),
            admin=int(state["srv_admin_state"]),
            check_status=int(state["srv_check_status"]),
            # Not ``used_cur`` of ``show servers conn``: that counts HAProxy's own check under way as a connection, so
            # a server whose checks are slow would never be drained. ``del server`` goes by sessions and queue too.
            connections=int(load["scur"]) + int(load["qcur"]),
            ours=int(use["purge_delay"]) == _MARK,
        )

    @property
    def in_maintenance(self) -> bool:
        return bool(self.admin & _IN_MAINTENANCE)

    @property
    def in_drain(self) -> bool:
        return bool(self.admin & _IN_DRAIN)

    @property
    def unproven(self) -> bool:
        """Whether no check ever said anything about it."""
        return self.check_status in _NEVER_CHECKED

    @property
    def state(self) -> Backend:
        if self.in_maintenance:
            return Backend.STARTING if self.unproven else Backend.DRAINING
        if self.in_drain or self.operation == _STOPPING:
            return Backend.DRAINING
        if self.operation == _STOPPED:
            return Backend.STARTING if self.unproven or self.check_status in _CHECK_PASSED else Backend.UNHEALTHY
        return Backend.STARTING if self.unproven else Backend.HEALTHY


def _address(instance: Instance) -> str:
    """The instance's IP address, as HAProxy writes it."""
    try:
        return str(ipaddress.ip_address(instance.address))
    except ValueError:
        raise InvalidSpec(
            f"{instance.name} has no IP address, but {instance.address!r}.", remedy="Admit it once it is running."
        ) from None


def _with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _tables(answer: str) -> Iterator[list[dict[str, str]]]:
    """The tables in an answer: each begins with a line ``# names of columns`` and ends with an empty one."""
    header: list[str] = []
    rows: list[dict[str, str]] = []
    for line in [*answer.splitlines(), ""]:
        cells = line.removeprefix("# ").split("," if "," in line else None)
        if line.startswith("# "):
            header, rows = cells, []
        elif header and cells and line.strip():
            rows.append(dict(zip(header, cells, strict=False)))
        elif header:
            yield rows
            header = []


def _row(table: list[dict[str, str]], **wanted: Any) -> dict[str, str] | None:
    return next((row for row in table if all(row.get(key) == value for key, value in wanted.items())), None)
