"""What only a real run of Ansible can show: how it ends, what it leaves, what it reads, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.configurators import _reap
from phoenix_fleet.configurators.base import Configurator
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidConfig,
    InvalidSpec,
    StepFailed,
    TimedOut,
    Unavailable,
)
from phoenix_fleet.domain.models import Component, Environment, Instance
from tests.contract.configuring import API, FRONT, SECRET, Rig, role
from tests.contract.gates_fixtures import Machines, Ssh, free_port, make_key


@pytest.fixture
def real(machines: Machines, born: Instance, tmp_path: Path) -> Rig:
    kind = drivers.load("configurators", "ansible")
    environment = Environment("production", (role(tmp_path, "shop-api", API),), {"greeting": "hello"})
    return Rig("ansible", kind(kind.Settings(), Ssh(machines.key.private)), born, environment, machines)


def tuned(rig: Rig, **settings: object) -> Configurator:
    kind = drivers.load("configurators", "ansible")
    return kind(kind.Settings(**settings), rig.driver.connections)


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place for temporary files, with a path short enough for sockets; it must be empty in the end."""
    with tempfile.TemporaryDirectory(prefix="px-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert leftovers(Path(folder)) == []
        assert list(Path(folder).iterdir()) == []


def leftovers(scratch: Path) -> list[str]:
    """Processes of configuration runs that have their files below the folder, as command lines.

    ssh's shared connection overwrites its environment with its title, which names its socket.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            marked = f"{_reap.MARK}=".encode() in environ and f"HOME={scratch}/".encode() in environ
            if marked or command.startswith(f"ssh: {scratch}/"):
                found.append(command)
        except OSError:
            continue
    return found


@pytest.mark.docker
def test_a_key_that_is_refused_is_a_matter_of_authentication(real: Rig, tmp_path: Path) -> None:
    stranger = make_key(tmp_path)
    kind = drivers.load("configurators", "ansible")
    with pytest.raises(AuthenticationFailed, match="refuses our key"):
        kind(kind.Settings(), Ssh(stranger.private)).apply(real.instance, real.environment, real.lines.append)


@pytest.mark.docker
def test_a_closed_port_is_unavailable(real: Rig) -> None:
    with pytest.raises(Unavailable, match=r"cannot be reached.*refused"):
        tuned(real, port=free_port()).apply(real.instance, real.environment, real.lines.append)


@pytest.mark.docker
def test_time_up_kills_everything(real: Rig, tmp_path: Path, scratch: Path) -> None:
    slow = role(
        tmp_path,
        "slow",
        """
        - name: Sleep
          ansible.builtin.command: sleep 60
        """,
    )
    with pytest.raises(TimedOut, match="longer than 3 s"):
        tuned(real, timeout="3s").apply(real.instance, replace(real.environment, components=(slow,)), real.lines.append)


class Stopped(BaseException):
    """What a task gets when it is stopped."""


@pytest.mark.docker
def test_an_exception_in_the_task_leaves_nothing_behind(real: Rig, scratch: Path) -> None:
    def log(line: str) -> None:
        if "TASK [shop-api" in line:
            raise Stopped

    with pytest.raises(Stopped):
        real.driver.apply(real.instance, real.environment, log)


@pytest.mark.docker
def test_killing_the_task_kills_its_run(real: Rig, tmp_path: Path, scratch: Path) -> None:
    """SIGKILL of the asking process, as a worker's supervisor does it: nothing can be cleaned up from within."""
    slow = role(
        tmp_path,
        "slow",
        """
        - name: Sleep
          ansible.builtin.command: sleep 60
        """,
    )
    assert real.machines
    program = tmp_path / "task.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from phoenix_fleet import drivers
            from phoenix_fleet.domain.models import *
            from tests.contract.gates_fixtures import Ssh

            key, role, *instance, host_keys = sys.argv[1:]
            kind = drivers.load("configurators", "ansible")
            instance = Instance(*instance[:6], state=InstanceState.RUNNING, address=instance[6],
                                host_keys=tuple(host_keys.split(",")))
            environment = Environment("production", (Component("slow", "1.0", role),))
            kind(kind.Settings(), Ssh(Path(key))).apply(instance, environment, lambda line: print(line, flush=True))
            """
        )
    )
    of = real.instance
    parts = (of.id, of.name, of.fleet, of.slot, of.version, of.token, of.address, ",".join(of.host_keys))
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(program), str(real.machines.key.private), slow.role, *parts],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join([str(root), str(root / "include")])},
    ) as task:
        assert task.stdout
        for line in task.stdout:
            if "TASK [slow : Sleep]" in line:
                break
        assert leftovers(scratch) != [], "the run must be under way"
        task.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while (leftovers(scratch) or list(scratch.iterdir())) and time.monotonic() < end:
        time.sleep(0.1)


@pytest.mark.docker
def test_no_secret_is_in_any_command_line_or_environment(real: Rig, tmp_path: Path) -> None:
    seen: list[str] = []

    def log(_: str) -> None:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if SECRET.encode() in text:
                seen.append(entry.name)

    environment = Environment("production", (role(tmp_path, "shop-front", FRONT),), {"greeting": "x"})
    environment = replace(environment, variables={**environment.variables, "shop_password": SECRET})
    real.driver.apply(real.instance, environment, log)
    assert seen == []


@pytest.mark.docker
def test_nothing_of_the_user_is_read(real: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile ~/.ansible.cfg, ANSIBLE_ variables and a proxy to nowhere change nothing."""
    (tmp_path / ".ansible.cfg").write_text("[defaults]\nroles_path = /nonexistent\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", "False")
    monkeypatch.setenv("ANSIBLE_SSH_ARGS", "-o ProxyCommand=false")
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "nonexistent")
    assert real.apply()[-1].endswith("changes.")
    assert not (tmp_path / ".ansible").exists()


@pytest.mark.docker
def test_a_broken_role_says_what_is_wrong(real: Rig, tmp_path: Path) -> None:
    broken = role(tmp_path, "broken", "- name: No module\n  no.such.module: {}\n")
    with pytest.raises(StepFailed, match=r"no\.such\.module"):
        real.apply(environment=replace(real.environment, components=(broken,)))


@pytest.mark.docker
@pytest.mark.parametrize("name", ["ansible_host", "ansible_ssh_common_args", "phoenix_version"])
def test_reserved_variables_are_refused(real: Rig, name: str) -> None:
    with pytest.raises(InvalidConfig, match=name):
        real.apply(environment=replace(real.environment, variables={name: "x"}))


@pytest.mark.docker
@pytest.mark.parametrize("field_name", ["address", "version", "name"])
def test_what_the_platform_says_is_never_evaluated(real: Rig, field_name: str) -> None:
    hostile = "{{ lookup('pipe','id') }}"
    with pytest.raises(InvalidSpec, match=field_name):
        real.apply(replace(real.instance, **{field_name: hostile}))


@pytest.mark.docker
def test_a_missing_role_and_a_missing_key_are_configuration_errors(real: Rig, tmp_path: Path) -> None:
    gone = Component("shop-api", "1.0", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidConfig, match="has no role"):
        real.apply(environment=replace(real.environment, components=(gone,)))
    kind = drivers.load("configurators", "ansible")
    with pytest.raises(InvalidConfig, match="key_file"):
        kind(kind.Settings(), Ssh(tmp_path / "nowhere")).apply(real.instance, real.environment, print)
