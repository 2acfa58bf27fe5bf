"""The VMware platform puts machines where the fleet file says, tells their guests, and keeps them apart."""

from __future__ import annotations

import base64
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError

from phoenix_fleet.domain.errors import (
    CapacityExhausted,
    InvalidSpec,
    NotOurs,
)
from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms import vmware as driver
from tests.contract.platforms_vmware import VmwareLab

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
            lab.platform.launch(lab.asking(intent, **change))

        assert "CloneVM_Task" not in lab.proxy.calls

    def test_a_machine_stands_where_the_file_says(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        from pyVmomi import vim

        center = lab.found(vim.Datacenter, "DC0")
        folder = center.vmFolder.CreateFolder(f"web-{intent.fleet}")
        wanted = {"folder": folder.name, "resource_pool": "DC0_C0_RP1", "datastore": "LocalDS_1"}
        instance = lab.platform.launch(lab.asking(intent, **wanted, network="DC0_DVPG0"))

        machine = lab.machine(instance.id)
        assert (machine.parent, machine.resourcePool.name) == (folder, "DC0_C0_RP1")
        assert "LocalDS_1" in machine.config.files.vmPathName
        assert [network.name for network in machine.network] == ["DC0_DVPG0"]
        assert instance.host == machine.runtime.host.name
        assert [each.id for each in lab.platform.list_instances(intent.fleet)] == [instance.id]

    def test_a_single_host_is_asked_for(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        from pyVmomi import vim

        lab.platform.launch(lab.asking(intent, cluster="", host="DC0_H0"))

        asked = lab.proxy.asked["CloneVM_Task"].decode()
        assert f'<host type="HostSystem">{lab.found(vim.HostSystem, "DC0_H0")._moId}</host>' in asked

    def test_a_linked_clone_hangs_on_the_snapshot(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.platform.launch(lab.asking(intent, linked=True))

        asked = lab.proxy.asked["CloneVM_Task"].decode()
        assert "<diskMoveType>createNewChildDiskBacking</diskMoveType>" in asked
        assert "<snapshot type=" in asked

    def test_a_full_clone_does_not(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        lab.platform.launch(intent)

        assert "<snapshot" not in lab.proxy.asked["CloneVM_Task"].decode()

    def test_without_a_snapshot_nothing_is_linked(self, lab: VmwareLab, intent: LaunchIntent, fleet: str) -> None:
        artefact = lab.artefact(fleet, "2026.11-1", snapshot=False)

        with pytest.raises(InvalidSpec, match="no snapshot"):
            lab.platform.launch(dataclasses.replace(lab.asking(intent, linked=True), artefact=artefact))

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
        apart = lab.asking(intent, anti_affinity=True)
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
        apart = lab.asking(intent, anti_affinity=True)
        lab.platform.launch(apart)

        with pytest.raises(InvalidSpec, match="not ours"):
            lab.platform.launch(dataclasses.replace(apart, attempt=2))

        assert list(self.rule(cluster, intent.fleet).vm) == machines

    def test_what_another_writes_meanwhile_is_not_lost(
        self, lab: VmwareLab, intent: LaunchIntent, cluster: Any
    ) -> None:
        from pyVmomi import vim

        apart = lab.asking(intent, anti_affinity=True)
        lab.platform.launch(apart)

        def another() -> None:
            """Another process has made the rule since it was looked for, with machines of its own view."""
            machines = [ref for ref, _ in lab.machines()[:2]]
            rule = vim.cluster.AntiAffinityRuleSpec(name=f"phoenix-{intent.fleet}", enabled=True, vm=machines)
            change = vim.cluster.ConfigSpecEx(rulesSpec=[vim.cluster.RuleSpec(operation="add", info=rule)])
            cluster.ReconfigureComputeResource_Task(change, True)

        lab.proxy.make("ReconfigureComputeResource_Task", before=[another])
        second = lab.platform.launch(dataclasses.replace(apart, attempt=2))

        assert second.id in {machine.config.instanceUuid for machine in self.rule(cluster, intent.fleet).vm}
        assert len(self.rule(cluster, intent.fleet).vm) == 2

    def test_launches_at_once_are_all_in_the_rule(self, lab: VmwareLab, intent: LaunchIntent, cluster: Any) -> None:
        apart = lab.asking(intent, anti_affinity=True)

        def one(attempt: int) -> str:
            return lab.again().launch(dataclasses.replace(apart, attempt=attempt)).id

        with ThreadPoolExecutor(3) as pool:
            launched = set(pool.map(one, (1, 2, 3)))

        assert {machine.config.instanceUuid for machine in self.rule(cluster, intent.fleet).vm} == launched
