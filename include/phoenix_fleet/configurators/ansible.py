"""Configures an instance over SSH with the components' Ansible roles."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from pydantic import Field

import phoenix_fleet
from phoenix_fleet import ssh
from phoenix_fleet.config import Duration, Frozen
from phoenix_fleet.configurators import _reap
from phoenix_fleet.configurators.base import Configurator
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidConfig,
    InvalidSpec,
    PhoenixError,
    StepFailed,
    TimedOut,
    Unavailable,
)
from phoenix_fleet.domain.models import Environment, Instance
from phoenix_fleet.redact import Redactor, secrets_in

_GRACE = 15.0
"""Seconds that the run's own process may take on top of the timeout to end by itself."""
_PASSED_ON = ("LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_IDENTITY = re.compile(
    r"Host key verification failed|HOST IDENTIFICATION HAS CHANGED|host key is known|no matching host key", re.I
)
_REFUSED = re.compile(r"Permission denied \(|Too many authentication failures", re.I)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*|[A-Fa-f0-9:]{2,}")


class Settings(Frozen):
    """How instances are reached."""

    connection: str = Field(
        "phoenix_ssh", description="Airflow connection whose extra.key_file is the private key. Default: phoenix_ssh."
    )
    user: str = Field("root", pattern=r"^[a-z_][a-z0-9_-]*$", description="Login name. Default: root.")
    port: int = Field(22, ge=1, le=65535, description="Port of the SSH server. Default: 22.")
    python: str = Field(
        "/usr/bin/python3", pattern=r"^/[\w./-]+$", description="Python on the instance. Default: /usr/bin/python3."
    )
    gather_facts: bool = Field(False, description="Whether roles need Ansible's facts: costs a second. Default: false.")
    connect_timeout: int = Field(10, ge=1, le=300, description="Seconds to wait for a connection. Default: 10.")
    timeout: Duration = Field(timedelta(minutes=20), description="One run is killed after this long. Default 20m.")


class Driver(Configurator):
    """Applies the roles of all components, in order, in one play.

    Roles get the environment's variables and, besides, ``phoenix_environment``, ``phoenix_instance`` (name),
    ``phoenix_version`` and ``phoenix_components`` (version by component).
    """

    Settings = Settings

    def apply(self, instance: Instance, environment: Environment, log: Callable[[str], None]) -> None:
        """Run the play and return when it is done; waits at most the timeout.

        :raises TimedOut: it took longer; everything of it was killed.
        :raises InvalidConfig: a role is missing, or a variable has a name that Ansible or we reserve.
        """
        redactor = Redactor(secrets_in(environment.variables))
        with _private_folder() as folder:
            self._prepare(folder, instance, environment)
            if not environment.components:
                log(f"{instance.name}: the environment '{environment.name}' has no components.")
                return
            outcome = _carry_out(folder, self.settings.timeout.total_seconds(), lambda line: log(redactor(line)))
        if error := _error(outcome, instance, self.settings.timeout, redactor):
            raise error
        log(f"{instance.name}: {environment.name} applied, {outcome.changed} changes.")

    def _prepare(self, folder: Path, instance: Instance, environment: Environment) -> None:
        """Write all that the run reads: nothing secret is ever an argument or a variable of the environment."""
        if not instance.address:
            raise Unavailable(f"{instance.name} has no address yet.")
        for what, text, allowed in (
            ("name", instance.name, _WORD),
            ("version", instance.version, _WORD),
            ("address", instance.address, _ADDRESS),
        ):
            # Ansible would evaluate braces in these, and they come from outside.
            if not allowed.fullmatch(text):
                raise InvalidSpec(f"The platform reports {text[:100]!r} as an instance's {what}.")
        config = ssh.trusting_config(
            folder,
            whose=instance.name,
            host_keys=instance.host_keys,
            identity=ssh.identity_file(self.connections(self.settings.connection)),
            connect_timeout=self.settings.connect_timeout,
        )
        host = {
            "ansible_host": instance.address,
            "ansible_port": self.settings.port,
            "ansible_user": self.settings.user,
            "ansible_python_interpreter": self.settings.python,
        }
        for part in ("project", "env", "inventory", "roles", "tmp", "home"):
            (folder / part).mkdir(mode=0o700)
        _write(folder / "inventory" / "hosts.yml", {"all": {"hosts": {"instance": host}}})
        _write(folder / "env" / "extravars", _variables(instance, environment))
        play = {
            "name": environment.name,
            "hosts": "instance",
            "gather_facts": self.settings.gather_facts,
            "gather_subset": ["min"],
            "roles": _linked_roles(folder / "roles", environment),
        }
        _write(folder / "project" / "play.json", [play])
        text = _CONFIG.format(folder=folder, ssh_config=config, connect_timeout=self.settings.connect_timeout)
        (folder / "ansible.cfg").write_text(text, encoding="utf-8")


_CONFIG = """\
[defaults]
host_key_checking = True
forks = 1
gathering = explicit
roles_path = {folder}/roles
local_tmp = {folder}/tmp
home = {folder}/home
retry_files_enabled = False
nocolor = True
nocows = True
timeout = {connect_timeout}
deprecation_warnings = False
system_warnings = False

[inventory]
enable_plugins = yaml

[connection]
pipelining = True

[ssh_connection]
ssh_args = -F {ssh_config}
transfer_method = piped
"""


@dataclass
class _Outcome:
    """What the run's own process has said."""

    status: str = ""
    code: int | None = None
    changed: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    unreachable: list[dict[str, str]] = field(default_factory=list)
    last_lines: list[str] = field(default_factory=list)


