"""QEMU on the machine that builds: whether KVM works there, and guests that a killed build has left running."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from phoenix_fleet import processes
from phoenix_fleet.builders.base import BUILD_ID, NAME, Log, Run
from phoenix_fleet.domain.errors import TimedOut

_PATIENCE = timedelta(seconds=20)
_GUEST = re.compile(rf"{NAME}(?P<id>{BUILD_ID})\.(?P<until>\d{{9,12}})")


class _Speaks(Exception):
    """The kernel has printed something."""


def accelerator(prints: Sequence[str]) -> str:
    """``kvm`` if a kernel comes to print with it, else ``tcg``: what is installed says nothing.

    ``prints`` are QEMU's arguments for a kernel that does so.

    Nor does the firmware: on hosts that hide features it prints, and the kernel hangs as it leaves real mode.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    argv = ["qemu-system-x86_64", "-machine", "pc,accel=kvm", "-cpu", "max", "-m", "512", "-nodefaults", "-no-reboot"]
    argv += ["-display", "none", "-serial", "stdio", *prints]

    def note(line: str) -> None:
        if "Linux version" in line:
            raise _Speaks

    try:
        processes.run(argv, note, timeout=_PATIENCE, env=processes.bare_environment(), grace=timedelta(seconds=1))
    except _Speaks:
        return "kvm"
    except TimedOut:
        return "tcg"
    return "tcg"


def guest_name(run: Run) -> str:
    """What the build's guest is called on its command line: who it belongs to, and until when."""
    return f"{run.name}.{run.until}"


def end_guests(is_due: Callable[[str, str], bool], log: Log) -> None:
    """End guests of builds whose id and end of time are due, if they run as the same user as this process."""
    for pid, build_id, until in _guests():
        if is_due(build_id, until):
            with suppress(OSError):
                descriptor = os.pidfd_open(pid)
                try:
                    # Looked at again: the number could have become another process's meanwhile.
                    if (pid, build_id, until) in set(_guests(pid)):
                        log(f"build: ending the guest {NAME}{build_id}, left behind by a build")
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)


def _guests(only: int | None = None) -> Iterator[tuple[int, str, str]]:
    for folder in [Path(f"/proc/{only}")] if only else Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            argv = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if folder.stat().st_uid != os.geteuid() or not argv[0].rpartition("/")[2].startswith("qemu-system-"):
                continue
            name = argv[argv.index("-name") + 1] if "-name" in argv[:-1] else ""
            if match := _GUEST.fullmatch(name):
                yield int(folder.name), match["id"], match["until"]
