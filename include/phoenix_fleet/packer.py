"""Builds an image with Packer on one platform, from the family's template and what that platform's builder adds.

The template gets everything as variables: ``family``, ``version``, ``manifest``, ``build_id``, ``build_until``,
``common`` (the folder that the families share), those of the builder (``builders/<platform>.py``), and last the
target's own ``build.variables``. Undeclared ones are let go.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet import drivers, processes
from phoenix_fleet.builders.base import NAME as CONTAINER
from phoenix_fleet.builders.base import Builder, Run
from phoenix_fleet.config import ImageFamily, Target
from phoenix_fleet.configbuild import COMMON
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, PhoenixError, TimedOut
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.redact import Redactor

__all__ = ["CONTAINER", "Line", "build", "inputs_fingerprint", "sweep"]

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
) -> str:
    """Build one artefact of that version, a candidate on its platform, and return its reference; minutes.

    Empty if the platform knows it by its version alone. Safe to repeat: the last one counts. Each line that Packer
    says goes to ``log`` as it comes, without secrets, and to ``packer.log`` in ``workdir``, an existing folder. Leaves
    nothing behind, however it ends.

    :raises BuildFailed: with the last words of what failed.
    :raises InvalidConfig: the template, Packer or a connection is missing.
    :raises Unavailable: the platform, or what the artefact goes to, does not answer.
    """
    template = _template(family, target)
    _forget_scratch(workdir, older_than=target.build.timeout + _MARGIN)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=workdir) as scratch:
        builder = _builder(target, connections, Path(scratch))
        builder.check()
        builder.sweep(log)
        build_id = f"{family.name}-{version}-{secrets.token_hex(4)}"
        until = int(time.time() + (target.build.timeout + _MARGIN).total_seconds())
        run = Run(family.name, str(version), build_id, until, Path(scratch), family.home.parent / COMMON)
        try:
            return _run(builder, run, template, workdir, log)
        except BaseException:
            _clean_up(builder, run, log)
            raise


def sweep(target: Target, connections: Connections, log: Log) -> None:
    """Remove what killed builds have left on that platform, once they are past their own time."""
    if target.platform.name not in drivers.names("builders"):
        return
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch:
        _builder(target, connections, Path(scratch)).sweep(log)


def _builder(target: Target, connections: Connections, folder: Path) -> Builder:
    found: Builder = drivers.load("builders", target.platform.name)(target, connections, folder)
    return found


def _run(builder: Builder, run: Run, template: Path, workdir: Path, log: Log) -> str:
    inputs = builder.prepare(run, log)
    build = builder.target.build
    variables = {
        **build.variables,
        **inputs.variables,
        "family": run.family,
        "version": run.version,
        "manifest": str(run.manifest),
        "build_id": run.build_id,
        "build_until": str(run.until),
        "common": str(run.common),
    }
    with (workdir / "packer.log").open("a", encoding="utf-8", buffering=1) as kept:
        output = _Output(log, kept.write, Redactor(inputs.secrets))
        _packer(run, template, build.timeout, variables, inputs.environment, output)
        made = _artifact(run.manifest, output)
    return builder.finish(run, made, log)


def _clean_up(builder: Builder, run: Run, log: Log) -> None:
    try:
        builder.clean_up(run, log)
    except PhoenixError as error:  # it must not hide why the build failed; a later sweep does it
        log(f"build: what {run.build_id} left is not removed yet: {error}")


def _packer(
    run: Run,
    template: Path,
    timeout: timedelta,
    variables: Mapping[str, Any],
    environment: Mapping[str, str],
    output: _Output,
) -> None:
    """Run Packer to its end. :raises BuildFailed: if that was not a success."""
    var_file = run.scratch / "variables.pkrvars.json"
    with os.fdopen(os.open(var_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(variables, file)
    env = processes.bare_environment(
        CHECKPOINT_DISABLE="1",
        PACKER_NO_COLOR="1",
        PACKER_CACHE_DIR=str(run.scratch / "cache"),
        PACKER_CONFIG_DIR=str(run.scratch),
        **_plugin_path(),
        **environment,
    )
    argv = ["packer", "build", "-machine-readable", f"-var-file={var_file}", str(template)]
    try:
        code = processes.run(argv, output, timeout=timeout, env=env, grace=_GRACE)
    except TimedOut as error:
        raise BuildFailed(
            f"{error} {output.last_words()}", remedy="See what hangs, or raise build.timeout in image.yaml."
        ) from error
    finally:
        var_file.unlink(missing_ok=True)
    if code:
        raise BuildFailed(
            f"Packer ended with {_exit(code)}. {output.last_words()}",
            remedy=f"Mend what {template.parent.name}/ does there, then clear this build.",
        )


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
    homes = [family.home.resolve(), (family.home.parent / COMMON).resolve()]
    if not template.is_file() or not any(map(template.is_relative_to, homes)):
        raise InvalidConfig(
            f"{family.home}/image.yaml: build.template: there is no '{target.build.template}' in the family's folder.",
            remedy=f"Name a Packer template, relative to that folder; ../{COMMON}/ is shared by all families.",
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


def _forget_scratch(workdir: Path, *, older_than: timedelta) -> None:
    """Remove the private folders of builds that were killed outright: a registry's password may lie there.

    Those of the same task's earlier tries, too: each try has a folder of its own (``try-2``).
    """
    for folder in [*workdir.glob(f"{_SCRATCH}*/"), *workdir.parent.glob(f"try-*/{_SCRATCH}*/")]:
        if folder.exists() and folder.stat().st_mtime < time.time() - older_than.total_seconds():
            shutil.rmtree(folder, ignore_errors=True)


def inputs_fingerprint(family: ImageFamily) -> str:
    """SHA-256 (hex) over every file of the family's folder and the common one: name, content, whether executable.

    The same in every checkout: caches are left out, and of the modes only what git keeps counts.
    """
    digest = hashlib.sha256()
    for folder, under in ((family.home, ""), (family.home.parent / COMMON, f"../{COMMON}/")):
        for path in sorted(_inputs(folder), key=lambda path: path.relative_to(folder).as_posix()):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                kind, content = "link", os.readlink(path).encode()
            else:
                kind, content = ("program" if mode & stat.S_IXUSR else "file"), path.read_bytes()
            head = json.dumps([under + path.relative_to(folder).as_posix(), kind, len(content)])
            digest.update(head.encode() + b"\n" + content)
    return digest.hexdigest()


def _inputs(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_INPUTS]
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from (Path(parent) / name for name in [*files, *links] if not name.endswith(".pyc"))
