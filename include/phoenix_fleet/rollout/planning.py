"""Looking at a fleet and drawing its plan: reads only, nothing is touched or written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from phoenix_fleet import configcalendar
from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.config import Fleet, portion
from phoenix_fleet.domain import planner
from phoenix_fleet.domain.brake import Brake
from phoenix_fleet.domain.calendars import Calendar
from phoenix_fleet.domain.errors import InUse, InvalidConfig, InvalidSpec, NotOurs, PermanentError, Refused
from phoenix_fleet.domain.ladder import Rung, has_reached
from phoenix_fleet.domain.models import Artefact, Backend, BackendStatus, Image, Instance, InstanceState, LaunchIntent
from phoenix_fleet.domain.planner import FleetShape, Observed, Plan, Target
from phoenix_fleet.domain.volumes import withhold
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.platforms.base import Platform
from phoenix_fleet.rollout.deps import Deps

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import RolloutRecord


def shape_of(fleet: Fleet) -> FleetShape:
    """The fleet file in numbers: what adds caution or capacity is rounded up, what takes capacity away down."""
    size = fleet.size
    return FleetShape(
        name=fleet.name,
        slots=tuple(fleet.slots),
        canary=max(1, portion(fleet.canary, size, up=True)),
        waves=tuple(portion(wave, size, up=True) for wave in fleet.waves),
        max_surge=portion(fleet.max_surge, size, up=True),
        max_unavailable=portion(fleet.max_unavailable, size, up=False),
        max_in_flight=fleet.max_in_flight,
        max_age=fleet.max_age,
        failure_domain=fleet.failure_domain,
        in_order=fleet.workload is not None,
    )


def brake_of(fleet: Fleet) -> Brake:
    """The fleet's brake in numbers."""
    rule = fleet.brake
    return Brake(portion(rule.share, fleet.size, up=False), rule.at_least, rule.blind_for)


def calendar_of(fleet: Fleet) -> Calendar:
    """When replacements in that fleet may begin."""
    return configcalendar.calendar(fleet.maintenance, fleet.freezes)


def unhindered(fleet: Fleet) -> Fleet:
    """The fleet file for a rollback or an emergency, without what may hold up a refresh.

    What runs is known to be bad, so neither window nor freeze nor a deadline that cannot be kept is waited for.
    Waivers stand: somebody has said that this instance must stay.
    """
    return fleet.model_copy(update={"maintenance": (), "freezes": (), "when_late": "alarm"})


def freeze(fleet: Fleet) -> dict[str, Any]:
    """The fleet file as JSON-able data, to be kept with a rollout."""
    return fleet.model_dump(mode="json")


def frozen_fleet(rollout: RolloutRecord, fleet: Fleet | None = None) -> Fleet:
    """The fleet as its file was when the rollout opened; ``fleet`` is the file as it is now, and says where it lies.

    Without that, what it names by paths cannot be loaded; everything else is the same.

    :raises InvalidConfig: what was kept cannot be read any more.
    """
    try:
        kept = Fleet.model_validate(_thaw(dict(rollout.settings)))
    except ValidationError as error:
        raise InvalidConfig(
            f"The fleet file that rollout {rollout.id} of {rollout.fleet} was opened with cannot be read any more: "
            f"{error.error_count()} mistakes, the first at {'.'.join(map(str, error.errors()[0]['loc']))}.",
            remedy="Cancel that rollout and open another one.",
        ) from None
    if fleet is not None:
        object.__setattr__(kept, "_home", fleet.home)
    return kept