@contextmanager
def _private_folder() -> Iterator[Path]:
    # mkdtemp gives mode 0700; its short path leaves room for the connection's socket.
    folder = Path(tempfile.mkdtemp(prefix="phoenix-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _variables(instance: Instance, environment: Environment) -> dict[str, Any]:
    reserved = sorted(name for name in environment.variables if name.startswith(("ansible_", "phoenix_")))
    if reserved:
        raise InvalidConfig(
            f"The environment '{environment.name}' sets {', '.join(reserved)}: these names are reserved.",
            remedy="They say how instances are reached and what they are; use names of the component's own.",
        )
    return {
        **environment.variables,
        "phoenix_environment": environment.name,
        "phoenix_instance": instance.name,
        "phoenix_version": instance.version,
        "phoenix_components": {component.name: component.version for component in environment.components},
    }


def _linked_roles(folder: Path, environment: Environment) -> list[str]:
    """The roles' names in order: each is a link named after its component, which then names the tasks in logs."""
    for component in environment.components:
        if not _WORD.fullmatch(component.name) or not Path(component.role).is_dir():
            raise InvalidConfig(
                f"The component '{component.name}' has no role at '{component.role}'.",
                remedy="A role is a folder with tasks/main.yml; see component.yaml.",
            )
        if (folder / component.name).is_symlink():
            raise InvalidConfig(f"The environment '{environment.name}' names '{component.name}' twice.")
        (folder / component.name).symlink_to(Path(component.role).resolve())
    return [component.name for component in environment.components]


def _write(path: Path, data: Any) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(data), encoding="utf-8")


def _carry_out(folder: Path, timeout: float, log: Callable[[str], None]) -> _Outcome:
    """Run the play in a process of its own; on return or on any exception nothing of it is left."""
    run = uuid.uuid4().hex
    outcome = _Outcome()
    with (folder / "errors").open("w+b") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "phoenix_fleet.configurators._ansible_run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            cwd=folder,
            env=_environment(folder, run),
            start_new_session=True,
        )
        brake = threading.Timer(timeout + _GRACE, process.kill)
        brake.daemon = True
        try:
            brake.start()
            request = {"folder": str(folder), "inventory": str(folder / "inventory"), "timeout": max(1, round(timeout))}
            _send(process.stdin, request)
            for line in process.stdout or ():
                _take(outcome, line, log)
            process.wait()
        finally:
            brake.cancel()
            _end(process, run)
            ssh.hang_up(folder / "ssh_config")
        errors.seek(0)
        outcome.last_lines += errors.read(20_000).decode(errors="replace").splitlines()
    if process.returncode == -signal.SIGKILL and not outcome.status:
        outcome.status = "timeout"
    return outcome


def _environment(folder: Path, run: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        "LANG": "C.UTF-8",
        **kept,
        # Ansible's own programs lie beside the interpreter that it is installed for.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(Path(phoenix_fleet.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner would set it to False
        _reap.MARK: run,
    }


def _send(stdin: IO[str] | None, request: Mapping[str, Any]) -> None:
    # A process that is dead already shows in its exit code and its errors.
    with contextlib.suppress(BrokenPipeError):
        if stdin:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()


def _take(outcome: _Outcome, line: str, log: Callable[[str], None]) -> None:
    answer = json.loads(line)
    if text := answer.get("line"):
        outcome.last_lines = [*outcome.last_lines[-19:], text]
        log(text)
    outcome.failed += [answer["failed"]] if "failed" in answer else []
    outcome.unreachable += [answer["unreachable"]] if "unreachable" in answer else []
    outcome.changed = answer.get("changed", outcome.changed)
    outcome.status = answer.get("status", outcome.status)
    outcome.code = answer.get("code", outcome.code)


def _end(process: subprocess.Popen[str], run: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        if process.stdin:
            process.stdin.close()
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
    _reap.reap(run)


def _error(outcome: _Outcome, instance: Instance, timeout: timedelta, redactor: Redactor) -> PhoenixError | None:
    where = f"{instance.name} at {instance.address}"
    if outcome.status == "successful" and outcome.code == 0:
        return None
    if outcome.status == "timeout":
        return TimedOut(
            f"{where}: the configuration took longer than {timeout.total_seconds():g} s and was killed.",
            remedy="See in the log which task was running, and whether it waits for something.",
        )
    if outcome.unreachable:
        return _unreachable(where, redactor(" ".join(outcome.unreachable[-1]["message"].split()))[:500])
    if outcome.failed:
        news = outcome.failed[-1]
        task = " : ".join(part for part in (news["role"], news["task"]) if part)
        message = redactor(" ".join(news["message"].split()))[:500]
        return StepFailed(
            f"{where}: task '{redactor(task)}' failed: {message}", remedy="Correct the role or its values."
        )
    last = redactor(" ".join(" ".join(outcome.last_lines[-8:]).split()))[-800:] or "it said nothing"
    return StepFailed(
        f"{where}: Ansible ended as '{outcome.status or 'dead'}' with exit code {outcome.code}: {last}",
        remedy="Correct the role; ansible-playbook --syntax-check finds most such mistakes.",
    )


def _unreachable(where: str, message: str) -> PhoenixError:
    if _IDENTITY.search(message):
        return AuthenticationFailed(
            f"{where}: the host key is not the one that the platform reports: {message}",
            remedy="Find out who answers there before anything else.",
        )
    if _REFUSED.search(message):
        return AuthenticationFailed(
            f"{where}: it refuses our key: {message}", remedy="See that the instance was born with the public key."
        )
    return Unavailable(f"{where} cannot be reached: {message}")
