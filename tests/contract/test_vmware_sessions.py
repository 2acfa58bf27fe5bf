"""The VMware platform logs in once, again when that has expired, and only to a vCenter whose certificate it knows."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab import vmware as lab_vmware
from lab.places import Places
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidConfig,
    NotFound,
    Unavailable,
)
from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.platforms import _vmware_session as sessions
from phoenix_fleet.platforms import vmware as driver
from tests.contract import machinery
from tests.contract.platforms_vmware import VmwareLab, thumbprint

pytestmark = pytest.mark.vmware


@pytest.fixture
def lab(vmware_lab: VmwareLab) -> VmwareLab:
    return vmware_lab


@pytest.fixture
def intent(lab: VmwareLab) -> LaunchIntent:
    return lab.intent()


@pytest.fixture
def fleet(intent: LaunchIntent) -> str:
    return intent.fleet


def reached_by(lab: VmwareLab, **change: Any) -> driver.Driver:
    """A driver with another way to vCenter, and so with a login of its own."""
    way = dataclasses.replace(lab.connection, **change)
    return driver.Driver(driver.Settings(**lab.settings), machinery.KnownConnections(way))


@pytest.fixture
def fresh(lab: VmwareLab) -> Iterator[None]:
    """No login is left from before, and none is left behind."""
    sessions.close_all()
    lab.proxy.calls.clear()
    yield
    sessions.close_all()


@pytest.mark.usefixtures("fresh")
class TestSessions:
    def test_one_login_serves_the_process(self, lab: VmwareLab, fleet: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: lab.again().list_instances(fleet), range(8)))

        assert lab.proxy.calls.count("Login") == 1

    def test_an_expired_one_is_made_again_once(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)
        lab.end_sessions()

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: lab.again().get_instance(instance.id), range(8)))

        assert {each.id for each in found} == {instance.id}
        assert lab.proxy.calls.count("Login") == 2

    def test_one_that_expires_within_a_launch_gives_one_machine(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.proxy.make("CreatePropertyCollector", fault="NotAuthenticated")

        instance = lab.platform.launch(intent)

        assert (lab.count(intent.token), instance.name) == (1, intent.name)

    def test_a_wrong_password_is_said_without_showing_it(self, lab: VmwareLab, fleet: str) -> None:
        with pytest.raises(AuthenticationFailed, match="login and password") as caught:
            reached_by(lab, password="wr0ng-one").list_instances(fleet)

        assert "wr0ng-one" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"

    def test_a_session_that_ends_at_once_is_no_endless_loop(self, lab: VmwareLab, fleet: str) -> None:
        lab.proxy.make("CreateContainerView", fault="NotAuthenticated", times=99)

        with pytest.raises(AuthenticationFailed):
            lab.platform.list_instances(fleet)

        assert lab.proxy.calls.count("Login") == 2


@pytest.mark.usefixtures("fresh")
class TestTrust:
    def test_a_certificate_of_nobody_known_is_refused_before_the_login(self, lab: VmwareLab, fleet: str) -> None:
        with pytest.raises(AuthenticationFailed, match="not trusted"):
            reached_by(lab, extra={}).list_instances(fleet)

        assert lab.proxy.calls == []

    def test_a_certificate_for_another_name_is_refused(
        self, lab: VmwareLab, fleet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lab_vmware, "HOST", "192.0.2.1")
        lab_vmware.certify(tmp_path)
        lab.proxy.show(tmp_path)
        try:
            with pytest.raises(AuthenticationFailed, match="not trusted"):
                reached_by(lab, extra={"ca_cert": str(tmp_path / "ca.pem")}).list_instances(fleet)
        finally:
            lab.proxy.show(lab.folder)

    def test_a_pinned_one_is_enough(self, lab: VmwareLab, fleet: str) -> None:
        pin = thumbprint(lab.folder).upper()
        colons = ":".join(re.findall("..", pin))

        assert reached_by(lab, extra={"thumbprint": colons}).list_instances(fleet) == []

    def test_another_than_the_pinned_one_is_refused(self, lab: VmwareLab, fleet: str) -> None:
        pin = {"thumbprint": "0" * 64, "ca_cert": str(lab.folder / "ca.pem")}

        with pytest.raises(AuthenticationFailed, match="pinned"):
            reached_by(lab, extra=pin).list_instances(fleet)

        assert lab.proxy.calls == []

    def test_later_connections_are_looked_at_too(self, lab: VmwareLab, fleet: str, tmp_path: Path) -> None:
        platform = reached_by(lab, extra={"thumbprint": thumbprint(lab.folder)})
        platform.list_instances(fleet)
        lab_vmware.certify(tmp_path)
        lab.proxy.show(tmp_path)
        lab.proxy.make("CreateContainerView", lose_reply=True)  # so that it has to connect anew
        try:
            with pytest.raises(Unavailable):
                platform.list_instances(fleet)
            with pytest.raises(AuthenticationFailed, match="pinned"):
                platform.list_instances(fleet)
        finally:
            lab.proxy.show(lab.folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"extra": {"thumbprint": "ab:cd"}}, "thumbprint"),
            ({"extra": {"ca_cert": "/nowhere/ca.pem"}}, "/nowhere/ca.pem"),
            ({"host": ""}, "host"),
            ({"login": ""}, "login"),
            ({"password": ""}, "password"),
        ],
    )
    def test_a_connection_that_lacks_something_is_a_mistake(
        self, lab: VmwareLab, fleet: str, change: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(InvalidConfig, match=said):
            reached_by(lab, **change).list_instances(fleet)

    def test_nobody_there_is_unavailable(self, lab: VmwareLab, fleet: str) -> None:
        with pytest.raises(Unavailable, match="does not answer"):
            reached_by(lab, port=machinery.free_port()).list_instances(fleet)


def test_the_lab_brings_its_vcenter_up_once_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_vmware, "PORT", machinery.free_port())
    places = Places(tmp_path / "home", tmp_path / "run", Places.find().cache)
    vcenter = lab_vmware.Vcenter(places)
    way = vcenter.up()
    try:
        assert lab_vmware.Vcenter(places).up() == way
        pid = json.loads((places.pids / "vcsim.json").read_text())["pid"]
        assert way.password not in Path(f"/proc/{pid}/cmdline").read_text()
        found = driver.Driver(
            driver.Settings(datacenter="DC0", cluster="DC0_C0", datastore="LocalDS_0"), machinery.KnownConnections(way)
        )
        assert list(found.list_instances("web")) == []
        sessions.close_all()
    finally:
        vcenter.down()

    assert not vcenter.running()
    with pytest.raises(NotFound, match="not up"):
        vcenter.connection()


def test_the_password_is_in_no_repr(lab: VmwareLab) -> None:
    session = sessions.session(lab.connection)

    assert lab.connection.password not in f"{session!r} {vars(session)!r} {lab.connection!r}"


def test_a_connection_elsewhere_has_a_login_of_its_own() -> None:
    one = Connection("vmware", host="vc.example", login="a", password="b")

    assert sessions.session(one) is sessions.session(dataclasses.replace(one))
    assert sessions.session(one) is not sessions.session(dataclasses.replace(one, password="c"))
