"""The document of a new domain: QEMU's with or without KVM, and Xen's PV and PVH."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from phoenix_fleet.platforms._libvirt_settings import Settings
from phoenix_fleet.platforms._libvirt_volumes import CONSOLE, DISK, SEED
from phoenix_fleet.platforms._libvirt_xml import Element, add, text_of

_ENDS = {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy"}


def document(
    settings: Settings,
    *,
    kind: str,
    name: str,
    uuid: str,
    mac: str,
    birth: Element,
    paths: dict[str, str],
) -> str:
    """What ``defineXML`` takes. ``kind`` is kvm, qemu or xen; ``paths`` are those of its volumes, by what each is."""
    root = Element("domain", {"type": kind})
    add(root, "name", name)
    add(root, "uuid", uuid)
    add(root, "metadata").append(birth)
    add(root, "memory", str(settings.memory_mib), unit="MiB")
    add(root, "vcpu", str(settings.vcpus))
    _boot(root, settings, kind)
    for tag, what in _ENDS.items():
        add(root, tag, what)
    devices = add(root, "devices")
    _disk(devices, kind, "a", paths[DISK], "qcow2")
    if seed := paths.get(SEED, ""):
        # Xen's QEMU (7.2) gives a guest no read-only disk: "device xen-disk failed: Block node is read-only".
        _disk(devices, kind, "b", seed, "raw", readonly=kind != "xen")
    _interface(devices, settings, kind, mac)
    if kind == "xen":
        add(add(devices, "console", type="pty"), "target", type="xen", port="0")
    else:
        _qemu(root, devices, paths[CONSOLE])
    return text_of(root)


def trial(settings: Settings, *, kind: str, name: str, disk: str, form: str, memory_mib: int) -> str:
    """What ``createXML`` takes for a guest that boots like a domain of ours on QEMU, with or without KVM, and no more.

    It has the settings' kernel, or the ``disk`` of that ``form``, which it cannot change; no network; and a console.
    """
    root = Element("domain", {"type": kind})
    add(root, "name", name)
    add(root, "memory", str(memory_mib), unit="MiB")
    add(root, "vcpu", "1")
    _boot(root, settings, kind)
    for tag in _ENDS:
        add(root, tag, "destroy")
    _processor(root)
    devices = add(root, "devices")
    if not settings.kernel:
        _disk(devices, kind, "a", disk, form, readonly=True)
    add(devices, "serial", type="pty")
    add(devices, "memballoon", model="none")
    return text_of(root)


def _boot(root: Element, settings: Settings, kind: str) -> None:
    firmware = settings.firmware if settings.firmware == "efi" and kind != "xen" else ""
    os = add(root, "os", firmware=firmware)
    if kind != "xen":
        add(os, "type", "hvm", machine=settings.machine)
    elif settings.xen == "pv":
        add(os, "type", "linux", machine="xenpv")
    else:
        add(os, "type", "xenpvh", machine="xenpvh")
    for tag, value in (("kernel", settings.kernel), ("initrd", settings.initrd), ("cmdline", settings.cmdline)):
        if value:
            add(os, tag, value)
    if kind != "xen" and not settings.kernel:
        add(os, "boot", dev="hd")


def _disk(devices: Element, kind: str, target: str, path: str, form: str, *, readonly: bool = False) -> None:
    disk = add(devices, "disk", type="file", device="disk")
    # The form is always said: a guest could write the beginning of another one into a disk whose form is guessed.
    add(disk, "driver", name="qemu", type=form)
    add(disk, "source", file=path)
    add(
        disk, "target", dev=f"xvd{target}" if kind == "xen" else f"vd{target}", bus="xen" if kind == "xen" else "virtio"
    )
    if readonly:
        add(disk, "readonly")


def _interface(devices: Element, settings: Settings, kind: str, mac: str) -> None:
    card = add(devices, "interface", type=settings.interface)
    add(card, "mac", address=mac)
    if settings.interface != "user":
        ET.SubElement(card, "source", {settings.interface: settings.network})
    if kind != "xen":
        add(card, "model", type="virtio")


def _qemu(root: Element, devices: Element, console: str) -> None:
    _processor(root)
    serial = add(devices, "serial", type="pty")
    add(serial, "log", file=console, append="on")
    add(serial, "target", port="0")
    channel = add(devices, "channel", type="unix")
    add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    random = add(devices, "rng", model="virtio")
    add(random, "backend", "/dev/urandom", model="random")
    add(devices, "memballoon", model="none")


def _processor(root: Element) -> None:
    features = add(root, "features")
    add(features, "acpi")
    # All that the emulator, or the processor below KVM, can do (https://libvirt.org/formatdomain.html#cpu-model).
    add(root, "cpu", mode="maximum")
