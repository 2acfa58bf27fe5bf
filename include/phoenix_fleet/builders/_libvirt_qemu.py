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
from phoenix_fleet.platforms import _libvirt_probe as probe

_MEMORY_MIB = 512
"""A published cloud image needs more than a kernel alone."""
_GUEST = re.compile(rf"{NAME}(?P<id>{BUILD_ID})\.(?P<until>\d{{9,12}})")


class _Speaks(Exception):
    """The kernel does."""


def accelerator(prints: Sequence[str]) -> str:
    """``kvm`` if a kernel comes to speak with it, else ``tcg``: what is installed says nothing.

    ``prints`` are QEMU's arguments for a kernel that prints on the serial console.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    return "kvm" if boots(prints, "kvm") else "tcg"


def boots(prints: Sequence[str], accelerator: str) -> bool:
    """Whether that kernel comes to speak in a guest of QEMU's with ``kvm`` or ``tcg``, as ``probe`` hears it."""
    argv = ["qemu-system-x86_64", "-machine", f"pc,accel={accelerator}", "-cpu", "max", "-m", str(_MEMORY_MIB)]
    argv += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", *prints]

    def note(line: str) -> None:
        if probe.kernel_speaks(line):
            raise _Speaks

    try:
        processes.run(argv, note, timeout=probe.PATIENCE, env=processes.bare_environment(), grace=timedelta(seconds=1))
    except _Speaks:
        return True
    except TimedOut:
        return False
    return False


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
