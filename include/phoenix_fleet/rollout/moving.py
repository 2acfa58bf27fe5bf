"""Moving a slot's data volumes from the instance that leaves to the one that comes.

The one that leaves is stopped, so that all is written; a snapshot is taken; only then the volumes are detached, and
only after that it is terminated. The one that comes gets them once it runs. At each line a volume is whole and at one
instance at most, and whoever looks next goes on from what the platform shows. No volume and no snapshot is deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from phoenix_fleet.domain.errors import NotFound
from phoenix_fleet.domain.models import Environment, Instance, InstanceState
from phoenix_fleet.domain.volumes import Volume, VolumeIntent, VolumeState, in_slot, snapshot_token
from phoenix_fleet.rollout import gone
from phoenix_fleet.rollout.progress import AT_ONCE, LATER, Failing, Waiting, plain, soon
from phoenix_fleet.rollout.replacement import Identity, Replacement

if TYPE_CHECKING:
    from phoenix_fleet.catalog.records import IntentRecord, Outcome
    from phoenix_fleet.configvolumes import DataVolume
    from phoenix_fleet.platforms.base import Platform, Volumes

ACTIONS = ("stop", "create_volume", "snapshot", "detach", "attach")
"""The calls that are made here."""
STOP_AGAIN = timedelta(seconds=30)
"""What shows no sign so long after it was told to stop is told again."""
GIVEN_FOR = timedelta(minutes=1)
"""So long a listing may leave out that a volume was attached."""


# Away from the instance that leaves


def is_stopping(work: Replacement, machine: Identity) -> bool:
    """Whether that instance was told to stop, to give its volumes back."""
    return bool(work.facts.get(f"stopping {machine.id}"))


def release(
    work: Replacement, machine: Identity, instance: Instance, refused: Callable[[], Waiting | None]
) -> Waiting | None:
    """None once no data volume is at that instance any more; it is down by then if there was one.

    :param refused: asked right before it is stopped; what comes back is waited for instead.
    :raises Failing: a snapshot or a volume has failed, and nothing more was detached.
    """
    driver = work.deps.volumes
    if driver is None:
        return None
    try:
        return _release(work, driver, machine, instance, refused)
    except NotFound as error:  # no proof that it is gone: look again
        return Waiting(plain(error), LATER)


def _release(
    work: Replacement,
    driver: Volumes,
    machine: Identity,
    instance: Instance,
    refused: Callable[[], Waiting | None],
) -> Waiting | None:
    held = [each for each in driver.list_volumes(work.fleet.name) if each.attached_to == machine.id]
    if not held:
        return _may_be_held(work, machine)
    if instance.state is not InstanceState.FAILED:
        return (None if is_stopping(work, machine) else refused()) or _stop(work, driver, machine, instance)
    for volume in held:
        if waiting := _snapshot(work, driver, machine, volume):
            return waiting
    for volume in held:
        if volume.state is not VolumeState.DETACHING:
            _call(work, "detach", volume, machine, partial(driver.detach_volume, volume.id, machine.id))
    labels = ", ".join(each.label for each in held)
    return Waiting(f"{labels} {'are' if len(held) > 1 else 'is'} being detached from {machine.name}", AT_ONCE)


def _may_be_held(work: Replacement, machine: Identity) -> Waiting | None:
    """A listing may lag behind an attachment of a moment ago."""
    given = work.since(f"given {machine.id}")
    if given is None or not timedelta() <= given < GIVEN_FOR or is_stopping(work, machine):
        return None
    return Waiting(f"a volume that was attached to {machine.name} a moment ago may yet be seen there", LATER)


def _stop(work: Replacement, driver: Volumes, machine: Identity, instance: Instance) -> Waiting:
    fact = f"stopping {machine.id}"
    asked = work.since(fact)
    if asked is not None and timedelta() <= asked < STOP_AGAIN:
        return Waiting(f"{machine.name} was told to stop and is {instance.state}", soon(asked, LATER))
    work.note(**{fact: work.now.isoformat()})
    work.act("stop", machine, lambda: driver.stop(machine.id))
    return Waiting(f"{machine.name} is told to stop", AT_ONCE)


def _snapshot(work: Replacement, driver: Volumes, machine: Identity, volume: Volume) -> Waiting | None:
    """None once there is a snapshot of the volume as that instance leaves it."""
    token = snapshot_token(work.rollout.purpose, volume.id, machine.token)
    found = [each for each in driver.list_snapshots(volume.id) if each.token == token]
    if any(each.taken for each in found):
        return None
    failed = next((each for each in found if each.failed), None)
    if failed is not None:
        raise Failing(f"the snapshot {failed.id} of {volume.label} failed: {failed.failed}")
    if found:
        return Waiting(f"a snapshot of {volume.label} is being taken", soon(work.elapsed, LATER))
    _call(work, "snapshot", volume, machine, lambda: driver.snapshot_volume(volume.id, token), token=token)
    return Waiting(f"a snapshot of {volume.label} is asked for", AT_ONCE)


# To the instance that comes


def place(work: Replacement) -> dict[str, Any]:
    """The facts that say where alone the slot's volumes can be attached; none where they can be anywhere.

    :raises Failing: they lie in several places.
    """
    driver = work.deps.volumes
    if driver is None:
        return {}
    zones = sorted({each.zone for each in in_slot(driver.list_volumes(work.fleet.name), work.name) if each.zone})
    if len(zones) > 1:
        raise Failing(f"the data volumes of {work.name} lie in several zones: {', '.join(zones)}")
    return {"volume_zone": zones[0]} if zones else {}


def supply(work: Replacement, instance: Instance) -> Waiting | dict[str, Any]:
    """The facts that the configurator needs, once the new instance has every data volume of its slot.

    :raises Failing: one has failed, is there twice, or was there before and is not to be seen.
    """
    driver = work.deps.volumes
    if driver is None:
        return {}
    try:
        return _supply(work, driver, instance)
    except NotFound as error:
        return Waiting(plain(error), LATER)


def _supply(work: Replacement, driver: Volumes, instance: Instance) -> Waiting | dict[str, Any]:
    there = in_slot(driver.list_volumes(work.fleet.name), work.name)
    facts = []
    for declared in work.fleet.volumes:
        found = [each for each in there if each.name == declared.name]
        if len(found) > 1:
            raise Failing(f"{found[0].label} is there {len(found)} times: {', '.join(each.id for each in found)}")
        waiting = _give(work, driver, found[0], instance) if found else _make(work, driver, declared, instance)
        if waiting:
            return waiting
        facts.append(
            {
                "name": declared.name,
                "device": found[0].device,
                "mount": declared.mount,
                "filesystem": declared.filesystem,
            }
        )
    return {"volumes": facts}


def _give(work: Replacement, driver: Volumes, volume: Volume, instance: Instance) -> Waiting | None:
    if volume.state is VolumeState.FAILED:
        raise Failing(f"{volume.label} ({volume.id}) has failed")
    if (volume.attached_to, volume.state) == (instance.id, VolumeState.ATTACHED):
        return None
    if volume.attached_to or volume.state is not VolumeState.FREE:
        at = f" at {volume.attached_to}" if volume.attached_to else ""
        return Waiting(f"{volume.label} is {volume.state}{at}", soon(work.elapsed, LATER))
    machine = Identity.of(instance)
    work.note(**{f"given {machine.id}": work.now.isoformat()})
    _call(work, "attach", volume, machine, lambda: driver.attach_volume(volume.id, machine.id))
    return Waiting(f"{volume.label} is being attached to {machine.name}", AT_ONCE)


def _make(work: Replacement, driver: Volumes, declared: DataVolume, instance: Instance) -> Waiting:
    """A blank one, but only where there never was one: what is not to be seen is not gone."""
    intent = VolumeIntent(
        fleet=work.fleet.name,
        slot=work.name,
        name=declared.name,
        size_gib=declared.size_gib,
        zone=instance.zone,
        options=dict(declared.options),
        settings=dict(work.fleet.runs_on.settings),
    )
    for known in work.deps.catalog.intents.volumes_known(intent.label):
        if known.outcome == "failed" or (known.action == "create_volume" and known.outcome != "done"):
            continue  # a call that may have been made is made again, with the same token
        if work.lasting(f"missing {intent.label}") < gone.UNSEEN_FOR:
            return Waiting(f"{intent.label} was there before and is not to be seen", LATER)
        raise Failing(f"{intent.label} was there before and is not to be seen; no blank one takes its place")
    target = Identity(intent.label, intent.label, work.name, intent.token, "")
    params = {**intent.facts(), "label": intent.label}
    work.act("create_volume", target, lambda: driver.create_volume(intent), params=params, token=intent.token)
    return Waiting(f"{intent.label}, which there never was, is being made", AT_ONCE)


def environment(work: Replacement) -> Environment:
    """What the configurator gets: the fleet's, and which data volume is where."""
    given = work.facts.get("volumes")
    base = work.deps.environment
    return replace(base, variables={**base.variables, "phoenix_volumes": given}) if given else base


