"""A Xen host in an emulator: ``python -m lab xen up|down|status``.

Xen 4.17 with Debian 12 as its dom0, on one emulated processor; libvirt's Xen driver is reached over ``xen+ssh://``. Its
disk is made from scratch once and lies in the cache; every ``up`` begins with a fresh one. Its SSH key is put into it,
so it is known before it answers. It needs root: a tap device leads to it and, routed, to its guests.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from lab import initrd, roots, tiny
from lab.libvirt_host import NETWORK, POOL, have_network, have_pool
from lab.places import Places
from lab.processes import Processes
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import NotFound, PhoenixError, Unavailable
from phoenix_fleet.platforms import _libvirt_host

NAME = "xen"
TAP = "phoenix-xen"
NEAR, FAR = "10.213.20.1", "10.213.20.2"
"""This end of the tap device, and dom0's."""
PREFIX = "10.213.21"
"""Of the guests' addresses."""
PATIENCE = 300.0
"""Seconds that it may take to come up."""
_BOOT, _IMAGES = Path("/lab/boot"), Path("/var/lib/libvirt/images")
_TOOLS = "/usr/lib/xen-4.17/bin"
_PACKAGES = (
    *("xen-hypervisor-4.17-amd64", "xen-utils-4.17", "qemu-system-xen", "qemu-utils"),
    *("libvirt-daemon-system", "libvirt-daemon-driver-xen", "dnsmasq-base"),
    *("openssh-server", "busybox-static", "iproute2"),
)
# Of libvirt only what a Xen host with a pool and a network uses: each driver takes seconds to start there.
_NOT_NEEDED = tuple(
    f"usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_{each}.so"
    for each in ("qemu", "lxc", "vbox", "nwfilter", "nodedev", "interface", "secret")
)
_FILES = {
    "etc/inittab": "::sysinit:/lab/rc\n::respawn:/usr/sbin/sshd -D -f /lab/sshd_config\n",
    "etc/hostname": "phoenix-xen\n",
    "etc/hosts": "127.0.0.1 localhost phoenix-xen\n",
    "etc/libvirt/libvirtd.conf": 'auth_unix_ro = "none"\nauth_unix_rw = "none"\n',
    "lab/sshd_config": (
        "HostKey /run/lab/host_key\nAuthorizedKeysFile /run/lab/authorized_keys\nUsePAM no\nUseDNS no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nPidFile none\n"
    ),
    "lab/rc": f"""#!/bin/sh
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
exec </dev/null >/dev/console 2>&1
mkdir -p /dev/pts /run/sshd /run/lock /run/xen /run/libvirt /var/log/xen
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
mount -t xenfs xenfs /proc/xen
hostname phoenix-xen
ip link set lo up
ip address add {FAR}/30 dev eth0
ip link set eth0 up
ip route add default via {NEAR}
xen=/usr/lib/xen-4.17/bin
mkdir -p /run/xenstored
XENSTORED_ROOTDIR=/run/xenstored $xen/xenstored --pid-file /run/xenstore.pid
until xenstore-read -s / >/dev/null 2>&1; do sleep 0.2; done
$xen/xen-init-dom0
$xen/xenconsoled --pid-file=/run/xenconsoled.pid
libvirtd --daemon
""",
}


