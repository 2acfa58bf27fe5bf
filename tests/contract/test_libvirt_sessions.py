"""The libvirt platform keeps a connection for the next call, opens another when it has died, and shares none."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import NotFound, Unavailable
from phoenix_fleet.platforms import _libvirt_session as sessions
from phoenix_fleet.platforms import libvirt as driver
from tests.contract.machinery import KnownConnections, wait_for
from tests.contract.platforms_libvirt import Crash, LibvirtLab

pytestmark = pytest.mark.libvirt
NOWHERE = "00000000-0000-4000-8000-000000000000"


class Relay:
    """Passes on what comes to a socket of its own to libvirt's; counts who comes, and can cut them off."""

    def __init__(self, place: Path, target: Path) -> None:
        self.place, self._target = place, target
        self.accepted = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(place))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def open(self) -> int:
        """How many are connected now."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> None:
        """As a host does that falls over: nobody says goodbye."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for each in pair:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not self.open, "the end of what was cut")

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        self.place.unlink()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._target))
                with self._lock:
                    self.accepted += 1
                    self._pairs.append((near, far))
                threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            with suppress(OSError):
                copy(near, far)
            with self._lock:
                self._pairs.remove((near, far))


def copy(near: socket.socket, far: socket.socket) -> None:
    """Pass on what comes from either to the other, until one of them has ended."""
    while True:
        for source in select.select([near, far], [], [])[0]:
            chunk = source.recv(65536)
            if not chunk:
                return
            (far if source is near else near).sendall(chunk)


@pytest.fixture
def relay(libvirt_lab: LibvirtLab) -> Iterator[Relay]:
    sessions.close_all()
    made = Relay(libvirt_lab.host.folder / "relay", libvirt_lab.host.folder / "run" / "libvirt-sock")
    yield made
    sessions.close_all()
    made.close()


@pytest.fixture
def connection(relay: Relay) -> Connection:
    return Connection("libvirt", extra={"uri": f"qemu:///session?socket={relay.place}"})


@pytest.fixture
def platform(libvirt_lab: LibvirtLab, connection: Connection) -> driver.Driver:
    return driver.Driver(driver.Driver.Settings(**libvirt_lab.settings), KnownConnections(connection))


def test_calls_one_after_another_share_one(platform: driver.Driver, relay: Relay) -> None:
    again = driver.Driver(platform.settings, platform.connections)
    for each in (platform, again, platform):
        assert each.list_instances("web") == []
        with pytest.raises(NotFound):  # an answer like any other
            each.get_instance(NOWHERE)

    assert (relay.accepted, relay.open) == (1, 1)


def test_one_that_has_died_is_opened_again(platform: driver.Driver, relay: Relay) -> None:
    platform.list_instances("web")
    relay.cut()

    assert platform.list_instances("web") == []
    assert (relay.accepted, relay.open) == (2, 1)


def test_one_that_dies_within_a_call_is_said_and_opened_again(platform: driver.Driver, relay: Relay) -> None:
    def look() -> None:
        with platform._host("look") as host:
            relay.cut()
            host.listAllDomains(0)

    with pytest.raises(Unavailable):
        look()

    assert platform.list_instances("web") == []
    assert relay.accepted == 2


def test_calls_at_once_have_one_each_and_a_few_are_kept(connection: Connection, relay: Relay) -> None:
    at_once = sessions.MOST + 2
    meeting = threading.Barrier(at_once)

    def call(_number: int) -> int:
        with sessions.opened(connection) as host:
            meeting.wait(30)
            return len(host.listAllStoragePools(0))

    with ThreadPoolExecutor(at_once) as pool:
        assert list(pool.map(call, range(at_once))) == [1] * at_once
    assert relay.accepted == at_once
    wait_for(lambda: relay.open == sessions.MOST, "the end of those that are too many")

    with sessions.opened(connection):
        assert relay.accepted == at_once


def test_one_on_which_something_unknown_went_wrong_is_not_used_again(connection: Connection, relay: Relay) -> None:
    with pytest.raises(Crash), sessions.opened(connection):
        raise Crash

    wait_for(lambda: relay.open == 0, "its end")
    with sessions.opened(connection):
        assert relay.accepted == 2


def test_none_goes_along_into_a_child(platform: driver.Driver, relay: Relay) -> None:
    platform.list_instances("web")
    child = os.fork()
    if not child:
        status = 1
        with suppress(BaseException):
            status = 0 if platform.list_instances("web") == [] else 2
        os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert platform.list_instances("web") == []
    assert relay.accepted == 3


def test_none_is_left_when_all_are_closed(platform: driver.Driver, relay: Relay) -> None:
    platform.list_instances("web")
    sessions.close_all()

    wait_for(lambda: relay.open == 0, "its end")