# For the record


def _call(
    work: Replacement,
    action: Any,
    volume: Volume,
    machine: Identity,
    call: Callable[[], object],
    *,
    token: str = "",
) -> None:
    """Intent, call, outcome, each under a token of its own for each instance."""
    target = Identity(volume.id, volume.label, volume.slot, machine.token, "")
    params = {"name": volume.label, "label": volume.label, "instance": machine.id, "machine": machine.name}
    work.act(action, target, call, params=params, token=token or machine.token)


def seen(driver: Volumes | None, platform: Platform, fleet: str, intent: IntentRecord) -> tuple[Outcome, str]:
    """What can be seen now of a call that was not heard of any more."""
    if driver is None:
        return "unknown", "the fleet has no data volumes any more"
    if intent.action == "stop":
        instance = gone.see(platform, intent.target)
        if instance is None:
            return "unknown", "the instance is not to be seen"
        down = instance.state in (InstanceState.STOPPING, InstanceState.FAILED, InstanceState.GONE)
        return ("done" if down else "unknown"), f"the instance is {instance.state}"
    label, volumes = intent.params.get("label"), driver.list_volumes(fleet)
    if intent.action == "create_volume":
        there = any(each.label == label for each in volumes)
        return ("done" if there else "unknown"), f"{label} is {'' if there else 'not '}there"
    volume = next((each for each in volumes if each.id == intent.target), None)
    if volume is None:
        return "unknown", f"{label} is not to be seen"
    if intent.action == "snapshot":
        try:
            taken = any(each.token == intent.token for each in driver.list_snapshots(volume.id))
        except NotFound:
            taken = False
        return ("done" if taken else "unknown"), f"such a snapshot of {label} is {'' if taken else 'not '}there"
    at = volume.attached_to == intent.params.get("instance")
    done = at if intent.action == "attach" else not at or volume.state is VolumeState.DETACHING
    return ("done" if done else "unknown"), f"{label} is {volume.state}"
