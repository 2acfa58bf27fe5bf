"""Rebooting an instance from inside, as its own ``reboot`` would, and telling one boot from the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import Instance, Subject
from phoenix_fleet.gates import _hosts

RunInside = Callable[[Instance, str, Sequence[str]], str]
"""Runs a command (argv) inside an instance, reached by that hostspec; gives its standard output.

Raises ``Unavailable`` if it cannot be reached or the command fails.
"""

# The kernel's boot id tells virtual machines' boots apart; containers share it, so the start of process 1 joins it.
_BOOT = ("sh", "-c", "cat /proc/sys/kernel/random/boot_id; sed 's/.*) //' /proc/1/stat | cut -d' ' -f20")


def runner(connections: Connections, connection: str) -> RunInside:
    """Runs commands through testinfra, with the key of that connection where the way is SSH."""

    def run(instance: Instance, hostspec: str, argv: Sequence[str]) -> str:
        import testinfra

        subject = Subject(name=instance.name, workdir="", instance=instance, hostspec=hostspec)
        with _hosts.reaching(subject, connections, connection) as reach:
            config = str(reach.ssh_config) if reach.ssh_config else None
            try:
                backend: Any = testinfra.get_host(reach.hostspec, ssh_config=config).backend
                done = backend.run(" ".join(["%s"] * len(argv)), *argv)
            except (OSError, RuntimeError) as error:
                raise Unavailable(f"{instance.name} cannot be reached: {error}") from error
            if done.rc:
                said = done.stderr_bytes[-300:].decode(errors="replace").strip()
                raise Unavailable(f"{instance.name}: {argv[0]} ended with exit code {done.rc}: {said}")
            return str(done.stdout_bytes.decode(errors="replace"))

    return run


def boot_of(run: RunInside, instance: Instance, hostspec: str) -> str:
    """What names the boot that the instance is in.

    :raises Unavailable: it cannot be reached.
    """
    return run(instance, hostspec, _BOOT).strip()


def reboot(run: RunInside, instance: Instance, hostspec: str) -> None:
    """Tell it to reboot; the connection may well break before the answer comes."""
    with contextlib.suppress(Unavailable):
        run(instance, hostspec, ("reboot",))
