"""What every platform with data volumes must keep of the promises of ``Volumes`` in ``platforms/base.py``."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from phoenix_fleet.domain.errors import IntentMismatch, InUse, NotFound, NotOurs
from phoenix_fleet.domain.models import Instance, InstanceState, LaunchIntent
from phoenix_fleet.domain.volumes import Snapshot, Volume, VolumeIntent, VolumeState
from phoenix_fleet.platforms.base import Platform, Volumes
from tests.contract.machinery import wait_for
from tests.contract.platforms_ec2 import Ec2Lab
from tests.contract.platforms_fake import FakeLab
from tests.contract.platforms_vmware import VmwareLab

if TYPE_CHECKING:
    from tests.contract.platforms_libvirt import LibvirtLab

    Lab = FakeLab | Ec2Lab | VmwareLab | LibvirtLab


@pytest.fixture
def fleet() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def wanted(volumes_lab: Lab, fleet: str) -> VolumeIntent:
    return volumes_lab.volume_intent(fleet)


@pytest.fixture
def launch(volumes_lab: Lab, wanted: VolumeIntent) -> Callable[[int], Instance]:
    """Gives a running instance of the volume's slot."""

    def one(attempt: int = 1) -> Instance:
        intent = LaunchIntent(
            fleet=wanted.fleet,
            slot=wanted.slot,
            purpose="rollout-1",
            attempt=attempt,
            family="lab",
            version="2026.11-1",
            artefact=volumes_lab.standard,
            settings=volumes_lab.settings,
            zone=wanted.zone,
        )
        return running(volumes_lab.platform, volumes_lab.platform.launch(intent))

    return one


def running(platform: Platform, instance: Instance) -> Instance:
    def look() -> Instance | None:
        seen = platform.get_instance(instance.id)
        assert seen.state is not InstanceState.FAILED, seen.message
        return seen if seen.state is InstanceState.RUNNING else None

    return wait_for(look, f"{instance.name} to run", 90)


def volume_of(platform: Volumes, wanted: VolumeIntent, *states: VolumeState) -> Volume:
    """The volume, once it is in one of those states."""

    def look() -> Volume | None:
        found = [each for each in platform.list_volumes(wanted.fleet) if each.label == wanted.label]
        assert len(found) <= 1
        return found[0] if found and found[0].state in states else None

    return wait_for(look, f"{wanted.label} to be {' or '.join(states)}", 60)


def free(platform: Volumes, wanted: VolumeIntent) -> Volume:
    platform.create_volume(wanted)
    return volume_of(platform, wanted, VolumeState.FREE)


def attached(platform: Volumes, wanted: VolumeIntent, instance: Instance) -> Volume:
    made = free(platform, wanted)
    platform.attach_volume(made.id, instance.id)
    return volume_of(platform, wanted, VolumeState.ATTACHED)


def stopped(platform: Platform, instance: Instance) -> None:
    assert isinstance(platform, Volumes)

    def look() -> bool:
        seen = platform.get_instance(instance.id)
        if seen.state is InstanceState.RUNNING:
            platform.stop(instance.id)
        return seen.state is InstanceState.FAILED

    platform.stop(instance.id)
    wait_for(look, f"{instance.name} to be down", 90)


def gone(platform: Platform, instance: Instance) -> None:
    def look() -> bool:
        try:
            if platform.get_instance(instance.id).state is InstanceState.GONE:
                return True
            platform.terminate(instance.id)
        except NotFound:
            return True
        return False

    wait_for(look, f"{instance.name} to be gone", 60)


def taken(platform: Volumes, volume: Volume, token: str) -> Snapshot:
    def look() -> Snapshot | None:
        found = [each for each in platform.list_snapshots(volume.id) if each.token == token]
        return found[0] if found and found[0].taken else None

    return wait_for(look, f"the snapshot of {volume.label}", 60)


TOKEN = uuid.uuid4().hex


