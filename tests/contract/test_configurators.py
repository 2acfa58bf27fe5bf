"""What every configurator promises (``configurators/base.py``), asked of the fake and of the real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.domain.errors import AuthenticationFailed, StepFailed, Unavailable
from phoenix_fleet.domain.models import Environment, Instance, InstanceState
from tests.contract.configuring import API, FRONT, SECRET, Rig, role
from tests.contract.gates_fixtures import Machines, Ssh

ALL = ["fake", "none", pytest.param("ansible", marks=pytest.mark.docker)]
REACHING = ["fake", pytest.param("ansible", marks=pytest.mark.docker)]
"""Those that talk to the instance at all."""


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    kind = drivers.load("configurators", request.param)
    environment = Environment(
        "production",
        (role(tmp_path, "shop-api", API), role(tmp_path, "shop-front", FRONT)),
        {"greeting": "hello", "shop_password": SECRET},
    )
    if request.param == "ansible":
        machines: Machines = request.getfixturevalue("machines")
        driver = kind(kind.Settings(connect_timeout=2), Ssh(machines.key.private))
        return Rig("ansible", driver, request.getfixturevalue("born"), environment, machines)
    instance = Instance(
        *("id-1", "web-01-ab12", "web", "web-01", "2026.11-1", "0" * 32),
        state=InstanceState.RUNNING,
        address="192.0.2.7",
        host_keys=("ssh-ed25519 " + "A" * 60,),
    )
    return Rig(request.param, kind(kind.Settings(), Ssh(None)), instance, environment)


@pytest.mark.parametrize("rig", ALL, indirect=True)
def test_it_needs_no_io_to_be_made_and_names_the_instance_in_its_log(rig: Rig) -> None:
    type(rig.driver)(rig.driver.settings, None)  # type: ignore[arg-type]  # connections are asked later
    environment = replace(rig.environment, components=())
    assert any(rig.instance.name in line for line in rig.apply(environment=environment))


@pytest.mark.parametrize("rig", REACHING, indirect=True)
def test_it_applies_every_component_idempotently_and_leaks_no_secret(rig: Rig) -> None:
    first = rig.apply()
    assert any("shop-api" in line for line in first)
    assert any("shop-front" in line for line in first)
    assert not [line for line in first if SECRET in line]
    if rig.machines:
        assert [line for line in first if "connecting with ***" in line], "the line itself is still there"
        assert rig.machines.read(rig.instance, "/srv/shop/password") == SECRET
        assert rig.machines.read(rig.instance, "/srv/shop/index.html") == "hello"
        assert json.loads(rig.machines.read(rig.instance, "/etc/shop-api.json")) == {
            "env": "production",
            "instance": rig.instance.name,
            "version": "2026.11-1",
            "components": {"shop-api": "1.0", "shop-front": "1.0"},
            "greeting": "hello",
        }

    again = rig.apply()[-1]
    assert again.endswith((": unchanged", ", 0 changes."))

    other = replace(rig.environment, variables={**rig.environment.variables, "greeting": "good evening"})
    third = rig.apply(environment=other)[-1]
    assert third.endswith((": changed", ", 2 changes."))
    if rig.machines:
        assert rig.machines.read(rig.instance, "/srv/shop/index.html") == "good evening"


@pytest.mark.parametrize("rig", REACHING, indirect=True)
def test_without_host_keys_nobody_is_believed(rig: Rig) -> None:
    with pytest.raises(AuthenticationFailed, match=rig.instance.name):
        rig.apply(replace(rig.instance, host_keys=()))


@pytest.mark.parametrize("rig", REACHING, indirect=True)
def test_an_instance_without_address_is_unavailable(rig: Rig) -> None:
    with pytest.raises(Unavailable, match=rig.instance.name):
        rig.apply(replace(rig.instance, address=""))


def fail(rig: Rig, how: str) -> tuple[Instance, Environment]:
    """Arrange that the next run ends so."""
    if rig.name == "fake":
        rig.driver.next = [how]  # type: ignore[attr-defined]
        return rig.instance, rig.environment
    assert rig.machines
    if how == "failed":
        folder = Path(rig.environment.components[0].role).parents[2]
        command = '["sh", "-c", "echo no room left for password=hunter2hunter2 >&2; exit 3"]'
        bad = role(
            folder,
            "broken",
            f"""
            - name: Fill the disk
              ansible.builtin.command: {{argv: {command}}}
            """,
        )
        return rig.instance, replace(rig.environment, components=(bad, rig.environment.components[1]))
    if how == "impostor":
        # Another machine answers at the address; its keys are its own, and our key would let us in.
        return replace(rig.instance, address=rig.machines.start("web-02").address), rig.environment
    dead = rig.machines.start("web-03")
    rig.machines.remove(dead)
    return dead, rig.environment


@pytest.mark.parametrize("rig", REACHING, indirect=True)
def test_a_failed_task_is_named_with_its_message_and_the_next_run_is_not_hurt(rig: Rig) -> None:
    instance, environment = fail(rig, "failed")
    with pytest.raises(StepFailed) as caught:
        rig.apply(instance, environment)

    assert instance.name in str(caught.value)
    assert "task '" in str(caught.value)
    if rig.machines:
        assert "task 'broken : Fill the disk' failed" in str(caught.value)
        assert "no room left" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert not [line for line in rig.lines if "hunter2" in line]
    assert rig.apply(environment=replace(rig.environment, components=rig.environment.components[:1]))


@pytest.mark.parametrize("rig", REACHING, indirect=True)
def test_an_impostor_is_refused(rig: Rig) -> None:
    instance, environment = fail(rig, "impostor")
    with pytest.raises(AuthenticationFailed, match="host key"):
        rig.apply(instance, environment)
    if rig.machines:
        stranger = next(found for found in rig.machines.started if found.address == instance.address)
        assert rig.machines.read(stranger, "/etc/shop-api.json") == ""


@pytest.mark.parametrize("rig", REACHING, indirect=True)
def test_one_that_does_not_answer_is_unavailable(rig: Rig) -> None:
    instance, environment = fail(rig, "unavailable")
    with pytest.raises(Unavailable, match=instance.name):
        rig.apply(instance, environment)
