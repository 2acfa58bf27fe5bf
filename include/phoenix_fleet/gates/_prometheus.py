"""What Prometheus answers, checked: whole, recent in its form, and of a size that can be true. Or that it did not."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

import httpx

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig

_LARGEST = 8 * 1024 * 1024
"""Bytes of an answer that are read."""


class CannotMeasure(Exception):
    """Nothing is known, and the reason lies not with what was to be measured."""


@dataclass(frozen=True)
class Series:
    """One series of an answer; an instant one has one value."""

    labels: Mapping[str, str]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Rule:
    """One alerting rule as it stands."""

    name: str
    health: str
    """``ok`` once it was evaluated without an error."""
    firing: tuple[Mapping[str, str], ...]
    """Labels of each alert of it that fires; pending ones are none."""


class Prometheus:
    """One Prometheus; no I/O before the first question.

    :raises InvalidConfig: the connection names no host, or its certificates cannot be read.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._timeout = timeout
        self._named = f"Prometheus (connection '{connection.id}')"
        token = str(connection.extra.get("token") or "")
        self._client = httpx.Client(
            base_url=_base(connection),
            verify=_trust(connection),
            auth=(connection.login, connection.password) if connection.login and not token else None,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout,
            trust_env=False,  # a proxy or a .netrc of the environment has no say in who is asked
        )

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def instant(self, query: str, at: datetime) -> list[Series]:
        """The query's series at that moment."""
        return self._series("query", "vector", {"query": query, "time": _seconds(at)})

    def between(self, query: str, start: datetime, end: datetime, step: timedelta) -> list[Series]:
        """The query's series over that time, a value per step."""
        asked = {"query": query, "start": _seconds(start), "end": _seconds(end), "step": f"{step.total_seconds():g}"}
        return self._series("query_range", "matrix", asked)

    def alerting_rules(self) -> list[Rule]:
        """Every alerting rule that it evaluates."""
        data = self._ask("GET", "rules", {"type": "alert"})
        try:
            return [_rule(each) for group in data["groups"] for each in group["rules"] if each["type"] == "alerting"]
        except (KeyError, TypeError, AttributeError):
            raise CannotMeasure(f"{self._named}: its list of rules has not the form that it should have") from None

    def _series(self, path: str, kind: str, asked: Mapping[str, str]) -> list[Series]:
        data = self._ask("POST", path, asked)
        try:
            if data["resultType"] != kind:
                raise CannotMeasure(
                    f"{self._named}: the query gives a {data['resultType']}, not series: {_short(asked)}"
                )
            return [_one(each, kind) for each in data["result"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CannotMeasure(f"{self._named}: its answer has not the form that it should have") from None

    def _ask(self, method: str, path: str, asked: Mapping[str, str]) -> Any:
        """The ``data`` of a whole answer without warnings."""
        how: dict[str, Any] = {"data": dict(asked)} if method == "POST" else {"params": dict(asked)}
        try:
            with self._client.stream(method, f"/api/v1/{path}", **how) as answer:
                body = self._read(answer)
        except httpx.TimeoutException:
            raise CannotMeasure(f"{self._named} does not answer within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CannotMeasure(f"{self._named} cannot be asked: {error or type(error).__name__}") from None
        document = _parse(body)
        if answer.status_code != 200 or not document or document.get("status") != "success":
            why = document.get("error") if document else "the answer is not JSON"
            raise CannotMeasure(f"{self._named}: status {answer.status_code}: {str(why or 'no success')[:300]}")
        if document.get("warnings"):
            # "Warnings that do not inhibit the request execution": parts of the data may be missing.
            raise CannotMeasure(f"{self._named} answers in part only: {str(document['warnings'])[:300]}")
        return document.get("data")

    def _read(self, answer: httpx.Response) -> bytes:
        end, body = time.monotonic() + self._timeout, bytearray()
        for part in answer.iter_bytes():
            body += part
            if len(body) > _LARGEST:
                raise CannotMeasure(f"{self._named}: the answer is larger than {_LARGEST} bytes")
            if time.monotonic() > end:  # httpx bounds each read, and a drip could go on for ever
                raise CannotMeasure(f"{self._named}: no whole answer within {self._timeout:g} s")
        return bytes(body)


def _base(connection: Connection) -> str:
    if not connection.host:
        raise InvalidConfig(f"The connection '{connection.id}' names no host.", remedy="Set its host and port.")
    scheme = connection.extra.get("scheme") or "https"
    if scheme not in ("http", "https"):
        raise InvalidConfig(
            f"The connection '{connection.id}': extra.scheme is '{scheme}'.", remedy="Write http or https."
        )
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    port = f":{connection.port}" if connection.port else ""
    path = str(connection.extra.get("path") or "").strip("/")
    return f"{scheme}://{host}{port}" + (f"/{path}" if path else "")


def _trust(connection: Connection) -> ssl.SSLContext:
    """The certificates to believe: the connection's own file, or else the system's."""
    file = connection.extra.get("ca_file")
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise InvalidConfig(
            f"The connection '{connection.id}': {file} holds no certificates: {error}.", remedy="Correct extra.ca_file."
        ) from error


def _parse(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _one(entry: Mapping[str, Any], kind: str) -> Series:
    pairs: Sequence[Any] = [entry["value"]] if kind == "vector" else entry["values"]
    if not all(isinstance(value, str) for _, value in pairs):
        raise ValueError("a value is not written as text")
    labels = {str(name): str(value) for name, value in entry["metric"].items()}
    return Series(labels, tuple(float(value) for _, value in pairs))


def _rule(entry: Mapping[str, Any]) -> Rule:
    firing = [dict(alert["labels"]) for alert in entry["alerts"] if alert["state"] == "firing"]
    return Rule(str(entry["name"]), str(entry["health"]), tuple(firing))


def _seconds(moment: datetime) -> str:
    return f"{moment.timestamp():.3f}"


def _short(asked: Mapping[str, str]) -> str:
    return asked["query"][:200]
