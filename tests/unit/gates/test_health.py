"""Good health is every answer good, from the right one; what says nothing of the service is an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from tests.contract.gates_fixtures import free_port
from tests.unit.gates.service import Service, serving, well


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    with serving() as start:
        yield start


def measure(service: Service, work: Path, **settings: Any) -> Measurement:
    kind = drivers.load("gates", "health")
    values = {"port": service.port, "interval": 0, "timeout": 0.5, **settings}
    measurement: Measurement = kind(kind.Settings.model_validate(values), None, work).measure(
        Subject("web-01", str(work), instance=service.instance)
    )
    return measurement


def sick_at(bad: int) -> Callable[[BaseHTTPRequestHandler, int], None]:
    return lambda handler, number: well(handler, number, status=503 if number == bad else 200)


def hang(handler: BaseHTTPRequestHandler, number: int) -> None:
    time.sleep(1)


def drip(handler: BaseHTTPRequestHandler, number: int) -> None:
    well(handler, number, b"")
    for _ in range(30):
        handler.wfile.write(b"x")
        time.sleep(0.1)


def endless_drip(handler: BaseHTTPRequestHandler, number: int) -> None:
    service: Service = handler.server.service  # type: ignore[attr-defined]
    handler.send_response(200)
    handler.send_header("X-Instance", service.instance.name)
    handler.send_header("X-Release", service.instance.version)
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def cut(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.connection.close()


def redirect(handler: BaseHTTPRequestHandler, number: int) -> None:
    service: Service = handler.server.service  # type: ignore[attr-defined]
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere")
    handler.send_header("X-Instance", service.instance.name)
    handler.send_header("X-Release", service.instance.version)
    handler.end_headers()


def test_every_answer_must_be_good(serve: Callable[..., Service], tmp_path: Path) -> None:
    good = serve()
    measurement = measure(good, tmp_path, samples=4)
    assert judge(measurement) is Verdict.PASSED
    assert good.requests == ["/healthz"] * 4

    sick = serve(answer=sick_at(3))
    measurement = measure(sick, tmp_path, samples=5)
    assert judge(measurement) is Verdict.FAILED
    assert measurement.value == "answer 3 of 5: status 503, not 200"
    assert len(sick.requests) == 3, "the first bad answer ends it"


@pytest.mark.parametrize(
    ("answer", "settings", "why"),
    [
        (hang, {}, "no answer within 0.5 s"),
        (endless_drip, {}, "no whole answer within 0.5 s"),
        (cut, {}, "no answer"),
        (redirect, {}, "status 302"),
        (partial(well, body=b"x" * 2_000_000), {}, "larger than"),
        (partial(well, body=b'{"status": "sick"}'), {"expect": {"status": "ok"}}, "'status' is 'sick', not 'ok'"),
        (partial(well, body=b'{"ready": 1}'), {"expect": {"ready": True}}, "'ready' is '1', not True"),
        (partial(well, body=b"{}"), {"expect": {"error": None}}, "'error' is"),
        (partial(well, body=b"[1]"), {"expect": {"status": "ok"}}, "not a JSON object"),
        (partial(well, body=b"[" * 100_000), {"expect": {"status": "ok"}}, "not JSON"),
        (partial(well, body=b"<html>"), {"expect": {"status": "ok"}}, "not JSON"),
    ],
    ids=["hang", "drip", "cut", "redirect", "large", "other value", "other type", "absent", "list", "deep", "html"],
)
def test_bad_answers_are_bad_health(
    serve: Callable[..., Service], tmp_path: Path, answer: Any, settings: dict[str, Any], why: str
) -> None:
    measurement = measure(serve(answer=answer), tmp_path, **settings)
    assert judge(measurement) is Verdict.FAILED
    assert why in measurement.value


def test_a_refused_connection_is_bad_health(serve: Callable[..., Service], tmp_path: Path) -> None:
    measurement = measure(serve(), tmp_path, port=free_port())
    assert judge(measurement) is Verdict.FAILED
    assert "no answer" in measurement.value


@pytest.mark.parametrize("field_name", ["name", "version"])
def test_a_stranger_fails_unless_nobody_asks(serve: Callable[..., Service], tmp_path: Path, field_name: str) -> None:
    service = serve()
    service.instance, real = replace(service.instance, **{field_name: "other"}), service.instance
    expected = Service(service.port, real)
    assert judge(measure(expected, tmp_path)) is Verdict.FAILED
    assert judge(measure(expected, tmp_path, identify=False)) is Verdict.PASSED


@pytest.mark.parametrize("address", ["no-such-host.invalid", "", "a b", "127.0.0.1/x", "user@host"])
def test_an_address_that_cannot_be_asked_is_an_error(
    serve: Callable[..., Service], tmp_path: Path, address: str
) -> None:
    service = serve()
    service.instance = replace(service.instance, address=address)
    measurement = measure(service, tmp_path)
    assert judge(measurement) is Verdict.ERROR


def test_an_endpoint_is_measured_where_there_is_no_instance(serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve()
    kind = drivers.load("gates", "health")
    subject = Subject("front", str(tmp_path), endpoint=service.url + "/")
    gate = kind(kind.Settings(interval=0, identify=False, path="/x"), None, tmp_path)
    assert judge(gate.measure(subject)) is Verdict.PASSED
    assert set(service.requests) == {"/x"}
    strict = kind(kind.Settings(interval=0), None, tmp_path)
    assert "identify: false" in strict.measure(subject).error


def test_no_proxy_comes_between(serve: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert judge(measure(serve(), tmp_path)) is Verdict.PASSED
