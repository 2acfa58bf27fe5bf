"""How EC2 is reached and what that takes: connections, settings, policies, the lab itself."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import ValidationError

from phoenix_fleet.domain.errors import AuthenticationFailed, InvalidConfig, NotSupported, PhoenixError, Unavailable
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Bounds
from phoenix_fleet.platforms import ec2 as driver
from tests.contract.balancers_elbv2 import Elbv2Lab
from tests.contract.machinery import KnownConnections, output
from tests.contract.platforms_ec2 import KEY, POLICIES, SECRET, Ec2Lab, granted, statements


class TestConnections:
    @pytest.mark.parametrize("conn_id", ["aws_default", "in_extra", "by_service", "role"])
    def test_those_of_airflow_work(self, ec2_lab: Ec2Lab, conn_id: str) -> None:
        before = len(ec2_lab.cloud.calls)

        assert list(ec2_lab.again(connection=conn_id).list_instances("nobody")) == []

        keys = {call.key for call in ec2_lab.cloud.calls[before:] if call.action == "DescribeInstances"}
        assert (keys == {KEY}) is (conn_id != "role")

    @pytest.mark.parametrize(
        ("conn_id", "expected"),
        [
            ("no_region", InvalidConfig),
            ("no_url", InvalidConfig),
            ("no_tls", InvalidConfig),
            ("unverified", InvalidConfig),
            ("nowhere", Unavailable),
            ("saml", NotSupported),
            ("role_alone", AuthenticationFailed),
            ("no_keys", AuthenticationFailed),
        ],
    )
    def test_others_say_what_is_wrong(
        self, ec2_lab: Ec2Lab, conn_id: str, expected: type[PhoenixError], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)

        with pytest.raises(expected) as caught:
            ec2_lab.again(connection=conn_id).list_instances("nobody")

        assert SECRET not in str(caught.value)

    def test_a_renewed_connection_is_used_at_once(self, ec2_lab: Ec2Lab) -> None:
        known = KnownConnections(ec2_lab.connections("nowhere"))
        platform = driver.Driver(driver.Settings(connection="nowhere", **ec2_lab.settings), known)
        with pytest.raises(Unavailable):
            platform.list_instances("nobody")

        known.known["nowhere"] = ec2_lab.connections("aws_default")

        assert list(platform.list_instances("nobody")) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"subnets": []},
        {"subnets": ["sg-0123456789abcdef0"]},
        {"subnets": ["subnet-0123456789abcdef0"] * 2},
        {"security_groups": ["default"]},
        {"instance_type": "m7i"},
        {"instance_profile": "a/b"},
        {"address": "ipv6"},
        {"tags": {"phoenix.owner": "me"}},
        {"tags": {"aws:created": "x"}},
        {"tags": {"Name": "x"}},
        {"tags": {"k": "v" * 257}},
        {"network": "of-docker"},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    right = {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]}

    with pytest.raises(ValidationError):
        driver.Settings.model_validate({"instance_type": "m7i.large", **right, **wrong})


def test_each_action_of_the_policies_is_used(ec2_lab: Ec2Lab, elbv2_lab: Elbv2Lab, tmp_path: Path) -> None:
    intent = ec2_lab.intent()
    ec2_lab.instance_profile("web")
    begin = len(ec2_lab.cloud.calls)
    platform = ec2_lab.platform
    used: dict[str, set[str]] = {}

    born = platform.launch(dataclasses.replace(intent, settings={**ec2_lab.settings, "instance_profile": "web"}))
    who = ec2_lab.running(born)
    elbv2_lab.balancer.admit(who)
    elbv2_lab.balancer.drain(who)
    platform.list_instances(intent.fleet)
    platform.terminate(who.id)
    used["replacer"] = _needed(ec2_lab, begin)

    image, begin = ec2_lab.artefact("policies", "2026.11-1"), len(ec2_lab.cloud.calls)
    platform.list_images("policies")
    platform.tag_image(image, Rung.RELEASED)
    platform.delete_image(image)
    used["keeper"] = _needed(ec2_lab, begin)

    volume = ec2_lab.volume_intent(intent.fleet)
    machine = ec2_lab.running(platform.launch(dataclasses.replace(intent, attempt=2, zone=volume.zone)))
    begin = len(ec2_lab.cloud.calls)
    made = platform.create_volume(volume)
    platform.list_volumes(intent.fleet)
    platform.attach_volume(made.id, machine.id)
    platform.stop(machine.id)
    platform.snapshot_volume(made.id, "token")
    ec2_lab.cloud.set_state(machine.id, "stopped")
    platform.detach_volume(made.id, machine.id)
    used["mover"] = _needed(ec2_lab, begin) - {"ec2:DescribeInstances"}

    (kept,), begin = platform.list_snapshots(made.id), len(ec2_lab.cloud.calls)
    platform.delete_snapshot(made.id, kept.id)
    used["pruner"] = _needed(ec2_lab, begin)

    image, disk = ec2_lab.artefact("policies", "2026.11-2"), tmp_path / "disk"
    disk.write_bytes(b"x")
    ec2_lab.cloud.blocks.fill(*ec2_lab.snapshots(image), disk)
    begin = len(ec2_lab.cloud.calls)
    platform.copy_disks(image, tmp_path, Bounds(2**20, timedelta(minutes=1)))
    used["examiner"] = _needed(ec2_lab, begin)

    assert used == {policy: granted(policy) for policy in POLICIES}


def test_naming_the_drivers_loads_no_sdk() -> None:
    code = (
        "import sys; from phoenix_fleet import drivers; "
        "drivers.load('platforms', 'ec2'); drivers.load('balancers', 'elbv2'); "
        "print([name for name in sys.modules if name.startswith('boto')])"
    )

    assert output([sys.executable, "-c", code]).strip() == "[]"


def test_the_lab_is_a_process_too() -> None:
    with subprocess.Popen([sys.executable, "-m", "lab.ec2"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        client = boto3.client(
            "ec2", region_name="eu-central-1", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x"
        )
        assert client.describe_instances()["Reservations"] == []
        client.close()
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("policy", [*POLICIES, "builder"])
def test_what_a_policy_lets_go_must_be_ours(policy: str) -> None:
    ours = {"aws:ResourceTag/phoenix.owner": OWNER}
    for statement in statements(policy):
        taking = [
            each
            for each in statement["Action"]
            if re.search(":(Terminate|Stop|Detach|Attach|Delete|Deregister(?!Targets))", each)
        ]
        if taking == ["ec2:DeleteKeyPair"]:  # its name is all that a key pair has from birth
            assert statement["Resource"] == "arn:aws:ec2:*:*:key-pair/phoenix-build-*"
        elif taking:
            assert statement["Condition"]["StringEquals"] == ours, taking
            assert statement["Resource"] != "*"


def test_nobody_may_delete_a_data_volume_or_a_snapshot_of_one() -> None:
    assert not [each for policy in ("replacer", "mover") for each in granted(policy) if "Delete" in each]


def _needed(lab: Ec2Lab, begin: int) -> set[str]:
    return {each for call in lab.cloud.calls[begin:] if call.key == KEY for each in call.permissions}
