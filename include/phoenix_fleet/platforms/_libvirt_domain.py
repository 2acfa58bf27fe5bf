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
    for target, path, form in (("a", paths[DISK], "qcow2"), ("b", paths.get(SEED, ""), "raw")):
        if path:
            _disk(devices, kind, target, path, form)
    _interface(devices, settings, kind, mac)
    if kind == "xen":
        add(add(devices, "console", type="pty"), "target", type="xen", port="0")
    else:
        _qemu(root, devices, paths[CONSOLE])
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


def _disk(devices: Element, kind: str, target: str, path: str, form: str) -> None:
    disk = add(devices, "disk", type="file", device="disk")
    # The form is always said: a guest could write the beginning of another one into a disk whose form is guessed.
    add(disk, "driver", name="qemu", type=form)
    add(disk, "source", file=path)
    add(
        disk, "target", dev=f"xvd{target}" if kind == "xen" else f"vd{target}", bus="xen" if kind == "xen" else "virtio"
    )
    # Xen's QEMU (7.2) gives a guest no read-only disk: "device xen-disk failed: Block node is read-only".
    if form == "raw" and kind != "xen":
        add(disk, "readonly")


def _interface(devices: Element, settings: Settings, kind: str, mac: str) -> None:
    card = add(devices, "interface", type=settings.interface)
    add(card, "mac", address=mac)
    if settings.interface != "user":
        ET.SubElement(card, "source", {settings.interface: settings.network})
    if kind != "xen":
        add(card, "model", type="virtio")


def _qemu(root: Element, devices: Element, console: str) -> None:
    features = add(root, "features")
    add(features, "acpi")
    # All that the emulator, or the processor below KVM, can do (https://libvirt.org/formatdomain.html#cpu-model).
    add(root, "cpu", mode="maximum")
    serial = add(devices, "serial", type="pty")
    add(serial, "log", file=console, append="on")
    add(serial, "target", port="0")
    channel = add(devices, "channel", type="unix")
    add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    random = add(devices, "rng", model="virtio")
    add(random, "backend", "/dev/urandom", model="random")
    add(devices, "memballoon", model="none")
