"""A fleet of workloads as the engine sees it: a slot is a workload, and what fills it is a revision.

The engine replaces instances, and a workload replaces its own. So a workload's *revision* stands for an instance:

- ``launch`` tells the workload its new image. The new revision is *starting* for as long as the workload rolls.
- The revision before it stays *running* beside it until that is settled, because the way back is open for so long.
  It serves as long as the workload has the replicas in service that it must have while it rolls.
- Terminating the revision before settles the roll. Terminating the new one undoes it; it is *stopping* until the
  workload is back at the revision before, and *gone* then.

So plans, tickets, waves, gates, halts, the brake and the pace are those of any fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.configfleet import slot_names
from phoenix_fleet.domain.errors import InvalidConfig, NotFound, NotSupported
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Backend, BackendStatus, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms.base import Platform
from phoenix_fleet.workloads.base import Place, Progress, Revision, Workload

_BETWEEN = "#"
"""Between a workload's id and a revision's key in an instance's id."""


@dataclass(frozen=True)
class _Slot:
    name: str
    fleet: str
    place: Place


class Revisions(Platform):
    """The workloads of one fleet as a platform. ``artefacts`` is the platform that holds what they run."""

    def __init__(self, workload: Workload, fleet: str, size: int, artefacts: Platform) -> None:
        super().__init__(workload.settings, workload.connections)
        self.workload = workload
        self.fleet = fleet
        self.size = size
        self.artefacts = artefacts

    # What is there

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """The revisions of all workloads, each with those beside it; none of any other fleet."""
        if fleet != self.fleet:
            return []
        return [each for slot in self._slots() for each in self._revisions(slot)]

    def get_instance(self, instance_id: str) -> Instance:
        """The revision as it is now; one that the workload does not know any more is gone."""
        slot, key = self._find(instance_id)
        progress = self.workload.progress(slot.place.id)
        for each in _seen(slot, progress):
            if each.token == key:
                return each
        return _instance(slot, Revision("", "", token=key), InstanceState.GONE)

    def status(self, instance: Instance) -> BackendStatus:
        """Whether that revision serves: whether as many replicas of its workload as must be are in service."""
        slot, key = self._find(instance.id)
        progress = self.workload.progress(slot.place.id)
        if key == progress.current.key and progress.complete:
            return _serving(progress.healthy)
        rolls = progress.available >= progress.minimum
        if key == progress.current.key:
            return _serving(rolls) if _goes_back(progress) else BackendStatus(Backend.STARTING)
        if progress.previous is not None and key == progress.previous.key:
            return _serving(rolls)
        return BackendStatus(Backend.ABSENT)

    # What is done

    def launch(self, intent: LaunchIntent) -> Instance:
        """Tell the slot's workload its new image."""
        slot = self._named(intent.slot)
        self.workload.start(slot.place.id, intent)
        return self.get_instance(f"{slot.place.id}{_BETWEEN}{intent.token}")

    def rehearse(self, intent: LaunchIntent) -> None:
        """Have the workload's platform check all that ``launch`` would do, and change nothing.

        :raises PermanentError: it would be refused, and why.
        """
        self.workload.start(self._named(intent.slot).place.id, intent, dry_run=True)

    def terminate(self, instance_id: str) -> None:
        """Undo the current revision, or settle the one before it; nothing happens to one that is over."""
        slot, key = self._find(instance_id)
        progress = self.workload.progress(slot.place.id)
        if progress.previous is not None and key == progress.previous.key:
            self.workload.settle(slot.place.id, progress.current.key)
        elif key == progress.current.key:
            self.workload.undo(slot.place.id, key)

    # Images are where their platform keeps them

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """Those of the platform whose artefacts the workloads run."""
        return self.artefacts.list_images(family)

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """As there."""
        return self.artefacts.tag_image(artefact, status)

    def delete_image(self, artefact: Artefact) -> None:
        """Never by way of a workload."""
        raise NotSupported(f"{artefact.reference} belongs to another platform.", remedy="Delete it there.")

    def hostspec(self, instance: Instance) -> str:
        """Nobody logs in to a workload."""
        return f"workload://{instance.name}"

    # Inside

    def _slots(self) -> list[_Slot]:
        """The workloads with the slots that they are.

        :raises InvalidConfig: there are more or fewer than the fleet's file says.
        """
        found = self.workload.list_workloads(self.fleet)
        if len(found) != self.size:
            selected = ", ".join(each.id for each in found[:10]) or "none"
            raise InvalidConfig(
                f"{self.fleet}: workload selects {len(found)} workloads, and size is {self.size}: {selected}.",
                remedy="Correct the names or selectors below workload, or size.",
            )
        names = slot_names(self.fleet, self.size)
        return [_Slot(name, self.fleet, place) for name, place in zip(names, found, strict=True)]

    def _named(self, name: str) -> _Slot:
        return next(slot for slot in self._slots() if slot.name == name)

    def _find(self, instance_id: str) -> tuple[_Slot, str]:
        place_id, _, key = instance_id.rpartition(_BETWEEN)
        for slot in self._slots():
            if slot.place.id == place_id:
                return slot, key
        raise NotFound(f"There is no workload {place_id} any more.", remedy="Look whether somebody has deleted it.")

    def _revisions(self, slot: _Slot) -> list[Instance]:
        return _seen(slot, self.workload.progress(slot.place.id))


