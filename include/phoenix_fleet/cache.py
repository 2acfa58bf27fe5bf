"""The folder for what is costly to make or to fetch: ``PHOENIX_CACHE``, by default ``/var/cache/phoenix-fleet``."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phoenix_fleet.domain.errors import InvalidConfig


def cache_folder(part: str = "") -> Path:
    """The cache, or a folder of that name in it; made when it is missing.

    :raises InvalidConfig: it cannot be made or written to.
    """
    folder = Path(os.environ.get("PHOENIX_CACHE") or "/var/cache/phoenix-fleet") / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(f"The cache {folder} cannot be made: {error}", remedy="Set PHOENIX_CACHE.") from error
    if not os.access(folder, os.W_OK):
        raise InvalidConfig(f"The cache {folder} cannot be written to.", remedy="Set PHOENIX_CACHE.")
    return folder


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Alone with what that file stands for, on this machine. Waits for whoever has it, who is bounded in time."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
