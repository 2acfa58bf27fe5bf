"""Folders of labs that end with the process that made them, as a test run does; and those whose process was killed.

The mark is a file in the folder that its process keeps locked: the kernel unlocks it when the process ends, however.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lab.places import Places

LABS, HOSTS = "phoenix-vm-", "plv-"
"""How the folders of whole labs begin, and those of a libvirt host without privileges."""
_MARK = "phoenix-lab.lock"
_BELOW = Path("/tmp")  # noqa: S108 (libvirt's sockets need a short path; mkdtemp's names, and looked at before use)


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A new folder, gone when the block ends. What was started in it, the block itself must have ended."""
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=_BELOW))
    with (made / _MARK).open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        yield made
        shutil.rmtree(made)


@contextmanager
def places() -> Iterator[Places]:
    """Those of a lab of this process's own; the cache is everybody's."""
    with folder(LABS) as home:
        found = replace(Places.find(), home=home, run=home / "run")
        found.make()
        yield found


@contextmanager
def abandoned(prefix: str) -> Iterator[list[Path]]:
    """Folders whose process has ended and left them. Nobody else is given them as long as the block lasts."""
    marks = []
    try:
        for found in sorted(_BELOW.glob(f"{prefix}*/{_MARK}")):
            if _is_ours(found.parent) and _is_ours(found) and (mark := _locked(found)) is not None:
                marks.append((mark, found.parent))
        yield [where for _, where in marks]
    finally:
        for mark, _ in marks:
            os.close(mark)


def _locked(mark: Path) -> int | None:
    try:
        descriptor = os.open(mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone meanwhile
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_ours(path: Path) -> bool:
    """Whether it is no link, and of this user or of the one that a host without privileges runs as."""
    try:
        found = path.lstat()
    except OSError:
        return False
    users = {os.geteuid()} | ({pwd.getpwnam("nobody").pw_uid} if os.geteuid() == 0 else set())
    return not stat.S_ISLNK(found.st_mode) and found.st_uid in users
