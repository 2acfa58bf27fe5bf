"""What only the EC2 platform can get wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lab import ec2words
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    IntentMismatch,
    InvalidSpec,
    NotFound,
    NotOurs,
    PhoenixError,
    Throttled,
    TransientError,
    Unavailable,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, InstanceState, LaunchIntent
from phoenix_fleet.platforms import _ec2_view as view
from tests.contract.platforms_ec2 import SECRET, Ec2Lab

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000 a \"b\" 'c' {{ d }}"


@pytest.fixture
def intent(ec2_lab: Ec2Lab) -> LaunchIntent:
    return ec2_lab.intent(PUBLIC_KEY)


class TestRequest:
    def test_it_is_whole_at_birth(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        settings = {**ec2_lab.settings, "tags": {"cost-centre": "42"}}
        born = ec2_lab.platform.launch(dataclasses.replace(intent, settings=settings))

        asked = ec2_lab.cloud.called("RunInstances")[-1].params
        assert (asked["MinCount"], asked["MaxCount"]) == ("1", "1")
        assert asked["MetadataOptions.HttpTokens"] == "required"
        assert asked["MetadataOptions.HttpPutResponseHopLimit"] == "1"
        assert asked["ClientToken"].isascii()
        assert len(asked["ClientToken"]) <= 64
        assert asked["SubnetId"] in ec2_lab.subnets
        volumes = [each.volume_id for each in ec2_lab.cloud.instances()[born.id].block_device_mapping.values()]
        assert volumes
        for resource in [born.id, *volumes]:
            marks = ec2_lab.marks(resource)
            assert (marks["phoenix.token"], marks["cost-centre"], marks["Name"]) == (intent.token, "42", intent.name)

    def test_user_data_holds_a_public_key_and_nothing_secret(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.platform.launch(intent)

        data = ec2_lab.user_data(born.id)

        assert data.pop("ssh_authorized_keys") == [PUBLIC_KEY]
        assert data == {
            "hostname": intent.name,
            "disable_root": False,
            "ssh_deletekeys": True,
            "ssh_genkeytypes": ["ed25519", "ecdsa", "rsa"],
            "ssh": {"emit_keys_to_console": True},
        }

    def test_the_zone_chooses_the_subnet(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        for zone, subnet in zip(ec2_lab.zones, ec2_lab.subnets, strict=True):
            there = dataclasses.replace(intent, zone=zone, slot=f"{intent.fleet}-{zone}")
            assert ec2_lab.platform.launch(there).zone == zone
            assert ec2_lab.cloud.called("RunInstances")[-1].params["SubnetId"] == subnet

    def test_without_a_zone_slots_take_turns(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        slots = [dataclasses.replace(intent, slot=f"{intent.fleet}-{number:02d}") for number in range(1, 5)]

        zones = [ec2_lab.platform.launch(slot).zone for slot in slots]

        assert zones == [ec2_lab.zones[1], ec2_lab.zones[0]] * 2

    @pytest.mark.parametrize(
        "wrong",
        [
            {"zone": "eu-central-1z"},
            {"settings": {"subnets": ["subnet-0123456789abcdef0"]}},
            {"settings": {"security_groups": ["sg-0123456789abcdef0"]}},
            {"settings": {"instance_profile": "nobody"}},
            {"settings": {"network": "of-docker"}},
            {"artefact": Artefact("ec2", "ami-0123456789abcdef0", view.digest("ami-0123456789abcdef0"))},
            {"artefact": Artefact("ec2", "ami-*", view.digest("ami-*"))},
            {"slot": "Web 01"},
            {"authorized_key": "ssh-ed25519 AAAA x\nssh-ed25519 BBBB y"},
            {"purpose": "p" * 257},
        ],
        ids=str,
    )
    def test_what_can_never_work_is_refused(self, ec2_lab: Ec2Lab, intent: LaunchIntent, wrong: dict[str, Any]) -> None:
        if "settings" in wrong:
            wrong = {"settings": {**ec2_lab.settings, **wrong["settings"]}}
        doomed = dataclasses.replace(intent, **wrong)

        with pytest.raises(InvalidSpec):
            ec2_lab.platform.launch(doomed)

        assert ec2_lab.count(doomed.token) == 0


class TestTokens:
    def test_what_reads_do_not_show_yet_is_not_launched_twice(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        ec2_lab.cloud.lag_reads = 4
        first = ec2_lab.platform.launch(intent)
        with pytest.raises(NotFound):
            ec2_lab.platform.get_instance(first.id)

        assert ec2_lab.platform.launch(intent).id == first.id
        assert ec2_lab.count(intent.token) == 1

    def test_other_parameters_are_refused_by_ec2_itself(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        ec2_lab.cloud.lag_reads = 4
        ec2_lab.platform.launch(intent)

        with pytest.raises(IntentMismatch):
            ec2_lab.platform.launch(dataclasses.replace(intent, family="other"))

        assert ec2_lab.count(intent.token) == 1

    def test_the_token_of_a_dead_instance_gives_that(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.platform.launch(intent)
        ec2_lab.cloud.set_state(born.id, "terminated")

        again = ec2_lab.platform.launch(intent)

        assert (again.id, again.state) == (born.id, InstanceState.GONE)
        assert ec2_lab.count(intent.token) == 1

    def test_one_that_ec2_has_forgotten_is_never_launched_anew(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.platform.launch(intent)
        ec2_lab.cloud.set_state(born.id, "terminated")
        ec2_lab.cloud.forget(born.id)

        with pytest.raises(InvalidSpec, match="new attempt"):
            ec2_lab.platform.launch(intent)

        assert ec2_lab.count(intent.token) == 0

    def test_settings_are_those_of_the_intent(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        ec2_lab.again(instance_type="t3.micro").launch(intent)

        assert ec2_lab.cloud.called("RunInstances")[-1].params["InstanceType"] == "m7i.large"


CODES = {
    "RequestLimitExceeded": Throttled,
    "Throttling": Throttled,
    "InsufficientInstanceCapacity": CapacityExhausted,
    "VcpuLimitExceeded": CapacityExhausted,
    "InsufficientFreeAddressesInSubnet": CapacityExhausted,
    "AuthFailure": AuthenticationFailed,
    "UnauthorizedOperation": AuthenticationFailed,
    "ExpiredToken": AuthenticationFailed,
    "InvalidAMIID.NotFound": InvalidSpec,
    "InvalidAMIID.Unavailable": Unavailable,
    "InvalidParameterValue": InvalidSpec,
    "InternalError": Unavailable,
    "SomethingNew": InvalidSpec,
}


class TestErrors:
    @pytest.mark.parametrize(("code", "expected"), CODES.items(), ids=CODES)
    def test_a_refused_launch(
        self, ec2_lab: Ec2Lab, intent: LaunchIntent, code: str, expected: type[PhoenixError]
    ) -> None:
        ec2_lab.cloud.refuse("RunInstances", code)
        before = len(ec2_lab.cloud.called("RunInstances"))

        with pytest.raises(PhoenixError) as caught:
            ec2_lab.platform.launch(intent)

        assert type(caught.value) is expected
        assert intent.name in str(caught.value)
        assert code in str(caught.value)
        assert SECRET not in str(caught.value)
        # A driver asks once: whether to ask again is not for it to say.
        assert len(ec2_lab.cloud.called("RunInstances")) == before + 1
        assert ec2_lab.count(intent.token) == 0

    def test_a_code_that_is_not_known_with_a_status_of_500_may_pass(self, ec2_lab: Ec2Lab) -> None:
        ec2_lab.cloud.refuse("DescribeInstances", "SomethingNew", status=503)

        with pytest.raises(Unavailable):
            ec2_lab.platform.list_instances("web")

    @pytest.mark.parametrize("status", [200, 403, 502])
    def test_a_page_of_something_in_between_is_no_answer(self, ec2_lab: Ec2Lab, status: int) -> None:
        ec2_lab.cloud.refuse("DescribeInstances", "garbage", status=status)

        with pytest.raises(Unavailable):
            ec2_lab.platform.list_instances("web")

    def test_no_page_is_left_out(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        slots = [dataclasses.replace(intent, attempt=attempt) for attempt in range(1, 6)]
        for slot in slots:
            ec2_lab.platform.launch(slot)
        ec2_lab.cloud.page = 2

        assert len(ec2_lab.platform.list_instances(intent.fleet)) == 5
        ec2_lab.cloud.refuse("DescribeInstances", "RequestLimitExceeded", after=1)
        with pytest.raises(Throttled):
            ec2_lab.platform.list_instances(intent.fleet)

    def test_a_dropped_filter_is_noticed(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        ec2_lab.foreign("somebody", {})
        ec2_lab.artefact("somebody", "2026.11-1", ours=False)
        ec2_lab.cloud.drop_filters = True

        for call in (
            lambda: ec2_lab.platform.list_instances(intent.fleet),
            lambda: ec2_lab.platform.launch(intent),
            lambda: ec2_lab.platform.list_images("lab"),
            lambda: ec2_lab.platform.delete_image(ec2_lab.standard),
        ):
            with pytest.raises(Unavailable, match="ignored the filter"):
                call()
        assert ec2_lab.count(intent.token) == 0

    def test_a_lost_reply_to_a_termination(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.running(ec2_lab.platform.launch(intent))
        ec2_lab.cloud.lose_reply("TerminateInstances")

        with pytest.raises(TransientError):
            ec2_lab.platform.terminate(born.id)
        ec2_lab.platform.terminate(born.id)

        assert ec2_lab.platform.get_instance(born.id).state in (InstanceState.STOPPING, InstanceState.GONE)

    @pytest.mark.parametrize("fleet", ["*", "t*", "?", "\\*"])
    def test_a_wildcard_is_a_name_like_any_other(self, ec2_lab: Ec2Lab, intent: LaunchIntent, fleet: str) -> None:
        ec2_lab.platform.launch(intent)

        assert list(ec2_lab.platform.list_instances(fleet)) == []


class TestStates:
    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("stopping", InstanceState.STOPPING),
            ("stopped", InstanceState.FAILED),
            ("shutting-down", InstanceState.STOPPING),
        ],
    )
    def test_they_are_ours(self, ec2_lab: Ec2Lab, intent: LaunchIntent, word: str, expected: InstanceState) -> None:
        born = ec2_lab.platform.launch(intent)
        ec2_lab.cloud.set_state(born.id, word)

        (seen,) = ec2_lab.platform.list_instances(intent.fleet)

        assert seen.state is expected

    def test_a_word_that_is_new_is_a_failure(self) -> None:
        assert view.state("hibernating") is InstanceState.FAILED

    def test_a_terminated_one_is_gone_for_certain(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.platform.launch(intent)
        ec2_lab.cloud.set_state(born.id, "terminated")

        assert ec2_lab.platform.get_instance(born.id).state is InstanceState.GONE
        assert list(ec2_lab.platform.list_instances(intent.fleet)) == []

    def test_terminating_what_goes_asks_for_nothing(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.platform.launch(intent)
        ec2_lab.platform.terminate(born.id)
        before = len(ec2_lab.cloud.called("TerminateInstances"))

        ec2_lab.platform.terminate(born.id)

        assert len(ec2_lab.cloud.called("TerminateInstances")) == before

    def test_hostspec_needs_an_address(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.platform.launch(intent)

        assert ec2_lab.platform.hostspec(born) == f"ssh://root@{born.address}"
        with pytest.raises(InvalidSpec):
            ec2_lab.platform.hostspec(dataclasses.replace(born, address=""))


class TestHostKeys:
    ED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000"
    EC = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBM0000"

    def test_they_are_those_of_the_last_block(self) -> None:
        console = ec2words.console("ssh-ed25519 " + "B" * 68 + " old") + ec2words.console(f"{self.EC} root@a", self.ED)

        assert view.host_keys(console) == (self.EC, self.ED)

    @pytest.mark.parametrize(
        "console",
        [
            "",
            "-----BEGIN SSH HOST KEY KEYS-----\nssh-ed25519 AAAA",
            ec2words.console("ssh-dss " + "A" * 68),
            ec2words.console("ssh-ed25519 AAAA short"),
            ec2words.console("* ssh-ed25519 " + "A" * 68),
            ec2words.console("@cert-authority ssh-ed25519 " + "A" * 68),
            ec2words.console("-----BEGIN SSH HOST KEY FINGERPRINTS-----"),
        ],
    )
    def test_anything_else_is_none(self, console: str) -> None:
        assert view.host_keys(console) == ()

    def test_carriage_returns_are_the_consoles_own(self) -> None:
        assert view.host_keys(ec2words.console(self.ED).replace("\n", "\r\n")) == (self.ED,)

    def test_none_before_cloud_init_wrote_them(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        born = ec2_lab.platform.launch(intent)
        ec2_lab.cloud.consoles[born.id] = "[    0.000000] Linux version 6.8.0"
        assert ec2_lab.running(born).host_keys == ()

        ec2_lab.cloud.consoles[born.id] += "\n" + ec2words.console(self.ED)
        assert ec2_lab.platform.get_instance(born.id).host_keys == (self.ED,)

    def test_machines_without_a_live_console(self, ec2_lab: Ec2Lab, intent: LaunchIntent) -> None:
        ec2_lab.cloud.nitro = False
        born = ec2_lab.platform.launch(intent)

        assert len(ec2_lab.running(born).host_keys) == 1


class TestImages:
    def test_snapshots_go_with_their_image(self, ec2_lab: Ec2Lab) -> None:
        doomed, kept = ec2_lab.artefact("snap", "2026.11-1"), ec2_lab.artefact("snap", "2026.11-2")
        behind = {each: ec2_lab.snapshots(each) for each in (doomed, kept)}
        assert all(behind.values())
        ec2_lab.cloud.lose_reply("DeregisterImage")

        with pytest.raises(Unavailable):
            ec2_lab.platform.delete_image(doomed)
        ec2_lab.platform.delete_image(doomed)

        left = {each.id for each in ec2_lab.cloud.backend.describe_snapshots()}
        assert not behind[doomed] & left
        assert behind[kept] <= left

    def test_a_snapshot_that_another_image_needs_stays(self, ec2_lab: Ec2Lab) -> None:
        doomed = ec2_lab.artefact("shared", "2026.11-1")
        ec2_lab.cloud.refuse("DeleteSnapshot", "InvalidSnapshot.InUse")

        ec2_lab.platform.delete_image(doomed)

        assert list(ec2_lab.platform.list_images("shared")) == []

    def test_those_of_others_are_never_touched(self, ec2_lab: Ec2Lab) -> None:
        foreign = ec2_lab.artefact("foreign", "2026.11-1", ours=False)

        with pytest.raises(NotOurs):
            ec2_lab.platform.tag_image(foreign, Rung.RELEASED)
        with pytest.raises(NotOurs):
            ec2_lab.platform.delete_image(foreign)

        assert "phoenix.status" not in ec2_lab.marks(foreign.reference)

    def test_one_image_has_one_digest(self, ec2_lab: Ec2Lab) -> None:
        one, two = ec2_lab.artefact("digests", "2026.11-1"), ec2_lab.artefact("digests", "2026.11-1")

        assert one.digest != two.digest
        assert view.digest(one.reference) == one.digest
