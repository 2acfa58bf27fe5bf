"""What every platform must keep of the promises in ``platforms/base.py``."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import IntentMismatch, InUse, InvalidSpec, NotFound, NotOurs
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Artefact, Instance, InstanceState, LaunchIntent
from tests.contract.machinery import wait_for
from tests.contract.platforms_docker import DockerLab
from tests.contract.platforms_ec2 import Ec2Lab
from tests.contract.platforms_fake import FakeLab
from tests.contract.platforms_vmware import VmwareLab

if TYPE_CHECKING:
    from tests.contract.platforms_libvirt import LibvirtLab

    Lab = FakeLab | DockerLab | Ec2Lab | VmwareLab | LibvirtLab

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000 someone@here"


@pytest.fixture
def fleet() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def intent(platform_lab: Lab, fleet: str) -> LaunchIntent:
    """A launch that will work."""
    return LaunchIntent(
        fleet=fleet,
        slot=f"{fleet}-01",
        purpose="rollout-1",
        attempt=1,
        family="lab",
        version="2026.11-1",
        artefact=platform_lab.standard,
        authorized_key=KEY,
        settings=platform_lab.settings,
    )


def running(lab: Lab, instance: Instance) -> Instance:
    """The instance, once it runs and is fully known."""

    def look() -> Instance | None:
        seen = lab.platform.get_instance(instance.id)
        assert seen.state is not InstanceState.FAILED, seen.message
        return seen if seen.state is InstanceState.RUNNING and seen.host_keys else None

    return wait_for(look, f"{instance.name} to run")


def is_gone(lab: Lab, instance_id: str) -> bool:
    try:
        return lab.platform.get_instance(instance_id).state is InstanceState.GONE
    except NotFound:
        return True


def in_threads(lab: Lab, intent: LaunchIntent, count: int) -> list[Instance]:
    barrier = threading.Barrier(count)

    def one(_: int) -> Instance:
        platform = lab.again()
        barrier.wait()
        return platform.launch(intent)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class TestLaunch:
    def test_gives_an_accepted_instance_that_comes_to_run(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = platform_lab.platform.launch(intent)

        assert instance.state in (InstanceState.STARTING, InstanceState.RUNNING)
        assert (instance.name, instance.fleet, instance.slot) == (intent.name, intent.fleet, intent.slot)
        assert (instance.version, instance.token) == (intent.version, intent.token)
        seen = running(platform_lab, instance)
        assert seen.address
        assert seen.digest == intent.artefact.digest
        assert seen.launched_at is not None
        assert abs(seen.launched_at.timestamp() - time.time()) < 60
        assert all(key.startswith("ssh-") and key.count(" ") == 1 for key in seen.host_keys)

    def test_marks_are_there_at_birth(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        platform_lab.crash_in_launch(intent)

        (instance,) = platform_lab.platform.list_instances(intent.fleet)
        marks = platform_lab.marks(instance.id)
        expected = {
            "phoenix.owner": OWNER,
            "phoenix.fleet": intent.fleet,
            "phoenix.slot": intent.slot,
            "phoenix.version": intent.version,
            "phoenix.purpose": intent.purpose,
            "phoenix.token": intent.token,
        }
        assert {mark: marks[mark] for mark in expected} == expected

    def test_key_is_there_at_birth(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = platform_lab.platform.launch(intent)

        assert platform_lab.authorized_key(instance.id) == KEY

    def test_twice_is_once(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        first = platform_lab.platform.launch(intent)
        second = platform_lab.again().launch(intent)

        assert first.id == second.id
        assert platform_lab.count(intent.token) == 1

    def test_racing_callers_get_one_instance(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instances = in_threads(platform_lab, intent, 4)

        assert len({instance.id for instance in instances}) == 1
        assert platform_lab.count(intent.token) == 1
        running(platform_lab, instances[0])

    def test_goes_on_after_a_crash_half_way(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        platform_lab.crash_in_launch(intent)

        instance = platform_lab.again().launch(intent)

        assert platform_lab.count(intent.token) == 1
        running(platform_lab, instance)
        assert platform_lab.authorized_key(instance.id) == KEY

    @pytest.mark.parametrize(
        "change", [{"version": "2026.11-2"}, {"authorized_key": ""}, {"family": "other"}], ids=lambda c: next(iter(c))
    )
    def test_other_parameters_under_the_token_are_refused(
        self, platform_lab: Lab, intent: LaunchIntent, change: dict[str, str]
    ) -> None:
        instance = platform_lab.platform.launch(intent)

        with pytest.raises(IntentMismatch):
            platform_lab.platform.launch(dataclasses.replace(intent, **change))

        assert platform_lab.count(intent.token) == 1
        assert running(platform_lab, instance).id == instance.id

    def test_a_new_attempt_is_a_new_instance(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        first = platform_lab.platform.launch(intent)
        second = platform_lab.platform.launch(dataclasses.replace(intent, attempt=2))

        assert first.id != second.id
        assert first.name != second.name
        assert len(platform_lab.platform.list_instances(intent.fleet)) == 2

    def test_an_image_that_is_not_there_is_refused(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        digest = f"sha256:{'0' * 64}"
        reference = intent.artefact.reference.partition("@")[0] + f"@{digest}"
        missing = dataclasses.replace(intent, artefact=Artefact(platform_lab.name, reference, digest))

        with pytest.raises(InvalidSpec):
            platform_lab.platform.launch(missing)

        assert platform_lab.count(missing.token) == 0
        assert platform_lab.platform.list_instances(intent.fleet) == []

    def test_never_takes_over_a_machine_of_that_name(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        foreign = platform_lab.foreign(intent.name, {})

        with pytest.raises(NotOurs):
            platform_lab.platform.launch(intent)

        assert platform_lab.is_alive(foreign)
        assert platform_lab.count(intent.token) == 0


class TestLooking:
    def test_the_list_has_the_fleet_and_only_that_by_name(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        slots = [dataclasses.replace(intent, slot=f"{intent.fleet}-0{number}") for number in (3, 1, 2)]
        other = dataclasses.replace(intent, fleet=f"{intent.fleet}-staging")
        launched = [platform_lab.platform.launch(slot) for slot in [*slots, other]]

        listed = platform_lab.platform.list_instances(intent.fleet)

        assert [instance.name for instance in listed] == sorted(slot.name for slot in slots)
        assert {instance.id for instance in listed} == {instance.id for instance in launched[:3]}
        assert {instance.token for instance in listed} == {slot.token for slot in slots}
        assert not any(instance.host_keys for instance in listed)

    def test_list_and_get_agree(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        seen = running(platform_lab, platform_lab.platform.launch(intent))

        assert platform_lab.platform.list_instances(intent.fleet) == [dataclasses.replace(seen, host_keys=())]

    def test_an_unknown_fleet_has_none(self, platform_lab: Lab) -> None:
        assert list(platform_lab.platform.list_instances("t-nobody")) == []

    def test_one_that_never_started_is_listed_as_starting(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        platform_lab.crash_in_launch(intent)

        (instance,) = platform_lab.platform.list_instances(intent.fleet)

        assert instance.state is InstanceState.STARTING
        assert instance.token == intent.token

    def test_one_that_ended_is_listed_as_failed_with_the_reason(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = running(platform_lab, platform_lab.platform.launch(intent))
        platform_lab.break_down(instance.id)

        def failed() -> Instance | None:
            (seen,) = platform_lab.platform.list_instances(intent.fleet)
            return seen if seen.state is InstanceState.FAILED else None

        assert wait_for(failed, "the failure").message
        seen = platform_lab.platform.get_instance(instance.id)
        assert (seen.state, bool(seen.message), seen.host_keys) == (InstanceState.FAILED, True, ())

    def test_two_instances_have_keys_and_addresses_of_their_own(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        one, two = (
            running(platform_lab, platform_lab.platform.launch(dataclasses.replace(intent, attempt=attempt)))
            for attempt in (1, 2)
        )

        assert one.address != two.address
        assert set(one.host_keys).isdisjoint(two.host_keys)

    @pytest.mark.parametrize("wrong", ["", "web-01", "i-99999999", "0" * 64, "../etc", "a b"])
    def test_what_is_not_there_is_not_found(self, platform_lab: Lab, wrong: str) -> None:
        with pytest.raises(NotFound):
            platform_lab.platform.get_instance(wrong)
        with pytest.raises(NotFound):
            platform_lab.platform.terminate(wrong)

    def test_a_name_is_no_id(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = running(platform_lab, platform_lab.platform.launch(intent))

        for wrong in (instance.name, instance.id[:-1]):
            with pytest.raises(NotFound):
                platform_lab.platform.get_instance(wrong)
            with pytest.raises(NotFound):
                platform_lab.platform.terminate(wrong)
        assert platform_lab.is_alive(instance.id)

    def test_hostspec_names_the_instance_without_looking(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = running(platform_lab, platform_lab.platform.launch(intent))
        platform = platform_lab.again()
        platform.connections = unreachable

        hostspec = platform.hostspec(instance)
        # Through the platform it is reached by its id, over the network by its address.
        assert instance.address in hostspec if hostspec.startswith("ssh://") else instance.id in hostspec


FOREIGN = {
    "without marks": {},
    "of another owner": {"phoenix.owner": "somebody", "phoenix.token": "f" * 32},
    "of an owner that begins alike": {"phoenix.owner": f"{OWNER}-2", "phoenix.token": "f" * 32},
    # What everything has that somebody starts by hand from an image of ours.
    "with an image's marks": {"phoenix.owner": OWNER, "phoenix.version": "2026.11-1"},
    "with half the marks": {"phoenix.owner": OWNER, "phoenix.slot": "x-01", "phoenix.version": "2026.11-1"},
}


class TestForeignMachines:
    @pytest.mark.parametrize("marks", FOREIGN.values(), ids=FOREIGN.keys())
    def test_are_neither_listed_nor_touched(self, platform_lab: Lab, fleet: str, marks: dict[str, str]) -> None:
        foreign = platform_lab.foreign(f"{fleet}-01-0123abcd", {**marks, "phoenix.fleet": fleet})

        assert list(platform_lab.platform.list_instances(fleet)) == []
        with pytest.raises(NotOurs):
            platform_lab.platform.get_instance(foreign)
        with pytest.raises(NotOurs):
            platform_lab.platform.terminate(foreign)
        assert platform_lab.is_alive(foreign)


class TestTerminate:
    def test_returns_at_once_and_the_instance_goes(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = running(platform_lab, platform_lab.platform.launch(intent))
        neighbour = platform_lab.platform.launch(dataclasses.replace(intent, attempt=2))

        platform_lab.platform.terminate(instance.id)

        wait_for(lambda: is_gone(platform_lab, instance.id), "it to be gone")
        assert [left.id for left in platform_lab.platform.list_instances(intent.fleet)] == [neighbour.id]

    def test_twice_is_harmless(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = running(platform_lab, platform_lab.platform.launch(intent))
        neighbour = running(platform_lab, platform_lab.platform.launch(dataclasses.replace(intent, attempt=2)))

        for _ in range(3):
            try:
                platform_lab.again().terminate(instance.id)
            except NotFound:
                continue

        wait_for(lambda: is_gone(platform_lab, instance.id), "it to be gone")
        assert platform_lab.is_alive(neighbour.id)

    def test_at_once_by_several_callers_is_harmless(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = running(platform_lab, platform_lab.platform.launch(intent))

        def one(_: int) -> None:
            try:
                platform_lab.again().terminate(instance.id)
            except NotFound:
                return

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(4)))

        wait_for(lambda: is_gone(platform_lab, instance.id), "it to be gone")

    def test_takes_one_that_never_started(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        platform_lab.crash_in_launch(intent)
        (instance,) = platform_lab.platform.list_instances(intent.fleet)

        platform_lab.platform.terminate(instance.id)

        wait_for(lambda: is_gone(platform_lab, instance.id), "it to be gone")

    def test_takes_one_that_failed(self, platform_lab: Lab, intent: LaunchIntent) -> None:
        instance = running(platform_lab, platform_lab.platform.launch(intent))
        platform_lab.break_down(instance.id)

        platform_lab.platform.terminate(instance.id)

        wait_for(lambda: is_gone(platform_lab, instance.id), "it to be gone")
        assert list(platform_lab.platform.list_instances(intent.fleet)) == []


class TestImages:
    def test_the_list_has_the_family_by_version_with_marks(self, platform_lab: Lab, fleet: str) -> None:
        second = platform_lab.artefact(fleet, "2026.11-2")
        first = platform_lab.artefact(fleet, "2026.11-1")
        platform_lab.artefact(f"{fleet}-other", "2026.11-1")
        platform_lab.artefact(f"{fleet}-foreign", "2026.11-1", ours=False)

        assert platform_lab.platform.list_images(fleet) == [
            (first, {"version": "2026.11-1", "status": "candidate"}),
            (second, {"version": "2026.11-2", "status": "candidate"}),
        ]
        assert list(platform_lab.platform.list_images(f"{fleet}-foreign")) == []

    def test_a_tag_shows_the_rung_and_keeps_the_digest(self, platform_lab: Lab, fleet: str) -> None:
        artefact = platform_lab.artefact(fleet, "2026.11-1")

        for rung in (Rung.TESTED, Rung.CERTIFIED, Rung.STAGED, Rung.RELEASED, Rung.RELEASED, Rung.REVOKED):
            assert platform_lab.platform.tag_image(artefact, rung) == artefact
            ((listed, marks),) = platform_lab.platform.list_images(fleet)
            assert (listed, marks["status"]) == (artefact, str(rung))

    def test_what_is_not_there_cannot_be_tagged(self, platform_lab: Lab, fleet: str) -> None:
        artefact = platform_lab.artefact(fleet, "2026.11-1")
        platform_lab.platform.delete_image(artefact)

        with pytest.raises(NotFound):
            platform_lab.platform.tag_image(artefact, Rung.TESTED)

    def test_deleting_twice_is_success(self, platform_lab: Lab, fleet: str) -> None:
        kept = platform_lab.artefact(fleet, "2026.11-1")
        doomed = platform_lab.artefact(fleet, "2026.11-2")
        platform_lab.platform.tag_image(doomed, Rung.REJECTED)

        platform_lab.platform.delete_image(doomed)
        platform_lab.platform.delete_image(doomed)

        assert [artefact for artefact, _ in platform_lab.platform.list_images(fleet)] == [kept]

    def test_one_in_use_stays(self, platform_lab: Lab, fleet: str, intent: LaunchIntent) -> None:
        intent = dataclasses.replace(intent, family=fleet, artefact=platform_lab.artefact(fleet, "2026.11-1"))
        instance = platform_lab.platform.launch(intent)

        with pytest.raises(InUse, match=instance.name):
            platform_lab.platform.delete_image(intent.artefact)
        assert len(platform_lab.platform.list_images(intent.family)) == 1

        platform_lab.platform.terminate(instance.id)
        wait_for(lambda: is_gone(platform_lab, instance.id), "it to be gone")
        platform_lab.platform.delete_image(intent.artefact)
        assert list(platform_lab.platform.list_images(intent.family)) == []


def test_making_a_driver_does_no_io(platform_lab: Lab) -> None:
    type(platform_lab.platform)(platform_lab.platform.settings, unreachable)


def unreachable(conn_id: str) -> Connection:
    """Connections that nobody may ask for."""
    raise AssertionError(f"{conn_id} was looked up")
