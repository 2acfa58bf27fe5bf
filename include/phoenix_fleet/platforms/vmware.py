"""Virtual machines on VMware vSphere, cloned from templates by vCenter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phoenix_fleet.domain.errors import CapacityExhausted, InUse, InvalidSpec, NotFound, NotOurs, Unavailable
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Instance, LaunchIntent
from phoenix_fleet.domain.pacing import Quota
from phoenix_fleet.platforms import _vmware_clone as clone
from phoenix_fleet.platforms import _vmware_machines as machines
from phoenix_fleet.platforms import _vmware_rules as rules
from phoenix_fleet.platforms import _vmware_templates as templates
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms._vmware_collect import ended, waited
from phoenix_fleet.platforms._vmware_copies import ImageDisks
from phoenix_fleet.platforms._vmware_data import DataVolumes
from phoenix_fleet.platforms._vmware_errors import is_a, of_fault
from phoenix_fleet.platforms._vmware_places import datacenter, resolve
from phoenix_fleet.platforms._vmware_session import session
from phoenix_fleet.platforms.base import Platform

Given = TypeVar("Given")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PUBLIC_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( [^\r\n]*)?")

_ACCEPTED_WITHIN = 20
"""Seconds in which a launch hears what vCenter refuses at once; the copying of disks is not waited for."""
_APART_WITHIN = 300
"""The same where a DRS rule has to name the machine, which it can once it is there."""
_READABLE_WITHIN = 20


class Settings(BaseModel):
    """Where and how virtual machines run. Names are those that vCenter shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    datacenter: str = Field(description="Datacenter that holds everything else.", min_length=1)
    cluster: str = Field("", description="Cluster to run in; DRS chooses the host. This or `host`.")
    host: str = Field("", description="Single host to run on. This or `cluster`.")
    datastore: str = Field(description="Datastore for the machines' disks.", min_length=1)
    folder: str = Field("", description="VM folder, as a/b. Default: the datacenter's own.")
    resource_pool: str = Field("", description="Resource pool below the cluster's or host's, as a/b. Default: theirs.")
    network: str = Field("", description="Network or port group of the first card. Default: the template's.")
    linked: bool = Field(
        False, description="Whether disks are linked to the template's snapshot instead of copied. Default: false."
    )
    anti_affinity: bool = Field(
        False, description="Whether a DRS rule keeps the fleet's machines on different hosts. Default: false."
    )
    hostname: Literal["instance", "slot"] = Field(
        "instance",
        description="What the guest calls itself: its own name, new each time, or its slot's, which stays, and "
        "which two would have at once unless max_surge is 0. Default: instance.",
    )
    connection: str = Field("vmware", description="Airflow connection of vCenter. Default: vmware.")

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if bool(self.cluster) == bool(self.host):
            raise ValueError("name a cluster or a host, and not both")
        if self.anti_affinity and not self.cluster:
            raise ValueError("anti_affinity needs a cluster: one host keeps nothing apart")
        return self


_Where: TypeAlias = Settings
"""The same under a name that the driver's own ``Settings`` does not hide."""


