"""The VMware platform under the contract tests: a simulated vCenter with TLS, behind a proxy that can make trouble."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lab import vmware as lab_vmware
from lab.places import Places
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import OWNER, Artefact, LaunchIntent
from phoenix_fleet.domain.volumes import VolumeIntent
from phoenix_fleet.platforms import _vmware_collect as collect
from phoenix_fleet.platforms import _vmware_session as sessions
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms import vmware as driver
from tests.contract import machinery
from tests.contract.vmware_between import Between, between

_serial = itertools.count(1)
_SEED = "DC0_C0_RP0_VM0"
"""A machine that the simulator begins with; templates are made from it."""


class VmwareLab:
    """What the contract tests ask of a platform's surroundings."""

    name = "vmware"

    def __init__(self, direct: Connection, proxy: Between, folder: Path) -> None:
        self.direct = direct
        self.folder = folder
        self.proxy = proxy
        self.settings: Mapping[str, Any] = {"datacenter": "DC0", "cluster": "DC0_C0", "datastore": "LocalDS_0"}
        self.connection = dataclasses.replace(direct, port=proxy.port)
        self.connections = machinery.KnownConnections(self.connection)
        self.platform = self.again()
        self.standard = self.artefact("lab", "2026.11-1")

    def intent(self, **settings: Any) -> LaunchIntent:
        """A launch that will work, of a fleet of its own."""
        fleet = f"t{uuid.uuid4().hex[:8]}"
        frozen = {**self.settings, **settings}
        return LaunchIntent(fleet, f"{fleet}-01", "rollout-1", 1, "lab", "2026.11-1", self.standard, settings=frozen)

    def asking(self, intent: LaunchIntent, **settings: Any) -> LaunchIntent:
        """The same launch with other settings."""
        return dataclasses.replace(intent, settings={**self.settings, **settings})

    def again(self, **settings: Any) -> driver.Driver:
        """Another driver object for the same world."""
        return driver.Driver(driver.Settings(**{**self.settings, **settings}), self.connections)

    def artefact(self, family: str, version: str, *, ours: bool = True, snapshot: bool = True) -> Artefact:
        marks = {"phoenix.owner": OWNER, "phoenix.family": family, "phoenix.version": version} if ours else {}
        name = f"{family}-{version}-{next(_serial)}"
        template = self.template(name, marks, snapshot=snapshot)
        paths = ("config.instanceUuid", "config.hardware.device")
        digest = view.template_digest(self.truth(template, paths))
        return Artefact("vmware", f"{name}@{digest}", digest)

    def fill(self, artefact: Artefact, content: bytes) -> None:
        """Let that be in the file of the template's disk."""
        from pyVmomi import vim

        name = artefact.reference.partition("@")[0]
        template = self.found(vim.VirtualMachine, name)
        (disk,) = (each for each in template.config.hardware.device if isinstance(each, vim.vm.device.VirtualDisk))
        folder, _, file = disk.backing.fileName.removeprefix("[").partition("] ")
        (Path(self.found(vim.Datastore, folder).info.url) / file).write_bytes(content)

    def template(self, name: str, marks: Mapping[str, str], *, snapshot: bool = True) -> Any:
        """A template with those marks in its extra configuration."""
        made = self._made(name, marks, on=False)
        if snapshot:
            self._done(made.CreateSnapshot_Task("base", "", False, False))
        made.MarkAsTemplate()
        return made

    def foreign(self, name: str, marks: Mapping[str, str]) -> str:
        return str(self._made(name, marks).config.instanceUuid)

    # Data volumes

    def volume_intent(self, fleet: str, name: str = "data") -> VolumeIntent:
        """A volume that can be made, beside instances of slot 01."""
        return VolumeIntent(fleet, f"{fleet}-01", name, 1)

    def foreign_volume(self, fleet: str, name: str) -> str:
        """One with our words in its path, but not as ours."""
        from pyVmomi import vim

        center = self.found_center()
        with suppress(Exception):
            self.vcenter.fileManager.MakeDirectory("[LocalDS_0] phoenix-data", center, True)
        path = f"[LocalDS_0] phoenix-data/{fleet}_{fleet}-01_{name}_1g.vmdk"
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType="thin", adapterType="lsiLogic", capacityKb=1024
        )
        self._done(self.vcenter.virtualDiskManager.CreateVirtualDisk_Task(path, center, spec))
        return path

    def volume_exists(self, volume_id: str) -> bool:
        from pyVmomi import vim

        folder, _, name = volume_id.rpartition("/")
        spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=[name])
        browser = self.found(vim.Datastore, "LocalDS_0").browser
        return [each.path for each in self._done(browser.SearchDatastore_Task(folder, spec)).file] == [name]

    def found_center(self) -> Any:
        from pyVmomi import vim

        return self.found(vim.Datacenter, "DC0")

    @contextmanager
    def losing_the_reply(self, method: str) -> Iterator[None]:
        """The next call of that method takes effect, and the caller hears nothing."""
        words = {
            "create_volume": "CreateVirtualDisk_Task",
            "snapshot_volume": "MoveVirtualDisk_Task",
            "stop": "ShutdownGuest",
        }
        self.proxy.make(words.get(method, "ReconfigVM_Task"), lose_reply=True)
        with pytest.raises(Unavailable):
            yield

    def is_alive(self, instance_id: str) -> bool:
        machine = self.machine(instance_id)
        return machine is not None and machine.runtime.powerState == "poweredOn"

    def count(self, token: str) -> int:
        """How many machines carry the token, in truth."""
        return sum(view.options(seen).get("phoenix.token") == token for _, seen in self.machines())

    def authorized_key(self, instance_id: str) -> str:
        own = self.marks(instance_id)
        assert own["guestinfo.userdata.encoding"] == "base64"
        head, _, told = base64.b64decode(own["guestinfo.userdata"]).decode().partition("\n")
        assert head == "#cloud-config"
        (user,) = json.loads(told)["users"]
        assert user["name"] == "root"
        (key,) = user["ssh_authorized_keys"]
        return str(key)

    def marks(self, instance_id: str) -> dict[str, str]:
        return view.options(self.truth(self.machine(instance_id), ("config.extraConfig",)))

    def crash_in_launch(self, intent: LaunchIntent) -> None:
        """Launch, and lose vCenter's reply and its power-on."""
        self.proxy.make("CloneVM_Task", lose_reply=True, rewrite=(b"<powerOn>true<", b"<powerOn>false<"))
        try:
            self.platform.launch(intent)
        except Unavailable:
            machinery.wait_for(lambda: self.count(intent.token), "the clone that nobody heard of")
            return
        raise AssertionError("the reply was not lost")

    def end_sessions(self) -> None:
        """Let every session but our own have expired."""
        manager = self.vcenter.sessionManager
        ended = [session.key for session in manager.sessionList if session.key != manager.currentSession.key]
        manager.TerminateSession(ended)

    def remove_status_field(self) -> None:
        """Let nobody have made the custom attribute yet."""
        manager = self.vcenter.customFieldsManager
        for field in list(manager.field or ()):
            if field.name == view.STATUS_FIELD:
                manager.RemoveCustomFieldDef(field.key)

    def break_down(self, instance_id: str) -> None:
        """Let the machine end by itself, for good."""
        self._done(self.machine(instance_id).PowerOffVM_Task())

    def sweep(self) -> None:
        """Remove every machine that was made here; no trouble any more."""
        self.proxy.quiet()
        for machine, seen in self.machines():
            if seen["name"].startswith("DC0_"):
                continue
            if seen["runtime.powerState"] != "poweredOff":
                self._done(machine.PowerOffVM_Task())
            self._done(machine.Destroy_Task())

    # The truth, past the proxy

    @property
    def vcenter(self) -> Any:
        return sessions.session(self.direct).run("test", lambda content: content)

    def machine(self, instance_id: str) -> Any:
        return self.vcenter.searchIndex.FindByUuid(None, instance_id, True, True)

    def machines(self) -> list[Any]:
        """Every machine that is no template."""
        from pyVmomi import vim

        found = collect.listed(self.vcenter, self.vcenter.rootFolder, {vim.VirtualMachine: view.VM_PATHS})
        return [(ref, seen) for ref, seen in found if not seen.get("config.template")]

    def truth(self, found: Any, paths: tuple[str, ...]) -> dict[str, Any]:
        ((_, seen),) = collect.looked_at(self.vcenter, found, {type(found): paths})
        return seen

    def found(self, kind: Any, name: str) -> Any:
        """The object of that type and name."""
        listed = collect.listed(self.vcenter, self.vcenter.rootFolder, {kind: ("name",)})
        (ref,) = [ref for ref, seen in listed if seen["name"] == name]
        return ref

    def _made(self, name: str, marks: Mapping[str, str], *, on: bool = True) -> Any:
        from pyVmomi import vim

        seed = self.found(vim.VirtualMachine, _SEED)
        options = [vim.option.OptionValue(key=key, value=value) for key, value in marks.items()]
        location = vim.vm.RelocateSpec(pool=seed.resourcePool, datastore=self.found(vim.Datastore, "LocalDS_0"))
        spec = vim.vm.CloneSpec(
            location=location, powerOn=on, template=False, config=vim.vm.ConfigSpec(extraConfig=options)
        )
        return self._done(seed.CloneVM_Task(seed.parent, name, spec))

    def _done(self, task: Any) -> Any:
        info = collect.ended(self.vcenter, task, 30)
        assert info.state == "success", info.error
        return info.result


@contextmanager
def opened(folder: Path) -> Iterator[VmwareLab]:
    """A lab with a vCenter of its own, which ends with it."""
    program = lab_vmware.build(Places.find().cache)
    lab_vmware.certify(folder)
    port, password = machinery.free_port(), "s3cret-of-the-lab"
    way = lab_vmware.connection(port, password, folder)
    argv, environment = lab_vmware.argv(program, port, folder, copying=0.2), lab_vmware.environment(password)
    with machinery.running(argv, folder / "vcsim.log", env=environment) as process:

        def answers() -> bool:
            assert process.poll() is None, (folder / "vcsim.log").read_text()
            return lab_vmware.answers(way)

        machinery.wait_for(answers, "vCenter")
        with between(folder, way.host, port) as proxy:
            try:
                yield VmwareLab(way, proxy, folder)
            finally:
                sessions.close_all()


def thumbprint(folder: Path) -> str:
    """The SHA-256 of the certificate there."""
    import hashlib

    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((folder / "ca.pem").read_text())).hexdigest()
