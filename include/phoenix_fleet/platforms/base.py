"""The platform seam: it starts and terminates instances, and says what there is. It never waits or judges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Bounds, Disk, Instance, LaunchIntent
from phoenix_fleet.domain.pacing import Quota
from phoenix_fleet.domain.volumes import Snapshot, Volume, VolumeIntent


class Platform(ABC):
    """A place where instances run.

    Constructors do no I/O. Methods are synchronous and safe to call from several threads. Every driver
    translates its vendor's errors to those of ``domain.errors`` at its own edge: ``Unavailable``, ``Throttled``
    and ``AuthenticationFailed`` may come from any method.
    """

    Settings: ClassVar[type[BaseModel]]
    """What a fleet or image file may say about this platform. It has a ``connection`` where one is needed."""

    limits: ClassVar[Quota] = Quota()
    """What the platform itself bounds, for the pacer and the launches to keep to; a fleet file may say less.

    Default: nothing.
    """

    def __init__(self, settings: Any, connections: Connections) -> None:
        self.settings = settings
        self.connections = connections

    @abstractmethod
    def launch(self, intent: LaunchIntent) -> Instance:
        """Start one instance; returns once the platform has *accepted*, usually in ``starting``.

        Idempotent by ``intent.token``: the same token gives the same instance, never a second one, also when
        two callers race. Owner, fleet, slot, version, purpose and token are on the machine *at birth*. Cleans up
        its own partial failure.

        :raises InvalidSpec: the request can never work.
        :raises IntentMismatch: an instance has that token and was launched with other parameters.
        :raises CapacityExhausted: no room now.
        """

    @abstractmethod
    def get_instance(self, instance_id: str) -> Instance:
        """The instance as it is now, with ``host_keys`` once they can be read.

        :raises NotFound: not to be seen (which is not proof that it is gone).
        :raises NotOurs: it exists without our ownership marks.
        """

    @abstractmethod
    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """All instances of ours that carry that fleet's mark, starting, stopping and failed ones too, by name.

        Every page or an error: an error, a partial page or a dropped filter is never "none".
        """

    @abstractmethod
    def terminate(self, instance_id: str) -> None:
        """Ask for termination of one instance of ours and return at once. Repeating it is harmless.

        :raises NotFound: not to be seen: callers look again, since it is not proof of gone.
        :raises NotOurs: it lacks our ownership marks; nothing was touched.
        """

    @abstractmethod
    def hostspec(self, instance: Instance) -> str:
        """A testinfra URL that reaches the instance (``docker://…``, ``ssh://…``). No I/O."""

    @abstractmethod
    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """All artefacts of that family which the platform holds, each with its marks (``version``, ``status``)."""

    @abstractmethod
    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """Mark the artefact with its rung where the platform can show it. Idempotent; the digest stays."""

    @abstractmethod
    def delete_image(self, artefact: Artefact) -> None:
        """Delete the artefact; deleting what is not there is success.

        :raises InUse: an instance of ours still runs from it.
        """


class Volumes(ABC):
    """What a platform can do beside ``Platform`` that has data volumes; whoever wants them asks the driver for it.

    A data volume belongs to a slot, and its marks say so: owner, fleet, slot and name, on the volume itself. Nothing
    here or in ``Platform`` ever deletes one: ``terminate`` leaves those that are still attached as they are. Otherwise
    the promises of ``Platform`` hold: no waiting, no judging, every page or an error.
    """

    VolumeSettings: ClassVar[type[BaseModel]]
    """What a fleet file may say below ``options`` of one volume."""

    @abstractmethod
    def list_volumes(self, fleet: str) -> Sequence[Volume]:
        """All data volumes of ours that carry that fleet's mark, in any state, by slot and name.

        Every page or an error. One that is left out is not gone: nobody makes another in its place.
        """

    @abstractmethod
    def create_volume(self, intent: VolumeIntent) -> Volume:
        """A blank volume with all its marks at birth; returns once the platform has *accepted*.

        Idempotent by (fleet, slot, name): the same volume, never a second one, also when two callers race.

        :raises InvalidSpec: the request can never work.
        :raises IntentMismatch: that volume was asked for with other parameters.
        :raises CapacityExhausted: no room now.
        """

    @abstractmethod
    def snapshot_volume(self, volume_id: str, token: str) -> Snapshot:
        """Ask for a snapshot that carries the volume's marks and the token; the same token gives the same snapshot.

        The instance that has the volume was stopped before, so that what was written is in it.

        :raises NotFound: not to be seen. :raises NotOurs: it lacks our marks.
        """

    @abstractmethod
    def list_snapshots(self, volume_id: str) -> Sequence[Snapshot]:
        """All snapshots of ours of that volume. Every page or an error."""

    @abstractmethod
    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Delete exactly that one of the volume's ``list_snapshots``; one that is not among them is success.

        :raises NotFound: the volume is not to be seen. :raises NotOurs: it lacks our marks.
        """

    @abstractmethod
    def detach_volume(self, volume_id: str, instance_id: str) -> None:
        """Take the volume from exactly that instance; nothing happens if another one has it or nobody.

        :raises InUse: the instance runs, so that something may still be written. Nothing was touched.
        :raises NotFound: not to be seen. :raises NotOurs: one of the two lacks our marks.
        """

    @abstractmethod
    def attach_volume(self, volume_id: str, instance_id: str) -> None:
        """Give the volume to that instance, which runs; nothing happens if it has it already.

        :raises InUse: another instance has it, ours or not. Nothing was touched.
        :raises NotFound: not to be seen. :raises NotOurs: one of the two lacks our marks.
        """

    @abstractmethod
    def stop(self, instance_id: str) -> None:
        """Ask the instance's own system to shut down, so that all is written; returns at once. Repeating is harmless.

        The instance is *stopping* or still *running* meanwhile, and *failed* once it is down.

        :raises NotFound: not to be seen. :raises NotOurs: it lacks our ownership marks.
        """


class DiskImages(ABC):
    """What a platform can do beside ``Platform`` whose artefacts consist of disks; gates ask for it by the driver.

    Nothing is launched, made or changed for it on the platform.
    """

    @abstractmethod
    def copy_disks(self, artefact: Artefact, folder: Path, bounds: Bounds) -> tuple[Disk, ...]:
        """Copies of all the artefact's disks, in new files of that folder: what the platform would launch, and whole.

        Waits until they are there: minutes. Whoever asks removes the folder, also after an error.

        :raises NotFound: there is no such artefact.
        :raises NotOurs: it does not carry our marks.
        :raises InvalidSpec: it is not what its digest says, or stores more than the bounds allow.
        :raises TimedOut: it took longer than the bounds allow.
        """
