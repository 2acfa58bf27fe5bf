"""Amazon EC2: instances from AMIs, in given subnets of one region, with SSH keys that their consoles report."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phoenix_fleet import aws
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import InUse, InvalidSpec, NotFound, NotOurs, Unavailable
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Artefact, Bounds, Disk, Instance, InstanceState, LaunchIntent
from phoenix_fleet.domain.pacing import Quota
from phoenix_fleet.domain.volumes import Snapshot, Volume, VolumeIntent
from phoenix_fleet.platforms import _ec2_launch as launching
from phoenix_fleet.platforms import _ec2_view as view
from phoenix_fleet.platforms import _ec2_volumes as disks
from phoenix_fleet.platforms._ec2_settings import Settings
from phoenix_fleet.platforms.base import DiskImages, Platform, Volumes

__all__ = ["Driver", "Settings"]

_PAGE = 1000
"""The most instances in a page: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html"""


class Driver(Platform, Volumes, DiskImages):
    """Amazon EC2. Safe from any thread."""

    Settings = Settings
    VolumeSettings = disks.VolumeSettings

    # RunInstances has a resource bucket of 1,000 that two instances a second come back into
    # (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html#throttling-limits-cost-based). What is
    # in it belongs to the whole account and is not reckoned with.
    limits = Quota(launches_per_hour=2 * 3600)

    def __init__(self, settings: Any, connections: Connections) -> None:
        super().__init__(settings, connections)
        self._clients = aws.Clients(self._connection, settings.connection)

    # Instances

    def launch(self, intent: LaunchIntent) -> Instance:
        """One instance with all its tags, or the one that the token gave before, even if that is gone.

        EC2 itself keeps the token: two callers that race get one instance, whatever listings show of it. A name is no
        identity there, so that nobody else's machine has the name is looked up before.

        :raises InvalidSpec: EC2 says that the token's instance is terminated, and shows no trace of it any more.
        """
        settings = _frozen_settings(intent, self.settings)
        launching.check(intent)
        with self._ec2(f"launch {intent.name}") as client:
            if (found := self._of_that_name(client, intent)) is not None:
                return found
            try:
                subnets = client.describe_subnets(SubnetIds=list(settings.subnets))["Subnets"]
                subnet = launching.choose(subnets, settings.subnets, intent, settings.addresses.get(intent.slot, ""))
                seen = client.run_instances(**launching.request(intent, settings, subnet))["Instances"]
            except view.client_error() as error:
                return self._refused(client, intent, error)
            return view.instance(_only(seen, intent), public=self._public, born_with=view.marks(intent))

    def get_instance(self, instance_id: str) -> Instance:
        """The instance with exactly that id; its host keys once its console shows them."""
        with self._ec2(f"look at {instance_id}") as client:
            seen = _inspect(client, instance_id)
            running = view.state(seen["State"]["Name"]) is InstanceState.RUNNING
            return self._instance(seen, _console_keys(client, instance_id) if running else ())

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """All instances with the tags of that fleet but those that are gone, which EC2 shows for about an hour."""
        with self._ec2(f"list {fleet}") as client:
            found = [self._instance(seen) for seen in self._ours(client, {view.FLEET_MARK: fleet})]
            return sorted(found, key=lambda instance: instance.name)

    def terminate(self, instance_id: str) -> None:
        """Ask for it, unless it is on its way already; its volumes go with it as its AMI says."""
        with self._ec2(f"terminate {instance_id}") as client:
            seen = _inspect(client, instance_id)
            if seen["State"]["Name"] in ("shutting-down", "terminated"):
                return
            try:
                client.terminate_instances(InstanceIds=[instance_id])
            except view.client_error() as error:
                raise aws.error_of(f"terminate {instance_id}", error) from error

    def hostspec(self, instance: Instance) -> str:
        """``ssh://root@<address>``.

        :raises InvalidSpec: it has no address yet.
        """
        if not instance.address:
            raise InvalidSpec(f"{instance.name} has no address.", remedy="Ask once it is running.")
        return f"ssh://root@{instance.address}"

    # Data volumes

    def list_volumes(self, fleet: str) -> Sequence[Volume]:
        """All EBS volumes of this account and region with our tags, that fleet's and ``phoenix.volume``."""
        with self._ec2(f"list volumes of {fleet}") as client:
            return disks.listed(client, fleet)

    def create_volume(self, intent: VolumeIntent) -> Volume:
        """One EBS volume in the intent's zone; EC2 itself keeps the token."""
        with self._ec2(f"make {intent.label}") as client:
            return disks.make(client, intent)

    def snapshot_volume(self, volume_id: str, token: str) -> Snapshot:
        """One EBS snapshot, tagged at birth; it counts from the moment EC2 has accepted it."""
        with self._ec2(f"take a snapshot of {volume_id}") as client:
            return disks.snapshot(client, volume_id, token)

    def list_snapshots(self, volume_id: str) -> Sequence[Snapshot]:
        """All snapshots of this account with our tags."""
        with self._ec2(f"list snapshots of {volume_id}") as client:
            return disks.snapshots(client, volume_id)

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Only one that EC2 lists with our tags as that volume's."""
        with self._ec2(f"delete the snapshot {snapshot_id}") as client:
            disks.inspect(client, volume_id)
            disks.delete_snapshot(client, volume_id, snapshot_id)

    def detach_volume(self, volume_id: str, instance_id: str) -> None:
        """From a stopped or terminated instance, never by force."""
        with self._ec2(f"detach {volume_id}") as client:
            try:
                holder: dict[str, Any] | None = _inspect(client, instance_id)
            except NotFound:
                holder = None
            disks.detach(client, volume_id, holder, instance_id)

    def attach_volume(self, volume_id: str, instance_id: str) -> None:
        """At the first device that is free; the volume stays when the instance is terminated."""
        with self._ec2(f"attach {volume_id}") as client:
            disks.attach(client, volume_id, _inspect(client, instance_id))

    def stop(self, instance_id: str) -> None:
        """``StopInstances``, which lets the system shut down."""
        with self._ec2(f"stop {instance_id}") as client:
            if _inspect(client, instance_id)["State"]["Name"] in ("pending", "running"):
                client.stop_instances(InstanceIds=[instance_id])

    # Images

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """Every AMI of this account and region with our tags and that family's, by version."""
        from phoenix_fleet.platforms import _ec2_images as images

        with self._ec2(f"list images of {family}") as client:
            return images.of_family(client, family)

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """Write the rung into the AMI's tag ``phoenix.status``."""
        from phoenix_fleet.platforms import _ec2_images as images

        with self._ec2(f"tag {artefact.reference}") as client:
            images.tag(client, artefact, status)
        return artefact

    def delete_image(self, artefact: Artefact) -> None:
        """Deregister the AMI and delete the snapshots behind it."""
        from phoenix_fleet.platforms import _ec2_images as images

        with self._ec2(f"delete {artefact.reference}") as client:
            for seen in self._ours(client, {}):
                if seen.get("ImageId") == artefact.reference:
                    raise InUse(
                        f"{artefact.reference} is still run by {view.tags(seen).get(view.NAME)}.",
                        remedy="Replace that instance first.",
                    )
            images.delete(client, artefact)

    def copy_disks(self, artefact: Artefact, folder: Path, bounds: Bounds) -> tuple[Disk, ...]:
        """The snapshots behind the AMI, read block by block."""
        from phoenix_fleet.platforms import _ec2_copies as copies

        with self._ec2(f"look at {artefact.reference}") as client:
            found = copies.snapshots(client, artefact)
        return copies.copy(self._clients("ebs"), artefact, found, folder, bounds)

    # Inside

    @property
    def _public(self) -> bool:
        return bool(self.settings.address == "public")

    def _connection(self, conn_id: str) -> Any:
        # Through the attribute, which may be set after the constructor.
        return self.connections(conn_id)

    @contextmanager
    def _ec2(self, what: str) -> Iterator[Any]:
        with aws.translated(what):
            yield self._clients("ec2")

    def _instance(self, seen: Mapping[str, Any], host_keys: tuple[str, ...] = ()) -> Instance:
        return view.instance(seen, public=self._public, host_keys=host_keys)

    def _ours(self, client: Any, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        """Living instances of ours with those tags, of every page; never believed if EC2 sends any without."""
        wanted = {view.OWNER_MARK: OWNER, **wanted}
        found = _every_page(client, view.filters(wanted))
        view.check_honoured(found, wanted, "InstanceId")
        return [seen for seen in found if view.is_ours(view.tags(seen)) and seen["State"]["Name"] in view.LIVING]

    def _of_that_name(self, client: Any, intent: LaunchIntent) -> Instance | None:
        """The instance that the intent has already, as far as EC2 shows it by now.

        :raises NotOurs: somebody else's machine has the name.
        """
        wanted = {view.NAME: intent.name}
        found = _every_page(client, view.filters(wanted))
        view.check_honoured(found, wanted, "InstanceId")
        for seen in found:
            own = view.tags(seen)
            if view.is_ours(own):
                view.check_same(own, intent)
                return self._instance(seen)
            if seen["State"]["Name"] in view.LIVING:
                raise NotOurs(
                    f"An instance named {intent.name} exists ({seen['InstanceId']}) and is not ours.",
                    remedy="Ask whose it is, and rename it.",
                )
        return None

    def _refused(self, client: Any, intent: LaunchIntent, error: Any) -> Instance:
        """The dead instance of the token, if that is why; otherwise the refusal in our words."""
        failure = aws.error_of(f"launch {intent.name}", error)
        if aws.code_of(error) != "IdempotentInstanceTerminated":
            # What is not found here (an AMI, a subnet, a group) is not found the next time either.
            raise InvalidSpec(str(failure)) if isinstance(failure, NotFound) else failure
        wanted = {view.TOKEN_MARK: intent.token}
        found = _every_page(client, view.filters(wanted))
        view.check_honoured(found, wanted, "InstanceId")
        for seen in found:
            if view.is_ours(view.tags(seen)):
                view.check_same(view.tags(seen), intent)
                return self._instance(seen)
        raise InvalidSpec(
            f"launch {intent.name}: it was launched before and is terminated, and EC2 never uses a token twice.",
            remedy="Launch a new attempt.",
        ) from error


def _every_page(client: Any, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Instances in any state; an error on any page is the error of the whole."""
    pages = client.get_paginator("describe_instances").paginate(
        Filters=[*filters], PaginationConfig={"PageSize": _PAGE}
    )
    return [seen for page in pages for group in page["Reservations"] for seen in group["Instances"]]


def _inspect(client: Any, instance_id: str) -> dict[str, Any]:
    """What EC2 says of exactly that instance of ours."""
    missing = NotFound(f"There is no instance {instance_id!r} to be seen.", remedy="Look again; reads may be late.")
    if not view.INSTANCE_ID.fullmatch(instance_id):
        raise missing
    try:
        groups = client.describe_instances(InstanceIds=[instance_id])["Reservations"]
    except view.client_error() as error:
        if aws.code_of(error) in ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"):
            raise missing from None
        raise
    found = [seen for group in groups for seen in group["Instances"]]
    seen: dict[str, Any] | None = next((each for each in found if each["InstanceId"] == instance_id), None)
    if seen is None:
        raise missing
    if not view.is_ours(view.tags(seen)):
        raise NotOurs(f"The instance {instance_id} is not ours.", remedy="Ask whose it is.")
    return seen


def _console_keys(client: Any, instance_id: str) -> tuple[str, ...]:
    """The host keys on its console, as it is now or, where EC2 cannot tell that, as it was after the boot.

    ``Latest`` exists on Nitro only; what was buffered after the boot still holds what has run out of the latest 64 kB:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html
    """
    for latest in (True, False):
        try:
            answer = client.get_console_output(InstanceId=instance_id, Latest=latest)
        except view.client_error() as error:
            if latest and aws.code_of(error) in ("UnsupportedOperation", "InvalidParameterCombination"):
                continue
            raise
        if keys := view.host_keys(_text(answer.get("Output") or "")):
            return keys
    return ()


def _text(output: str) -> str:
    # The SDK decodes the base64 by itself, and leaves what is not UTF-8 as it came.
    try:
        return base64.b64decode(output, validate=True).decode(errors="replace")
    except ValueError:
        return output


def _only(seen: Sequence[dict[str, Any]], intent: LaunchIntent) -> dict[str, Any]:
    if len(seen) != 1:
        raise Unavailable(f"EC2 answered the launch of {intent.name} with {len(seen)} instances.")
    if view.tags(seen[0]):
        view.check_same(view.tags(seen[0]), intent)
    return seen[0]


def _frozen_settings(intent: LaunchIntent, current: Settings) -> Settings:
    """The settings that the intent was stored with: the file may have changed since."""
    try:
        return Settings.model_validate(dict(intent.settings)) if intent.settings else current
    except ValidationError as error:
        raise InvalidSpec(f"The settings frozen with {intent.name} do not fit: {error}") from None
