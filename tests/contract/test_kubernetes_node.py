"""Nodes of a cluster: who is whose, what is evicted and what is left, budgets, and the end of a node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from phoenix_fleet.domain.errors import NotFound, NotOurs, Unavailable
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from tests.contract.kubernetes_api import ApiServer, leading_to, serving
from tests.contract.nodes_lab import NODES, NodesLab

VERSIONS = ("policy/v1", "policy/v1beta1")


@pytest.fixture(params=[*VERSIONS, pytest.param("kubernetes-real", marks=pytest.mark.kubernetes)])
def lab(request: pytest.FixtureRequest) -> Iterator[NodesLab]:
    """A cluster of either kind of eviction, and a real API server."""
    if request.param in VERSIONS:
        with serving(request.param) as server:
            yield NodesLab({name: leading_to(server.url, name) for name in ("admin", "phoenix")}, request.param)
        return
    real = request.getfixturevalue("kubernetes_api")
    found = NodesLab({"admin": real, "phoenix": replace(real, id="phoenix")}, "policy/v1beta1")
    yield found
    found.leave()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving() as found:
        yield found


@pytest.fixture
def lone_lab(server: ApiServer) -> NodesLab:
    """On the stand-in alone: for what a test orders there."""
    return NodesLab({name: leading_to(server.url, name) for name in ("admin", "phoenix")})


@pytest.fixture
def who(lab: NodesLab) -> Instance:
    """A node in service."""
    found = lab.instance()
    lab.balancer.admit(found)
    return found


def gone(who: Instance) -> Instance:
    return replace(who, state=InstanceState.GONE)


class TestAdmit:
    def test_waits_for_the_node_to_join(self, lab: NodesLab) -> None:
        late = replace(lab.instance(), name="web-77-00000077", token="late", address="10.67.0.1")
        assert lab.balancer.state(late).state is Backend.ABSENT
        with pytest.raises(Unavailable, match="has not joined"):
            lab.balancer.admit(late)

    def test_one_that_joins_cordoned_comes_into_service(self, lab: NodesLab) -> None:
        who = replace(lab.instance(), name="web-78-00000078", token="t78", address="10.67.0.2", id="i-78")
        lab.join(who, unschedulable=True)
        assert lab.balancer.state(who).state is Backend.STARTING
        lab.balancer.admit(who)
        assert lab.balancer.state(who).state is Backend.HEALTHY
        assert not lab.node(who)["spec"].get("unschedulable")

    def test_a_node_that_is_not_ready_is_not_in_service(self, lab: NodesLab, who: Instance) -> None:
        lab.set_ready(who, False)
        assert lab.balancer.state(who).state is Backend.UNHEALTHY

    def test_what_a_person_has_cordoned_stays_so(self, lab: NodesLab, who: Instance) -> None:
        lab.cordon_by_hand(who)
        with pytest.raises(NotOurs, match="cordoned by somebody else"):
            lab.balancer.admit(who)
        assert lab.node(who)["spec"]["unschedulable"] is True

    @pytest.mark.parametrize("by", ["address", "provider_id", "name"])
    def test_its_node_is_found_as_the_settings_say(self, lab: NodesLab, by: str) -> None:
        who, other = lab.instance(), lab.instance()
        lab.again(node_by=by).admit(who)
        assert lab.node(who)["metadata"]["annotations"]["phoenix.token"] == who.token
        assert "annotations" not in lab.node(other)["metadata"]

    def test_an_address_that_is_used_again_is_another_instance(self, lab: NodesLab, who: Instance) -> None:
        later = replace(who, id="i-later", name="web-79-00000079", token="later")
        before = lab.node(who)
        for call in (lab.balancer.admit, lab.balancer.drain, lab.balancer.remove):
            with pytest.raises(NotOurs):
                call(later)
        assert lab.balancer.state(later).state is Backend.ABSENT
        assert lab.node(who) == before


class TestDrain:
    def test_evicts_what_has_to_go_and_leaves_what_belongs_to_the_node(self, lab: NodesLab, who: Instance) -> None:
        other = lab.instance()
        goes = lab.start_pod(who)
        stays = {
            lab.start_pod(who, "logs", controller="DaemonSet"),
            lab.start_pod(who, "static", controller="", mirror=True),
            lab.start_pod(other),
        }
        lab.balancer.drain(who)
        assert (lab.going(), lab.staying()) == ({goes}, stays)
        assert lab.node(who)["spec"]["unschedulable"] is True
        assert not lab.node(other)["spec"].get("unschedulable")
        assert lab.balancer.state(who) == BackendStatus(Backend.DRAINING, 1)

    def test_a_pod_that_nobody_would_start_elsewhere_holds_it_up(self, lab: NodesLab, who: Instance) -> None:
        bare = lab.start_pod(who, "bare", controller="")
        lab.balancer.drain(who)
        assert lab.staying() == {bare}
        assert lab.balancer.state(who).connections == 1

    def test_a_budget_that_allows_none_is_waited_for(self, lab: NodesLab, who: Instance) -> None:
        pods = {lab.start_pod(who), lab.start_pod(who)}
        lab.budget("shop", 1)
        lab.balancer.drain(who)
        assert len(lab.going()) == 1
        lab.balancer.drain(who)
        assert len(lab.going()) == 1
        lab.allow("shop", 1)
        lab.balancer.drain(who)
        assert lab.going() == pods

    def test_it_is_over_when_no_pod_and_no_volume_is_left(self, lone_lab: NodesLab, server: ApiServer) -> None:
        lab = lone_lab
        who = lab.instance()
        lab.balancer.admit(who)
        pod = lab.start_pod(who)
        where = "/apis/storage.k8s.io/v1/volumeattachments"
        lab.api.create(where, {"kind": "VolumeAttachment", "metadata": {"name": "va"}, "spec": {"nodeName": who.name}})
        server.objects[f"{where}/va"]["status"] = {"attached": True}
        lab.balancer.drain(who)
        assert lab.balancer.state(who).connections == 2
        del server.objects[f"{lab.pods}/{pod}"]
        assert lab.balancer.state(who).connections == 1
        server.objects[f"{where}/va"]["status"] = {"attached": False}
        assert lab.balancer.state(who) == BackendStatus(Backend.DRAINING, 0)

    def test_admitting_undoes_it(self, lab: NodesLab, who: Instance) -> None:
        lab.balancer.drain(who)
        lab.balancer.admit(who)
        assert lab.balancer.state(who).state is Backend.HEALTHY

    def test_a_list_that_breaks_off_is_an_error_and_not_drained(self, lone_lab: NodesLab, server: ApiServer) -> None:
        who = lone_lab.instance()
        lone_lab.balancer.drain(who)
        server.broken = lambda method, path: 503 if path == "/api/v1/pods" else None
        with pytest.raises(Unavailable):
            lone_lab.balancer.state(who)


class TestRemove:
    def test_the_node_stays_as_long_as_its_machine(self, lab: NodesLab, who: Instance) -> None:
        lab.balancer.drain(who)
        lab.balancer.remove(who)
        assert lab.node(who)["spec"]["unschedulable"] is True

    def test_the_node_of_a_machine_that_is_gone_is_deleted(self, lab: NodesLab, who: Instance) -> None:
        other = lab.instance()
        lab.balancer.drain(who)
        lab.set_ready(who, False)
        lab.balancer.remove(gone(who))
        assert lab.balancer.state(who).state is Backend.ABSENT
        with pytest.raises(NotFound):
            lab.node(who)
        assert lab.balancer.state(other).state is Backend.HEALTHY

    def test_a_node_that_is_still_ready_is_not_deleted(self, lab: NodesLab, who: Instance) -> None:
        with pytest.raises(Unavailable, match="still says that it is ready"):
            lab.balancer.remove(gone(who))
        assert lab.api.get(f"{NODES}/{who.name}")
