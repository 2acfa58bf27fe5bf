"""What only the VMware platform can get wrong: sessions, trust, names that are taken, places, rules, pages."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lab import vmware as lab_vmware
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    NotOurs,
    PhoenixError,
    Throttled,
    Unavailable,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import InstanceState, LaunchIntent
from phoenix_fleet.platforms import _vmware_session as sessions
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms import vmware as driver
from tests.contract import machinery
from tests.contract.platforms_vmware import VmwareLab, thumbprint

pytestmark = pytest.mark.vmware

CHANGES = ("CloneVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task", "ReconfigVM_Task", "SetCustomValue")


HIDE_MARKS = (b"<pathSet>config.extraConfig<", b"<pathSet>config.annotation<")
"""What a question for a machine's marks becomes, so that they are not told."""


@pytest.fixture
def lab(vmware_lab: VmwareLab) -> VmwareLab:
    return vmware_lab


@pytest.fixture
def fleet() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def intent(lab: VmwareLab, fleet: str) -> LaunchIntent:
    return LaunchIntent(fleet, f"{fleet}-01", "rollout-1", 1, "lab", "2026.11-1", lab.standard, settings=lab.settings)


def with_settings(lab: VmwareLab, intent: LaunchIntent, **settings: Any) -> LaunchIntent:
    return dataclasses.replace(intent, settings={**lab.settings, **settings})


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


CALLS: dict[str, Callable[[VmwareLab, LaunchIntent, str], Any]] = {
    "launch": lambda lab, intent, _: lab.platform.launch(dataclasses.replace(intent, attempt=2)),
    "get_instance": lambda lab, _, instance_id: lab.platform.get_instance(instance_id),
    "list_instances": lambda lab, intent, _: lab.platform.list_instances(intent.fleet),
    "terminate": lambda lab, _, instance_id: lab.platform.terminate(instance_id),
    "list_images": lambda lab, intent, _: lab.platform.list_images(intent.family),
    "tag_image": lambda lab, intent, _: lab.platform.tag_image(intent.artefact, Rung.TESTED),
    "delete_image": lambda lab, intent, _: lab.platform.delete_image(intent.artefact),
}


