"""What every balancer must keep of the promises in ``balancers/base.py``."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InUse, InvalidSpec, NotOurs
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance
from tests.contract.balancers_elbv2 import Elbv2Lab
from tests.contract.balancers_labs import STATIC, FakeLab, HaproxyLab, NoneLab
from tests.contract.machinery import wait_for
from tests.contract.nodes_lab import NodesLab

AnyLab = NoneLab | FakeLab | HaproxyLab | Elbv2Lab | NodesLab
TrafficLab = FakeLab | HaproxyLab | Elbv2Lab


def until(lab: AnyLab, who: Instance, wanted: Backend) -> None:
    wait_for(lambda: lab.again().state(who).state is wanted, f"{who.name} to be {wanted}")


def drain(lab: AnyLab, who: Instance) -> None:
    """Drain it, and wait until no connection is open any more."""
    lab.balancer.drain(who)
    wait_for(lambda: lab.balancer.state(who).connections == 0, "the last connection")


def admitted(lab: TrafficLab) -> Instance:
    """An instance in service."""
    who = lab.instance()
    lab.balancer.admit(who)
    until(lab, who, Backend.HEALTHY)
    return who


class TestAnyBalancer:
    def test_an_admitted_instance_becomes_healthy(self, balancer_lab: AnyLab) -> None:
        who = balancer_lab.instance()

        balancer_lab.balancer.admit(who)

        until(balancer_lab, who, Backend.HEALTHY)
        assert balancer_lab.balancer.state(who) == BackendStatus(Backend.HEALTHY, 0)

    def test_one_without_an_address_is_refused(self, balancer_lab: AnyLab) -> None:
        nowhere = dataclasses.replace(balancer_lab.instance(), address="")

        with pytest.raises(InvalidSpec):
            balancer_lab.balancer.admit(nowhere)

        assert balancer_lab.balancer.state(nowhere).state is Backend.ABSENT

    def test_every_call_may_be_repeated(self, balancer_lab: AnyLab) -> None:
        who = balancer_lab.instance()
        for _ in range(3):
            balancer_lab.again().admit(who)
        until(balancer_lab, who, Backend.HEALTHY)
        for _ in range(3):
            balancer_lab.again().drain(who)
        drain(balancer_lab, who)
        for _ in range(3):
            balancer_lab.again().remove(who)

    def test_what_was_never_admitted_may_be_drained_and_removed(self, balancer_lab: AnyLab) -> None:
        who = balancer_lab.instance()

        balancer_lab.balancer.drain(who)
        balancer_lab.balancer.remove(who)

    def test_making_a_driver_does_no_io(self, balancer_lab: AnyLab) -> None:
        type(balancer_lab.balancer)(balancer_lab.balancer.settings, unreachable)


class TestAdmit:
    def test_an_unknown_instance_is_absent(self, traffic_lab: TrafficLab) -> None:
        assert traffic_lab.balancer.state(traffic_lab.instance()) == BackendStatus(Backend.ABSENT, 0)

    def test_it_is_starting_at_first_then_gets_traffic(self, traffic_lab: TrafficLab) -> None:
        who = traffic_lab.instance()

        traffic_lab.balancer.admit(who)

        assert traffic_lab.balancer.state(who).state is Backend.STARTING
        until(traffic_lab, who, Backend.HEALTHY)
        assert traffic_lab.gets_traffic(who)

    def test_a_sick_one_is_never_healthy_and_gets_no_traffic(self, traffic_lab: TrafficLab) -> None:
        who = traffic_lab.instance()
        traffic_lab.set_health(who, False)

        traffic_lab.balancer.admit(who)

        seen = set()

        def looked() -> bool:
            assert not traffic_lab.gets_traffic(who)
            seen.add(traffic_lab.balancer.state(who).state)
            return Backend.UNHEALTHY in seen

        wait_for(looked, "the failed checks")
        assert seen <= {Backend.STARTING, Backend.UNHEALTHY}

    def test_health_comes_and_goes(self, traffic_lab: TrafficLab) -> None:
        who = admitted(traffic_lab)

        traffic_lab.set_health(who, False)
        until(traffic_lab, who, Backend.UNHEALTHY)
        assert not traffic_lab.gets_traffic(who)

        traffic_lab.set_health(who, True)
        until(traffic_lab, who, Backend.HEALTHY)
        assert traffic_lab.gets_traffic(who)

    def test_admitting_again_disturbs_nobody(self, traffic_lab: TrafficLab) -> None:
        who = admitted(traffic_lab)

        traffic_lab.balancer.admit(who)

        assert traffic_lab.balancer.state(who).state is Backend.HEALTHY

    def test_racing_callers_admit_it_once(self, traffic_lab: TrafficLab) -> None:
        who = traffic_lab.instance()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: traffic_lab.again().admit(who), range(4)))

        until(traffic_lab, who, Backend.HEALTHY)
        assert sorted(traffic_lab.names()) == sorted({STATIC, who.name})

    def test_it_follows_an_instance_to_a_new_address(self, traffic_lab: TrafficLab) -> None:
        if not traffic_lab.addresses_change:
            pytest.skip("an instance keeps its address for life there")
        who = admitted(traffic_lab)
        moved = dataclasses.replace(traffic_lab.instance(), id=who.id, name=who.name, token=who.token)

        assert traffic_lab.balancer.state(moved).state is Backend.UNHEALTHY
        traffic_lab.balancer.admit(moved)

        until(traffic_lab, moved, Backend.HEALTHY)
        assert traffic_lab.balancer.state(who).state is Backend.UNHEALTHY


class TestDrain:
    def test_no_new_connections_while_the_open_ones_go_on(self, traffic_lab: TrafficLab) -> None:
        old, new = admitted(traffic_lab), admitted(traffic_lab)

        with traffic_lab.open_request(old):
            assert traffic_lab.balancer.state(old).connections == (1 if traffic_lab.counts else 0)
            traffic_lab.balancer.drain(old)

            assert traffic_lab.balancer.state(old) == BackendStatus(Backend.DRAINING, 1)
            assert not traffic_lab.gets_traffic(old)
            assert traffic_lab.gets_traffic(new)

        drained = BackendStatus(traffic_lab.drained, 0)
        wait_for(lambda: traffic_lab.balancer.state(old) == drained, "the last connection")

    def test_admitting_undoes_it(self, traffic_lab: TrafficLab) -> None:
        who = admitted(traffic_lab)
        traffic_lab.balancer.drain(who)
        assert traffic_lab.balancer.state(who).state is Backend.DRAINING

        traffic_lab.balancer.admit(who)

        until(traffic_lab, who, Backend.HEALTHY)
        assert traffic_lab.gets_traffic(who)

    def test_a_sick_one_is_draining_too(self, traffic_lab: TrafficLab) -> None:
        who = admitted(traffic_lab)
        traffic_lab.set_health(who, False)
        until(traffic_lab, who, Backend.UNHEALTHY)

        traffic_lab.balancer.drain(who)

        assert traffic_lab.balancer.state(who).state is Backend.DRAINING

    def test_one_that_was_never_proven_cannot_slip_in(self, traffic_lab: TrafficLab) -> None:
        who = traffic_lab.instance()
        traffic_lab.set_health(who, False)
        traffic_lab.balancer.admit(who)
        traffic_lab.balancer.drain(who)

        traffic_lab.balancer.admit(who)

        assert not traffic_lab.gets_traffic(who)
        until(traffic_lab, who, Backend.UNHEALTHY)


class TestRemove:
    def test_it_is_forgotten_and_its_neighbour_is_not(self, traffic_lab: TrafficLab) -> None:
        old, new = admitted(traffic_lab), admitted(traffic_lab)
        drain(traffic_lab, old)

        traffic_lab.balancer.remove(old)

        assert traffic_lab.balancer.state(old) == BackendStatus(Backend.ABSENT, 0)
        assert traffic_lab.balancer.state(new).state is Backend.HEALTHY
        assert traffic_lab.names() == {STATIC, new.name}

    def test_open_connections_are_not_cut(self, traffic_lab: TrafficLab) -> None:
        who = admitted(traffic_lab)

        with traffic_lab.open_request(who):
            traffic_lab.balancer.drain(who)
            with pytest.raises(InUse):
                traffic_lab.balancer.remove(who)
            assert traffic_lab.balancer.state(who) == BackendStatus(Backend.DRAINING, 1)

        wait_for(lambda: traffic_lab.balancer.state(who).connections == 0, "the last connection")
        traffic_lab.balancer.remove(who)
        assert traffic_lab.balancer.state(who).state is Backend.ABSENT

    def test_it_can_come_back(self, traffic_lab: TrafficLab) -> None:
        who = admitted(traffic_lab)
        drain(traffic_lab, who)
        traffic_lab.balancer.remove(who)

        traffic_lab.balancer.admit(who)

        until(traffic_lab, who, Backend.HEALTHY)

    def test_an_instance_that_lost_its_address_can_be_removed(self, traffic_lab: TrafficLab) -> None:
        who = dataclasses.replace(admitted(traffic_lab), address="")

        drain(traffic_lab, who)
        traffic_lab.balancer.remove(who)

        assert traffic_lab.balancer.state(who).state is Backend.ABSENT


@pytest.mark.parametrize("address", ["127.0.0.1", "127.66.9.9"], ids=["same address", "other address"])
@pytest.mark.parametrize("method", ["admit", "drain", "remove", "state"])
def test_servers_of_others_are_never_touched(traffic_lab: TrafficLab, method: str, address: str) -> None:
    look_alike = traffic_lab.look_alike(address)

    with pytest.raises(NotOurs):
        getattr(traffic_lab.balancer, method)(look_alike)

    assert traffic_lab.names() == {STATIC}


def test_after_a_restart_it_is_absent_and_admitted_again(traffic_lab: TrafficLab) -> None:
    who = admitted(traffic_lab)

    traffic_lab.restart()

    assert traffic_lab.balancer.state(who).state is Backend.ABSENT
    traffic_lab.balancer.admit(who)
    until(traffic_lab, who, Backend.HEALTHY)


def unreachable(conn_id: str) -> Connection:
    """Connections that nobody may ask for."""
    raise AssertionError(f"{conn_id} was looked up")
