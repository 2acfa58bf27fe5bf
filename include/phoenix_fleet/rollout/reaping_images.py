"""Deleting artefacts of rejected and retired images from a platform: slowly, and never what a fleet may go back to.

What was revoked or retired and stays is marked so there: a revocation asks no platform, so that it holds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.clock import Clock, SystemClock
from phoenix_fleet.domain.errors import InUse, PhoenixError
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Image
from phoenix_fleet.domain.reaping_images import OVER, LeftImages, decide_images
from phoenix_fleet.platforms.base import Platform
from phoenix_fleet.rollout.eyes import watchful
from phoenix_fleet.rollout.progress import plain
from phoenix_fleet.rollout.replacement import may_have_happened

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import Action, Outcome

RELEASES_KEPT = 2
"""The newest release and the one before it, which is where a rollback goes."""


@dataclass(frozen=True)
class Deleted:
    """What one run came to."""

    found: LeftImages
    deleted: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    spared: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """For people, a line per artefact."""
        found = [f"{image} is {image.rung}: {artefact.reference}" for artefact, image in self.found.due]
        found += [f"{image} is {image.rung}, and marked released: {a.reference}" for a, image in self.found.mismarked]
        found += [f"deleted: {reference}" for reference in self.deleted]
        found += [f"marked anew: {reference}" for reference in self.marked]
        found += [f"spared {reference}: {why}" for reference, why in self.spared]
        return found + [f"not explained {name}: {why}; never touched" for name, why in self.found.strangers]


class ImageReaper:
    """One run over a family's artefacts on one platform. Nothing is kept in memory between runs."""

    def __init__(
        self,
        platform: Platform,
        catalog: Catalog,
        family: str,
        fleets: Iterable[str],
        *,
        place: str,
        log: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        """Name what it works on: the fleets are those that take the family's images, the place is the platform."""
        self.platform = watchful(platform)
        self.catalog = catalog
        self.family = family
        self.purpose = f"reap-{family}/{place}"
        self.fleets = tuple(fleets)
        self.log = log
        self.clock: Clock = clock or SystemClock()

    def look(self) -> Deleted:
        """What a run would delete now; touches nothing.

        :raises Blind: the platform gives no complete list.
        """
        return Deleted(self._decide(self.platform.list_images(self.family)))

    def _decide(self, listed: Sequence[tuple[Artefact, Mapping[str, str]]]) -> LeftImages:
        # The platform was listed before the catalog is read, so what is built meanwhile is not among the listed.
        images = self.catalog.images.list_images(self.family)
        return decide_images(listed, images, self._needed(images), self.clock.now())

    def _settle(self, listed: Sequence[tuple[Artefact, Mapping[str, str]]]) -> None:
        """Close the intents of a run that died or did not hear the reply, where what it deleted is really gone."""
        held = {artefact.reference: marks.get("status") for artefact, marks in listed}
        for intent in self.catalog.intents.pending(self.purpose):
            if intent.action == "tag_image" and held.get(intent.target) == intent.params.get("status"):
                self.catalog.intents.outcome(intent.id, "done", {"seen_later": f"it is marked {held[intent.target]}"})
            elif listed and intent.target not in held:
                self.catalog.intents.outcome(intent.id, "done", {"seen_later": "it is not listed any more"})

    def run(self) -> Deleted:
        """Delete what is due and mark what is withdrawn; safe to run again after a crash, since both come to the same.

        :raises PhoenixError: a call failed; what is left is for the next run.
        """
        listed = self.platform.list_images(self.family)
        found = self._decide(listed)
        self._settle(listed)
        deleted: list[str] = []
        spared: list[tuple[str, str]] = []
        for artefact, image in found.due:
            why = self._delete(artefact, image)
            if why:
                spared.append((artefact.reference, why))
            else:
                deleted.append(artefact.reference)
        marked = [self._mark(artefact, image) for artefact, image in found.mismarked]
        done = Deleted(found, tuple(deleted), tuple(marked), tuple(spared))
        for line in done.lines():
            self.log(line)
        return done

    def _needed(self, images: list[Image]) -> set[str]:
        released = [each for each in images if each.rung is Rung.RELEASED]
        newest = sorted(released, key=lambda each: each.version, reverse=True)[:RELEASES_KEPT]
        needed = {str(each.version) for each in newest}
        for fleet in self.fleets:
            rollouts = self.catalog.rollouts.list_rollouts(fleet)
            done = [each for each in rollouts if each.state is RolloutState.DONE][:RELEASES_KEPT]
            needed |= {str(each.version) for each in (*done, *(each for each in rollouts if not each.state.is_closed))}
        return needed

    def _delete(self, artefact: Artefact, image: Image) -> str:
        """Why it was left after all; empty once it is deleted."""
        now = self.catalog.images.get(self.family, image.version)
        if now.rung not in OVER:
            return f"{now} is {now.rung} now"
        params = {"family": self.family, "version": str(image.version), "digest": artefact.digest}
        try:
            self._call("delete_image", artefact, params, lambda: self.platform.delete_image(artefact))
        except InUse as error:
            return plain(error)
        return ""

    def _mark(self, artefact: Artefact, image: Image) -> str:
        """The reference of what says of itself now that it is withdrawn."""
        params = {"status": str(image.rung)}
        self._call(
            "tag_image", artefact, params, lambda: self.platform.tag_image(artefact, image.rung), params["status"]
        )
        return artefact.reference

    def _call(
        self, action: Action, artefact: Artefact, params: Mapping[str, str], call: Callable[[], object], token: str = ""
    ) -> None:
        """Make that call under an intent, and write down what came of it. Its errors are raised through."""
        intents = self.catalog.intents
        intent = intents.begin(action, artefact.reference, params, ticket=None, purpose=self.purpose, token=token)
        try:
            call()
        except PhoenixError as error:
            outcome: Outcome = "unknown" if may_have_happened(error) else "failed"
            intents.outcome(intent.id, outcome, {"error": type(error).__name__, "message": str(error)})
            raise
        intents.outcome(intent.id, "done", {})
