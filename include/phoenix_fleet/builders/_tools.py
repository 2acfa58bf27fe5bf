"""Programs that builders run, their last words kept, and a look into a finished disk for what must not be there."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from phoenix_fleet import processes
from phoenix_fleet.builders.base import Log
from phoenix_fleet.connections import Connection
from phoenix_fleet.disks import raw
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig


def check_installed(programs: Iterable[str]) -> None:
    """Return if all are there. :raises InvalidConfig: otherwise, naming those that are not."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise InvalidConfig(
            f"Building here needs programs that are not installed: {', '.join(missing)}.",
            remedy="docs/platforms/libvirt.md names the packages that have them.",
        )


def check_files(connection: Connection, *keys: str) -> None:
    """Return if a connection's extra names files that are there. :raises InvalidConfig: otherwise."""
    for key in keys:
        named = str(connection.extra.get(key) or "")
        if not named.startswith("/") or not Path(named).is_file():
            raise InvalidConfig(
                f"Connection '{connection.id}': extra.{key} is '{named[:200]}', and there is no such file.",
                remedy="Let it name the file by its absolute path.",
            )


def run(argv: Sequence[str], *, timeout: timedelta, log: Log | None = None) -> list[str]:
    """The last lines of a program's output. :raises BuildFailed: it failed, with what it said."""
    last: deque[str] = deque(maxlen=10)

    def note(line: str) -> None:
        last.append(line)
        if log:
            log(line)

    if code := processes.run(argv, note, timeout=timeout, env=processes.bare_environment()):
        said = "\n".join(last) or "(nothing)"
        raise BuildFailed(f"{argv[0]} failed with exit code {code}; its last words:\n{said}")
    return list(last)


def traces(disk: Path, needles: Sequence[bytes]) -> list[int]:
    """Where in a raw disk any of those begins, also in blocks that are free; holes are passed over."""
    longest = max(map(len, needles))
    found: set[int] = set()
    with raw.opened(disk) as whole:
        tail, end = b"", 0
        for at, piece in whole.pieces((0, whole.size)):
            chunk = (tail if at == end else b"") + piece
            end = at + len(piece)
            base = end - len(chunk)
            found |= {base + place for needle in needles if (place := chunk.find(needle)) >= 0}
            tail = chunk[-(longest - 1) :] if longest > 1 else b""
    return sorted(found)
