"""Whether a guest really boots with KVM on a host: found out by trying, once per host and process (decision 0073)."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from phoenix_fleet.platforms._libvirt_host import library
from phoenix_fleet.platforms._libvirt_settings import Settings
from phoenix_fleet.platforms._libvirt_xml import Element, add, text_of

PATIENCE = 20.0
"""Seconds in which the firmware of a guest must have printed something."""
_RUNNING = 1
_PAUSE = 0.05

_lock = threading.Lock()
_known: dict[str, str] = {}


def kind(host: Any, settings: Settings) -> str:
    """The kind of domain to define: what the settings say, or what works on that host."""
    if settings.domain != "auto":
        return settings.domain
    if host.getType().lower() == "xen":
        return "xen"
    where = str(host.getURI())
    with _lock:  # so that threads do not all try at once
        if where not in _known:
            _known[where] = "kvm" if boots(host, "kvm") else "qemu"
        return _known[where]


def boots(host: Any, kind: str) -> bool:
    """Whether the firmware of a tiny guest of that kind comes to print on its console.

    The guest has no disk and no network, is never defined, and ends with our connection at the latest.
    """
    lib = library()
    try:
        host.getDomainCapabilities(None, None, None, kind, 0)
        guest = host.createXML(_document(kind), lib.VIR_DOMAIN_START_AUTODESTROY)
    except lib.libvirtError:
        if not host.isAlive():
            raise
        return False
    try:
        return _prints(host, guest)
    finally:
        with suppress(lib.libvirtError):
            guest.destroy()


def _prints(host: Any, guest: Any) -> bool:
    lib = library()
    stream = host.newStream(lib.VIR_STREAM_NONBLOCK)
    try:
        guest.openConsole(None, stream, 0)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            said = stream.recv(256)
            if isinstance(said, bytes) and said.strip(b"\0"):
                return True
            if guest.state(0)[0] != _RUNNING:
                return False
            time.sleep(_PAUSE)
        return False
    except lib.libvirtError:
        if not host.isAlive():
            raise
        return False
    finally:
        with suppress(lib.libvirtError):
            stream.abort()


def _document(kind: str) -> str:
    root = Element("domain", {"type": kind})
    add(root, "name", f"phoenix-probe-{uuid.uuid4().hex[:12]}")
    add(root, "memory", "16", unit="MiB")
    add(root, "vcpu", "1")
    os = add(root, "os")
    add(os, "type", "hvm")
    add(os, "bios", useserial="yes")
    for tag in ("on_poweroff", "on_reboot", "on_crash"):
        add(root, tag, "destroy")
    devices = add(root, "devices")
    add(devices, "serial", type="pty")
    add(devices, "memballoon", model="none")
    return text_of(root)
