"""Images in a storage pool. Volumes carry no marks, so their names do (decision 0072)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from phoenix_fleet.domain.errors import InUse, InvalidSpec, NotFound, NotOurs, Refused
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Artefact
from phoenix_fleet.platforms import _libvirt_volumes as volumes
from phoenix_fleet.platforms._libvirt_host import unless

_NAME = re.compile(
    rf"{OWNER}_(?P<family>[a-z][a-z0-9-]*)_(?P<version>\d{{4}}\.\d{{2}}-\d+)_(?P<digest>[0-9a-f]{{64}})"
    r"\.(?P<form>qcow2|raw)"
)
_PART = ".part."
_REFERENCE = re.compile(
    r"(?P<pool>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})/(?P<name>[^/@\s]{1,250})@(?P<digest>sha256:[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Base:
    """A base image, as its volume's name tells."""

    name: str
    family: str
    version: str
    digest: str
    form: str


def volume_name(family: str, version: str, digest: str, form: str) -> str:
    """What a build calls the volume of an image: its name carries the marks. ``digest`` is of the volume's bytes."""
    return f"{OWNER}_{family}_{version}_{digest.removeprefix('sha256:')}.{form}"


def reference(pool: str, name: str, digest: str) -> str:
    """What an artefact's reference looks like: ``pool/volume@sha256:…``."""
    return f"{pool}/{name}@{digest}"


def base(name: str) -> Base | None:
    """What the name of a volume tells, or None if it is no image of ours."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    return Base(name, match["family"], match["version"], f"sha256:{match['digest']}", match["form"])


def parse(artefact: Artefact, pool: str) -> Base:
    """The base image that an artefact names.

    :raises InvalidSpec: it is in another pool, or not named as ours are, or not by the digest that it says.
    """
    match = _REFERENCE.fullmatch(artefact.reference)
    found = base(match["name"]) if match else None
    if match is None or found is None or match["pool"] != pool:
        raise InvalidSpec(
            f"{artefact.reference!r} is no image of ours in the pool '{pool}'.", remedy="Build or copy it there."
        )
    if not match["digest"] == found.digest == artefact.digest:
        raise InvalidSpec(f"{artefact.reference} is not the digest {artefact.digest}.", remedy="Build it again.")
    return found


def parse_ours(artefact: Artefact, pool: str) -> Base:
    """The same, for an image that is to be marked or deleted.

    :raises NotOurs: it is not named as ours are, so nothing was touched.
    """
    try:
        return parse(artefact, pool)
    except InvalidSpec as error:
        raise NotOurs(str(error.args[0]), remedy="Ask whose image it is.") from None


def part_name(name: str, build: str) -> str:
    """Name of the empty volume that stands beside an image while ``build`` fills it: volumes cannot be renamed."""
    return f"{name}{_PART}{build}"


def parts(names: Iterable[str]) -> list[tuple[str, str]]:
    """Images that are not whole, and the builds that fill them, from the names of all volumes."""
    found = [name.partition(_PART) for name in names if _PART in name]
    return [(image, build) for image, _, build in found if base(image)]


def listed(pool: Any, pool_name: str, family: str) -> list[tuple[Artefact, dict[str, str]]]:
    """Every whole image of that family with its marks, by version."""
    volumes.refresh(pool)
    names = {volume.name() for volume in pool.listAllVolumes(0)}
    names -= {image for image, _ in parts(names)}
    found = [
        (
            Artefact("libvirt", reference(pool_name, each.name, each.digest), each.digest),
            {"version": each.version, "status": _status(each.name, names)},
        )
        for each in map(base, names)
        if each and each.family == family
    ]
    return sorted(found, key=lambda entry: (entry[1]["version"], entry[0].reference))


def _status(name: str, names: set[str]) -> str:
    """The furthest rung among its marks; ``candidate`` if there is none."""
    rungs = list(Rung)
    return str(rungs[max((at for at, rung in enumerate(rungs) if f"{name}.{rung}" in names), default=0)])


def tag(pool: Any, image: Base, status: Rung) -> None:
    """Mark it with that rung, by an empty volume beside it; marks of rungs before stay.

    :raises NotFound: there is no such image.
    :raises Refused: another image of that family and version stands on that rung already.
    """
    if volumes.find(pool, image.name) is None:
        raise NotFound(f"There is no volume {image.name} in the pool.", remedy="Build it again.")
    for other in map(base, sorted(volume.name() for volume in pool.listAllVolumes(0))):
        same = other and (other.family, other.version) == (image.family, image.version) and other != image
        if other and same and status is not Rung.CANDIDATE and volumes.find(pool, f"{other.name}.{status}"):
            raise Refused(
                f"{other.digest} is {image.family} {image.version} and {status} already.", remedy="Build a new version."
            )
    volumes.make(pool, f"{image.name}.{status}", 0, "raw")


def delete(host: Any, pool: Any, image: Base, users: dict[str, tuple[str, str]]) -> None:
    """Delete it and then its marks; ``users`` are our domains: by UUID, their names and images.

    :raises InUse: a disk, of an instance of ours or of anybody, is laid over it.
    """
    volumes.refresh(pool)
    found = volumes.find(pool, image.name)
    if found is not None:
        path = found.path()
        user = next((name for name, needs in users.values() if needs == image.name), "")
        user = user or _laid_over(pool, path, users)
        if user:
            raise InUse(f"{image.name} is still run by {user}.", remedy="Replace that instance first.")
        with unless("NO_STORAGE_VOL"):
            found.delete(0)
    for rung in Rung:
        volumes.delete(pool, f"{image.name}.{rung}")


def _laid_over(pool: Any, path: str, users: dict[str, tuple[str, str]]) -> str:
    for each in pool.listAllVolumes(0):
        with unless("NO_STORAGE_VOL"):  # gone since it was listed
            if volumes.backing(each) == path:
                name = str(each.name())
                return users.get(name.partition(".")[0], (f"the volume {name}", ""))[0]
    return ""
