"""Which artefacts nobody will ever launch again and may be deleted, and which still pass for released; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Image

OVER = (Rung.REJECTED, Rung.RETIRED)
"""Rungs from which an image never comes back. A revoked one is kept: it is what an incident is looked into with."""
KEPT_FOR = timedelta(days=7)
"""So old an image must be: whoever asks why it was rejected looks at it within days."""
PER_RUN = 3
"""Most deletions of a family on one platform in one run."""


WITHDRAWN = (Rung.REVOKED, Rung.RETIRED)
"""Rungs of what was released once. Whoever launches by hand goes by the platform's marks, so these must say it."""


@dataclass(frozen=True)
class LeftImages:
    """What one look at a family's artefacts on one platform came to."""

    due: tuple[tuple[Artefact, Image], ...] = ()
    """Those to be deleted now, oldest version first."""
    mismarked: tuple[tuple[Artefact, Image], ...] = ()
    """Those that the platform marks as released and that are withdrawn by now, oldest version first."""
    strangers: tuple[tuple[str, str], ...] = ()
    """References that carry our marks and that the catalog does not explain, and why: never touched."""


def decide_images(
    listed: Sequence[tuple[Artefact, Mapping[str, str]]],
    images: Sequence[Image],
    needed: Collection[str],
    now: datetime,
) -> LeftImages:
    """What to delete of the listed artefacts, given the catalog's images, read after them.

    :param needed: versions that stay whatever their rung: what fleets run, are rolled out to, or go back to.
    """
    known = {str(image.version): image for image in images}
    due, mismarked, strangers = [], [], []
    for artefact, marks in listed:
        image = known.get(marks.get("version", ""))
        recorded = image.artefacts.get(artefact.platform) if image else None
        if image is None:
            strangers.append((artefact.reference, f"the catalog has no image {marks.get('version') or '(no version)'}"))
        elif recorded is None or recorded.digest != artefact.digest:
            strangers.append((artefact.reference, f"it is not the artefact of {image} in the catalog"))
        elif image.rung in OVER and str(image.version) not in needed and _is_old(image, now):
            due.append((artefact, image))
        elif image.rung in WITHDRAWN and marks.get("status") == Rung.RELEASED:
            mismarked.append((artefact, image))
    for found in (due, mismarked):
        found.sort(key=lambda entry: (entry[1].version, entry[0].reference))
    return LeftImages(tuple(due[:PER_RUN]), tuple(mismarked), tuple(sorted(strangers)))


def _is_old(image: Image, now: datetime) -> bool:
    return image.created_at is not None and now - image.created_at >= KEPT_FOR