class TestTrouble:
    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
    @pytest.mark.parametrize(
        ("trouble", "kind"),
        [
            ({"status": 503}, Throttled),
            ({"status": 429}, Throttled),
            ({"status": 502}, Unavailable),
            ({"lose_reply": True}, Unavailable),
            ({"fault": "RuntimeFault"}, Unavailable),
            ({"fault": "NoPermission", "inside": "<privilegeId>System.View</privilegeId>"}, AuthenticationFailed),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_is_told_by_its_kind(
        self, lab: VmwareLab, intent: LaunchIntent, call: Any, trouble: dict[str, Any], kind: type[PhoenixError]
    ) -> None:
        instance = lab.platform.launch(intent)
        lab.proxy.make("*", **trouble)

        with pytest.raises(kind) as caught:
            call(lab, intent, instance.id)

        assert type(caught.value) is kind
        assert lab.is_alive(instance.id)
        assert len(lab.machines()) == len({seen["name"] for _, seen in lab.machines()})

    def test_a_lost_reply_to_a_clone_is_no_second_machine(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.proxy.make("CloneVM_Task", lose_reply=True)
        with pytest.raises(Unavailable):
            lab.platform.launch(intent)

        instance = lab.platform.launch(intent)

        assert lab.count(intent.token) == 1
        assert lab.platform.get_instance(instance.id).state is InstanceState.RUNNING

    def test_a_machine_that_is_not_shown_yet_is_not_made_twice(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        first = lab.platform.launch(intent)
        lab.proxy.make("FindByUuid", empty=True)

        second = lab.platform.launch(intent)

        assert "CloneVM_Task" in lab.proxy.calls
        assert (second.id, lab.count(intent.token)) == (first.id, 1)

    def test_one_whose_disks_are_still_copied_is_starting(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.proxy.make("FindByUuid", empty=True, times=2)

        accepted = lab.platform.launch(intent)

        assert (accepted.state, accepted.name, accepted.token) == (InstanceState.STARTING, intent.name, intent.token)
        assert lab.platform.get_instance(accepted.id).name == intent.name
        lab.proxy.calls.clear()
        lab.proxy.make("RetrievePropertiesEx", rewrite=HIDE_MARKS)
        assert lab.platform.launch(intent).state is InstanceState.STARTING
        assert "PowerOnVM_Task" not in lab.proxy.calls

    def test_a_name_of_one_that_nobody_can_read_is_no_success(
        self, lab: VmwareLab, intent: LaunchIntent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab.foreign(intent.name, {})
        monkeypatch.setattr(driver, "_READABLE_WITHIN", 1)
        # Asked together with the power only where a machine is looked at, not a template.
        told = b"<pathSet>config.extraConfig</pathSet><pathSet>runtime.powerState<"
        hidden = b"<pathSet>config.annotation</pathSet><pathSet>runtime.powerState<"
        lab.proxy.make("RetrievePropertiesEx", rewrite=(told, hidden), times=99)

        with pytest.raises(Unavailable, match="being made"):
            lab.platform.launch(intent)

    def test_not_found_is_not_gone(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)
        lab.proxy.make("FindByUuid", empty=True, times=2)

        for ask in (lab.platform.get_instance, lab.platform.terminate):
            with pytest.raises(NotFound):
                ask(instance.id)

        assert lab.is_alive(instance.id)
        assert lab.platform.get_instance(instance.id).id == instance.id

    def test_every_page_is_read(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        launched = {lab.platform.launch(dataclasses.replace(intent, attempt=number)).id for number in range(1, 6)}
        lab.proxy.calls.clear()
        lab.proxy.page = 2

        assert {each.id for each in lab.platform.list_instances(intent.fleet)} == launched
        assert lab.proxy.calls.count("ContinueRetrievePropertiesEx") >= 2

    def test_a_page_that_never_comes_is_an_error(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.platform.launch(intent)
        lab.proxy.page, lab.proxy.breaks_off = 2, True

        with pytest.raises(Unavailable):
            lab.platform.list_instances(intent.fleet)

    def test_marks_that_cannot_be_read_are_not_none(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)

        asked: list[Callable[[], Any]] = [
            lambda: lab.platform.list_instances(intent.fleet),
            lambda: lab.platform.get_instance(instance.id),
            lambda: lab.platform.terminate(instance.id),
            lambda: lab.platform.delete_image(intent.artefact),
        ]
        for ask in asked:
            lab.proxy.make("RetrievePropertiesEx", rewrite=HIDE_MARKS)
            with pytest.raises(Unavailable, match="marks"):
                ask()
        assert lab.is_alive(instance.id)

    def test_a_missing_privilege_is_named(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        wanted = "VirtualMachine.Provisioning.DeployTemplate"
        lab.proxy.make("CloneVM_Task", fault="NoPermission", inside=f"<privilegeId>{wanted}</privilegeId>")

        with pytest.raises(AuthenticationFailed, match=wanted):
            lab.platform.launch(intent)

    @pytest.mark.parametrize("fault", ["InsufficientResourcesFault", "NoDiskSpace", "InsufficientMemoryResourcesFault"])
    def test_no_room_is_told_and_leaves_nothing(self, lab: VmwareLab, intent: LaunchIntent, fault: str) -> None:
        lab.proxy.make("CloneVM_Task", fault=fault)

        with pytest.raises(CapacityExhausted):
            lab.platform.launch(intent)

        assert lab.count(intent.token) == 0

    def test_a_clone_that_cannot_be_powered_on_is_removed(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.crash_in_launch(intent)
        lab.proxy.make("PowerOnVM_Task", fault="InsufficientResourcesFault")

        with pytest.raises(CapacityExhausted):
            lab.platform.launch(intent)

        assert lab.count(intent.token) == 0

    def test_a_machine_that_another_powers_on_is_left_to_it(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.crash_in_launch(intent)
        lab.proxy.make("PowerOnVM_Task", fault="TaskInProgress", inside='<task type="Task">task-1</task>')

        assert lab.platform.launch(intent).state is InstanceState.STARTING
        assert lab.count(intent.token) == 1


class TestTerminate:
    def test_half_way_is_stopping_and_told_again(
        self, lab: VmwareLab, intent: LaunchIntent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        instance = lab.platform.launch(intent)
        lab.proxy.make("Destroy_Task", status=503)
        with pytest.raises(Throttled):
            lab.platform.terminate(instance.id)

        assert [each.state for each in lab.platform.list_instances(intent.fleet)] == [InstanceState.STOPPING]
        later = datetime.now(UTC) + timedelta(minutes=6)
        monkeypatch.setattr(driver, "_now", lambda: later)
        seen = lab.platform.get_instance(instance.id)
        assert (seen.state, bool(seen.message)) == (InstanceState.FAILED, True)

        lab.platform.terminate(instance.id)
        assert lab.count(intent.token) == 0

    def test_another_task_on_the_machine_is_no_failure(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)
        lab.proxy.make("PowerOffVM_Task", fault="TaskInProgress", inside='<task type="Task">task-1</task>')

        lab.platform.terminate(instance.id)

        assert lab.platform.get_instance(instance.id).state is InstanceState.STOPPING

    def test_one_that_went_off_by_itself_is_removed(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)
        off = "<requestedState>poweredOff</requestedState><existingState>poweredOff</existingState>"
        lab.proxy.make("PowerOffVM_Task", fault="InvalidPowerState", inside=off)
        threading.Timer(0, lab.break_down, [instance.id]).start()
        lab.proxy.make("ReconfigVM_Task", lag=0.5)  # it goes off after it was looked at

        lab.platform.terminate(instance.id)

        assert lab.count(intent.token) == 0

    def test_one_that_cannot_be_marked_goes_all_the_same(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)
        lab.proxy.make("ReconfigVM_Task", fault="InvalidState")

        lab.platform.terminate(instance.id)

        assert lab.count(intent.token) == 0

    def test_a_host_in_maintenance_is_told_of(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)
        lab.proxy.make("PowerOffVM_Task", fault="InvalidHostState")

        with pytest.raises(Unavailable, match="InvalidHostState"):
            lab.platform.terminate(instance.id)

    def test_what_is_not_ours_is_asked_nothing(self, lab: VmwareLab, fleet: str) -> None:
        foreign = lab.foreign(f"{fleet}-01-0123abcd", {"phoenix.owner": "somebody"})
        lab.proxy.calls.clear()

        with pytest.raises(NotOurs):
            lab.platform.terminate(foreign)

        assert not set(CHANGES) & set(lab.proxy.calls)

    def test_a_clone_by_hand_of_a_machine_of_ours_is_not_ours(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        instance = lab.platform.launch(intent)
        copy = lab.foreign(f"{intent.name}-copy", lab.marks(instance.id))

        assert [each.id for each in lab.platform.list_instances(intent.fleet)] == [instance.id]
        with pytest.raises(NotOurs):
            lab.platform.terminate(copy)
        assert lab.is_alive(copy)


class TestPlaces:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"datacenter": "DC9"}, "datacenter: .*'DC9'.*DC0"),
            ({"cluster": "C9"}, "cluster: .*'C9'.*DC0_C0"),
            ({"cluster": "", "host": "H9"}, "host: .*'H9'.*DC0_H0"),
            ({"datastore": "ds9"}, "datastore: .*'ds9'.*LocalDS_0"),
            ({"folder": "a/b"}, "folder: .*'a' in 'a/b'"),
            ({"resource_pool": "gold"}, "resource_pool: .*'gold'.*DC0_C0_RP1"),
            ({"network": "dmz"}, "network: .*'dmz'.*VM Network"),
        ],
    )
    def test_what_is_not_there_is_named_with_its_field(
        self, lab: VmwareLab, intent: LaunchIntent, change: dict[str, str], said: str
    ) -> None:
        lab.proxy.calls.clear()

        with pytest.raises(InvalidSpec, match=said):
            lab.platform.launch(with_settings(lab, intent, **change))

        assert "CloneVM_Task" not in lab.proxy.calls

    def test_a_machine_stands_where_the_file_says(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        from pyVmomi import vim

        center = lab.found(vim.Datacenter, "DC0")
        folder = center.vmFolder.CreateFolder(f"web-{intent.fleet}")
        wanted = {"folder": folder.name, "resource_pool": "DC0_C0_RP1", "datastore": "LocalDS_1"}
        instance = lab.platform.launch(with_settings(lab, intent, **wanted, network="DC0_DVPG0"))

        machine = lab.machine(instance.id)
        assert (machine.parent, machine.resourcePool.name) == (folder, "DC0_C0_RP1")
        assert "LocalDS_1" in machine.config.files.vmPathName
        assert [network.name for network in machine.network] == ["DC0_DVPG0"]
        assert instance.host == machine.runtime.host.name
        assert [each.id for each in lab.platform.list_instances(intent.fleet)] == [instance.id]

    def test_a_single_host_is_asked_for(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        from pyVmomi import vim

        lab.platform.launch(with_settings(lab, intent, cluster="", host="DC0_H0"))

        asked = lab.proxy.asked["CloneVM_Task"].decode()
        assert f'<host type="HostSystem">{lab.found(vim.HostSystem, "DC0_H0")._moId}</host>' in asked

    def test_a_linked_clone_hangs_on_the_snapshot(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.platform.launch(with_settings(lab, intent, linked=True))

        asked = lab.proxy.asked["CloneVM_Task"].decode()
        assert "<diskMoveType>createNewChildDiskBacking</diskMoveType>" in asked
        assert "<snapshot type=" in asked

    def test_a_full_clone_does_not(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.platform.launch(intent)

        assert "<snapshot" not in lab.proxy.asked["CloneVM_Task"].decode()

    def test_without_a_snapshot_nothing_is_linked(self, lab: VmwareLab, intent: LaunchIntent, fleet: str) -> None:
        artefact = lab.artefact(fleet, "2026.11-1", snapshot=False)

        with pytest.raises(InvalidSpec, match="no snapshot"):
            lab.platform.launch(dataclasses.replace(with_settings(lab, intent, linked=True), artefact=artefact))

    def test_a_template_that_is_not_ours_is_not_launched(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        artefact = lab.artefact(intent.fleet, "2026.11-1", ours=False)

        with pytest.raises(NotOurs):
            lab.platform.launch(dataclasses.replace(intent, artefact=artefact))

        assert lab.count(intent.token) == 0

    def test_a_zone_is_no_place_of_vsphere(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        with pytest.raises(CapacityExhausted, match="zone-b"):
            lab.platform.launch(dataclasses.replace(intent, zone="zone-b"))

    @pytest.mark.parametrize(
        "change",
        [{"host": "DC0_H0"}, {"cluster": ""}, {"cluster": "", "host": "h", "anti_affinity": True}, {"vcpu": 2}],
    )
    def test_a_file_that_cannot_be_meant_is_refused(self, lab: VmwareLab, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            driver.Settings(**{**lab.settings, **change})


class TestGuest:
    def test_is_told_its_name_and_to_tell_its_keys(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        own = lab.marks(lab.platform.launch(intent).id)

        metadata = json.loads(base64.b64decode(own["guestinfo.metadata"]))
        assert metadata == {"instance-id": intent.token, "local-hostname": intent.name}
        told = json.loads(base64.b64decode(own["guestinfo.userdata"]).decode().partition("\n")[2])
        (script,) = told["write_files"]
        assert script["path"].startswith("/var/lib/cloud/scripts/per-boot/")
        assert f"info-set {view.HOST_KEYS} " in script["content"]
        assert "users" not in told

    @pytest.mark.parametrize(
        ("said", "keys"),
        [
            ("", ()),
            ("ssh-ed25519 AAAA", ()),
            (f"ssh-ed25519 {'A' * 40},ssh-rsa {'B' * 40}=,", (f"ssh-ed25519 {'A' * 40}", f"ssh-rsa {'B' * 40}=")),
            (f"$(reboot) ssh-ed25519 {'A' * 40}\nroot@x", (f"ssh-ed25519 {'A' * 40}",)),
            ("x" * 100_000, ()),
        ],
    )
    def test_only_keys_are_taken_from_what_it_tells(self, said: str, keys: tuple[str, ...]) -> None:
        assert view.host_keys({view.HOST_KEYS: said}) == keys


class TestAntiAffinity:
    @pytest.fixture
    def cluster(self, lab: VmwareLab) -> Any:
        from pyVmomi import vim

        return lab.found(vim.ClusterComputeResource, "DC0_C0")

    def rule(self, cluster: Any, fleet: str) -> Any:
        return next((rule for rule in cluster.configurationEx.rule if rule.name == f"phoenix-{fleet}"), None)

    def test_a_rule_keeps_the_fleet_apart(self, lab: VmwareLab, intent: LaunchIntent, cluster: Any) -> None:
        apart = with_settings(lab, intent, anti_affinity=True)
        first = lab.platform.launch(apart)
        assert self.rule(cluster, intent.fleet) is None

        others = [lab.platform.launch(dataclasses.replace(apart, attempt=attempt)) for attempt in (2, 3)]

        rule = self.rule(cluster, intent.fleet)
        assert rule.enabled
        assert {machine.config.instanceUuid for machine in rule.vm} == {first.id, *(each.id for each in others)}

    def test_no_rule_without_the_wish(self, lab: VmwareLab, intent: LaunchIntent, cluster: Any) -> None:
        for attempt in (1, 2):
            lab.platform.launch(dataclasses.replace(intent, attempt=attempt))

        assert self.rule(cluster, intent.fleet) is None

    def test_a_rule_of_another_kind_is_left_alone(self, lab: VmwareLab, intent: LaunchIntent, cluster: Any) -> None:
        from pyVmomi import vim

        machines = [ref for ref, _ in lab.machines()[:2]]
        theirs = vim.cluster.AffinityRuleSpec(name=f"phoenix-{intent.fleet}", enabled=True, vm=machines)
        change = vim.cluster.ConfigSpecEx(rulesSpec=[vim.cluster.RuleSpec(operation="add", info=theirs)])
        cluster.ReconfigureComputeResource_Task(change, True)
        apart = with_settings(lab, intent, anti_affinity=True)
        lab.platform.launch(apart)

        with pytest.raises(InvalidSpec, match="not ours"):
            lab.platform.launch(dataclasses.replace(apart, attempt=2))

        assert list(self.rule(cluster, intent.fleet).vm) == machines

    def test_launches_at_once_are_all_in_the_rule(self, lab: VmwareLab, intent: LaunchIntent, cluster: Any) -> None:
        apart = with_settings(lab, intent, anti_affinity=True)

        def one(attempt: int) -> str:
            return lab.again().launch(dataclasses.replace(apart, attempt=attempt)).id

        with ThreadPoolExecutor(3) as pool:
            launched = set(pool.map(one, (1, 2, 3)))

        assert {machine.config.instanceUuid for machine in self.rule(cluster, intent.fleet).vm} == launched


NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


class TestStates:
    @pytest.mark.parametrize(
        ("power", "connection", "launched", "terminating", "powered", "expected"),
        [
            ("poweredOn", "connected", 0, None, "", InstanceState.RUNNING),
            ("poweredOn", "disconnected", 0, None, "", InstanceState.RUNNING),
            ("poweredOn", "inaccessible", 0, None, "", InstanceState.FAILED),
            ("poweredOn", "orphaned", 0, None, "", InstanceState.FAILED),
            ("suspended", "connected", 0, None, "", InstanceState.FAILED),
            ("poweredOff", "connected", 10, None, "", InstanceState.STARTING),
            ("poweredOff", "connected", 61, None, "", InstanceState.FAILED),
            ("poweredOff", "connected", 10, None, "powered off by somebody", InstanceState.FAILED),
            ("poweredOn", "connected", 60, 1, "", InstanceState.STOPPING),
            ("poweredOff", "connected", 60, 4, "powered off", InstanceState.STOPPING),
            ("poweredOn", "connected", 60, 6, "", InstanceState.RUNNING),
        ],
    )
    def test_are_ours(
        self,
        power: str,
        connection: str,
        launched: int,
        terminating: int | None,
        powered: str,
        expected: InstanceState,
    ) -> None:
        from types import SimpleNamespace

        def ago(minutes: int) -> str:
            return (NOW - timedelta(minutes=minutes)).isoformat()

        options = [SimpleNamespace(key="phoenix.launched", value=ago(launched))]
        if terminating is not None:
            options.append(SimpleNamespace(key="phoenix.terminating", value=ago(terminating)))
        seen = {
            "runtime.powerState": power,
            "runtime.connectionState": connection,
            "config.extraConfig": options,
        }

        assert view.state(seen, powered, NOW) is expected


def test_the_password_is_in_no_repr(lab: VmwareLab) -> None:
    session = sessions.session(lab.connection)

    assert lab.connection.password not in f"{session!r} {vars(session)!r} {lab.connection!r}"


def test_a_connection_elsewhere_has_a_login_of_its_own() -> None:
    one = Connection("vmware", host="vc.example", login="a", password="b")

    assert sessions.session(one) is sessions.session(dataclasses.replace(one))
    assert sessions.session(one) is not sessions.session(dataclasses.replace(one, password="c"))


def test_the_documented_methods_are_those_that_are_called(lab: VmwareLab, intent: LaunchIntent) -> None:
    sessions.close_all()
    lab.proxy.calls.clear()
    lab.proxy.page = 3
    everything = with_settings(lab, intent, anti_affinity=True, network="DC0_DVPG0")
    lab.crash_in_launch(everything)
    instances = [lab.platform.launch(dataclasses.replace(everything, attempt=attempt)) for attempt in (1, 2)]
    lab.platform.get_instance(instances[0].id)
    lab.platform.list_instances(intent.fleet)
    for instance in instances:
        lab.platform.terminate(instance.id)
    image = lab.artefact(intent.fleet, "2026.11-1")
    lab.remove_status_field()
    lab.platform.list_images(intent.fleet)
    lab.platform.tag_image(image, Rung.TESTED)
    lab.platform.delete_image(image)
    sessions.close_all()

    page = Path(__file__).parents[2] / "docs" / "platforms" / "vmware.md"
    table = page.read_text().partition("## Privileges")[2].partition("## ")[0]
    listed = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert set(lab.proxy.calls) - {""} == listed
