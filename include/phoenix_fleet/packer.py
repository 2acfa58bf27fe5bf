"""Builds an image with Packer: a seed, ``packer build``, and what it pushed is there to be found by the platform.

The template belongs to the family and gets everything as variables from here: ``family``, ``version``, ``seed``,
``registry`` (``host:port``), ``repository``, ``registry_login``, ``registry_user``, ``registry_password``,
``manifest``, ``build_id`` and ``build_until``. What a killed Packer leaves behind is swept by that build id.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet import processes, seeds
from phoenix_fleet.config import ImageFamily, Target
from phoenix_fleet.connections import Connection, Connections
from phoenix_fleet.dockercommand import DockerCommand, Failed
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, TimedOut, Unavailable
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.redact import Redactor

CONTAINER = "phoenix-build-"
"""What names of build containers start with; the build id follows. Docker templates name theirs so."""

_GRACE = timedelta(seconds=10)
"""Packer needs about 0.2 s to remove its container after a SIGTERM (measured with 1.6.6)."""
_MARGIN = timedelta(minutes=20)
"""What making the seed and cleaning up may add to Packer's own time."""
_SCRATCH = "packer-"
_NOT_INPUTS = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ansible"}

Log = Callable[[str], None]


@dataclass(frozen=True)
class Line:
    """One line of ``packer build -machine-readable``, unescaped."""

    target: str
    kind: str
    """``ui``, ``error``, ``artifact``, ``error-count``, …"""
    data: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Line | None:
        """The line, or None for text that is none (a plugin's or the shell's own words)."""
        parts = text.split(",", 3)
        if len(parts) < 3 or not parts[0].isdigit():
            return None
        data = parts[3].split(",") if len(parts) == 4 else []
        return cls(parts[1], parts[2], tuple(map(_unescaped, data)))


def _unescaped(text: str) -> str:
    return text.replace("%!(PACKER_COMMA)", ",").replace("\\r", "").replace("\\n", "\n")


def build(
    family: ImageFamily, target: Target, version: Version, connections: Connections, *, workdir: Path, log: Log
) -> None:
    """Build one artefact of that version and push it as ``<repository>:<version>-candidate``; minutes.

    Safe to repeat: it pushes anew under the same tag. Each line that Packer says goes to ``log`` as it comes, without
    secrets, and to ``packer.log`` in ``workdir``, an existing folder. Leaves no container behind, however it ends.

    :raises BuildFailed: with the last words of what failed.
    :raises InvalidConfig: the template, Packer or a connection is missing.
    :raises Unavailable: the registry or the Docker engine does not answer.
    """
    registry = connections(target.build.registry)
    template = _template(family, target)
    _check_answers(registry)
    _forget_scratch(workdir, older_than=target.build.timeout + _MARGIN)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=workdir) as scratch:
        docker = _docker(target, connections, Path(scratch))
        if docker:
            _sweep_orphans(docker, log)
            seed = seeds.docker_image(target.build.seed, log, docker=docker)
        else:
            seed = str(seeds.root_file_system(target.build.seed, log))
        run = _Run(f"{family.name}-{version}-{secrets.token_hex(4)}", Path(scratch), docker, target.build.timeout)
        variables = {
            "family": family.name,
            "version": str(version),
            "seed": seed,
            "registry": _address(registry),
            "repository": target.build.repository or family.name,
            "registry_login": bool(registry.login),
            "registry_user": registry.login,
            "registry_password": registry.password,
            "manifest": str(run.manifest),
            "build_id": run.build_id,
            "build_until": str(run.until),
        }
        with (workdir / "packer.log").open("a", encoding="utf-8") as kept:
            output = _Output(log, kept.write, Redactor([registry.password] if registry.password else []))
            run.packer(template, variables, output)
            made = _artifact(run.manifest, output)
    log(f"build: {made} is in the registry")


@dataclass
class _Output:
    """What Packer says: passed on line by line, and its last words kept."""

    log: Log
    keep: Callable[[str], object]
    redact: Redactor
    errors: list[str] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=15))

    def __call__(self, text: str) -> None:
        line = Line.parse(text)
        if line is None:
            self._say(text)
        elif line.kind == "ui" and len(line.data) > 1:
            self._say(line.data[1])
        elif line.kind == "error":
            self.errors.append("\n".join(map(self.redact, "\n".join(line.data).strip().splitlines())))

    def _say(self, text: str) -> None:
        for part in text.splitlines():
            clean = self.redact(part).rstrip()
            if clean:
                self.last.append(clean)
                self.keep(clean + "\n")
                self.log(clean)

    def last_words(self) -> str:
        """The errors that Packer names, and what was said right before it ended."""
        return "\n".join([*self.errors, "The last lines of its output:", *(f"  {line}" for line in self.last)])


