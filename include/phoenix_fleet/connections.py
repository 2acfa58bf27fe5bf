"""How to reach an outside system, in the terms of an Airflow connection but without Airflow.

Tasks get connections from Airflow, the command line and the lab get them from ``airflow_settings.yaml``: one
file for all. An environment variable ``AIRFLOW_CONN_<ID>`` wins in both worlds, as it does in Airflow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from phoenix_fleet import yamlfile
from phoenix_fleet.domain.errors import InvalidConfig


@dataclass(frozen=True)
class Connection:
    """An outside system: what Airflow calls a connection."""

    id: str
    host: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Connections(Protocol):
    """Whoever knows connections by their id."""

    def __call__(self, conn_id: str) -> Connection:
        """The connection with that id.

        :raises InvalidConfig: if there is none.
        """
        ...


def from_environment(conn_id: str) -> Connection | None:
    """The connection in ``AIRFLOW_CONN_<ID>`` (JSON or URI, Airflow's two forms), or None.

    :raises InvalidConfig: if it is neither; the value itself is never shown.
    """
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        return _from_json(conn_id, text) if text.lstrip().startswith("{") else _from_uri(conn_id, text)
    except (ValueError, TypeError, AttributeError):
        raise InvalidConfig(
            f"{name} is neither a connection in JSON nor a URI.", remedy="Write it as Airflow's documentation shows."
        ) from None


def _from_json(conn_id: str, text: str) -> Connection:
    return _connection(conn_id, json.loads(text))


def _from_uri(conn_id: str, text: str) -> Connection:
    uri = urlsplit(text)
    query = dict(parse_qsl(uri.query))
    return Connection(
        id=conn_id,
        host=unquote(uri.hostname or ""),
        port=uri.port,
        login=unquote(uri.username or ""),
        password=unquote(uri.password or ""),
        extra=json.loads(query["__extra__"]) if "__extra__" in query else query,
    )


def _connection(conn_id: str, entry: Mapping[str, Any], prefix: str = "") -> Connection:
    extra = entry.get(f"{prefix}extra") or {}
    port = entry.get(f"{prefix}port")
    return Connection(
        id=conn_id,
        host=entry.get(f"{prefix}host") or "",
        port=int(port) if port else None,
        login=entry.get(f"{prefix}login") or "",
        password=entry.get(f"{prefix}password") or "",
        extra=dict(json.loads(extra) if isinstance(extra, str) else extra),
    )


class SettingsFile:
    """Connections from an ``airflow_settings.yaml`` (the Astro CLI's format), read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Connection] | None = None

    def __call__(self, conn_id: str) -> Connection:
        """The connection with that id, from the environment or else from the file."""
        if found := from_environment(conn_id):
            return found
        known = self.known()
        if conn_id not in known:
            raise InvalidConfig(
                f"There is no connection '{conn_id}' in {self._path}; known: {', '.join(sorted(known))}.",
                remedy=f"Add it there, or set AIRFLOW_CONN_{conn_id.upper()}.",
            )
        return known[conn_id]

    def known(self) -> Mapping[str, Connection]:
        """Every connection in the file, by id.

        :raises InvalidConfig: if the file is missing, not YAML, or an entry cannot be a connection.
        """
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> dict[str, Connection]:
        document = yamlfile.read(self._path)
        entries = (document.data.get("airflow") or {}).get("connections") or []
        found = {}
        for index, entry in enumerate(entries):
            place = ("airflow", "connections", index)
            conn_id = entry.get("conn_id") if isinstance(entry, dict) else None
            if not conn_id:
                raise InvalidConfig(document.mistake(place, "it has no conn_id.", "Give every connection one."))
            if conn_id in found:
                raise InvalidConfig(document.mistake(place, f"'{conn_id}' is here twice.", "Keep one of them."))
            try:
                uri = entry.get("conn_uri")
                found[conn_id] = _from_uri(conn_id, uri) if uri else _connection(conn_id, entry, "conn_")
            except (ValueError, TypeError, AttributeError):
                message = f"'{conn_id}' has a port, extra or URI that cannot be read."
                raise InvalidConfig(
                    document.mistake(place, message, "A port is a number; an extra is a mapping or JSON.")
                ) from None
        return found
