"""Libvirt's documents: built and read with a library, and what comes back is read as if an enemy had written it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from phoenix_fleet.domain.errors import Unavailable

Element = ET.Element
_LARGEST = 4 * 1024 * 1024


def parse(text: str) -> Element:
    """The root of a document that libvirt sent. Definitions of entities, which could explode, are not read.

    :raises Unavailable: it is no document that libvirt would send.
    """
    if len(text) > _LARGEST or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Unavailable("libvirt sent a document that it never would.", remedy="See who answers in its place.")
    try:
        return ET.fromstring(text)  # noqa: S314 (no entities, bounded: see above)
    except ET.ParseError as error:
        raise Unavailable(f"libvirt sent no XML: {error}", remedy="See who answers in its place.") from None


def text_of(root: Element) -> str:
    """The document as text, for libvirt to read."""
    return ET.tostring(root, encoding="unicode")


def add(parent: Element, tag: str, content: str = "", /, **attributes: str) -> Element:
    """A new child; attributes with an empty value are left out."""
    child = ET.SubElement(parent, tag, {name: value for name, value in attributes.items() if value})
    child.text = content or None
    return child


def volume(name: str, capacity: int, kind: str, backing: tuple[str, str] | None = None) -> str:
    """A volume's document; ``backing`` is the path and the format of the volume that it is laid over."""
    root = Element("volume")
    add(root, "name", name)
    add(root, "capacity", str(capacity), unit="bytes")
    add(add(root, "target"), "format", type=kind)
    if backing:
        below = add(root, "backingStore")
        add(below, "path", backing[0])
        add(below, "format", type=backing[1])
    return text_of(root)
