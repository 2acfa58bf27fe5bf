"""HAProxy's driver against answers that are odd, hostile or missing, on a socket of our own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from phoenix_fleet.balancers import haproxy
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidSpec, PhoenixError, TransientError
from phoenix_fleet.domain.models import Instance, InstanceState


class Runtime:
    """Something on a socket that answers every command with the same words."""

    def __init__(self, path: Path) -> None:
        self.answer: bytes | None = b""
        self.commands: list[str] = []
        self._closing = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(0.05)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                client, _ = self._socket.accept()
                with client, suppress(OSError):
                    self.commands.append(client.recv(65536).decode())
                    if self.answer is None:
                        self._closing.wait(2)
                    else:
                        client.sendall(self.answer)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    found = Runtime(tmp_path / "s")
    yield found
    found.close()


@pytest.fixture
def driver(tmp_path: Path, runtime: Runtime) -> haproxy.Driver:
    connection = Connection("web", extra={"socket": str(tmp_path / "s")})
    return haproxy.Driver(haproxy.Settings(connection="web", backend="web", port=80), lambda _: connection)


def instance(name: str = "web-01-0123abcd", address: str = "10.0.0.1") -> Instance:
    return Instance("i-1", name, "web", "web-01", "2026.11-1", "0123abcd" * 4, InstanceState.RUNNING, address)


@pytest.mark.parametrize(
    "name",
    ["", "a;b", "a\nshow env", "a b", "a/b", "../x", "-x", "#1", "ä", "a" * 200, "a\x00", "x,y", "$(id)", "a\r"],
)
@pytest.mark.parametrize("method", ["admit", "drain", "remove", "state"])
def test_odd_names_never_reach_the_socket(driver: haproxy.Driver, runtime: Runtime, name: str, method: str) -> None:
    with pytest.raises(InvalidSpec):
        getattr(driver, method)(instance(name))
    assert runtime.commands == []


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1 backup", "10.0.0.1;x", "host.name", "10.0.0.1:80", "10.0.0.1\nx", "x"]
)
def test_odd_addresses_never_reach_the_socket(driver: haproxy.Driver, runtime: Runtime, address: str) -> None:
    with pytest.raises(InvalidSpec):
        driver.admit(instance(address=address))
    assert runtime.commands == []


@pytest.mark.parametrize("backend", ["", "a b", "a;b", "a/b", "a\nb", "a\n"])
def test_odd_backends_are_no_settings(backend: str) -> None:
    with pytest.raises(ValidationError):
        haproxy.Settings(connection="web", backend=backend, port=80)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.binary(max_size=400))
def test_nonsense_is_never_taken_for_absent(driver: haproxy.Driver, runtime: Runtime, answer: bytes) -> None:
    runtime.answer = answer
    with pytest.raises(PhoenixError):
        driver.state(instance())


@pytest.mark.parametrize(
    "answer",
    [
        b"1\n# be_id be_name srv_name\n3 web web-01-0123abcd\n\n",  # cut off
        b"1\n# be_name srv_name\nweb web-01-0123abcd\n\n# bkname/svname\nweb/web-01-0123abcd\n\n"
        b"# pxname,svname\nweb,web-01-0123abcd\n\n",  # without the columns
    ],
    ids=["cut off", "fewer columns"],
)
def test_half_an_answer_is_unavailable(driver: haproxy.Driver, runtime: Runtime, answer: bytes) -> None:
    runtime.answer = answer
    with pytest.raises(TransientError):
        driver.state(instance())


def test_silence_is_unavailable(driver: haproxy.Driver, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "_TIMEOUT", 0.1)
    runtime.answer = None
    with pytest.raises(TransientError, match="does not answer"):
        driver.state(instance())


def test_no_end_of_an_answer_is_unavailable(
    driver: haproxy.Driver, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy, "_LARGEST", 1000)
    runtime.answer = b"x" * 5000
    with pytest.raises(TransientError, match="no end"):
        driver.state(instance())