class TestMaking:
    def test_it_is_there_once_with_the_marks_of_its_slot(self, volumes_lab: Lab, wanted: VolumeIntent) -> None:
        platform = volumes_lab.platform
        made = platform.create_volume(wanted)
        again = volumes_lab.again().create_volume(wanted)
        assert made.id == again.id
        seen = volume_of(platform, wanted, VolumeState.FREE)
        assert (seen.id, seen.fleet, seen.slot, seen.name) == (made.id, wanted.fleet, wanted.slot, wanted.name)
        assert (seen.attached_to, seen.zone) == ("", wanted.zone)

    def test_a_lost_reply_makes_no_second_one(self, volumes_lab: Lab, wanted: VolumeIntent) -> None:
        with volumes_lab.losing_the_reply("create_volume"):
            volumes_lab.platform.create_volume(wanted)
        made = free(volumes_lab.again(), wanted)
        assert [each.id for each in volumes_lab.platform.list_volumes(wanted.fleet)] == [made.id]

    def test_callers_who_race_get_one(self, volumes_lab: Lab, wanted: VolumeIntent) -> None:
        barrier = threading.Barrier(4)

        def one(_: int) -> str:
            platform = volumes_lab.again()
            barrier.wait()
            return platform.create_volume(wanted).id

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(one, range(4)))) == 1
        assert len(volumes_lab.platform.list_volumes(wanted.fleet)) == 1

    def test_with_other_parameters_it_is_refused(self, volumes_lab: Lab, wanted: VolumeIntent) -> None:
        free(volumes_lab.platform, wanted)
        with pytest.raises(IntentMismatch):
            volumes_lab.platform.create_volume(dataclasses.replace(wanted, size_gib=wanted.size_gib + 1))

    def test_a_listing_has_its_own_fleet_alone(self, volumes_lab: Lab, wanted: VolumeIntent, fleet: str) -> None:
        made = free(volumes_lab.platform, wanted)
        free(volumes_lab.platform, volumes_lab.volume_intent(f"{fleet}x"))
        more = free(volumes_lab.platform, volumes_lab.volume_intent(fleet, "logs"))
        foreign = volumes_lab.foreign_volume(fleet, "data-of-others")
        found = [each.id for each in volumes_lab.platform.list_volumes(fleet)]
        assert found == [made.id, more.id]
        assert foreign not in found


class TestMoving:
    def test_it_goes_from_one_to_the_next(
        self, volumes_lab: Lab, wanted: VolumeIntent, launch: Callable[[int], Instance]
    ) -> None:
        platform, old = volumes_lab.platform, launch(1)
        volume = attached(platform, wanted, old)
        assert (volume.attached_to, bool(volume.device)) == (old.id, True)
        stopped(platform, old)
        platform.snapshot_volume(volume.id, TOKEN)
        kept = taken(platform, volume, TOKEN)
        assert (kept.volume, kept.failed) == (volume.id, "")
        platform.detach_volume(volume.id, old.id)
        assert volume_of(platform, wanted, VolumeState.FREE).attached_to == ""
        gone(platform, old)
        new = launch(2)
        platform.attach_volume(volume.id, new.id)
        again = volume_of(platform, wanted, VolumeState.ATTACHED)
        assert (again.id, again.attached_to) == (volume.id, new.id)
        assert taken(platform, volume, TOKEN).id == kept.id

    @pytest.mark.parametrize("method", ["attach_volume", "stop", "snapshot_volume", "detach_volume"])
    def test_a_lost_reply_is_made_good_by_asking_again(
        self, volumes_lab: Lab, wanted: VolumeIntent, launch: Callable[[int], Instance], method: str
    ) -> None:
        platform, machine = volumes_lab.platform, launch(1)
        volume = free(platform, wanted)
        steps: list[tuple[str, Callable[[], object]]] = [
            ("attach_volume", lambda: platform.attach_volume(volume.id, machine.id)),
            ("stop", lambda: platform.stop(machine.id)),
            ("snapshot_volume", lambda: platform.snapshot_volume(volume.id, TOKEN)),
            ("detach_volume", lambda: platform.detach_volume(volume.id, machine.id)),
        ]
        for name, step in steps:
            if name == method:
                with volumes_lab.losing_the_reply(name):
                    step()
            step()
            if name == "attach_volume":
                volume_of(platform, wanted, VolumeState.ATTACHED)
            elif name == "stop":
                stopped(platform, machine)
            elif name == "snapshot_volume":
                taken(platform, volume, TOKEN)
        volume_of(platform, wanted, VolumeState.FREE)
        assert len([each for each in platform.list_snapshots(volume.id) if each.token == TOKEN]) == 1
        assert [each.id for each in platform.list_volumes(wanted.fleet)] == [volume.id]

    def test_what_one_has_another_cannot_get(
        self, volumes_lab: Lab, wanted: VolumeIntent, launch: Callable[[int], Instance]
    ) -> None:
        platform, one = volumes_lab.platform, launch(1)
        volume = attached(platform, wanted, one)
        other = launch(2)
        with pytest.raises(InUse):
            platform.attach_volume(volume.id, other.id)
        platform.detach_volume(volume.id, other.id)  # it does not have it
        assert volume_of(platform, wanted, VolumeState.ATTACHED).attached_to == one.id

    def test_it_never_leaves_one_that_runs(
        self, volumes_lab: Lab, wanted: VolumeIntent, launch: Callable[[int], Instance]
    ) -> None:
        machine = launch(1)
        volume = attached(volumes_lab.platform, wanted, machine)
        with pytest.raises(InUse):
            volumes_lab.platform.detach_volume(volume.id, machine.id)
        assert volume_of(volumes_lab.platform, wanted, VolumeState.ATTACHED).attached_to == machine.id

    def test_a_termination_leaves_it_whole(
        self, volumes_lab: Lab, wanted: VolumeIntent, launch: Callable[[int], Instance]
    ) -> None:
        """Whoever terminates an instance that still has one: nobody should, and the data must not pay for it."""
        machine = launch(1)
        volume = attached(volumes_lab.platform, wanted, machine)
        gone(volumes_lab.platform, machine)
        assert volumes_lab.volume_exists(volume.id)
        assert volume_of(volumes_lab.platform, wanted, VolumeState.FREE).id == volume.id
        new = launch(2)
        volumes_lab.platform.attach_volume(volume.id, new.id)
        assert volume_of(volumes_lab.platform, wanted, VolumeState.ATTACHED).attached_to == new.id


