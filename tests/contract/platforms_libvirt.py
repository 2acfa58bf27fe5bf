"""The libvirt platform under the contract tests: a private libvirtd, real (emulated) guests from images of 1 MiB.

The images hold a boot sector that prints a host key of the guest's own on the serial console, as cloud-init does, and
halts. Networks are not there, so that a test needs no privilege: what leases would tell is put between the driver and
libvirt (``Wire``), and nothing else is.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock
from xml.etree import ElementTree as ET

import libvirt
import pycdlib
import pytest
import yaml

from lab import leftovers, temporary
from lab.libvirt_host import POOL, LibvirtHost
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import OWNER, Artefact, LaunchIntent
from phoenix_fleet.domain.volumes import VolumeIntent
from phoenix_fleet.platforms import _libvirt_session
from phoenix_fleet.platforms import libvirt as driver
from tests.contract.machinery import KnownConnections

_serial = itertools.count(1)
_NAMESPACE = "urn:phoenix-fleet:instance:1"
_MIB = 1024 * 1024

# What a 16-bit x86 does with it: print the text before, 43 letters from the time stamp counter, the text after; halt.
#   xor ax,ax; mov ds,ax; cld; mov si,before; call puts; mov cx,43
#   next: rdtsc; and al,15; add al,'a'; call putc; loop next; mov si,after; call puts; cli; hlt; jmp $-1
#   puts: lodsb; test al,al; jz ret; call putc; jmp puts
#   putc: push dx; push ax; wait: in al,3fdh; test al,20h; jz wait; pop ax; out 3f8h,al; pop dx; ret
_CODE = bytes.fromhex(
    "31c08ed8fcbe3f7ce81800b92b000f31240f0461e81700e2f5be8a7ce80400faf4ebfdac84c07405e80300ebf6c35250bafd03eca82074fb58baf803ee5ac3"
)
_BEFORE = b"\r\n-----BEGIN SSH HOST KEY KEYS-----\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI\0"
_AFTER = b" root@lab\r\n-----END SSH HOST KEY KEYS-----\r\n\0"


def boot_sector(before: bytes = _BEFORE) -> bytes:
    """One that prints ``before`` in the place of the key block's begin."""
    if len(before) > len(_BEFORE) or not before.ljust(len(_BEFORE), b"\0").endswith(b"\0"):
        raise ValueError(f"{before!r} is longer than what stands there.")
    return (_CODE + before.ljust(len(_BEFORE), b"\0") + _AFTER).ljust(510, b"\0") + b"\x55\xaa"


_BOOT = boot_sector()


class Crash(BaseException):
    """The process died here."""


class Wire:
    """An object of libvirt's; every call on it and on what it gives goes through ``meddle`` first."""

    def __init__(self, real: Any, meddle: Meddle) -> None:
        self._real, self._meddle = real, meddle

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Any:
            plain = [each._real if isinstance(each, Wire) else each for each in args]
            return self._wired(self._meddle(self._real, name, lambda: found(*plain), plain))

        return call

    def _wired(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wired(each) for each in value]
        kinds = (libvirt.virDomain, libvirt.virStoragePool, libvirt.virStorageVol, libvirt.virConnect)
        return Wire(value, self._meddle) if isinstance(value, kinds) else value


Meddle = Callable[[Any, str, Callable[[], Any], list[Any]], Any]
"""Given an object of libvirt's, a method's name, the call and its arguments; gives what the caller gets."""


def obeyed(real: Any, name: str, call: Callable[[], Any], args: list[Any]) -> Any:
    """A guest that hears its power button, which a halted boot sector does not: it goes off; and leases as ever."""
    if name == "shutdown" and isinstance(real, libvirt.virDomain):
        call()
        return real.destroy()
    return leases(real, name, call, args)


def leases(real: Any, name: str, call: Callable[[], Any], args: list[Any]) -> Any:
    """A network's leases for cards that are on none: everybody gets an address that follows from the hardware's."""
    if name != "interfaceAddresses" or args[0] != libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE:
        return call()
    mac = _document(real).find("devices/interface/mac")
    assert mac is not None
    hardware = mac.attrib["address"]
    address = "10." + ".".join(str(int(part, 16)) for part in hardware.split(":")[3:])
    return {"vnet0": {"hwaddr": hardware, "addrs": [{"addr": address, "prefix": 8, "type": 0}]}}


