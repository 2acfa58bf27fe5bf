"""Every driver of a seam against the same tests: one lab per driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Instance
from tests.contract import platforms_ec2
from tests.contract.balancers_elbv2 import Elbv2Lab
from tests.contract.balancers_labs import FakeLab as FakeBalancerLab
from tests.contract.balancers_labs import HaproxyLab, NoneLab
from tests.contract.gates_fixtures import Machines, make_image, make_key
from tests.contract.gates_prometheus import Shop, a_shop
from tests.contract.gates_world import World, a_world
from tests.contract.kubernetes_api import leading_to
from tests.contract.kubernetes_api import serving as serving_kubernetes
from tests.contract.nodes_lab import NodesLab
from tests.contract.platforms_docker import DockerLab, opened
from tests.contract.platforms_ec2 import Ec2Lab
from tests.contract.platforms_fake import FakeLab
from tests.contract.platforms_vmware import VmwareLab
from tests.contract.platforms_vmware import opened as opened_vmware
from tests.contract.workloads_labs import FakeLab as FakeWorkloadLab
from tests.contract.workloads_labs import KubernetesLab
from tests.unit.gates.service import serving

if TYPE_CHECKING:
    from tests.contract.platforms_libvirt import LibvirtLab

real = pytest.mark.docker


@pytest.fixture(scope="session")
def docker_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerLab]:
    """One Docker lab for the whole session; every test uses a fleet and a family of its own."""
    with opened(tmp_path_factory.mktemp("docker")) as lab:
        yield lab


@pytest.fixture
def docker_lab(docker_session: DockerLab) -> Iterator[DockerLab]:
    """The Docker lab without machines."""
    yield docker_session
    docker_session.sweep()


@pytest.fixture(scope="session")
def ec2_session() -> Iterator[Ec2Lab]:
    """One EC2 lab for the whole session; every test uses a fleet and a family of its own."""
    with platforms_ec2.opened() as lab:
        yield lab


@pytest.fixture
def ec2_lab(ec2_session: Ec2Lab) -> Iterator[Ec2Lab]:
    """The EC2 lab, in which everything works."""
    yield ec2_session
    ec2_session.cloud.heal()


@pytest.fixture(scope="session")
def vmware_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmwareLab]:
    """One simulated vCenter for the whole session."""
    with opened_vmware(tmp_path_factory.mktemp("vmware")) as lab:
        yield lab


@pytest.fixture
def vmware_lab(vmware_session: VmwareLab) -> Iterator[VmwareLab]:
    """The VMware lab without machines and without trouble."""
    yield vmware_session
    vmware_session.sweep()


@pytest.fixture(scope="session")
def libvirt_session() -> Iterator[LibvirtLab]:
    """One private libvirtd for the whole session; every test uses a fleet and a family of its own."""
    from tests.contract import platforms_libvirt  # its library has to be built: the other tests do without

    with platforms_libvirt.opened() as lab:
        yield lab


@pytest.fixture
def libvirt_lab(libvirt_session: LibvirtLab) -> Iterator[LibvirtLab]:
    """The libvirt lab without machines."""
    yield libvirt_session
    libvirt_session.sweep()


@pytest.fixture(
    params=[
        "fake",
        "ec2",
        pytest.param("docker", marks=real),
        pytest.param("vmware", marks=pytest.mark.vmware),
        pytest.param("libvirt", marks=pytest.mark.libvirt),
    ]
)
def platform_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> FakeLab | DockerLab | Ec2Lab | VmwareLab | LibvirtLab:
    """The surroundings of one platform."""
    if request.param != "fake":
        lab: DockerLab | Ec2Lab | VmwareLab | LibvirtLab = request.getfixturevalue(f"{request.param}_lab")
        return lab
    return FakeLab(tmp_path_factory.mktemp("fake"))


@pytest.fixture(
    params=[
        "fake",
        "ec2",
        pytest.param("vmware", marks=pytest.mark.vmware),
        pytest.param("libvirt", marks=pytest.mark.libvirt),
    ]
)
def volumes_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> FakeLab | Ec2Lab | VmwareLab | LibvirtLab:
    """The surroundings of one platform with data volumes."""
    if request.param != "fake":
        lab: Ec2Lab | VmwareLab | LibvirtLab = request.getfixturevalue(f"{request.param}_lab")
        return lab
    return FakeLab(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def haproxy_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaproxyLab]:
    """A HAProxy of this test's own."""
    lab = HaproxyLab(tmp_path_factory.mktemp("haproxy"))
    with lab.running():
        yield lab


