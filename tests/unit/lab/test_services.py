"""The lab's own services, really started on free ports."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lab import haproxy
from lab.alerts import received
from lab.places import Places
from lab.processes import Processes
from lab.services import Services
from lab.settings import HOST, Overrides


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    # A socket's path has at most 107 characters, which pytest's folders may use up.
    with tempfile.TemporaryDirectory(prefix="lab-") as run:
        made = Places(home=tmp_path / "home", run=Path(run), cache=tmp_path / "cache")
        made.make()
        yield made


@pytest.fixture
def services(places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    processes = Processes(places.pids, places.logs)
    made = Services(places, processes, Overrides(places.environment_file))
    for entry in made.settings.connections:  # nothing of a lab that may run beside the tests
        if entry.get("conn_port"):
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                entry["conn_port"] = probe.getsockname()[1]
    yield made
    processes.stop(*processes.names())


def test_all_start_answer_and_stay_when_started_again(services: Services, places: Places) -> None:
    said: list[str] = []
    services.start(said.append)
    assert httpx.get(f"http://{HOST}:{services.port('registry')}/v2/").status_code == 200
    assert httpx.get(f"http://{HOST}:{services.port('haproxy_web')}/").status_code == 503, "no server yet"
    pids = {path.name: path.read_text() for path in places.pids.glob("*.json")}
    assert set(pids) == {"registry.json", "haproxy-web.json", "haproxy-web-staging.json", "alerts.json"}
    services.start(said.append)
    assert {path.name: path.read_text() for path in places.pids.glob("*.json")} == pids


def test_a_port_that_a_stranger_holds_is_replaced_and_said(services: Services, places: Places) -> None:
    with socket.socket() as stranger:
        stranger.bind((HOST, 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        services.settings.connection("registry")["conn_port"] = taken
        said: list[str] = []
        services.start(said.append)
        assert services.port("registry") != taken
    assert any(str(taken) in line for line in said)
    override = json.loads(Overrides.read(places.environment_file).values["AIRFLOW_CONN_REGISTRY"])
    assert override["port"] == services.port("registry")


def test_alerts_are_kept_in_order(services: Services, places: Places) -> None:
    services.start(lambda _: None)
    url = f"http://{HOST}:{services.port('alerts_webhook')}/alerts"
    httpx.post(url, json={"subject": "first"})
    httpx.post(url, content="not json")
    assert httpx.post(url, content=b"x" * 1_000_001).status_code == 413
    alerts = received(places.alerts)
    assert [alert["body"] for alert in alerts] == [{"subject": "first"}, "not json"]


def test_another_program_on_the_socket_is_not_taken_for_the_balancer(services: Services) -> None:
    services.start(lambda _: None)
    control = services.control("haproxy_web")
    assert not haproxy.answers(control, 1)
    assert not haproxy.answers(control.with_name("none.sock"), 1)