class LibvirtLab:
    """What the contract tests ask of a platform's surroundings."""

    name = "libvirt"

    def __init__(self, host: LibvirtHost) -> None:
        self.host = host
        self.api = libvirt.open(host.uri)
        self.pool = self.api.storagePoolLookupByName(POOL)
        self.settings: Mapping[str, Any] = {
            "pool": POOL,
            "interface": "user",
            "domain": "qemu",
            "memory": "16m",
            "autostart": False,
        }
        self.connections = KnownConnections(Connection("libvirt", extra={"uri": host.uri}))
        self.meddle: Meddle = obeyed
        """What stands between the drivers that were given no troubles of their own and libvirt."""
        self.platform = self.again()
        self.standard = self.artefact("lab", "2026.11-1")

    def again(self, meddle: Meddle | None = None, **settings: Any) -> driver.Driver:
        """Another driver object for the same world, with troubles between it and libvirt if any are given."""

        @contextmanager
        def opener(connection: Connection) -> Iterator[Any]:
            with _libvirt_session.opened(connection) as real:
                yield Wire(real, meddle or self.meddle)

        return driver.Driver(driver.Driver.Settings(**{**self.settings, **settings}), self.connections, opener=opener)

    def artefact(
        self, family: str, version: str, *, ours: bool = True, form: str = "raw", boot: bytes = _BOOT
    ) -> Artefact:
        content = boot.ljust(_MIB - 8, b"\0") + next(_serial).to_bytes(8, "big")
        digest = hashlib.sha256(content).hexdigest()
        name = f"{OWNER if ours else 'somebody'}_{family}_{version}_{digest}.{form}"
        self.volume(name, content)
        return Artefact("libvirt", f"{POOL}/{name}@sha256:{digest}", f"sha256:{digest}")

    def volume(self, name: str, content: bytes) -> None:
        """Put a file there as a build would: through libvirt."""
        self.pool.createXML(
            f"<volume><name>{name}</name><capacity>{len(content)}</capacity>"
            "<target><format type='raw'/></target></volume>",
            0,
        )
        stream = self.api.newStream(0)
        volume = self.pool.storageVolLookupByName(name)
        volume.upload(stream, 0, len(content), 0)
        sent = 0
        while sent < len(content):
            sent += stream.send(content[sent : sent + 65536])
        stream.finish()

    def foreign(self, name: str, marks: Mapping[str, str]) -> str:
        """A running domain that somebody else defined, with marks that look like ours."""
        root = ET.Element("domain", {"type": "qemu"})
        ET.SubElement(root, "name").text = name
        if marks:
            own = {mark.removeprefix("phoenix."): value for mark, value in marks.items()}
            ET.SubElement(ET.SubElement(root, "metadata"), f"{{{_NAMESPACE}}}instance", own)
        ET.SubElement(root, "memory", {"unit": "MiB"}).text = "16"
        ET.SubElement(ET.SubElement(root, "os"), "type").text = "hvm"
        ET.SubElement(ET.SubElement(root, "devices"), "memballoon", {"model": "none"})
        domain = self.api.defineXML(ET.tostring(root, encoding="unicode"))
        domain.create()
        return str(domain.UUIDString())

    # Data volumes

    def volume_intent(self, fleet: str, name: str = "data") -> VolumeIntent:
        """A volume that can be made, beside instances of slot 01."""
        return VolumeIntent(fleet, f"{fleet}-01", name, 1)

    def foreign_volume(self, fleet: str, name: str) -> str:
        """One with our words in its name, but not as ours."""
        found = f"phoenix-data_{fleet}_{fleet}-01_{name}.qcow2"
        self.volume(found, b"theirs".ljust(_MIB))
        return found

    def volume_exists(self, volume_id: str) -> bool:
        return (self.host.pool_folder / volume_id).is_file()

    @contextmanager
    def losing_the_reply(self, method: str) -> Iterator[None]:
        """The next call of that method takes effect, and the caller hears nothing."""
        words = {
            "create_volume": "createXML",
            "snapshot_volume": "createXMLFrom",
            "stop": "shutdown",
            "attach_volume": "attachDeviceFlags",
            "detach_volume": "detachDeviceFlags",
        }
        left = [words[method]]

        def meddle(real: Any, name: str, call: Callable[[], Any], args: list[Any]) -> Any:
            if name in left:
                left.remove(name)
                obeyed(real, name, call, args)
                error = libvirt.libvirtError("the connection broke")
                error.err = (libvirt.VIR_ERR_RPC, 0, "the connection broke", 2, "", None, None, 0, 0)
                raise error
            return obeyed(real, name, call, args)

        self.meddle, before = meddle, self.meddle
        try:
            with pytest.raises(Unavailable):
                yield
        finally:
            self.meddle = before
        assert not left

    def is_alive(self, instance_id: str) -> bool:
        return bool(self.api.lookupByUUIDString(instance_id).isActive())

    def count(self, token: str) -> int:
        """How many machines carry the token, in truth."""
        return sum(f'"{token}"' in _quoted(domain.XMLDesc(0)) for domain in self.api.listAllDomains(0))

    def user_data(self, instance_id: str) -> dict[str, Any]:
        """What cloud-init would be told, from the seed that lies in the pool."""
        disk = pycdlib.PyCdlib()
        disk.open_fp(io.BytesIO((self.host.pool_folder / f"{instance_id}.iso").read_bytes()))
        out = io.BytesIO()
        disk.get_file_from_iso_fp(out, joliet_path="/user-data")
        disk.close()
        text = out.getvalue().decode()
        assert text.startswith("#cloud-config\n")
        found: dict[str, Any] = yaml.safe_load(text)
        return found

    def authorized_key(self, instance_id: str) -> str:
        (user,) = self.user_data(instance_id)["users"]
        assert user["name"] == "root"
        (key,) = user["ssh_authorized_keys"]
        return str(key)

    def marks(self, instance_id: str) -> dict[str, str]:
        found = _document(self.api.lookupByUUIDString(instance_id)).find(f"metadata/{{{_NAMESPACE}}}instance")
        assert found is not None
        return {f"phoenix.{name}": value for name, value in found.attrib.items()}

    def crash_in_launch(self, intent: LaunchIntent) -> None:
        """Launch, and die between defining and starting the domain."""
        with mock.patch.object(libvirt.virDomain, "create", side_effect=Crash):
            try:
                self.platform.launch(intent)
            except Crash:
                return
        raise AssertionError("the launch did not come to the start")

    def break_down(self, instance_id: str) -> None:
        """Let the machine end by itself, for good."""
        os.kill(self.host.qemu(self.api.lookupByUUIDString(instance_id).name()), signal.SIGKILL)

    def left(self) -> set[str]:
        """The volumes that are there and are no images."""
        return {each.name for each in self.host.pool_folder.iterdir() if "_" not in each.name or "-data_" in each.name}

    def sweep(self) -> None:
        """Remove every domain, whatever became of it, and every disk."""
        self.meddle = obeyed
        for domain in self.api.listAllDomains(0):
            with suppress(libvirt.libvirtError):
                domain.destroy()
            with suppress(libvirt.libvirtError):
                domain.undefine()
        for name in self.left():
            (self.host.pool_folder / name).unlink()
        self.pool.refresh(0)


def _document(domain: Any) -> ET.Element:
    return ET.fromstring(domain.XMLDesc(0))  # noqa: S314 (our own libvirtd)


def _quoted(text: str) -> str:
    return text.replace("'", '"')


@contextmanager
def opened() -> Iterator[LibvirtLab]:
    """A lab with a libvirtd of its own, in a folder that the user it runs as can reach."""
    leftovers.sweep(print)
    with temporary.folder(temporary.HOSTS) as folder:
        folder.chmod(0o755)
        host = LibvirtHost(folder)
        try:
            host.start()
            lab = LibvirtLab(host)
            try:
                yield lab
            finally:
                lab.sweep()
                lab.api.close()
        finally:
            _libvirt_session.close_all()
            host.stop()
