"""What only EC2 can get wrong with data volumes, and the addresses that slots keep."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from phoenix_fleet.domain.errors import CapacityExhausted, IntentMismatch, InvalidSpec, NotOurs, Throttled, Unavailable
from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.domain.volumes import VolumeIntent, VolumeState
from phoenix_fleet.platforms import ec2 as driver
from tests.contract.platforms_ec2 import Ec2Lab


@pytest.fixture
def wanted(ec2_lab: Ec2Lab) -> VolumeIntent:
    return ec2_lab.volume_intent(ec2_lab.intent().fleet)


def launched(lab: Ec2Lab, wanted: VolumeIntent, **settings: Any) -> LaunchIntent:
    frozen = {**lab.settings, **settings}
    return dataclasses.replace(lab.intent(), fleet=wanted.fleet, slot=wanted.slot, zone=wanted.zone, settings=frozen)


def test_every_page_of_a_listing(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    names = [f"data{number}" for number in range(5)]
    for name in names:
        ec2_lab.platform.create_volume(dataclasses.replace(wanted, name=name))
    ec2_lab.cloud.page = 2
    assert [each.name for each in ec2_lab.platform.list_volumes(wanted.fleet)] == names
    ec2_lab.cloud.refuse("DescribeVolumes", "RequestLimitExceeded", status=503, after=1)
    with pytest.raises(Throttled):
        ec2_lab.platform.list_volumes(wanted.fleet)


def test_a_dropped_filter_is_no_listing(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    made = ec2_lab.platform.create_volume(wanted)
    ec2_lab.cloud.drop_filters = True
    with pytest.raises(Unavailable):
        ec2_lab.platform.list_volumes("another")
    with pytest.raises(Unavailable):
        ec2_lab.platform.list_snapshots(made.id)


def test_the_root_volume_of_an_instance_is_no_data(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    """It carries the marks of its instance, and goes with it."""
    instance = ec2_lab.running(ec2_lab.platform.launch(launched(ec2_lab, wanted)))
    (mapping,) = ec2_lab.cloud.instances()[instance.id].block_device_mapping.values()
    root = mapping.volume_id
    assert ec2_lab.platform.list_volumes(wanted.fleet) == []
    for call in (ec2_lab.platform.detach_volume, ec2_lab.platform.attach_volume):
        with pytest.raises(NotOurs):
            call(root, instance.id)


def test_it_is_as_the_file_says(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    asked = dataclasses.replace(
        wanted, size_gib=33, options={"type": "io2", "iops": 4000}, settings={"tags": {"cc": "7"}}
    )
    made = ec2_lab.platform.create_volume(asked)
    (seen,) = ec2_lab.by_hand.describe_volumes(VolumeIds=[made.id])["Volumes"]
    assert (seen["Size"], seen["VolumeType"], seen["Iops"], seen["Encrypted"]) == (33, "io2", 4000, True)
    tags = ec2_lab.marks(made.id)
    assert (tags["cc"], tags["Name"], tags["phoenix.volume"]) == ("7", asked.label, "data")


def test_a_snapshot_has_the_marks_of_its_volume(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    made = ec2_lab.platform.create_volume(wanted)
    taken = ec2_lab.platform.snapshot_volume(made.id, "a" * 32)
    tags = ec2_lab.marks(taken.id)
    marks = {"phoenix.fleet": wanted.fleet, "phoenix.slot": wanted.slot, "phoenix.volume": "data"}
    assert {key: tags[key] for key in marks} == marks
    assert tags["phoenix.snapshot"] == "a" * 32
    assert ec2_lab.platform.list_snapshots(made.id) == [taken]


def test_a_volume_needs_a_zone(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    with pytest.raises(InvalidSpec, match="zone"):
        ec2_lab.platform.create_volume(dataclasses.replace(wanted, zone=""))


def test_what_is_attaching_is_said_so(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    instance = ec2_lab.running(ec2_lab.platform.launch(launched(ec2_lab, wanted)))
    made = ec2_lab.platform.create_volume(wanted)
    ec2_lab.cloud.disks.reads = 3
    ec2_lab.platform.attach_volume(made.id, instance.id)
    (seen,) = ec2_lab.platform.list_volumes(wanted.fleet)
    assert (seen.state, seen.attached_to, seen.device) == (VolumeState.ATTACHING, instance.id, "")


def test_an_instance_that_is_not_up_yet_gets_it_later(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    ec2_lab.cloud.boot_reads = 50
    instance = ec2_lab.platform.launch(launched(ec2_lab, wanted))
    made = ec2_lab.platform.create_volume(wanted)
    with pytest.raises(Unavailable):
        ec2_lab.platform.attach_volume(made.id, instance.id)


class TestAddresses:
    def test_a_slot_has_its_own(self, ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
        addresses = {wanted.slot: "10.66.1.77"}
        instance = ec2_lab.running(ec2_lab.platform.launch(launched(ec2_lab, wanted, addresses=addresses)))
        assert instance.address == "10.66.1.77"
        asked = ec2_lab.cloud.called("RunInstances")[-1].params
        assert asked["PrivateIpAddress"] == "10.66.1.77"
        assert asked["SubnetId"] == ec2_lab.subnets[1]

    def test_others_have_any(self, ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
        ec2_lab.platform.launch(launched(ec2_lab, wanted, addresses={f"{wanted.fleet}-02": "10.66.1.78"}))
        assert "PrivateIpAddress" not in ec2_lab.cloud.called("RunInstances")[-1].params

    def test_one_outside_of_the_subnets_is_told(self, ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
        with pytest.raises(InvalidSpec, match=r"platform\.ec2\.addresses"):
            ec2_lab.platform.launch(launched(ec2_lab, wanted, addresses={wanted.slot: "192.0.2.1"}))

    def test_one_that_is_not_free_yet_is_waited_for(self, ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
        ec2_lab.cloud.refuse("RunInstances", "InvalidIPAddress.InUse")
        with pytest.raises(Unavailable):
            ec2_lab.platform.launch(launched(ec2_lab, wanted, addresses={wanted.slot: "10.66.1.79"}))

    @pytest.mark.parametrize("wrong", [{"a": "x"}, {"a": "::1"}, {"a": "10.0.0.1", "b": "10.0.0.1"}], ids=str)
    def test_wrong_ones_are_refused(self, ec2_lab: Ec2Lab, wrong: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            driver.Settings.model_validate({**ec2_lab.settings, "addresses": wrong})


@pytest.mark.parametrize("wrong", [{"type": "fast"}, {"iops": 1}, {"kms_key": "a b"}, {"size": 3}], ids=str)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        driver.Driver.VolumeSettings.model_validate(wrong)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("VolumeLimitExceeded", CapacityExhausted), ("IdempotentParameterMismatch", IntentMismatch)],
)
def test_refusals_are_in_our_words(ec2_lab: Ec2Lab, wanted: VolumeIntent, code: str, expected: type[Exception]) -> None:
    ec2_lab.cloud.refuse("CreateVolume", code)
    with pytest.raises(expected):
        ec2_lab.platform.create_volume(wanted)


def test_the_guest_may_be_called_after_its_slot(ec2_lab: Ec2Lab, wanted: VolumeIntent) -> None:
    named = ec2_lab.platform.launch(launched(ec2_lab, wanted, hostname="slot"))
    assert ec2_lab.user_data(named.id)["hostname"] == wanted.slot
    other = ec2_lab.platform.launch(dataclasses.replace(launched(ec2_lab, wanted), attempt=2))
    assert ec2_lab.user_data(other.id)["hostname"] == other.name
