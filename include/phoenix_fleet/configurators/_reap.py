"""Finds processes by a mark in their environment, so that none outlives its run, however it has detached itself.

ssh's shared connection alone is not found so, because it writes its title over its environment: see ``ssh.hang_up``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "PHOENIX_CONFIGURATION_RUN"
"""Environment variable that every process of one run inherits."""


def marked(run: str) -> list[int]:
    """Ids of the live processes of that run, the caller's own excluded."""
    needle = f"{MARK}={run}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and needle in (entry / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def reap(run: str, patience: float = 5.0) -> list[int]:
    """Kill every process of that run; gives the ids of those that did not go within ``patience`` seconds."""
    end = time.monotonic() + patience
    while left := marked(run):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            return left
        time.sleep(0.02)
    return []
