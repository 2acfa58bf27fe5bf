"""Runs another program in a process group of its own, with a clean environment, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

_ALLOWED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "CONTAINER_HOST",
    "KUBECONFIG",
)
"""What a program may see of our environment. All else stays out: Airflow keeps connections and keys there."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int | None
    """Its exit code, negative for a signal; None if it ran out of time and was killed."""
    output: str
    """The end of what it printed on both streams."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """A clean environment with ``home`` as HOME, so that no user's configuration is read."""
    kept = {name: os.environ[name] for name in _ALLOWED if name in os.environ}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **more}


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    output: Path,
    timeout: timedelta,
    stdin: bytes = b"",
    keep: int = 20_000,
) -> Ended:
    """Run to the end or to the timeout, with both streams in the file ``output``.

    Whatever ends it (the timeout, an exception raised into the caller when its task is stopped), its whole process
    group is gone on return.

    :raises FileNotFoundError: there is no such program.
    """
    with output.open("wb") as file:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        code: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(stdin, timeout=timeout.total_seconds())
                code = process.returncode
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(code, _tail(output, keep))


def _tail(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read(size).decode(errors="replace")
