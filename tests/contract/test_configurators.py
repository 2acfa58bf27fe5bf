"""What every configurator promises (``configurators/base.py``), asked of the fake and of the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
from phoenix_fleet.domain.models import Component, Environment, Instance, InstanceState
from tests.contract.gates_fixtures import Machines, Ssh, free_port, make_image, make_key

SECRET = "correct-horse-battery"


def role(folder: Path, name: str, tasks: str) -> Component:
    """A component whose role has those tasks; every role lies in a folder named ``role``."""
    home = folder / "components" / name / "role"
    (home / "tasks").mkdir(parents=True, exist_ok=True)
    (home / "tasks" / "main.yml").write_text(textwrap.dedent(tasks))
    return Component(name=name, version="1.0", role=str(home))


API = """
    - name: Write what it was told
      ansible.builtin.copy:
        dest: /etc/shop-api.json
        content: "{{ {'env': phoenix_environment, 'instance': phoenix_instance, 'version': phoenix_version,
          'components': phoenix_components, 'greeting': greeting} | to_json }}"
        mode: "0644"
"""
FRONT = """
    - name: Make a folder
      ansible.builtin.file: {path: /srv/shop, state: directory, mode: "0755"}
    - name: Write the page
      ansible.builtin.copy: {dest: /srv/shop/index.html, content: "{{ greeting }}\\n", mode: "0644"}
    - name: Keep the password
      ansible.builtin.copy: {dest: /srv/shop/password, content: "{{ shop_password }}\\n", mode: "0600"}
    - name: Say too much
      ansible.builtin.debug: {msg: "connecting with {{ shop_password }}"}
"""


@dataclass
class Rig:
    """One configurator with an instance that it may configure."""

    name: str
    driver: Configurator
    instance: Instance
    environment: Environment
    machines: Machines | None = None
    lines: list[str] = field(default_factory=list)

    def apply(self, instance: Instance | None = None, environment: Environment | None = None) -> list[str]:
        self.lines.clear()
        self.driver.apply(instance or self.instance, environment or self.environment, self.lines.append)
        return list(self.lines)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    machines = Machines(make_image(folder), make_key(folder))
    yield machines
    machines.close()


@pytest.fixture(scope="module")
def born(machines: Machines) -> Instance:
    return machines.start()


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


# What only the real one can show.


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
