"""Gates that look into an artefact's disks get copies of them, for as long as they measure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates.base import Gate
from phoenix_fleet.platforms.base import DiskImages, Platform


def measured(gate: Gate, subject: Subject, platform: Callable[[], Platform]) -> Measurement:
    """What the gate says; if it asks for disks, and the artefact's platform has some, it is shown copies of them.

    They lie in a private folder below ``TMPDIR``, which needs room for them, and are gone on return.

    :raises PhoenixError: they could not be copied, so there is nothing to look into.
    """
    bounds = gate.fetches
    driver = platform() if bounds and subject.artefact else None
    if not bounds or not subject.artefact or not isinstance(driver, DiskImages):
        return gate.measure(subject)
    with tempfile.TemporaryDirectory(prefix="phoenix-disks-") as folder:
        try:
            disks = driver.copy_disks(subject.artefact, Path(folder), bounds)
        except OSError as error:
            raise Unavailable(
                f"A copy of {subject.artefact.reference} cannot be kept below {folder}: {error}",
                remedy="Give the worker's TMPDIR room for the image's disks.",
            ) from error
        return gate.measure(replace(subject, disks=disks))
