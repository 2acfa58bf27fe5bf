"""What only HAProxy can get wrong: unproven servers, half-done commands, its answers, its socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from unittest import mock

import pytest

from phoenix_fleet.balancers import haproxy
from phoenix_fleet.domain.errors import AuthenticationFailed, InvalidConfig, PhoenixError, Unavailable
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance
from tests.contract.balancers_labs import HaproxyLab, instance
from tests.contract.machinery import wait_for

pytestmark = pytest.mark.docker  # a real part, like the engine

COMMANDS_OF_ADMIT = 6
"""Look, add, enable health, drain, health down, ready."""


class Crash(BaseException):
    """The process died here."""


class Dying(haproxy.Driver):
    """Dies instead of sending the command after so many."""

    left = 0

    def _run(self, command: str) -> str:
        if self.left == 0:
            raise Crash
        self.left -= 1
        return super()._run(command)


@contextmanager
def traffic(lab: HaproxyLab, clients: int = 4) -> Iterator[list[tuple[int, str]]]:
    """Steady requests through the front for as long as the block lasts; what they got comes back."""
    answers: list[tuple[int, str]] = []
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            try:
                answers.append(lab.get())
            except OSError as error:
                answers.append((0, repr(error)))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()


def until(lab: HaproxyLab, who: Instance, wanted: BackendStatus) -> None:
    wait_for(lambda: lab.balancer.state(who) == wanted, f"{who.name} to be {wanted}")


def dying(lab: HaproxyLab, commands: int) -> Dying:
    driver = Dying(lab.balancer.settings, lab.connections)
    driver.left = commands
    return driver


HEALTHY = BackendStatus(Backend.HEALTHY)


@pytest.mark.parametrize("healthy", [True, False])
def test_a_check_under_way_changes_nothing(haproxy_lab: HaproxyLab, healthy: bool) -> None:
    """HAProxy forgets the last result as soon as the next check begins; we must not."""
    who = haproxy_lab.instance()
    haproxy_lab.balancer.admit(who)
    until(haproxy_lab, who, HEALTHY)
    haproxy_lab.set_health(who, healthy)
    wanted = HEALTHY if healthy else BackendStatus(Backend.UNHEALTHY)
    until(haproxy_lab, who, wanted)
    haproxy_lab.servers[who.name].slowness = 0.08
    results = set()
    for _ in range(100):
        assert haproxy_lab.balancer.state(who) == wanted
        (row,) = [row for row in haproxy_lab.balancer._run("show servers state web").splitlines() if who.name in row]
        results.add(row.split()[11])
        time.sleep(0.01)
    assert "0" in results, "no look fell into a check"


def test_replacing_every_server_under_traffic_fails_no_request(haproxy_lab: HaproxyLab) -> None:
    old = [haproxy_lab.instance() for _ in range(3)]
    for who in old:
        haproxy_lab.balancer.admit(who)
    for who in old:
        until(haproxy_lab, who, HEALTHY)
    new = []

    with traffic(haproxy_lab) as answers:
        for who in old:
            new.append(haproxy_lab.instance())
            haproxy_lab.balancer.admit(new[-1])
            until(haproxy_lab, new[-1], HEALTHY)
            haproxy_lab.balancer.drain(who)
            until(haproxy_lab, who, BackendStatus(Backend.DRAINING, 0))
            haproxy_lab.balancer.remove(who)
            # What is removed may go: nothing reaches it any more.
            haproxy_lab.servers[who.name].shutdown()
            haproxy_lab.servers[who.name].server_close()
        time.sleep(0.3)

    assert {status for status, _ in answers} == {200}
    assert len(answers) > 100
    assert {name for _, name in answers} == {who.name for who in old + new}
    assert {name for _, name in answers[-20:]} <= {who.name for who in new}
    for who in old:
        del haproxy_lab.servers[who.name]


@pytest.mark.parametrize("commands", range(1, COMMANDS_OF_ADMIT + 1))
def test_an_unproven_server_gets_no_request_wherever_admitting_stops(haproxy_lab: HaproxyLab, commands: int) -> None:
    good, sick = haproxy_lab.instance(), haproxy_lab.instance()
    haproxy_lab.balancer.admit(good)
    until(haproxy_lab, good, HEALTHY)
    haproxy_lab.set_health(sick, False)

    with traffic(haproxy_lab, 2) as answers:
        try:
            dying(haproxy_lab, commands).admit(sick)
        except Crash:
            assert commands < COMMANDS_OF_ADMIT
            time.sleep(0.1)
        haproxy_lab.balancer.admit(sick)
        wait_for(lambda: haproxy_lab.balancer.state(sick).state is Backend.UNHEALTHY, "the failed checks")

    assert {name for _, name in answers} == {good.name}
    assert haproxy_lab.servers[sick.name].served == 0

    haproxy_lab.set_health(sick, True)
    until(haproxy_lab, sick, HEALTHY)


def test_one_left_half_admitted_and_unchecked_is_not_believed(haproxy_lab: HaproxyLab) -> None:
    """A crash left it in drain, counted as up, and its first check has yet to come."""
    who = haproxy_lab.instance()
    haproxy_lab.set_health(who, False)
    slow = haproxy_lab.again(check_interval_ms=60000)
    broken = Dying(slow.settings, haproxy_lab.connections)
    broken.left = 4
    with pytest.raises(Crash):
        broken.admit(who)

    slow.admit(who)

    assert slow.state(who).state is Backend.STARTING
    assert not haproxy_lab.gets_traffic(who)
    assert haproxy_lab.servers[who.name].served == 0


@pytest.mark.parametrize("commands", [1, 2])
@pytest.mark.parametrize("then", ["remove", "admit"])
def test_removing_that_stopped_half_way_can_go_on_or_be_undone(
    haproxy_lab: HaproxyLab, commands: int, then: str
) -> None:
    who = haproxy_lab.instance()
    haproxy_lab.balancer.admit(who)
    until(haproxy_lab, who, HEALTHY)
    haproxy_lab.balancer.drain(who)

    with pytest.raises(Crash):
        dying(haproxy_lab, commands).remove(who)

    assert haproxy_lab.balancer.state(who).state is Backend.DRAINING
    getattr(haproxy_lab.balancer, then)(who)
    until(haproxy_lab, who, HEALTHY if then == "admit" else BackendStatus(Backend.ABSENT))


def test_idle_connections_of_clients_and_checks_do_not_count(haproxy_lab: HaproxyLab) -> None:
    who = haproxy_lab.instance()
    haproxy_lab.balancer.admit(who)
    until(haproxy_lab, who, HEALTHY)

    with closing(HTTPConnection("127.0.0.1", haproxy_lab.front)) as client:
        client.request("GET", "/")
        assert client.getresponse().read() == b""
        seen = set()
        for _ in range(60):
            seen.add(haproxy_lab.balancer.state(who).connections)
            time.sleep(0.01)
        assert seen == {0}
        haproxy_lab.balancer.drain(who)
        haproxy_lab.balancer.remove(who)


def test_a_server_with_an_ipv6_address(haproxy_lab: HaproxyLab) -> None:
    who = instance("web-09-0000aaaa", "0:0::1")

    haproxy_lab.balancer.admit(who)

    wait_for(lambda: haproxy_lab.balancer.state(who).state is Backend.UNHEALTHY, "checks of nobody")
    haproxy_lab.balancer.remove(who)
    assert who.name not in haproxy_lab.names()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"connection": "nowhere"}, Unavailable),
        ({"connection": "unset"}, InvalidConfig),
        ({"connection": "user"}, AuthenticationFailed),
        ({"backend": "nobody"}, InvalidConfig),
        ({"backend": "hashed"}, InvalidConfig),
    ],
    ids=lambda value: str(value),
)
def test_errors_say_what_to_do(haproxy_lab: HaproxyLab, settings: dict[str, str], error: type[PhoenixError]) -> None:
    with pytest.raises(error) as caught:
        haproxy_lab.again(**settings).admit(haproxy_lab.instance())
    assert caught.value.remedy


def test_a_mark_is_what_makes_a_server_ours(haproxy_lab: HaproxyLab) -> None:
    """Somebody added a server at run time as we do, with the very name and address."""
    who = haproxy_lab.instance()
    haproxy_lab.balancer._run(f"add server web/{who.name} {who.address}:{haproxy_lab.port}")

    for method in ("admit", "drain", "remove", "state"):
        with pytest.raises(PhoenixError, match="did not add"):
            getattr(haproxy_lab.balancer, method)(who)
    assert who.name in haproxy_lab.names()


def test_a_connection_that_comes_while_removing_is_not_cut(haproxy_lab: HaproxyLab) -> None:
    who = haproxy_lab.instance()
    haproxy_lab.balancer.admit(who)
    until(haproxy_lab, who, HEALTHY)
    real, blind = haproxy_lab.balancer._look, haproxy_lab.again()

    def before_the_request(seen: Instance) -> object:
        server = real(seen)
        return mock.Mock(wraps=server, connections=0)

    with (
        haproxy_lab.open_request(who),
        mock.patch.object(blind, "_look", before_the_request),
        pytest.raises(PhoenixError, match="got a connection meanwhile"),
    ):
        blind.remove(who)

    until(haproxy_lab, who, BackendStatus(Backend.DRAINING, 0))
    haproxy_lab.balancer.remove(who)