class TestDeletingSnapshots:
    def test_exactly_that_one_goes_and_again_is_success(self, volumes_lab: Lab, wanted: VolumeIntent) -> None:
        platform, tokens = volumes_lab.platform, [uuid.uuid4().hex for _ in range(2)]
        volume = free(platform, wanted)
        for token in tokens:
            platform.snapshot_volume(volume.id, token)
        first, second = (taken(platform, volume, token) for token in tokens)

        for _ in range(2):
            platform.delete_snapshot(volume.id, first.id)

        wait_for(lambda: platform.list_snapshots(volume.id) == [second], "the listing without it", 60)
        assert [each.id for each in platform.list_volumes(wanted.fleet)] == [volume.id]

    def test_none_of_another_volume_goes(self, volumes_lab: Lab, wanted: VolumeIntent, fleet: str) -> None:
        platform = volumes_lab.platform
        volume, other = free(platform, wanted), free(platform, volumes_lab.volume_intent(fleet, "logs"))
        platform.snapshot_volume(other.id, TOKEN)
        kept = taken(platform, other, TOKEN)

        platform.delete_snapshot(volume.id, kept.id)
        for odd in ("", "../x", other.id, volume.id, "snap-0123456789abcdef0"):
            platform.delete_snapshot(volume.id, odd)

        assert [each.id for each in platform.list_snapshots(other.id)] == [kept.id]
        assert [each.id for each in platform.list_volumes(fleet)] == [volume.id, other.id]

    def test_of_a_volume_that_is_not_there_or_not_ours_none(
        self, volumes_lab: Lab, wanted: VolumeIntent, fleet: str
    ) -> None:
        volume = free(volumes_lab.platform, wanted)
        volumes_lab.platform.snapshot_volume(volume.id, TOKEN)
        kept = taken(volumes_lab.platform, volume, TOKEN)

        for wrong in (volumes_lab.foreign_volume(fleet, "theirs"), "nothing"):
            with pytest.raises((NotFound, NotOurs)):
                volumes_lab.platform.delete_snapshot(wrong, kept.id)

        assert taken(volumes_lab.platform, volume, TOKEN) == kept


class TestOwnership:
    def test_what_is_not_ours_is_never_touched(
        self, volumes_lab: Lab, wanted: VolumeIntent, launch: Callable[[int], Instance]
    ) -> None:
        platform, machine = volumes_lab.platform, launch(1)
        foreign = volumes_lab.foreign_volume(wanted.fleet, "data")
        for call in (
            lambda: platform.attach_volume(foreign, machine.id),
            lambda: platform.snapshot_volume(foreign, TOKEN),
            lambda: platform.detach_volume(foreign, machine.id),
        ):
            with pytest.raises((NotOurs, NotFound)):
                call()
        assert platform.list_volumes(wanted.fleet) == []
        assert volumes_lab.volume_exists(foreign)

    @pytest.mark.parametrize("wrong", ["", "vol-0123456789abcdef0", "../etc/passwd", "x" * 500, "*", "[ds] a/b.vmdk"])
    def test_what_is_not_there_is_not_to_be_seen(self, volumes_lab: Lab, wanted: VolumeIntent, wrong: str) -> None:
        platform = volumes_lab.platform
        for call in (
            lambda: platform.snapshot_volume(wrong, TOKEN),
            lambda: platform.attach_volume(wrong, wrong),
            lambda: platform.stop(wrong),
        ):
            with pytest.raises((NotFound, NotOurs)):
                call()

    def test_a_foreign_machine_is_never_stopped_or_given_data(self, volumes_lab: Lab, wanted: VolumeIntent) -> None:
        platform = volumes_lab.platform
        stranger = volumes_lab.foreign(f"{wanted.slot}-0123abcd", {"phoenix.fleet": wanted.fleet})
        made = free(platform, wanted)
        with pytest.raises(NotOurs):
            platform.stop(stranger)
        with pytest.raises(NotOurs):
            platform.attach_volume(made.id, stranger)
        assert volume_of(platform, wanted, VolumeState.FREE).id == made.id
