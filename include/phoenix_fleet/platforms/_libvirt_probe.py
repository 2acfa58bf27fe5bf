"""Whether a guest really boots with KVM on a host: found out by trying it with a kernel (decision 0073)."""

from __future__ import annotations

import re
import threading
import time
import uuid
from contextlib import suppress
from datetime import timedelta
from typing import Any

from phoenix_fleet.platforms import _libvirt_domain as domains
from phoenix_fleet.platforms._libvirt_host import library
from phoenix_fleet.platforms._libvirt_settings import Settings

PATIENCE = timedelta(seconds=30)
"""How long a guest may take until its kernel speaks."""
MEMORY_MIB = 256
"""What a guest on trial has."""
CMDLINE = "console=ttyS0 panic=-1"
"""What a kernel is told that has nothing to do but speak."""

_SPEAKS = re.compile(r"Linux version \d|\blogin: ")
_MOST = 64 * 1024
_RUNNING = 1
_PAUSE = 0.05

_lock = threading.Lock()
_known: dict[tuple[str, ...], str] = {}


def kernel_speaks(said: str) -> bool:
    """Whether a kernel was among those who printed this; or, if it is told to be quiet, what it has started.

    Neither firmware nor boot loader counts: on hosts that hide features they print, and the kernel hangs after them.
    """
    return _SPEAKS.search(said) is not None


def kind(host: Any, settings: Settings, disk: str, form: str) -> str:
    """The kind of domain to define: what the settings say, or what works on that host.

    It is tried with the settings' kernel, or else with the image at the path ``disk`` on the host: once per process.
    """
    if settings.domain != "auto":
        return settings.domain
    if host.getType().lower() == "xen":
        return "xen"
    what = (str(host.getURI()), settings.machine, settings.firmware, settings.kernel or disk)
    with _lock:  # so that threads do not all try at once
        if what not in _known:
            _known[what] = "kvm" if boots(host, "kvm", settings, disk, form) else "qemu"
        return _known[what]


def boots(host: Any, kind: str, settings: Settings, disk: str, form: str) -> bool:
    """Whether a kernel comes to speak in a guest of that kind.

    The guest has no network and changes nothing, is never defined, and ends with our connection at the latest.
    """
    lib = library()
    with_kernel = {"initrd": "", "cmdline": CMDLINE} if settings.kernel else {}
    document = domains.trial(
        settings.model_copy(update=with_kernel),
        kind=kind,
        name=f"phoenix-probe-{uuid.uuid4().hex[:12]}",
        disk=disk,
        form=form,
        memory_mib=MEMORY_MIB,
    )
    try:
        host.getDomainCapabilities(None, None, None, kind, 0)
        guest = host.createXML(document, lib.VIR_DOMAIN_START_AUTODESTROY)
    except lib.libvirtError:
        if not host.isAlive():
            raise
        return False
    try:
        return _speaks(host, guest)
    finally:
        with suppress(lib.libvirtError):
            guest.destroy()


def _speaks(host: Any, guest: Any) -> bool:
    lib = library()
    stream = host.newStream(lib.VIR_STREAM_NONBLOCK)
    heard = b""
    try:
        guest.openConsole(None, stream, 0)
        end = time.monotonic() + PATIENCE.total_seconds()
        while time.monotonic() < end:
            said = stream.recv(4096)
            if isinstance(said, bytes) and said:
                heard = (heard + said)[-_MOST:]
                if kernel_speaks(heard.decode("utf-8", "replace")):
                    return True
                continue
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
