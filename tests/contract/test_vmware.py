"""What only the VMware platform can get wrong with machines: names that are taken, pages, faults, ends half-way."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InvalidSpec,
    NotFound,
    NotOurs,
    PhoenixError,
    Throttled,
    Unavailable,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Bounds, InstanceState, LaunchIntent
from phoenix_fleet.platforms import _vmware_session as sessions
from phoenix_fleet.platforms import vmware as driver
from tests.contract import machinery
from tests.contract.platforms_vmware import VmwareLab, thumbprint

pytestmark = pytest.mark.vmware

CHANGES = ("CloneVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task", "ReconfigVM_Task", "setCustomValue")
HIDE_MARKS = (b"<pathSet>config.extraConfig<", b"<pathSet>config.annotation<")
"""What a question for a machine's marks becomes, so that they are not told."""


@pytest.fixture
def lab(vmware_lab: VmwareLab) -> VmwareLab:
    return vmware_lab


@pytest.fixture
def intent(lab: VmwareLab) -> LaunchIntent:
    return lab.intent()


@pytest.fixture
def fleet(intent: LaunchIntent) -> str:
    return intent.fleet


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

    def test_racing_logins_get_one_machine(self, lab: VmwareLab, intent: LaunchIntent) -> None:
        pinned = dataclasses.replace(lab.connection, extra={"thumbprint": thumbprint(lab.folder)})
        drivers = [
            driver.Driver(driver.Settings(**lab.settings), machinery.KnownConnections(way))
            for way in (lab.connection, pinned, pinned)
        ]
        # Nobody finds it at first, so that all of them clone.
        lab.proxy.make("FindByUuid", empty=True, times=3)
        lab.proxy.calls.clear()
        barrier = threading.Barrier(len(drivers))

        def one(each: driver.Driver) -> str:
            barrier.wait()
            return each.launch(intent).id

        with ThreadPoolExecutor(len(drivers)) as pool:
            ids = set(pool.map(one, drivers))

        assert lab.proxy.calls.count("CloneVM_Task") == len(drivers)
        assert (len(ids), lab.count(intent.token)) == (1, 1)

    def test_one_whose_disks_are_still_copied_is_starting(
        self, lab: VmwareLab, intent: LaunchIntent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(driver, "_ACCEPTED_WITHIN", 0)
            lab.proxy.make("FindByUuid", empty=True, times=2)  # on a slow machine the copy may be there by then
            accepted = lab.platform.launch(intent)
            again = lab.platform.launch(intent)

        assert (accepted.state, accepted.name, accepted.token) == (InstanceState.STARTING, intent.name, intent.token)
        assert again.id == accepted.id
        machinery.wait_for(lambda: lab.machine(accepted.id) is not None and lab.is_alive(accepted.id), "the copy")
        assert lab.count(intent.token) == 1
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
        gone = [lambda: lab.break_down(instance.id)]
        lab.proxy.make("PowerOffVM_Task", fault="InvalidPowerState", inside=off, before=gone)

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


def test_the_documented_methods_are_those_that_are_called(lab: VmwareLab, intent: LaunchIntent, tmp_path: Path) -> None:
    sessions.close_all()
    lab.proxy.calls.clear()
    lab.proxy.page = 3
    everything = lab.asking(intent, anti_affinity=True, network="DC0_DVPG0")
    lab.crash_in_launch(everything)
    instances = [lab.platform.launch(dataclasses.replace(everything, attempt=attempt)) for attempt in (1, 2)]
    lab.platform.get_instance(instances[0].id)
    lab.platform.list_instances(intent.fleet)
    volume = lab.platform.create_volume(lab.volume_intent(intent.fleet))
    lab.platform.attach_volume(volume.id, instances[0].id)
    lab.platform.stop(instances[0].id)
    lab.platform.snapshot_volume(volume.id, "0" * 32)
    (kept,) = lab.platform.list_snapshots(volume.id)
    lab.platform.delete_snapshot(volume.id, kept.id)
    lab.platform.detach_volume(volume.id, instances[0].id)
    for instance in instances:
        lab.platform.terminate(instance.id)
    image = lab.artefact(intent.fleet, "2026.11-1")
    lab.remove_status_field()
    lab.platform.list_images(intent.fleet)
    lab.platform.tag_image(image, Rung.TESTED)
    lab.fill(image, b"x" * 1000)
    lab.platform.copy_disks(image, tmp_path, Bounds(1000, timedelta(minutes=1)))
    with pytest.raises(InvalidSpec):
        lab.platform.copy_disks(image, tmp_path, Bounds(1, timedelta(minutes=1)))
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