class XenHost:
    """The Xen host of one lab.

    ``images`` are files that its pool holds from the start, by the names of their volumes: to upload 20 MB through the
    SSH of an emulated processor takes a minute.
    """

    def __init__(self, places: Places, log: Callable[[str], None], images: Mapping[str, Path] | None = None) -> None:
        self._places, self._log, self._images = places, log, images or {}
        self._processes = Processes(places.pids, places.logs)
        self.home = places.home / NAME

    @property
    def running(self) -> bool:
        """Whether its emulator runs."""
        return self._processes.running(NAME)

    @property
    def connection(self) -> Connection:
        """How the driver reaches it.

        :raises NotFound: it is not up.
        """
        try:
            secret = (self.home / "secret").read_text()
        except FileNotFoundError:
            raise NotFound("The lab's Xen host is not up.", remedy="Run `python -m lab xen up`.") from None
        extra = {
            "uri": f"xen+ssh://root@{FAR}/system",
            "key_file": str(self.home / "key"),
            "known_hosts": str(self.home / "known_hosts"),
            "host_key_secret": secret,
        }
        return Connection("libvirt", extra=extra)

    @property
    def settings(self) -> dict[str, Any]:
        """What a fleet file says to have the lab's guests on it."""
        return {
            "pool": POOL,
            "network": NETWORK,
            "domain": "xen",
            "xen": "pv",
            "memory": tiny.MEMORY,
            "kernel": str(_BOOT / "vmlinux"),
            "initrd": str(_BOOT / "initrd"),
            "cmdline": f"{tiny.CMDLINE} console=hvc0",
            "autostart": False,
        }

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """A connection to its libvirt, however long it takes to answer: images are uploaded at its pace."""
        with _libvirt_host.opened(self.connection, keepalive=None) as host:
            yield host

    def up(self) -> None:
        """Make it if need be and start it unless it runs; returns once its libvirt has pool and network."""
        self._places.make()
        if not self.running:
            self._clean()
            self._start()
        self._wait()
        # It answers while its guests boot, on the one processor that they share.
        self.ssh(f"{_TOOLS}/xl", "sched-credit2", "-d", "0", "-w", "512")

    def down(self) -> None:
        """End it and its guests; nothing is left of it but the cache."""
        self._processes.stop(NAME, grace=2)
        self._clean()

    def ssh(self, *argv: str) -> str:
        """What a command in dom0 said."""
        options = [f"UserKnownHostsFile={self.home / 'known_hosts'}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
        chosen = [word for option in options for word in ("-o", option)]
        return roots.run("ssh", "-F", "none", *chosen, "-i", self.home / "key", f"root@{FAR}", "--", *argv)

    def _start(self) -> None:
        made = host(self._places.cache, self._log)
        kernel = tiny.kernel(self._places.cache, self._log)
        self.home.mkdir(mode=0o700)
        for name in ("key", "host_key"):
            roots.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "phoenix-lab", "-f", self.home / name)
        public = (self.home / "host_key.pub").read_text()
        (self.home / "known_hosts").write_text(f"{FAR} {public}")
        secret = self.home / "secret"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(32))
        given = {
            "host_key": (self.home / "host_key").read_bytes(),
            "authorized_keys": (self.home / "key.pub").read_bytes(),
        }
        modules = roots.load_order(kernel, (*tiny.MODULES, *tiny.XEN_MODULES))
        first = self.home / "initrd"
        first.touch(mode=0o600)
        images = {name: file.read_bytes() for name, file in self._images.items()}
        first.write_bytes(initrd.build((kernel / "busybox").read_bytes(), modules, given, images))
        disk = self.home / "disk.qcow2"
        roots.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", made / "disk.qcow2", disk)
        _make_tap()
        self._processes.start(NAME, argv(made / "xen", kernel / "vmlinux", first, disk, self.home / "console.log"))

    def _wait(self) -> None:
        """Until it answers with pool and network. :raises Unavailable: it ended, or takes too long."""
        end, last = time.monotonic() + PATIENCE, ""
        while time.monotonic() < end:
            if not self.running:
                raise Unavailable(f"The Xen host ended: {self._processes.tail(NAME)} {self._console()}")
            try:
                with self.opened() as api:
                    have_pool(api, _IMAGES)
                    have_network(api, "phoenix-guests", PREFIX)
                    return
            except PhoenixError as error:
                last = str(error)
            time.sleep(2)
        raise Unavailable(f"The Xen host does not answer after {PATIENCE:.0f} s: {last} {self._console()}")

    def _console(self) -> str:
        with suppress(OSError):
            return (self.home / "console.log").read_text(errors="replace")[-1000:]
        return ""

    def _clean(self) -> None:
        if not _tap_is_used():
            subprocess.run(["ip", "link", "delete", TAP], capture_output=True, check=False)
        shutil.rmtree(self.home, ignore_errors=True)


