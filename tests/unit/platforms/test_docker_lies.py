"""The Docker driver, with its real SDK, against an engine that lies, breaks or is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    PhoenixError,
    Throttled,
    Unavailable,
)
from phoenix_fleet.domain.models import OWNER, Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms import _docker_engine as engine
from phoenix_fleet.platforms.docker import Driver, Settings
from tests.unit.platforms.servers import Answer, Reply, answering

ID = "a" * 64
DIGEST = f"sha256:{'b' * 64}"
OURS = {
    "phoenix.owner": OWNER,
    "phoenix.fleet": "web",
    "phoenix.slot": "web-01",
    "phoenix.token": "t",
    "phoenix.fingerprint": "f",
    "phoenix.version": "2026.11-1",
}


def entry(labels: Mapping[str, str] | None, name: str = "web-01-0123abcd") -> dict[str, Any]:
    return {
        "Id": ID,
        "Names": [f"/other/{name}", f"/{name}"],
        "Labels": labels,
        "State": "running",
        "Status": "Up",
        "Image": f"127.0.0.1:1/base@{DIGEST}",
        "ImageID": "sha256:1",
        "Created": 1790000000,
        "NetworkSettings": {"Networks": {"lab": {"IPAddress": "172.18.0.2"}}},
    }


def engine_with(replies: Mapping[str, Any]) -> Answer:
    """An engine that knows these paths (a status, or what to send as JSON) and answers 404 to all others."""

    def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply:
        if path == "/version":
            return 200, json.dumps({"ApiVersion": "1.41"}).encode(), {"Content-Type": "application/json"}
        key = f"{method} {path.partition('?')[0].removeprefix('/v1.41')}"
        reply = replies.get(key, replies.get("*", (404, "no such thing")))
        if isinstance(reply, tuple):
            return reply[0], json.dumps({"message": reply[1]}).encode(), {"Content-Type": "application/json"}
        return 200, json.dumps(reply).encode(), {"Content-Type": "application/json"}

    return answer


def driver(port: int, **extra: Any) -> Driver:
    known = {
        "docker": Connection("docker", host="127.0.0.1", port=port),
        "registry": Connection("registry", host="127.0.0.1", port=1),
    }
    return Driver(Settings(network="lab", **extra), known.__getitem__)


def intent() -> LaunchIntent:
    return LaunchIntent(
        "web", "web-01", "r", 1, "base", "2026.11-1", Artefact("docker", f"127.0.0.1:1/base@{DIGEST}", DIGEST)
    )


LOOK_ALIKES: dict[str, Mapping[str, str] | None] = {
    "no labels": None,
    "other labels": {"a": "b"},
    "another fleet": {**OURS, "phoenix.fleet": "web-staging"},
    "another owner": {**OURS, "phoenix.owner": "somebody"},
}


@pytest.mark.parametrize("labels", LOOK_ALIKES.values(), ids=LOOK_ALIKES.keys())
def test_a_dropped_filter_is_an_error_and_never_an_answer(labels: Mapping[str, str] | None) -> None:
    listed = [entry(OURS), entry(labels)]
    with answering(engine_with({"GET /containers/json": listed, "GET /images/sha256:1/json": {}})) as port:
        with pytest.raises(Unavailable, match="ignored the filter"):
            driver(port).list_instances("web")
        with pytest.raises(Unavailable, match="ignored the filter"):
            driver(port).launch(intent())


def test_the_list_is_read_as_it_is() -> None:
    digests = {"RepoDigests": [f"x/a@sha256:{'0' * 64}", f"127.0.0.1:1/base@{DIGEST}"]}
    with answering(engine_with({"GET /containers/json": [entry(OURS)], "GET /images/sha256:1/json": digests})) as port:
        (instance,) = driver(port).list_instances("web")

    assert (instance.id, instance.name, instance.address) == (ID, "web-01-0123abcd", "172.18.0.2")
    assert (instance.state, instance.digest, instance.slot) == (InstanceState.RUNNING, DIGEST, "web-01")


def test_the_digest_is_what_runs_and_not_what_was_asked_for() -> None:
    other = f"sha256:{'0' * 64}"
    for digests, expected in (({"RepoDigests": [f"x/a@{other}"]}, other), ({"RepoDigests": None}, "")):
        with answering(
            engine_with({"GET /containers/json": [entry(OURS)], "GET /images/sha256:1/json": digests})
        ) as port:
            assert driver(port).list_instances("web")[0].digest == expected


def test_a_container_that_answers_to_another_id_is_not_found() -> None:
    seen = {"Id": "c" * 64, "Name": "/x", "Config": {"Labels": OURS}, "State": {"Status": "running"}}
    with answering(engine_with({f"GET /containers/{ID}/json": seen})) as port:
        for call in (driver(port).get_instance, driver(port).terminate):
            with pytest.raises(NotFound):
                call(ID)


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (500, "boom", Unavailable),
        (503, "later", Unavailable),
        (429, "slow down", Throttled),
        (500, "toomanyrequests: pull rate", Throttled),
        (401, "who", AuthenticationFailed),
        (403, "no", AuthenticationFailed),
        (500, "unauthorized: authentication required", AuthenticationFailed),
        (400, "bad parameter", InvalidSpec),
        (500, "write /x: no space left on device", CapacityExhausted),
        (500, "no available IPv4 addresses on this network's address pools", CapacityExhausted),
        (500, "fork: cannot allocate memory", CapacityExhausted),
        (404, "manifest unknown", InvalidSpec),
    ],
)
def test_every_refusal_is_one_of_our_errors(status: int, message: str, error: type[PhoenixError]) -> None:
    with answering(engine_with({"*": (status, message)})) as port:
        for call in (lambda: driver(port).list_instances("web"), lambda: driver(port).launch(intent())):
            with pytest.raises(error) as caught:
                call()
            assert type(caught.value) is error
            assert message in str(caught.value)


def test_an_error_in_the_middle_of_a_pull_is_not_success() -> None:
    replies = {
        "GET /containers/json": [],
        "POST /images/create": {"error": "unexpected EOF", "errorDetail": {"message": "unexpected EOF"}},
    }
    with answering(engine_with(replies)) as port, pytest.raises(Unavailable, match="unexpected EOF"):
        driver(port).launch(intent())


@pytest.mark.parametrize(
    "reply", [(200, b"<html>", {}), (200, b"", {}), (302, b"", {"Location": "http://127.0.0.1:1/"})]
)
def test_what_is_no_engine_is_unavailable(reply: Reply) -> None:
    with answering(lambda *_: reply) as port, pytest.raises(Unavailable):
        driver(port).list_instances("web")


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    for host in (str(tmp_path / "none.sock"), f"unix://{tmp_path}/none.sock"):
        absent = Driver(Settings(network="lab"), lambda _, host=host: Connection("docker", host=host))
        with pytest.raises(Unavailable) as caught:
            absent.list_instances("web")
        assert caught.value.remedy


@pytest.mark.parametrize(
    "connection",
    [
        Connection("docker"),
        Connection("docker", host="engine.example", port=2375),
        Connection("docker", host="engine.example", extra={"ca_cert": "/nowhere/ca.pem"}),
    ],
    ids=["no host", "no TLS", "no such certificate"],
)
def test_a_connection_that_cannot_be_trusted_is_refused(connection: Connection) -> None:
    with pytest.raises(InvalidConfig) as caught:
        Driver(Settings(network="lab"), lambda _: connection).list_instances("web")
    assert caught.value.remedy


def test_the_socket_may_be_written_as_airflow_writes_it() -> None:
    where = engine._where(Connection("docker", host="unix://var/run/docker.sock"))
    assert where == {"base_url": "unix:///var/run/docker.sock"}


def test_hostspec_needs_nobody() -> None:
    who = Instance(ID, "web-01", "web", "web-01", "", "", InstanceState.RUNNING)

    assert driver(1).hostspec(who) == f"docker://{ID}"


@pytest.mark.parametrize("setting", [{"memory": "lots"}, {"network": ""}, {"colour": "red"}], ids=str)
def test_wrong_settings_are_refused(setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Settings(**{"network": "lab", **setting})
