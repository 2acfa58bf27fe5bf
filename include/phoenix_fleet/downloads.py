"""Files that somebody publishes, in the cache under the digest that pins them: what has another one is never used."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from phoenix_fleet.cache import alone, cache_folder
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, Unavailable

if TYPE_CHECKING:
    import httpx

Log = Callable[[str], None]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_QUIET = timedelta(seconds=60)
"""How long a server may say nothing."""
_WHOLE = timedelta(minutes=30)
"""How long it may take to send everything."""
_LARGEST = 64 * 1024**3
_KEPT = timedelta(days=60)
"""How long a file that nobody asks for stays in the cache."""


def check_url(url: str) -> None:
    """Return if files may come from there. :raises ValueError: it is no HTTPS, or has a login in it."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("a login does not belong into a file that everybody reads")
    near = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or not (parts.scheme == "https" or near):
        raise ValueError("it must begin with https://")


def fetch(url: str, sha256: str, log: Log) -> Path:
    """The file with that SHA-256 (hex), in the cache; fetched if it is not there whole. Not to be written to.

    Several may ask at once: one fetches, the others wait. What was interrupted is begun anew by the next one.

    :raises BuildFailed: what is there has another digest, so somebody published another file, or tampered with it.
    :raises Unavailable: the server does not answer, refuses, or stops in the middle.
    :raises InvalidConfig: the server refers to what is no HTTPS, or the cache cannot be used.
    """
    folder = cache_folder("downloads")
    with alone(folder / f"{sha256}.lock"):
        kept = folder / sha256
        if kept.exists() and _digest(kept) == sha256:
            log(f"download: {_name(url)} is in the cache")
            os.utime(kept)
            return kept
        # We hold the lock of this digest, so whatever is there is what a killed run has left.
        for left in folder.glob(f"{sha256}.*.part"):
            left.unlink(missing_ok=True)
        part = folder / f"{sha256}.{secrets.token_hex(4)}.part"
        try:
            _download(url, sha256, part, log)
            os.replace(part, kept)
        finally:
            part.unlink(missing_ok=True)
    _forget_unused(folder)
    return kept


def _download(url: str, sha256: str, part: Path, log: Log) -> None:
    import httpx  # here: reading an image file must not load it

    log(f"download: fetching {url}")
    digest = hashlib.sha256()
    try:
        with (
            httpx.Client(
                timeout=_QUIET.total_seconds(),
                follow_redirects=True,
                max_redirects=5,
                event_hooks={"request": [_check_request]},
            ) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
            part.open("xb") as file,
        ):
            answer.raise_for_status()
            _copy(answer, file, digest.update)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"{url} cannot be fetched: {error or type(error).__name__}",
            remedy="Try again; if it is gone, name a newer one and its sha256 in image.yaml.",
        ) from error
    if digest.hexdigest() != sha256:
        raise BuildFailed(
            f"{url} has the SHA-256 {digest.hexdigest()}, and image.yaml pins {sha256}. Nothing was made of it.",
            remedy="Find out why: whoever publishes it signs a list of digests. Then correct url or sha256.",
        )
    log(f"download: {_name(url)} has the digest that is pinned")


def _copy(answer: httpx.Response, file: BinaryIO, note: Callable[[bytes], None]) -> None:
    end, size = time.monotonic() + _WHOLE.total_seconds(), 0
    _check_room(answer, file)
    for chunk in answer.iter_raw(1024 * 1024):
        size += len(chunk)
        if size > _LARGEST or time.monotonic() > end:  # each read is bounded, and a drip could go on for ever
            raise Unavailable(
                f"{answer.url} did not end after {size} bytes.", remedy="See who answers there, and how fast."
            )
        note(chunk)
        file.write(chunk)


def _check_room(answer: httpx.Response, file: BinaryIO) -> None:
    said = answer.headers.get("Content-Length", "")
    free = shutil.disk_usage(Path(file.name).parent).free
    if said.isdecimal() and int(said) > free:
        raise InvalidConfig(
            f"{answer.url} has {said} bytes, and the cache has room for {free}.",
            remedy="Make room, or set PHOENIX_CACHE.",
        )


def _check_request(request: httpx.Request) -> None:
    """Also of each redirection."""
    try:
        check_url(str(request.url))
    except ValueError as error:
        raise InvalidConfig(
            f"{request.url} is not fetched: {error}.", remedy="Name another url in image.yaml."
        ) from None


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _forget_unused(folder: Path) -> None:
    """Remove what nobody has asked for in a long time. Whoever is at it holds the lock, and has just touched it."""
    for path in folder.iterdir():
        if len(path.name) == 64 and path.stat().st_mtime < time.time() - _KEPT.total_seconds():
            with alone(folder / f"{path.name}.lock"):
                path.unlink(missing_ok=True)


def _name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2] or url