class InService(Balancer):
    """What sends traffic to replicas is the platform's own affair; this tells how many of them are in service."""

    def __init__(self, revisions: Revisions) -> None:
        super().__init__(revisions.settings, revisions.connections)
        self._revisions = revisions

    def admit(self, instance: Instance) -> None:
        """Nothing happens: replicas come into service by themselves."""

    def drain(self, instance: Instance) -> None:
        """Nothing happens."""

    def remove(self, instance: Instance) -> None:
        """Nothing happens."""

    def state(self, instance: Instance) -> BackendStatus:
        """Whether that revision serves, without connections: nobody counts them."""
        return self._revisions.status(instance)


def _serving(serves: bool) -> BackendStatus:
    return BackendStatus(Backend.HEALTHY if serves else Backend.UNHEALTHY)


def _seen(slot: _Slot, progress: Progress) -> list[Instance]:
    """What stands in the slot: the revision before as long as it can come back, the current, and one that is undone."""
    found = []
    if progress.previous is not None:
        found.append(_instance(slot, progress.previous, InstanceState.RUNNING, running=progress.previous.digest))
    found.append(_instance(slot, progress.current, _state(progress), progress))
    if progress.undone is not None and _goes_back(progress):
        found.append(_instance(slot, progress.undone, InstanceState.STOPPING))
    return found


def _state(progress: Progress) -> InstanceState:
    if progress.failure:
        return InstanceState.FAILED
    return InstanceState.RUNNING if progress.complete or _goes_back(progress) else InstanceState.STARTING


def _goes_back(progress: Progress) -> bool:
    """Whether the current revision was current before: it never went out of service altogether."""
    return progress.undone is not None and not progress.complete


def _instance(
    slot: _Slot, revision: Revision, state: InstanceState, progress: Progress | None = None, running: str = ""
) -> Instance:
    return Instance(
        id=f"{slot.place.id}{_BETWEEN}{revision.key}",
        name=f"{slot.name}-{revision.key[:8]}",
        fleet=slot.fleet,
        slot=slot.name,
        version=revision.version,
        token=revision.key,
        state=state,
        address=slot.place.address if state is InstanceState.RUNNING else "",
        digest=(progress.running or progress.current.digest) if progress else running,
        launched_at=revision.started_at,
        message=(progress.failure or progress.message) if progress else "",
        zone=slot.place.zone,
    )