def _thaw(value: Any) -> Any:
    """Drivers are written ``{name: settings}`` in files and ``{"name": …, "settings": …}`` in dumps."""
    if isinstance(value, Mapping):
        if set(value) == {"name", "settings"}:
            return {value["name"]: dict(value["settings"])}
        return {key: _thaw(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_thaw(each) for each in value]
    return value


def good_enough(image: Image, fleet: Fleet) -> bool:
    """Whether an image stands where the fleet may take it: released, or for staging fleets certified and above."""
    if fleet.required_rung is Rung.RELEASED:
        return image.rung is Rung.RELEASED
    return has_reached(image.rung, fleet.required_rung)


def artefact_of(image: Image, fleet: Fleet) -> Artefact:
    """The image's artefact on the fleet's platform.

    :raises Refused: the image stands too low, or has none there.
    """
    if not good_enough(image, fleet):
        raise Refused(
            f"{image} is {image.rung}, and {fleet.name} takes only {fleet.requires} images.",
            remedy="Choose another release.",
        )
    artefact = image.artefacts.get(fleet.artefact_platform)
    if artefact is None:
        raise Refused(
            f"{image} has no artefact on {fleet.artefact_platform}, where {fleet.name} runs.",
            remedy=f"Add {fleet.artefact_platform} to the targets of {image.family} and build it.",
        )
    return artefact


def target_of(
    catalog: Catalog,
    fleet: Fleet,
    image: Image,
    *,
    undone: Version | None = None,
    forced: Collection[str] = (),
    returning: Collection[str] = (),
) -> Target:
    """What the rollout brings, and which newer versions may stay: those that the fleet could take now.

    :param undone: the version that is rolled back or got away from, and may not stay.
    :param forced: ids of instances that go even if they are up to date.
    :param returning: ids of instances that a rollback puts back into service where it can.
    :raises Refused: the fleet may not take the image.
    """
    acceptable = {
        each.version: each.artefacts[fleet.artefact_platform].digest
        for each in catalog.images.list_images(fleet.family)
        if good_enough(each, fleet) and fleet.artefact_platform in each.artefacts
    }
    return Target(
        image.version, artefact_of(image, fleet).digest, acceptable, undone, frozenset(forced), frozenset(returning)
    )


def observe(platform: Platform, balancer: Balancer, fleet: str) -> Observed:
    """The fleet as its platform and its balancer report it now, all of it or an error."""
    instances = tuple(platform.list_instances(fleet))
    return Observed(instances, {each.id: _backend(balancer, each) for each in instances})


def look_at(deps: Deps, fleet: Fleet) -> Observed:
    """The same with all that the fleet's file says of it: an instance without its data serves nobody."""
    seen = observe(deps.platform, deps.balancer, fleet.name)
    if deps.volumes is None:
        return seen
    return withhold(seen, deps.volumes.list_volumes(fleet.name), [each.name for each in fleet.volumes])


def _backend(balancer: Balancer, instance: Instance) -> BackendStatus:
    if instance.state is not InstanceState.RUNNING:
        return BackendStatus(Backend.ABSENT)
    try:
        return balancer.state(instance)
    except NotOurs:
        # Somebody else's server has its name there, so whatever it says is not about this instance.
        return BackendStatus(Backend.ABSENT)


def slots_on(deps: Deps, fleet: Fleet, version: Version) -> list[str]:
    """The slots in which something of that version stands or comes up, in order."""
    running = {each.slot for each in deps.platform.list_instances(fleet.name) if each.version == str(version)}
    return [slot for slot in fleet.slots if slot in running]


def draw_plan(
    deps: Deps,
    fleet: Fleet,
    image: Image,
    only: Sequence[str] = (),
    *,
    undone: Version | None = None,
    force: bool = False,
) -> Plan:
    """What a rollout of that image would do to the fleet now, with reasons; ``only`` limits it to those slots.

    Nothing is touched and nothing is written, so this is also the dry run.

    :param undone: the version that is rolled back or got away from.
    :param force: replace those slots even if they are up to date.
    :raises Refused: the fleet may not take the image.
    :raises InvalidConfig: ``only`` names a slot that the fleet does not have, or ``force`` comes without any.
    """
    if force and not only:
        raise InvalidConfig("Only named slots can be forced.", remedy="Name those that are to be replaced.")
    seen, now, shape = look_at(deps, fleet), deps.clock.now(), shape_of(fleet)
    forced = [each.id for each in seen.instances if each.slot in only] if force else []
    target = target_of(deps.catalog, fleet, image, undone=undone, forced=forced)
    # An empty slot is filled all the same: a waiver is about an instance that must stay.
    waived = {each.slot: str(each) for each in fleet.waivers if now < each.ends and seen.in_slot(each.slot)}
    names = [slot for slot in (only or shape.slots) if slot not in waived]
    drawn = planner.plan(shape, target, seen, now, names) if names else Plan()
    return replace(drawn, waived=tuple((slot, why) for slot, why in waived.items() if not only or slot in only))


def rehearse(deps: Deps, fleet: Fleet, image: Image, plan: Plan) -> int:
    """How many launches of the plan the platform has checked and would accept; nothing is changed.

    None where it cannot check them, and none of what an earlier rollout has left half-way, which is cleaned up first.

    :raises InvalidSpec: one would be refused: which, and why.
    """
    if deps.rehearse is None:
        return 0
    checked = 0
    for slot in plan.slots:
        intent = LaunchIntent(
            fleet=fleet.name,
            slot=slot.slot,
            purpose="rehearsal",
            attempt=1,
            family=image.family,
            version=str(image.version),
            artefact=artefact_of(image, fleet),
            settings=dict(fleet.runs_on.settings),
        )
        try:
            deps.rehearse(intent)
            checked += 1
        except InUse:
            continue
        except PermanentError as error:
            raise InvalidSpec(f"{slot.slot} of {fleet.name}: {error.args[0]}", remedy=error.remedy) from error
    return checked
