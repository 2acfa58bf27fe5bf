"""What ``airflow_settings.yaml`` says, and what this machine has to say differently because a port was taken."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Settings:
    """The file's three lists as they stand there."""

    connections: list[dict[str, Any]]
    pools: list[dict[str, Any]]
    variables: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Settings:
        """The file."""
        airflow = YAML(typ="safe").load(path)["airflow"]
        return cls(*(airflow.get(part) or [] for part in ("connections", "pools", "variables")))

    def connection(self, conn_id: str) -> dict[str, Any]:
        """One connection's entry.

        :raises KeyError: if there is none.
        """
        for entry in self.connections:
            if entry["conn_id"] == conn_id:
                return entry
        raise KeyError(conn_id)


@dataclass
class Overrides:
    """Environment variables that win over the settings file, kept in a file from one command to the next."""

    path: Path
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Overrides:
        """Those of the running lab; none without one."""
        return cls(path, read_environment(path) if path.exists() else {})

    def apply(self) -> None:
        """Put them into this process's environment, where drivers and children find them."""
        os.environ.update(self.values)

    def connection(self, entry: Mapping[str, Any], *, port: int) -> None:
        """Say that a connection has another port."""
        extra = entry.get("conn_extra") or {}
        data = {"conn_type": entry["conn_type"], "host": entry["conn_host"], "port": port, "extra": extra}
        self.values[_variable(entry["conn_id"])] = json.dumps(data)

    def port(self, conn_id: str) -> int | None:
        """The port said here; None where the settings file's holds."""
        text = self.values.get(_variable(conn_id))
        return int(json.loads(text)["port"]) if text else None

    def forget(self, conn_id: str) -> None:
        """The settings file's values hold again."""
        self.values.pop(_variable(conn_id), None)
        os.environ.pop(_variable(conn_id), None)

    def clear(self) -> None:
        """The settings file's values hold for everything again."""
        for name in self.values:
            os.environ.pop(name, None)
        self.values.clear()

    def write(self) -> None:
        """Keep them for later commands."""
        self.path.write_text("".join(f"{key}={value}\n" for key, value in sorted(self.values.items())))


def _variable(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def read_environment(path: Path) -> dict[str, str]:
    """``KEY=VALUE`` lines of a file; blank lines and those that start with ``#`` do not count."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(cast(tuple[str, str], tuple(line.split("=", 1))) for line in lines if line and not line.startswith("#"))


def choose_port(wanted: int) -> int:
    """``wanted`` if nobody listens there, else one that is free now."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port of this machine is free")
