"""Which connections to libvirt hosts are kept, and for whom, without any libvirt host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.platforms import _libvirt_host, _libvirt_session
from phoenix_fleet.platforms._libvirt_session import close_all, opened


class Host:
    """An open connection."""

    def __init__(self) -> None:
        self.alive, self.answers, self.closed = True, True, False

    def isAlive(self) -> bool:
        return self.alive

    def getLibVersion(self) -> int:
        if not self.answers:
            raise _libvirt_host.library().libvirtError("client socket is closed")
        return 9000000

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def logins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Host]]:
    """Those that were opened."""
    found: list[Host] = []

    def connected(_connection: Connection) -> Host:
        found.append(Host())
        return found[-1]

    close_all()
    monkeypatch.setattr(_libvirt_host, "connected", connected)
    yield found
    close_all()
    assert _libvirt_session._known == {}


@pytest.fixture
def connection(tmp_path: Path) -> Connection:
    for name in ("key", "hosts"):
        (tmp_path / name).write_text(name)
    extra = {"key_file": f"{tmp_path}/key", "known_hosts": f"{tmp_path}/hosts"}
    return Connection("xen", extra={"uri": "xen+ssh://root@dom0.example/system", **extra})


def use(connection: Connection) -> Any:
    with opened(connection) as host:
        return host


def test_the_next_call_has_the_same(connection: Connection, logins: list[Host]) -> None:
    assert use(connection) is use(dataclasses.replace(connection)) is logins[0]
    assert len(logins) == 1


@pytest.mark.parametrize("what", ["alive", "answers"])
def test_one_that_is_gone_is_closed_and_another_opened(connection: Connection, logins: list[Host], what: str) -> None:
    gone = use(connection)
    setattr(gone, what, False)

    assert use(connection) is not gone
    assert gone.closed


@pytest.mark.parametrize("file", ["key", "hosts"])
def test_whom_we_trust_and_who_we_are_is_asked_anew_when_it_has_changed(
    connection: Connection, logins: list[Host], tmp_path: Path, file: str
) -> None:
    before = use(connection)
    (tmp_path / file).write_text("another")

    assert use(connection) is not before
    assert before.closed


def test_without_the_file_that_says_whom_we_trust_there_is_none(
    connection: Connection, logins: list[Host], tmp_path: Path
) -> None:
    use(connection)
    (tmp_path / "hosts").unlink()

    with pytest.raises(InvalidConfig, match="known_hosts"):
        use(connection)


@pytest.mark.parametrize("change", ["root@dom1.example", "other@dom0.example"])
def test_another_host_or_login_has_its_own(connection: Connection, logins: list[Host], change: str) -> None:
    before = use(connection)
    extra = {**connection.extra, "uri": f"xen+ssh://{change}/system"}

    assert use(dataclasses.replace(connection, extra=extra)) is not before
    assert before.closed


def test_connections_have_their_own_by_id(connection: Connection, logins: list[Host]) -> None:
    one, other = connection, dataclasses.replace(connection, id="other")

    assert use(one) is not use(other)
    assert use(one) is logins[0]
    assert not logins[0].closed


def test_no_password_is_remembered() -> None:
    uri = "qemu+tls://dom0.example/system"
    connection = Connection("tls", login="me", password="s3cret-one", extra={"uri": uri})

    first = use(connection)

    assert "s3cret-one" not in repr(_libvirt_session._known)
    assert use(dataclasses.replace(connection, password="s3cret-two")) is not first