def argv(xen: Path, kernel: Path, first: Path, disk: Path, console: Path) -> list[str]:
    """How the emulator is called.

    With another processor than this, or with two, the kernel of dom0 hangs while Xen builds it.
    """
    return [
        *("qemu-system-x86_64", "-name", "phoenix-lab-xen", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-accel", "tcg", "-cpu", "Nehalem", "-smp", "1", "-m", "3000", "-no-reboot"),
        *("-kernel", str(xen), "-append", "console=com1 com1=115200 dom0_mem=1500M"),
        *("-initrd", f"{kernel} console=hvc0 quiet,{first}"),
        *("-drive", f"file={disk},format=qcow2,if=virtio,cache=unsafe"),
        *(
            "-netdev",
            f"tap,id=lan,ifname={TAP},script=no,downscript=no",
            "-device",
            "virtio-net-pci,netdev=lan,romfile=",
        ),
        *("-serial", f"file:{console}"),
    ]


def host(cache: Path, log: roots.Log) -> Path:
    """A folder with the hypervisor (``xen``) and the disk of dom0 (``disk.qcow2``), made unless it is in the cache."""
    recipe = [_PACKAGES, _NOT_NEEDED, _FILES, tiny.MODULES, initrd.INIT.decode(), roots.SUITE, 1]
    return roots.cached(cache, "xen-host", recipe, lambda folder: _make_host(folder, tiny.boot(cache, log)), log)


def _make_host(folder: Path, boot: tiny.Boot) -> None:
    with roots.root(_PACKAGES, variant="minbase") as made:
        (packed,) = (made / "boot").glob("xen-4.17-amd64.gz")
        (folder / "xen").write_bytes(gzip.decompress(packed.read_bytes()))
        for each in _NOT_NEEDED:
            (made / each).unlink(missing_ok=True)
        # Nothing that came with a package starts by itself.
        shutil.rmtree(made / "etc" / "libvirt" / "qemu" / "networks" / "autostart", ignore_errors=True)
        for key in (made / "etc" / "ssh").glob("ssh_host_*"):
            key.unlink()
        roots.start_by_busybox(made)
        roots.lay(made, _FILES)
        target = made / _BOOT.relative_to("/")
        target.mkdir()
        shutil.copy(boot.kernel, target / "vmlinux")
        (target / "initrd").write_bytes(boot.initrd)
        roots.disk(made, folder / "disk.qcow2", "4G")


def _tap_is_used() -> bool:
    """Whether an emulator is at it, and so another lab's: it has a carrier only as long."""
    try:
        return Path("/sys/class/net", TAP, "carrier").read_text().strip() == "1"
    except OSError:  # there is none, or it is down
        return False


def _make_tap() -> None:
    roots.run("ip", "tuntap", "add", "dev", TAP, "mode", "tap")
    roots.run("ip", "address", "add", f"{NEAR}/30", "dev", TAP)
    roots.run("ip", "link", "set", TAP, "up")
    roots.run("ip", "route", "add", f"{PREFIX}.0/24", "via", FAR)


app = typer.Typer(help="A Xen host in an emulator.", no_args_is_help=True)
console = Console(stderr=True)


def _say(line: str) -> None:
    console.print(f"· {line}", highlight=False)


@app.command()
def up() -> None:
    """Make it if need be and start it; what runs is left alone."""
    lab = XenHost(Places.find(), _say)
    lab.up()
    _say(f"libvirt answers: {lab.connection.extra['uri']}, key {lab.home / 'key'}, hosts {lab.home / 'known_hosts'}")
    _say(f"platform: {{libvirt: {json.dumps(lab.settings)}}}")


@app.command()
def down() -> None:
    """End it and its guests, and remove what it made."""
    XenHost(Places.find(), _say).down()


@app.command()
def status() -> None:
    """Show what runs on it."""
    lab = XenHost(Places.find(), _say)
    if not lab.running:
        _say("does not run")
        return
    with lab.opened() as api:
        for domain in api.listAllDomains(0):
            _say(f"{domain.name()}: {'runs' if domain.isActive() else 'does not run'}")
    _say(f"libvirt answers: {lab.connection.extra['uri']}")
