"""The gates that run suites inside a machine, on real machines: checks by testinfra, and a component's unit tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.models import Component, Subject
from phoenix_fleet.domain.verdicts import Verdict, judge
from phoenix_fleet.gates.base import Gate
from tests.contract.gates_fixtures import docker
from tests.contract.gates_world import CHECKS, World, build, subject_of, suite


@pytest.mark.docker
@pytest.mark.parametrize(
    ("keys", "why"),
    [((), "reports no SSH host key"), (("ssh-ed25519 AAAA\n* ssh-rsa AAAA",), "not a public SSH host key")],
    ids=["none", "injected"],
)
def test_ssh_without_believable_host_keys_is_not_tried(
    world: World, tmp_path: Path, keys: tuple[str, ...], why: str
) -> None:
    gate = build("testinfra", {"suite": suite(tmp_path, "checks", CHECKS)}, world.connections, tmp_path)
    instance = replace(world.good, host_keys=keys)
    measurement = gate.measure(subject_of(instance, tmp_path, hostspec=f"ssh://root@{instance.address}"))

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error


@pytest.mark.docker
@pytest.mark.parametrize(
    "hostspec",
    ["local://", "", "web-01", "paramiko://root@{address}", "ssh://root:pw@{address}", "docker://{id},docker://x"],
)
def test_a_hostspec_that_cannot_be_trusted_is_an_error(world: World, tmp_path: Path, hostspec: str) -> None:
    gate = build("testinfra", {"suite": suite(tmp_path, "checks", CHECKS)}, world.connections, tmp_path)
    filled = hostspec.format(address=world.good.address, id=world.good.id)
    measurement = gate.measure(subject_of(world.good, tmp_path, hostspec=filled))

    assert judge(measurement) is Verdict.ERROR
    assert "hostspec" in measurement.error


@pytest.mark.docker
def test_a_machine_is_reached_by_what_libvirt_says_of_it(world: World, tmp_path: Path) -> None:
    """An address for SSH with the machine's id behind it, which is for people."""
    gate = build("testinfra", {"suite": suite(tmp_path, "checks", CHECKS)}, world.connections, tmp_path)
    hostspec = f"ssh://root@{world.good.address}/6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    measurement = gate.measure(subject_of(world.good, tmp_path, hostspec=hostspec))

    assert (judge(measurement), measurement.error) == (Verdict.PASSED, "")


@pytest.mark.docker
def test_an_instance_that_goes_away_halfway_is_an_error_not_a_bad_image(world: World, tmp_path: Path) -> None:
    victim = world.machines.start("web-04")
    text = f"""
        import subprocess

        def test_first(host):
            assert host.file("/etc/passwd").exists
            subprocess.run(["docker", "rm", "-f", "{victim.id}"], check=True)

        def test_second(host):
            assert host.file("/etc/passwd").exists
    """
    gate = build("testinfra", {"suite": suite(tmp_path, "checks", text)}, world.connections, tmp_path)
    measurement = gate.measure(subject_of(victim, tmp_path, hostspec=f"docker://{victim.id}"))

    assert judge(measurement) is Verdict.ERROR
    assert "does not answer" in measurement.error


def unit_gate(world: World, home: Path, *command: str, **settings: Any) -> tuple[Gate, Subject]:
    gate = build("tests", {"unit": True, **settings}, world.connections, home)
    component = Component("shop-api", "1.0", "", command, "/srv/junit.xml")
    return gate, subject_of(world.good, home, hostspec=f"docker://{world.good.id}", component=component)


@pytest.mark.docker
def test_unit_tests_that_crash_do_not_pass_with_an_old_result(world: World, tmp_path: Path) -> None:
    gate, subject = unit_gate(world, tmp_path, "python3", "/opt/unit.py")
    assert judge(gate.measure(subject)) is Verdict.PASSED
    crash, subject = unit_gate(world, tmp_path, "sh", "-c", "echo boom; exit 0")
    measurement = crash.measure(subject)

    assert judge(measurement) is Verdict.ERROR
    assert "left no JUnit file" in measurement.error
    assert "boom" in json.dumps(dict(measurement.details))


@pytest.mark.docker
def test_unit_tests_that_hang_are_killed_inside_too(world: World, tmp_path: Path) -> None:
    gate, subject = unit_gate(world, tmp_path, "sleep", "4242", timeout="1s")
    measurement = gate.measure(subject)

    assert judge(measurement) is Verdict.ERROR
    assert "longer than 1 s" in measurement.error
    assert "4242" not in docker("top", world.good.id)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("junit", "code", "why"),
    [
        ('<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuite>&b;</testsuite>', 0, "document type"),
        ("<testsuite></testsuite>", 0, "no test was carried out"),
        ('<testsuite><testcase name="a"/></testsuite>', 3, "exit code is 3"),
        ('<testsuite><testcase name="a"><failure/></testcase></testsuite>', 0, "exit code is 0"),
        ("not xml", 0, "not XML"),
    ],
    ids=["bomb", "empty", "disagrees", "hides a failure", "garbage"],
)
def test_a_junit_file_from_inside_is_not_believed_blindly(
    world: World, tmp_path: Path, junit: str, code: int, why: str
) -> None:
    script = 'printf %s "$0" > /srv/junit.xml; exit "$1"'
    gate, subject = unit_gate(world, tmp_path, "sh", "-c", script, junit, str(code))
    measurement = gate.measure(subject)

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error