@dataclass(frozen=True)
class _Run:
    """One run of Packer, with the id that its leftovers carry."""

    build_id: str
    scratch: Path
    """A private folder that is gone afterwards."""
    docker: DockerCommand | None
    timeout: timedelta

    @property
    def manifest(self) -> Path:
        """Where Packer writes what it has made."""
        return self.scratch / "manifest.json"

    @property
    def until(self) -> int:
        """Moment (Unix time) after which nothing of this run may exist."""
        return int(time.time() + (self.timeout + _MARGIN).total_seconds())

    def packer(self, template: Path, variables: dict[str, Any], output: _Output) -> None:
        """Run Packer to its end. :raises BuildFailed: if that was not a success."""
        var_file = self.scratch / "variables.pkrvars.json"
        with os.fdopen(os.open(var_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(variables, file)
        env = processes.bare_environment(
            CHECKPOINT_DISABLE="1",
            PACKER_NO_COLOR="1",
            PACKER_CACHE_DIR=str(self.scratch / "cache"),
            PACKER_CONFIG_DIR=str(self.scratch),
            **_plugin_path(),
            **(self.docker.env if self.docker else {}),
        )
        argv = ["packer", "build", "-machine-readable", f"-var-file={var_file}", str(template)]
        code: int | None = None
        try:
            code = processes.run(argv, output, timeout=self.timeout, env=env, grace=_GRACE)
        except TimedOut as error:
            raise BuildFailed(
                f"{error} {output.last_words()}", remedy="See what hangs, or raise build.timeout in image.yaml."
            ) from error
        finally:
            # Packer removes its container itself, unless it was killed outright.
            if self.docker and code != 0:
                _remove(self.docker, CONTAINER + self.build_id)
        if code:
            raise BuildFailed(
                f"Packer ended with {_exit(code)}. {output.last_words()}",
                remedy=f"Mend what {template.parent.name}/ does there, then clear this build.",
            )


def _plugin_path() -> dict[str, str]:
    """Where a current Packer finds the plugins that ``packer init`` fetched; the configuration folder is ours."""
    if named := os.environ.get("PACKER_PLUGIN_PATH"):
        return {"PACKER_PLUGIN_PATH": named}
    usual = Path(os.environ.get("HOME") or "/nonexistent") / ".config" / "packer" / "plugins"
    return {"PACKER_PLUGIN_PATH": str(usual)} if usual.is_dir() else {}


def _exit(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {-code}"


def _template(family: ImageFamily, target: Target) -> Path:
    template = (family.home / target.build.template).resolve()
    if not template.is_file() or not template.is_relative_to(family.home.resolve()):
        raise InvalidConfig(
            f"{family.home}/image.yaml: build.template: there is no '{target.build.template}' in the family's folder.",
            remedy="Name a Packer template, relative to that folder.",
        )
    return template


def _artifact(manifest: Path, output: _Output) -> str:
    """The artefact that Packer's manifest names."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        if made := str(json.loads(manifest.read_text())["builds"][-1]["artifact_id"]):
            return made
    raise BuildFailed(
        f"Packer ended well and its manifest names no artefact. {output.last_words()}",
        remedy="The template must end with the post-processor manifest, its output var.manifest.",
    )


def _address(registry: Connection) -> str:
    return f"{registry.host}:{registry.port}" if registry.port else registry.host


def _check_answers(registry: Connection) -> None:
    """Minutes before the push is the time to find out."""
    try:
        socket.create_connection((registry.host, registry.port or 443), timeout=5).close()
    except OSError as error:
        raise Unavailable(
            f"The registry {_address(registry)} (connection '{registry.id}') does not answer: {error}",
            remedy="Start it, or mend the connection.",
        ) from error


def _docker(target: Target, connections: Connections, folder: Path) -> DockerCommand | None:
    """The Docker engine that the target's platform names; None for a platform that has none."""
    if target.platform.name != "docker":
        return None
    docker = DockerCommand(connections(target.platform.settings.get("connection", "docker")), folder)
    docker.check_answers()
    return docker


def _remove(docker: DockerCommand, container: str) -> None:
    """Remove a container of ours by its exact name; if there is none, that is success."""
    with suppress(Failed):  # it must not hide why the build failed; a later build sweeps
        docker.run("container", "rm", "--force", "--volumes", container)


def _sweep_orphans(docker: DockerCommand, log: Log) -> None:
    """Remove build containers that are past their own time: whoever started them was killed and could not.

    Ours is only what carries a build id, and that id in its name too; instances born from an image inherit the
    label without its value.
    """
    shown = '{{.Names}} {{.Label "phoenix.build"}} {{.Label "phoenix.build-until"}}'
    for line in docker.run("container", "ls", "--all", "--filter", "label=phoenix.build", "--format", shown):
        match = re.fullmatch(rf"{CONTAINER}(\S+) (\S+) (\d+)", line)
        if match and match[1] == match[2] and int(match[3]) < time.time():
            log(f"build: removing {CONTAINER}{match[1]}, left behind by a build that was killed")
            _remove(docker, CONTAINER + match[1])


def _forget_scratch(workdir: Path, *, older_than: timedelta) -> None:
    """Remove the private folders of builds that were killed outright: a registry's password may lie there."""
    for folder in workdir.glob(f"{_SCRATCH}*/"):
        if folder.stat().st_mtime < time.time() - older_than.total_seconds():
            shutil.rmtree(folder, ignore_errors=True)


def inputs_fingerprint(family: ImageFamily) -> str:
    """SHA-256 (hex) over every file of the family's folder: name, content, whether executable.

    The same in every checkout: caches are left out, and of the modes only what git keeps counts.
    """
    digest = hashlib.sha256()
    for path in sorted(_inputs(family.home), key=lambda path: path.relative_to(family.home).as_posix()):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, content = "link", os.readlink(path).encode()
        else:
            kind, content = ("program" if mode & stat.S_IXUSR else "file"), path.read_bytes()
        head = json.dumps([path.relative_to(family.home).as_posix(), kind, len(content)])
        digest.update(head.encode() + b"\n" + content)
    return digest.hexdigest()


def _inputs(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_INPUTS]
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from (Path(parent) / name for name in [*files, *links] if not name.endswith(".pyc"))