@pytest.fixture
def elbv2_lab(ec2_lab: Ec2Lab) -> Elbv2Lab:
    """A target group of this test's own."""
    return Elbv2Lab(ec2_lab)


@pytest.fixture(params=["fake", "elbv2", pytest.param("haproxy", marks=real)])
def traffic_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> FakeBalancerLab | HaproxyLab | Elbv2Lab:
    """The surroundings of one balancer that sends traffic."""
    if request.param == "elbv2":
        elbv2: Elbv2Lab = request.getfixturevalue("elbv2_lab")
        return elbv2
    if request.param == "haproxy":
        lab: HaproxyLab = request.getfixturevalue("haproxy_lab")
        return lab
    return FakeBalancerLab(tmp_path_factory.mktemp("fake"))


@pytest.fixture(params=["none", "fake", "elbv2", "kubernetes_node", pytest.param("haproxy", marks=real)])
def balancer_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> NoneLab | FakeBalancerLab | HaproxyLab | Elbv2Lab | NodesLab:
    """The surroundings of any balancer."""
    if request.param == "kubernetes_node":
        nodes: NodesLab = request.getfixturevalue("nodes_lab")
        return nodes
    if request.param == "elbv2":
        elbv2: Elbv2Lab = request.getfixturevalue("elbv2_lab")
        return elbv2
    if request.param == "haproxy":
        lab: HaproxyLab = request.getfixturevalue("haproxy_lab")
        return lab
    return NoneLab() if request.param == "none" else FakeBalancerLab(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Real machines and a registry, one set for each module of gates."""
    with a_world(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A Prometheus that has watched a shop."""
    with a_shop(tmp_path_factory.mktemp("prometheus")) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts HTTP services that end with the test."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Machines of this module's own, for configurators."""
    folder = tmp_path_factory.mktemp("machines")
    machines = Machines(make_image(folder), make_key(folder))
    yield machines
    machines.close()


@pytest.fixture(scope="module")
def born(machines: Machines) -> Instance:
    """One of them, running."""
    return machines.start()


@pytest.fixture(scope="session")
def kubernetes_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to a real API server without controllers: tests write the status that these would write."""
    from tests.contract.kubernetes_real import opened as opened_kubernetes

    with opened_kubernetes(tmp_path_factory.mktemp("kubernetes")) as connection:
        yield connection


def _kubernetes(request: pytest.FixtureRequest) -> Iterator[KubernetesLab]:
    if request.param == "kubernetes":
        with serving_kubernetes() as server:
            yield KubernetesLab(
                {"admin": leading_to(server.url, "admin"), "phoenix": leading_to(server.url, "phoenix")}
            )
        return
    real_one = request.getfixturevalue("kubernetes_api")
    yield KubernetesLab({"admin": real_one, "phoenix": replace(real_one, id="phoenix")})


@pytest.fixture(params=["kubernetes", pytest.param("kubernetes-real", marks=pytest.mark.kubernetes)])
def kubernetes_lab(request: pytest.FixtureRequest) -> Iterator[KubernetesLab]:
    """A namespace of a cluster, on the stand-in and on a real API server."""
    yield from _kubernetes(request)


@pytest.fixture(params=["fake", "kubernetes", pytest.param("kubernetes-real", marks=pytest.mark.kubernetes)])
def workload_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeWorkloadLab | KubernetesLab]:
    """The surroundings of one driver of workloads."""
    if request.param == "fake":
        yield FakeWorkloadLab(tmp_path_factory.mktemp("workloads"))
    else:
        yield from _kubernetes(request)


@pytest.fixture
def nodes_lab() -> Iterator[NodesLab]:
    """A cluster on the stand-in, whose nodes are a fleet's instances."""
    with serving_kubernetes() as server:
        yield NodesLab({name: leading_to(server.url, name) for name in ("admin", "phoenix")})
