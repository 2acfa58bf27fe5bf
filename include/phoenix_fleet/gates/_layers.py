"""Reads the layers of an image as streams: nothing is extracted, and hostile archives end in an error.

Entries of every layer are seen, those that an upper layer deletes or replaces too: whoever has the image has them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from phoenix_fleet.disks.bounds import Budget, Limits, Unreadable

_CHUNK = 1024 * 1024
_LARGEST_HEADER = 1024 * 1024
"""Bytes of a long name or of extended attributes: tarfile reads these into memory at once."""
_LARGEST_JSON = 16 * 1024 * 1024
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SPECIAL = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE})


@dataclass(frozen=True)
class Entry:
    """One entry of a layer."""

    layer: int
    """Counts from 1, the lowest; on a disk, the partition."""
    path: str
    """Absolute and normal: ``/etc/passwd``."""
    kind: str
    """``file``, ``folder``, ``symlink``, ``hardlink`` or ``other``."""
    size: int
    target: str
    """Of a link."""
    outside: bool
    """Whether the name as written climbs with ``..``."""


@dataclass(frozen=True)
class Layout:
    """An image as ``skopeo copy docker://… dir:…`` leaves it."""

    folder: Path
    config: Mapping[str, Any]
    layers: tuple[tuple[str, str], ...]
    """Digest and media type, the lowest layer first."""


def open_layout(folder: Path, digest: str) -> Layout:
    """The image in the folder, whose manifest must have that digest.

    :raises Unreadable: it is another image, an index of several, or not an image.
    """
    raw = _whole(folder / "manifest.json")
    if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
        raise Unreadable(f"the image fetched is not {digest} (or that is an index of several images)")
    manifest = _json(raw, "manifest")
    layers, config = manifest.get("layers"), manifest.get("config")
    if not isinstance(layers, list) or not layers or not isinstance(config, dict):
        raise Unreadable("the manifest lists no layers or no configuration")
    blob = _whole(_blob(folder, config))
    if f"sha256:{hashlib.sha256(blob).hexdigest()}" != config.get("digest"):
        raise Unreadable("the configuration does not have its digest")
    named = tuple((str(layer.get("digest")), str(layer.get("mediaType"))) for layer in layers)
    for layer in layers:
        _blob(folder, layer)
    return Layout(folder, _json(blob, "configuration"), named)


def entries(layout: Layout, limits: Limits) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Every entry of every layer with its content in chunks, which must be read before the next entry is asked for.

    :raises Unreadable: a layer is damaged, of an unknown kind, or larger than the limits allow.
    """
    budget = Budget(limits)
    for number, (digest, media) in enumerate(layout.layers, 1):
        path = layout.folder / digest.removeprefix("sha256:")
        try:
            with path.open("rb") as raw:
                hashed = _Hashed(raw)
                yield from _layer(number, _unpacked(hashed, media, budget), budget)
                hashed.rest()
        except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError, RecursionError) as error:
            raise Unreadable(f"layer {number} cannot be read: {type(error).__name__}: {error}") from None
        if hashed.digest != digest:
            raise Unreadable(f"layer {number} does not have its digest")


def _layer(number: int, stream: IO[bytes], budget: Budget) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, errors="surrogateescape") as archive:
        seen = 0
        for member in archive:
            budget.entry()
            seen += 1
            if member.sparse is not None:
                raise Unreadable(f"layer {number} has a sparse file, {member.name[:200]!r}, which no layer needs")
            yield _entry(number, member), _content(archive, member)
        if not seen:
            raise Unreadable(f"layer {number} is empty")
        # A second archive may hide behind the end mark of the first, and tarfile takes a damaged header for an end.
        left: Any = archive.fileobj
        for rest in iter(lambda: left.read(_CHUNK), b""):
            if rest.strip(b"\0"):
                raise Unreadable(f"layer {number} has data behind its end")


def _entry(number: int, member: tarfile.TarInfo) -> Entry:
    kinds: tuple[tuple[Callable[[], bool], str], ...] = (
        (member.isreg, "file"),
        (member.isdir, "folder"),
        (member.issym, "symlink"),
        (member.islnk, "hardlink"),
    )
    kind = next((name for is_kind, name in kinds if is_kind()), "other")
    path = posixpath.normpath(posixpath.join("/", member.name)).replace("//", "/")
    outside = ".." in member.name.split("/") or "\0" in member.name
    return Entry(number, path, kind, member.size if kind == "file" else 0, member.linkname, outside)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(member) if member.isreg() else None
    while file and (chunk := file.read(_CHUNK)):
        yield chunk


class _Header(tarfile.TarInfo):
    """Refuses headers that claim more than any honest one has, before they are read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _SPECIAL and header.size > _LARGEST_HEADER:
            raise Unreadable(f"a header of {header.size} bytes")
        if header.size < 0:
            raise Unreadable("an entry of negative size")
        return header


class _Hashed(io.RawIOBase):
    """Passes a file on and computes its digest by the way."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        self._hash.update(data)
        return len(data)

    def rest(self) -> None:
        while self.read(_CHUNK):
            pass


class _Counted(io.RawIOBase):
    """Passes a stream on, and counts what comes out of it."""

    def __init__(self, raw: Any, budget: Budget) -> None:
        self._raw = raw
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self._budget.take(len(data))
        buffer[: len(data)] = data
        return len(data)


def _unpacked(raw: _Hashed, media: str, budget: Budget) -> IO[bytes]:
    if media.endswith((".tar.gzip", "+gzip")):
        inner: Any = gzip.GzipFile(fileobj=io.BufferedReader(raw, _CHUNK))
    elif media.endswith(".tar"):
        inner = raw
    else:
        raise Unreadable(f"a layer of the kind '{media[:100]}' cannot be read here")
    return io.BufferedReader(_Counted(inner, budget), _CHUNK)


def _blob(folder: Path, descriptor: Any) -> Path:
    match = _DIGEST.fullmatch(str(descriptor.get("digest"))) if isinstance(descriptor, dict) else None
    if not match:
        raise Unreadable("the manifest names a part without a sha256 digest")
    return folder / match[1]


def _whole(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise Unreadable(f"{path.name} is larger than {_LARGEST_JSON} bytes")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path.name} is missing: {error}") from None


def _json(raw: bytes, what: str) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the {what} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Unreadable(f"the {what} is not a JSON object")
    return data
