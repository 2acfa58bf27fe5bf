"""A libvirt host whose emulated guests are on a network and are reached: ``python -m lab libvirt up|down|status``.

It needs root, and touches nothing of a libvirt that the machine itself may have: its libvirtd sees folders of its own
where the system's are. What others see of it is one bridge.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from lab import tiny
from lab.libvirt_host import NETWORK, POOL, LibvirtHost, have_network, have_pool
from lab.places import Places
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.platforms import _libvirt_host

NAME = "libvirt"
BRIDGE = "phoenix-qemu"
PREFIX = "10.213.10"
"""Of the guests' addresses."""
_PLACES = {
    "etc": Path("/etc/libvirt"),
    "lib": Path("/var/lib/libvirt"),
    "cache": Path("/var/cache/libvirt"),
    "log": Path("/var/log/libvirt"),
    "run": Path("/run/libvirt"),
}
# Debian's libvirtd does not start without its user, whatever qemu.conf says; another package would make it.
_ACCOUNTS = {
    "passwd": "libvirt-qemu:x:64055:64055:::/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:64055:\n",
}
_BOOT, _IMAGES = _PLACES["lib"] / "boot", _PLACES["lib"] / "images"
_CONFIG = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
# Without a virtlogd, which would be one more process to end, the emulator itself writes what a guest prints, into a
# volume that is root's. No name space, no cgroup and no profile of the system's.
_QEMU = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""


class QemuHost(LibvirtHost):
    """A libvirtd with privileges, one storage pool and one network."""

    def __init__(self, folder: Path, boot: Callable[[], tiny.Boot]) -> None:
        super().__init__(folder)
        self._boot = boot
        self.pool_folder = folder / "lib" / "images"

    @property
    def uri(self) -> str:
        """What a connection's ``extra.uri`` says to reach it."""
        return f"qemu:///system?socket={self.folder}/run/libvirt-sock"

    @property
    def connection(self) -> Connection:
        """How the driver reaches it."""
        return Connection("libvirt", extra={"uri": self.uri})

    @property
    def settings(self) -> dict[str, Any]:
        """What a fleet file says to have the lab's guests on it."""
        return {
            "pool": POOL,
            "network": NETWORK,
            "domain": "qemu",
            "memory": tiny.MEMORY,
            "kernel": str(_BOOT / "vmlinux"),
            "initrd": str(_BOOT / "initrd"),
            "cmdline": f"{tiny.CMDLINE} console=ttyS0",
            "autostart": False,
        }

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """A connection to it."""
        with _libvirt_host.opened(self.connection) as host:
            yield host

    def stop(self) -> None:
        """End its guests, its network, and then itself; harmless if it was not started."""
        super().stop()
        with suppress(OSError, ValueError):
            for each in json.loads((self.folder / "made.json").read_text()):
                with suppress(OSError):  # somebody else's libvirt has come meanwhile
                    Path(each).rmdir()

    def qemu(self, name: str) -> int:
        """The process of a running guest."""
        return int((self.folder / "run" / "qemu" / f"{name}.pid").read_text())

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            raise InvalidConfig("The lab's libvirt host with a network needs root.", remedy="Run it through sudo.")
        for name in (*_PLACES, "etc/qemu", "lib/boot", "lib/images"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if not self._pid.exists():  # it is not there to end what one that was killed has left
            boot = self._boot()
            shutil.copy(boot.kernel, self.folder / "lib" / "boot" / "vmlinux")
            (self.folder / "lib" / "boot" / "initrd").write_bytes(boot.initrd)
        for name, line in _ACCOUNTS.items():
            known = Path("/etc", name).read_text()
            (self.folder / name).write_text(known if "libvirt-qemu:" in known else known + line)
        (self.folder / "libvirtd.conf").write_text(_CONFIG)
        (self.folder / "etc" / "qemu.conf").write_text(_QEMU)
        missing = [place for place in _PLACES.values() if not place.exists()]
        made = self.folder / "made.json"
        if not made.exists():
            made.write_text(json.dumps([str(place) for place in missing]))
        for place in missing:
            place.mkdir()

    def _argv(self) -> list[str]:
        pairs = [f"{self.folder / name}={place}" for name, place in _PLACES.items()]
        pairs += [f"{self.folder / name}=/etc/{name}" for name in _ACCOUNTS]
        launcher = [sys.executable, "-I", str(Path(__file__).with_name("within.py")), *pairs, "--"]
        return ["unshare", "--mount", "--propagation", "private", *launcher, *super()._argv()]

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in super()._environment().items() if not name.startswith("XDG_")}

    def _user(self) -> str | None:
        return None

    def _furnish(self, host: Any) -> None:
        have_pool(host, _IMAGES)
        have_network(host, BRIDGE, PREFIX)

    def _clear(self, host: Any) -> None:
        super()._clear(host)
        for network in host.listAllNetworks(0):
            if network.isActive():
                network.destroy()


def of(places: Places, log: Callable[[str], None]) -> QemuHost:
    """The one of this machine's lab."""
    return QemuHost(places.home / NAME, lambda: tiny.boot(places.cache, log))


app = typer.Typer(help="A libvirt host with emulated guests on a network.", no_args_is_help=True)
console = Console(stderr=True)


def _say(line: str) -> None:
    console.print(f"· {line}", highlight=False)


@app.command()
def up() -> None:
    """Start it; what runs is left alone."""
    places = Places.find()
    places.make()
    host = of(places, _say)
    host.folder.mkdir(exist_ok=True)
    host.start()
    _say(f"libvirt answers: {host.uri}")
    _say(f"platform: {{libvirt: {json.dumps(host.settings)}}}")


@app.command()
def down() -> None:
    """End its guests and itself, and remove what it made."""
    host = of(Places.find(), _say)
    host.stop()
    shutil.rmtree(host.folder, ignore_errors=True)


@app.command()
def status() -> None:
    """Show what runs on it."""
    host = of(Places.find(), _say)
    if not host.running:
        _say("does not run")
        return
    with host.opened() as api:
        for domain in api.listAllDomains(0):
            _say(f"{domain.name()}: {'runs' if domain.isActive() else 'does not run'}")
    _say(f"libvirt answers: {host.uri}")
