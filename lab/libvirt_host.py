"""A libvirt host of this folder's own, without privileges: ``python -m lab.libvirt_host start FOLDER`` (or ``stop``).

It installs nothing and touches nothing outside its folder: no network, no bridge, no firewall. Guests are emulated, and
have no network that anybody reaches.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from phoenix_fleet.domain.errors import InvalidConfig, Unavailable

POOL = "phoenix"
NETWORK = "phoenix"
_UNPRIVILEGED = "nobody"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE = 30.0
_LONGEST_FOLDER = 24
"""libvirt makes sockets as deep as ``c/libvirt/qemu/channel/target/domain-…``, and their paths may have 107 bytes."""
_CONFIG = """\
unix_sock_dir = "{run}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:{log}"
"""


class LibvirtHost:
    """A private libvirtd with one storage pool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = folder / "run"
        self._pid = folder / "libvirtd.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self.pool_folder = folder / "pool"

    @property
    def uri(self) -> str:
        """What a connection's ``extra.uri`` says to reach it."""
        return f"qemu:///session?socket={self._run}/libvirt-sock"

    def start(self) -> None:
        """Start it unless it runs; returns once it answers and its pool is there."""
        if not self.running:
            self._launch()
        host = self._answering()
        try:
            self._furnish(host)
        finally:
            host.close()

    def stop(self) -> None:
        """End its guests, and then itself; harmless if it was not started.

        :raises Unavailable: it was killed, and does not come up again to end its guests.
        """
        if not self._pid.exists():
            return
        if not self.running:  # it was killed, and its guests live on
            if self._process:
                self._process.wait()
            self._launch()
            self._answering().close()
        with suppress(Exception):
            self._end_guests()
        self._end()
        self._pid.unlink()

    def _launch(self) -> None:
        self._prepare()
        with open(self.folder / "libvirtd.out", "ab") as output:
            self._process = subprocess.Popen(
                self._argv(),
                env=self._environment(),
                cwd=self.folder,
                stdout=output,
                stderr=output,
                user=self._user(),
                start_new_session=True,
            )
        self._pid.write_text(str(self._process.pid))

    def _end(self) -> None:
        pid = self.pid
        end, signals = time.monotonic(), [signal.SIGKILL, signal.SIGTERM]
        while self.running:
            if signals and time.monotonic() >= end:
                with suppress(ProcessLookupError):
                    os.kill(pid, signals.pop())
                end += _PATIENCE
            time.sleep(0.05)
        if self._process:
            self._process.wait(_PATIENCE)
            self._process = None

    @property
    def running(self) -> bool:
        """Whether the libvirtd of this folder runs."""
        pid = self.pid
        if not pid:
            return False
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return str(self.folder).encode() in argv

    @property
    def pid(self) -> int:
        """Its process, while it runs; 0 if it was never started."""
        with suppress(OSError, ValueError):
            return int(self._pid.read_text())
        return 0

    def qemu(self, name: str) -> int:
        """The process of a running guest."""
        return int((self._run / "libvirt" / "qemu" / "run" / f"{name}.pid").read_text())

    def _prepare(self) -> None:
        if len(str(self.folder)) > _LONGEST_FOLDER:
            raise InvalidConfig(
                f"The path {self.folder} is too long for libvirt's sockets.",
                remedy=f"Use one of at most {_LONGEST_FOLDER} characters.",
            )
        config = self.folder / "c" / "libvirt"
        for each in (self._run, config, self.folder / "cache", self.pool_folder):
            each.mkdir(parents=True, exist_ok=True)
        (self.folder / "libvirtd.conf").write_text(_CONFIG.format(run=self._run, log=self.folder / "libvirtd.log"))
        # Without a virtlogd, which would be one more process to end.
        (config / "qemu.conf").write_text('stdio_handler = "file"\n')
        user = self._user()
        if user is not None:
            known = pwd.getpwnam(user)
            for each in (self.folder, *self.folder.rglob("*")):
                os.chown(each, known.pw_uid, known.pw_gid)

    def _argv(self) -> list[str]:
        return ["libvirtd", "--config", str(self.folder / "libvirtd.conf"), "--pid-file", str(self.folder / "own.pid")]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": _PATH,
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self._run),
            "XDG_CONFIG_HOME": str(self.folder / "c"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }

    def _answering(self) -> Any:
        """A connection to it, once it answers. :raises Unavailable: it does not."""
        import libvirt

        libvirt.registerErrorHandler(lambda *_: None, None)
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return libvirt.open(self.uri)
            except libvirt.libvirtError as error:
                if time.monotonic() > end or not self.running:
                    raise Unavailable(f"The lab's libvirtd does not answer: {error}") from error
                time.sleep(0.1)

    def _furnish(self, host: Any) -> None:
        """What it has once it answers."""
        have_pool(host, self.pool_folder)

    def _end_guests(self) -> None:
        host = self._answering()
        try:
            self._clear(host)
        finally:
            host.close()

    def _clear(self, host: Any) -> None:
        """End what would outlive it."""
        import libvirt

        for domain in host.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with suppress(libvirt.libvirtError):
                domain.destroy()

    def _user(self) -> str | None:
        """As whom it runs: nobody in particular, if we may choose."""
        return _UNPRIVILEGED if os.geteuid() == 0 else None


def have_pool(host: Any, folder: Path) -> None:
    """The lab's storage pool, started."""
    if POOL in {pool.name() for pool in host.listAllStoragePools(0)}:
        pool = host.storagePoolLookupByName(POOL)
    else:
        pool = host.storagePoolDefineXML(
            f"<pool type='dir'><name>{POOL}</name><target><path>{folder}</path></target></pool>", 0
        )
        pool.setAutostart(1)
    if not pool.isActive():
        pool.create(0)


def have_network(host: Any, bridge: str, prefix: str) -> None:
    """The lab's network, started: machines get addresses in ``<prefix>.0/24``, and are reached by them.

    It is routed and changes no firewall (``open``, https://libvirt.org/formatnetwork.html#connectivity).
    """
    if NETWORK in {network.name() for network in host.listAllNetworks(0)}:
        network = host.networkLookupByName(NETWORK)
    else:
        network = host.networkDefineXML(
            f"<network><name>{NETWORK}</name><forward mode='open'/><bridge name='{bridge}' stp='off' delay='0'/>"
            f"<dns enable='no'/><ip address='{prefix}.1' netmask='255.255.255.0'>"
            f"<dhcp><range start='{prefix}.10' end='{prefix}.250'/></dhcp></ip></network>"
        )
        network.setAutostart(1)
    if not network.isActive():
        network.create()


def main(argv: list[str]) -> int:
    """Start or stop it, and say where it is."""
    if len(argv) != 2 or argv[0] not in ("start", "stop"):
        print(__doc__, file=sys.stderr)
        return 2
    host = LibvirtHost(Path(argv[1]).absolute())
    host.folder.mkdir(parents=True, exist_ok=True)
    if argv[0] == "start":
        host.start()
        print(host.uri)
    else:
        host.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
