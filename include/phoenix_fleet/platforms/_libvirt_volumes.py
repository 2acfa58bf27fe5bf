"""Volumes in a storage pool: made, filled, read and deleted through libvirt alone, so also on a remote host."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phoenix_fleet.domain.errors import Busy, InvalidSpec, Unavailable
from phoenix_fleet.platforms import _libvirt_xml as xml
from phoenix_fleet.platforms._libvirt_host import is_code, library, unless

DISK, SEED, CONSOLE = "qcow2", "iso", "log"
"""The volumes of an instance, named ``<uuid>.<what it is>``."""
_ROTATED = tuple(f"{CONSOLE}.{number}" for number in range(4))
"""What virtlogd makes of a console's log that has grown (``max_backups`` of virtlogd.conf is 3)."""
_MOST_CONSOLE = 1024 * 1024
_CHUNK = 64 * 1024
_WHILE_IT_IS_MADE = (0.05,) * 20 + (0.25,) * 40
"""Pauses in seconds, 11 in all."""


def pool(host: Any, name: str) -> Any:
    """The pool of that name.

    :raises InvalidSpec: there is none, or its volumes are no files.
    :raises Unavailable: it does not run.
    """
    lib = library()
    try:
        found = host.storagePoolLookupByName(name)
    except lib.libvirtError as error:
        if is_code(error, "NO_STORAGE_POOL"):
            raise InvalidSpec(
                f"There is no storage pool '{name}' on {host.getHostname()}.", remedy="Correct 'pool', or define it."
            ) from None
        raise
    if not found.isActive():
        raise Unavailable(f"The storage pool '{name}' is not started.", remedy=f"virsh pool-start {name}")
    return found


def folder(pool: Any) -> str:
    """Where a pool's volumes lie, which are files there."""
    root = xml.parse(pool.XMLDesc(0))
    path = root.findtext("target/path", "")
    if root.get("type") not in ("dir", "fs", "netfs") or not path.startswith("/"):
        raise InvalidSpec(
            f"The storage pool '{pool.name()}' is of type {root.get('type')}.",
            remedy="Use one of type dir, fs or netfs.",
        )
    return path.rstrip("/")


def names(uuid: str, *, seed: bool = True, console: bool = True) -> list[str]:
    """The names of an instance's volumes."""
    return [f"{uuid}.{kind}" for kind, has in ((DISK, True), (SEED, seed), (CONSOLE, console)) if has]


def refresh(pool: Any) -> None:
    """Let the pool look at what builds and others have put there or taken away."""
    lib = library()
    for pause in (*_WHILE_IT_IS_MADE, None):
        try:
            pool.refresh(0)
            return
        except lib.libvirtError as error:
            # It refuses while a volume is being made in it.
            if pause is None or "asynchronous jobs" not in str(error):
                raise
            time.sleep(pause)


def find(pool: Any, name: str) -> Any:
    """The volume of that name, or None."""
    with unless("NO_STORAGE_VOL"):
        return pool.storageVolLookupByName(name)
    return None


def make(pool: Any, name: str, capacity: int, form: str, backing: tuple[str, str] | None = None) -> Any:
    """A new volume, or the one that is there already, once it is whole.

    :raises Busy: somebody else is making it, for longer than is worth waiting.
    """
    with unless("STORAGE_VOL_EXIST"):
        return pool.createXML(xml.volume(name, capacity, form, backing), 0)
    lib = library()
    for pause in _WHILE_IT_IS_MADE:
        try:
            found = pool.storageVolLookupByName(name)
            # Reading is refused for as long as somebody else is still making it.
            read(found, 1)
            return found
        except lib.libvirtError as error:
            if not is_code(error, "OPERATION_INVALID", "NO_STORAGE_VOL"):
                raise
        time.sleep(pause)
    raise Busy(f"The volume {name} is being made by somebody for long.", remedy="Look at the pool.")


def read(volume: Any, most: int) -> bytes:
    """The first bytes of a volume."""
    stream = volume.connect().newStream(0)
    found = b""
    try:
        volume.download(stream, 0, most, 0)
        while len(found) < most and (chunk := stream.recv(min(_CHUNK, most - len(found)))):
            found += chunk
        if len(found) < most:
            stream.finish()
            return found
    except BaseException:
        _abort(stream)
        raise
    _abort(stream)
    return found


def write(volume: Any, content: bytes) -> None:
    """Fill a volume from its beginning."""
    stream = volume.connect().newStream(0)
    try:
        volume.upload(stream, 0, len(content), 0)
        view = memoryview(content)
        while view:
            view = view[stream.send(bytes(view[:_CHUNK])) :]
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


def upload(volume: Any, file: Path) -> None:
    """Fill a volume with a file's content, however large."""
    stream = volume.connect().newStream(0)
    try:
        volume.upload(stream, 0, file.stat().st_size, 0)
        with file.open("rb") as source:
            while chunk := source.read(_CHUNK):
                left = memoryview(chunk)
                while left:
                    left = left[stream.send(bytes(left)) :]
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


def content(volume: Any, length: int = 0) -> Iterator[bytes]:
    """A volume's first ``length`` bytes, or all of them, in pieces; fewer if it has fewer."""
    stream, left = volume.connect().newStream(0), length
    try:
        volume.download(stream, 0, length, 0)
        while (left or not length) and (chunk := stream.recv(_CHUNK)):
            yield chunk
            left -= len(chunk)
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


def digest(volume: Any, length: int) -> str:
    """``sha256:…`` of a volume's first ``length`` bytes, read back from the host; empty if it has fewer."""
    hashed, seen = hashlib.sha256(), 0
    for chunk in content(volume, length):
        hashed.update(chunk)
        seen += len(chunk)
    return f"sha256:{hashed.hexdigest()}" if seen == length else ""


def _abort(stream: Any) -> None:
    lib = library()
    try:
        stream.abort()
    except lib.libvirtError:
        return


def console(pool: Any, uuid: str) -> str:
    """What the instance has printed on its console since its birth; only its beginning, if that is much."""
    for name in (f"{uuid}.{CONSOLE}", *(f"{uuid}.{old}" for old in _ROTATED)):
        volume = find(pool, name)
        text = read(volume, _MOST_CONSOLE).decode("utf-8", "replace") if volume else ""
        if text.strip():
            return text
    return ""


def backing(volume: Any) -> str:
    """The path of the volume that it is laid over; empty if there is none."""
    return xml.parse(volume.XMLDesc(0)).findtext("backingStore/path", "").strip()


def capacity(volume: Any) -> int:
    """Its size in bytes, as a guest sees it."""
    return int(volume.info()[1])


def delete(pool: Any, name: str) -> None:
    """Delete a volume; one that is not there is success."""
    volume = find(pool, name)
    if volume:
        with unless("NO_STORAGE_VOL"):
            volume.delete(0)


def delete_own(pool: Any, uuid: str, recorded: list[str]) -> None:
    """Delete the volumes of an instance: those that its marks name, and only if their names say that they are its.

    Nothing else that was ever attached to it, nor what others wrote into its marks.
    """
    for name in recorded:
        if name in names(uuid):
            delete(pool, name)
    refresh(pool)
    for old in _ROTATED:
        delete(pool, f"{uuid}.{old}")
