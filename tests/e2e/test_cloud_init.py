"""What the real cloud-init makes of what the drivers tell a machine: in the lab a small program stands in for it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab import guests
from phoenix_fleet.domain.models import Artefact, LaunchIntent
from phoenix_fleet.platforms import _ec2_launch as ec2
from phoenix_fleet.platforms import _ec2_view, _vmware_view
from phoenix_fleet.platforms import _vmware_clone as vmware
from tests.e2e.refresh import make_key

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
OWNER = "phoenix-labs-cloud-init"
PLANTED = "ssh-ed25519 AAAAplantedinthetemplate"
KEYS = {"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"}
STAGES = ("init --local", "init", "modules --mode=config", "modules --mode=final")
"""What systemd's units of cloud-init call, in their order."""


class Machine:
    """A container in which cloud-init is called as a boot would."""

    def __init__(self, engine: Any, made: str) -> None:
        self._engine, self._id = engine, made

    def boot(self, source: str, told: Mapping[str, str] | None = None) -> str:
        """All stages with that data source; what they wrote. What a container has not (network, locale) may fail."""
        self.put({"etc/cloud/cloud.cfg.d/99_lab.cfg": f"datasource_list: [{source}]\n"})
        self.put({"etc/ssh/ssh_host_ed25519_key.pub": f"{PLANTED}\n", "etc/ssh/ssh_host_ed25519_key": "planted\n"})
        return "".join(self.run(f"cloud-init {stage} 2>&1", told) for stage in STAGES)

    def put(self, files: Mapping[str, str]) -> None:
        content = {name: text.encode() for name, text in files.items()}
        self._engine.put_archive(self._id, "/", guests.packed(content).getvalue())

    def run(self, command: str, environment: Mapping[str, str] | None = None) -> str:
        asked = self._engine.exec_create(self._id, ["/bin/sh", "-c", command], environment=dict(environment or {}))
        output: bytes = self._engine.exec_start(asked["Id"])
        return output.decode(errors="replace")

    def console(self) -> str:
        text: bytes = self._engine.logs(self._id)
        return text.decode(errors="replace")

    def own_keys(self) -> set[str]:
        """The host keys that it has, without comments."""
        lines = self.run("cat /etc/ssh/ssh_host_*_key.pub").splitlines()
        return {" ".join(line.split()[:2]) for line in lines if line.split()[0] in KEYS}


@pytest.fixture(scope="module")
def image() -> str:
    return guests.image_with_cloud_init(print)


@pytest.fixture
def machine(image: str) -> Iterator[Machine]:
    with guests.engine() as engine:
        made = engine.create_container(image, labels={guests.LABEL: OWNER})["Id"]
        try:
            engine.start(made)
            yield Machine(engine, made)
        finally:
            engine.remove_container(made, force=True, v=True)


@pytest.fixture
def intent(tmp_path: Path) -> LaunchIntent:
    key = make_key(tmp_path).with_suffix(".pub").read_text().strip()
    artefact = Artefact("any", "any", "sha256:" + 64 * "0")
    return LaunchIntent("web", "web-01", "rollout-1", 1, "debian-base", "2026.11-1", artefact, authorized_key=key)


def check_born(machine: Machine, intent: LaunchIntent, told: set[str]) -> None:
    """New host keys, and just those were told; only the key of the intent may log in as root, without restrictions."""
    assert told == machine.own_keys()
    assert {key.split()[0] for key in told} == KEYS
    assert PLANTED not in told
    assert machine.run("cat /root/.ssh/authorized_keys").splitlines() == [intent.authorized_key]
    assert machine.run("cat /etc/hostname").strip() == intent.name


def test_user_data_of_ec2(machine: Machine, intent: LaunchIntent) -> None:
    data = ec2.user_data(intent)
    seed = "var/lib/cloud/seed/nocloud"
    machine.put({f"{seed}/user-data": data, f"{seed}/meta-data": "instance-id: i-0123456789abcdef0\n"})
    console = machine.boot("NoCloud")
    check_born(machine, intent, set(_ec2_view.host_keys(console)))


def test_guestinfo_of_vmware(machine: Machine, intent: LaunchIntent) -> None:
    """Its keys are told by the script that the driver has it write, through VMware's tool."""
    told = {f"VMX_{key.upper().replace('.', '_')}": value for key, value in vmware.guest(intent).items()}
    machine.boot("VMware", {"VMX_GUESTINFO": "true", **told})
    said = f"guest rpc: info-set {_vmware_view.HOST_KEYS} "
    lines = [line.removeprefix(said) for line in machine.console().splitlines() if line.startswith(said)]
    check_born(machine, intent, set(_vmware_view.host_keys({_vmware_view.HOST_KEYS: lines[-1]})))


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(ec2.user_data, id="ec2"),
        pytest.param(lambda intent: _decoded(vmware.guest(intent)["guestinfo.userdata"]), id="vmware"),
    ],
)
def test_cloud_init_knows_every_key_of_it(
    machine: Machine, intent: LaunchIntent, told: Callable[[LaunchIntent], str]
) -> None:
    machine.put({"root/told": told(intent)})
    assert "Valid cloud-config" in machine.run("cloud-init schema --config-file /root/told 2>&1")


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