class Driver(DataVolumes, ImageDisks, Platform):
    """vSphere. Safe from any thread: one login serves the process."""

    Settings = Settings
    # A host takes 8 provisioning operations at once; vCenter queues the rest (vSphere 6.7, vCenter Server and Host
    # Management, "Limits on Simultaneous Migrations"). Clones share the host that their template is registered at.
    limits = Quota(at_once=8)

    # Instances

    def launch(self, intent: LaunchIntent) -> Instance:
        """One clone named ``intent.name``, which vCenter powers on when its disks are there.

        vCenter keeps no tokens: that a name is taken once in a folder is what lets one of two callers win.
        A clone that was made and never powered on (a crash in between) is powered on here.
        """
        self._check(intent)
        settings = _frozen_settings(intent, self.settings)

        def do(vcenter: Any) -> Instance:
            found = machines.by_id(vcenter, view.instance_id(intent.token))
            return self._finish(vcenter, found or self._clone(vcenter, intent, settings), intent, settings)

        try:
            return self._ask(f"launch {intent.name}", do, settings)
        except NotFound as error:
            raise Unavailable(f"{intent.name} vanished while it was launched: {error}") from error

    def get_instance(self, instance_id: str) -> Instance:
        """The machine with exactly that ``instanceUuid``, wherever in vCenter it stands."""

        def do(vcenter: Any) -> Instance:
            machine, found = machines.ours(vcenter, instance_id)
            return machines.as_instance(vcenter, machine, found, _now(), keys=True)

        return self._ask(f"look at {instance_id}", do)

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """All machines in the datacenter with the marks of that fleet, in any folder and state."""

        def do(vcenter: Any) -> list[Instance]:
            center = datacenter(vcenter, self.settings.datacenter).ref
            found = [
                machines.as_instance(vcenter, machine, seen, _now(), keys=False)
                for machine, seen in machines.of_fleet(vcenter, center, fleet)
            ]
            return sorted(found, key=lambda instance: instance.name)

        return self._ask(f"list {fleet}", do)

    def terminate(self, instance_id: str) -> None:
        """Power the machine off, hard, and have vCenter remove it with its disks; it has been drained before.

        Powering off is waited for, seconds as a rule and 30 at most, since only then vCenter takes the removal.
        """

        def do(vcenter: Any) -> None:
            machine, found = machines.ours(vcenter, instance_id)
            machines.end(vcenter, machine, found, _now())

        self._ask(f"terminate {instance_id}", do)

    def hostspec(self, instance: Instance) -> str:
        """``ssh://root@<address>``; by its name while no address is known."""
        where = instance.address or instance.name
        return f"ssh://root@[{where}]" if ":" in where else f"ssh://root@{where}"

    # Images

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """Every template in the datacenter with our marks and that family's, by version."""

        def do(vcenter: Any) -> list[tuple[Artefact, dict[str, str]]]:
            found = templates.ours(vcenter, datacenter(vcenter, self.settings.datacenter).ref)
            images = [
                (template.artefact, {"version": template.marks[view.VERSION_MARK], "status": template.status})
                for template in found
                if template.marks[view.FAMILY_MARK] == family
            ]
            return sorted(images, key=lambda entry: (entry[1]["version"], entry[0].reference))

        return self._ask(f"list images of {family}", do)

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """Show the rung in the template's custom attribute ``phoenix.status``."""

        def do(vcenter: Any) -> Artefact:
            center = datacenter(vcenter, self.settings.datacenter).ref
            templates.show(vcenter, templates.get(vcenter, center, artefact), str(status))
            return artefact

        return self._ask(f"tag {artefact.reference}", do)

    def delete_image(self, artefact: Artefact) -> None:
        """Have vCenter remove the template with its disks."""

        def do(vcenter: Any) -> None:
            center = datacenter(vcenter, self.settings.datacenter).ref
            self._check_unused(vcenter, center, artefact)
            try:
                template = templates.get(vcenter, center, artefact)
            except NotFound:
                return
            templates.remove(vcenter, template)

        self._ask(f"delete {artefact.reference}", do)

    # Inside

    def _ask(self, what: str, do: Callable[[Any], Given], settings: _Where | None = None) -> Given:
        return session(self.connections((settings or self.settings).connection)).run(what, do)

    def _check(self, intent: LaunchIntent) -> None:
        if not _NAME.fullmatch(intent.name):
            raise InvalidSpec(f"{intent.name!r} is no host name.", remedy="Use letters, digits and dashes, at most 63.")
        if intent.authorized_key and not _PUBLIC_KEY.fullmatch(intent.authorized_key):
            raise InvalidSpec("The authorized key is not one public key.", remedy="Give one line: type, key, comment.")
        if templates.parse(intent.artefact.reference)[1] != intent.artefact.digest:
            raise InvalidSpec(f"{intent.artefact.reference} is not the digest {intent.artefact.digest}.")
        if intent.zone:
            raise CapacityExhausted(f"vSphere has no zone '{intent.zone}': a fleet runs in one cluster or on one host.")

    def _clone(self, vcenter: Any, intent: LaunchIntent, settings: _Where) -> Any:
        """The machine, if vCenter shows it by now; None while its disks are copied."""
        from pyVmomi import vim

        center = datacenter(vcenter, settings.datacenter)
        try:
            template = templates.get(vcenter, center.ref, intent.artefact)
        except NotFound as error:
            raise InvalidSpec(str(error)) from error
        places = resolve(vcenter, center, settings)
        spec = clone.spec(intent, template.seen, places, view.marks(intent, _now()), linked=settings.linked)
        try:
            task = template.ref.CloneVM_Task(places.folder, intent.name, spec)
        except vim.fault.DuplicateName as fault:
            return self._of_that_name(vcenter, fault, intent)
        info = ended(vcenter, task, _APART_WITHIN if settings.anti_affinity else _ACCEPTED_WITHIN)
        if info.state != "error":
            return machines.by_id(vcenter, view.instance_id(intent.token))
        if is_a(info.error, "DuplicateName"):
            return self._of_that_name(vcenter, info.error, intent)
        self._undo(vcenter, intent)
        raise of_fault(f"launch {intent.name}", info.error)

    def _of_that_name(self, vcenter: Any, fault: Any, intent: LaunchIntent) -> Any:
        """The machine that has the name already: another caller's for the same intent, or an error."""
        machine = fault.object
        # While a machine is made its name is taken and its marks cannot be read: a moment, as a rule.
        seen = waited(vcenter, machine, view.VM_PATHS, lambda each: "config.extraConfig" in each, _READABLE_WITHIN)
        if "config.extraConfig" not in seen:
            raise Unavailable(f"{intent.name} is being made by somebody.", remedy="Launch it again.")
        if not view.is_ours(seen):
            raise NotOurs(
                f"A virtual machine named {intent.name} exists in that folder and is not ours.",
                remedy="Ask whose it is, and rename it.",
            )
        view.check_same(seen, intent)
        return machine

    def _undo(self, vcenter: Any, intent: LaunchIntent) -> None:
        """Remove what a failed clone left, if that is ours and never ran."""
        machine = machines.by_id(vcenter, view.instance_id(intent.token))
        if machine is not None:
            seen = machines.seen(vcenter, machine)
            if view.is_ours(seen) and seen.get("runtime.powerState") == "poweredOff":
                machines.undo(machine)

    def _finish(self, vcenter: Any, machine: Any, intent: LaunchIntent, settings: _Where) -> Instance:
        """Power it on if nobody has; keep it apart from its like; say what it is."""
        if machine is None:
            return view.born(intent, _now())
        seen = machines.seen(vcenter, machine)
        if "config.extraConfig" not in seen:  # it is still being made
            return view.born(intent, _now())
        if not view.is_ours(seen):
            raise NotOurs(f"The machine with the token of {intent.name} lacks our marks.", remedy="Ask whose it is.")
        view.check_same(seen, intent)
        if view.never_on(seen, machines.powered(vcenter, machine, seen), _now()):
            machines.power_on(vcenter, machine, intent.name, _ACCEPTED_WITHIN)
            seen = machines.seen(vcenter, machine)
        if settings.anti_affinity:
            self._keep_apart(vcenter, machine, intent, settings)
        return machines.as_instance(vcenter, machine, seen, _now(), keys=False)

    def _keep_apart(self, vcenter: Any, machine: Any, intent: LaunchIntent, settings: _Where) -> None:
        center = datacenter(vcenter, settings.datacenter)
        cluster = resolve(vcenter, center, settings).cluster
        fleet = {ref for ref, _ in machines.of_fleet(vcenter, center.ref, intent.fleet)}
        rules.keep_apart(vcenter, cluster, intent.fleet, list(fleet | {machine}))

    def _check_unused(self, vcenter: Any, center: Any, artefact: Artefact) -> None:
        for _, seen in machines.everything(vcenter, center):
            machines.check_readable(seen)
            if view.is_ours(seen) and view.options(seen).get(view.DIGEST_MARK) == artefact.digest:
                raise InUse(
                    f"{artefact.reference} is still run by {seen['name']}.", remedy="Replace that instance first."
                )


def _frozen_settings(intent: LaunchIntent, current: Settings) -> Settings:
    """The settings that the intent was stored with: the file may have changed since."""
    try:
        return Settings.model_validate(dict(intent.settings)) if intent.settings else current
    except ValidationError as error:
        raise InvalidSpec(f"The settings frozen with {intent.name} do not fit: {error}") from None


def _now() -> datetime:
    return datetime.now(UTC)
