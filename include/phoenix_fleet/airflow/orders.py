"""What a run of a fleet DAG was asked to do: refresh, roll back or get away; to which release, over which slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phoenix_fleet.airflow import world
from phoenix_fleet.catalog.records import REFRESH, Errand, RolloutKind
from phoenix_fleet.domain.errors import InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.windows import Version

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.config import Fleet


@dataclass(frozen=True)
class Order:
    """What to do, and why."""

    image: Image
    reason: str
    only: tuple[str, ...] = ()
    """These slots and no others; empty for every slot that needs it."""
    errand: Errand = REFRESH
    dry: bool = False
    """Whether only the plan is wanted."""

    @property
    def whole(self) -> bool:
        """Whether a newer release makes it needless: it is about every slot and nothing special."""
        return not self.only and self.errand == REFRESH


def is_urgent(context: Any) -> bool:
    """Whether the run goes away from a release instead of to a new one, so that it waits for none."""
    params = context.get("params") or {}
    return bool(params.get("rollback_of") or params.get("emergency"))


def order_of(catalog: Catalog, fleet: Fleet, context: Any) -> Order:
    """The run's order, from its parameters. A rollback halts and blocks what it undoes, unless it is a dry run.

    :raises InvalidConfig: the parameters contradict each other, or name a slot that the fleet does not have.
    :raises NotFound: there is no release to bring.
    :raises Refused: that release may not be brought, or there is nothing to roll back.
    """
    params, reason = context.get("params") or {}, world.reason_of(context)
    only, force, dry = tuple(params.get("slots") or ()), bool(params.get("force")), bool(params.get("dry_run"))
    _check_params(fleet, params, only, force)
    release = params.get("release") or ""
    if params.get("rollback_of"):
        return _rollback(catalog, fleet, context, int(params["rollback_of"]), release, reason=reason, dry=dry)
    image = target_image(catalog, fleet, release)
    errand = Errand(forced=force)
    if params.get("emergency"):
        revoked = Version.parse(params["emergency"])
        errand = Errand(RolloutKind.EMERGENCY, undone=revoked, deadline_in=fleet.emergency_deadline)
    return Order(image, reason, only, errand, dry)


def target_image(catalog: Catalog, fleet: Fleet, release: str) -> Image:
    """The release asked for, or the newest released one that is not blocked for the fleet.

    :raises NotFound: if there is none.
    :raises Refused: if the one asked for stands too low on the ladder.
    """
    if release:
        image = catalog.images.get(fleet.family, Version.parse(release))
        if image.rung != fleet.required_rung:
            raise Refused(f"{image} is {image.rung}, and {fleet.name} takes only {fleet.requires} images.")
        return image
    newest = catalog.blocks.newest_good(fleet.name, fleet.family)
    if newest is None:
        raise NotFound(f"{fleet.family} has no release.", remedy=f"Run the DAG image.{fleet.family} first.")
    for block in catalog.blocks.list_blocks(fleet.name):
        if block.family == fleet.family and block.version > newest.version:
            world.log.warning("%s stays away from %s: %s", block.version, fleet.name, block.reason)
    return newest


def _check_params(fleet: Fleet, params: Any, only: tuple[str, ...], force: bool) -> None:
    unknown = sorted(set(only) - set(fleet.slots))
    if unknown:
        raise InvalidConfig(
            f"{fleet.name} has no slot {', '.join(unknown)}.", remedy=f"Its slots: {', '.join(fleet.slots)}."
        )
    if force and not only:
        raise InvalidConfig("Only named slots can be forced.", remedy="Name those that are to be replaced.")
    special = [name for name in ("rollback_of", "emergency", "slots") if params.get(name)]
    if len(special) > 1:
        raise InvalidConfig(
            f"{' and '.join(special)} do not go together.", remedy="A rollback or an emergency finds its own slots."
        )


def _rollback(
    catalog: Catalog, fleet: Fleet, context: Any, undoes: int, release: str, *, reason: str, dry: bool
) -> Order:
    to = Version.parse(release) if release else None
    found = catalog.lifecycle.look_back(fleet.name, to)
    if found.undoes != undoes:
        raise Refused(
            f"Rollout {undoes} of {fleet.name} cannot be rolled back: the last one that replaced anything is "
            f"{found.undoes}.",
            remedy="`phoenix status` shows it.",
        )
    if not dry:
        found = catalog.lifecycle.roll_back(fleet.name, actor=world.actor_of(context), reason=reason, to=to)
    errand = Errand(RolloutKind.ROLLBACK, undoes=found.undoes, undone=found.undone)
    return Order(catalog.images.get(found.family, found.version), reason, found.slots, errand, dry)
