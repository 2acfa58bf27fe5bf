"""VMware on this machine: ``python -m lab vmware up``, ``down``, ``status``.

The simulated vCenter of ``lab.vmware`` with templates of three releases whose clones are containers: powered on they
boot, have an address of a bridge of the engine, answer SSH, and tell their host keys through ``guestinfo`` as VMware's
tools do. And an HAProxy for the fleets.
"""

from __future__ import annotations

import json
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import docker.errors

from lab import fronts, guests
from lab.commands import app_of
from lab.fronts import Front, owner_of
from lab.places import Places
from lab.processes import Processes
from lab.vmware import NAME as VCSIM
from lab.vmware import Vcenter
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import NotFound, Unavailable
from phoenix_fleet.domain.models import OWNER, Artefact

NAME = "vmware"
BACKEND = "web"
"""The HAProxy's backend."""
PLACE = {"datacenter": "DC0", "cluster": "DC0_C0", "datastore": "LocalDS_0"}
"""What a fleet file says of where machines run."""
_SEED = "DC0_C0_RP0_VM0"
"""A machine that the simulator begins with; templates are made from it."""
_PATIENCE = 30.0


@dataclass(frozen=True)
class Inventory:
    """What there is in the lab's vCenter."""

    network: str
    """The bridge that machines are on."""
    artefacts: dict[str, dict[str, str]]
    """The template of each release, as the catalog has it."""

    def artefact(self, version: str) -> Artefact:
        """That release's."""
        return Artefact(**self.artefacts[version])


class VmwareLab:
    """The lab's vSphere, which has those places to itself."""

    def __init__(self, places: Places, log: Callable[[str], None]) -> None:
        self._places, self._log = places, log
        self._processes = Processes(places.pids, places.logs)
        self._home = places.home / NAME
        self.owner = owner_of(places, NAME)

    def up(self) -> Inventory:
        """Everything of it, unless it runs already; the inventory is a new one each time it starts."""
        if not (self.running() and (self._home / "inventory.json").exists()):
            self.down()
            self._places.make()
            try:
                self._start()
            except BaseException:  # nothing half-way is left, whatever ended it
                self.down()
                raise
        return self.inventory()

    def down(self) -> None:
        """Remove all of it, also what one that was killed has left; the images stay for the next."""
        self._processes.stop(VCSIM, f"{NAME}-haproxy", grace=30)
        self._sweep_volumes()
        guests.sweep(self.owner)
        for folder in (self._places.home, self._places.run):
            shutil.rmtree(folder, ignore_errors=True)

    def running(self) -> bool:
        """Whether it runs."""
        return self.pid() is not None

    def pid(self) -> int | None:
        """The simulator's pid; None while it does not run."""
        return self._processes.pid(VCSIM)

    def inventory(self) -> Inventory:
        """What there is.

        :raises NotFound: it is not up.
        """
        return Inventory(**self._read("inventory"))

    def front(self) -> Front:
        """Where traffic comes in.

        :raises NotFound: it is not up.
        """
        return Front(**self._read("haproxy"))

    def connection(self) -> Connection:
        """The way to vCenter.

        :raises NotFound: it is not up.
        """
        return self._vcenter().connection()

    def left_over(self) -> list[str]:
        """What there still is of it: processes, containers, networks, files."""
        found = [each["Names"][0] for each in guests.containers(self.owner)]
        found += [each["Name"] for each in guests.networks(self.owner)]
        return [*self._processes.names(), *found, *([str(self._places.home)] if self._places.home.exists() else [])]

    def _vcenter(self, image: str = "") -> Vcenter:
        return Vcenter(self._places, {"VCSIM_BUSYBOX": image})

    def _start(self) -> None:
        self._home.mkdir(mode=0o700)
        images = guests.images(self._log)
        network = guests.bridge_name(self.owner, guests.make_bridge(self.owner))
        self._write("haproxy", asdict(fronts.start(self._places, self._processes, f"{NAME}-haproxy", BACKEND)))
        way = self._vcenter(next(iter(images.values()))).up()
        # Where the host has no DMI the container has none either, and the simulator wants to mount its own there.
        dmi = self._home / "sys" / "class" / "dmi" / "id"
        dmi.mkdir(parents=True)
        for version, image in images.items():
            run = ["--network", network, "--label", f"{guests.LABEL}={self.owner}"]
            _make_template(way, version, [*run, "-v", f"{self._home / 'sys'}:/sys", image])
        artefacts = {version: asdict(artefact) for version, artefact in _artefacts(way).items()}
        self._write("inventory", asdict(Inventory(network, artefacts)))

    def _sweep_volumes(self) -> None:
        """The simulator gives each container a volume of its name, and does not remove it when it is killed."""
        names = [each["Names"][0].lstrip("/") for each in guests.containers(self.owner)]
        for name in names:
            with guests.engine() as engine:
                with guests.gone_is_fine():
                    engine.remove_container(name, force=True, v=True)
                try:
                    engine.remove_volume(name, force=True)
                except docker.errors.APIError as error:
                    self._log(f"{name}: {error}")

    def _read(self, what: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._home / f"{what}.json").read_text())
        except FileNotFoundError:
            raise NotFound("The lab's VMware is not up.", remedy="Run `python -m lab vmware up`.") from None
        return found

    def _write(self, what: str, data: dict[str, Any]) -> None:
        (self._home / f"{what}.json").write_text(json.dumps(data))


@contextmanager
def inventory_of(way: Connection) -> Iterator[Any]:
    """The content of that vCenter, for as long as the block lasts."""
    from pyVim.connect import Disconnect, SmartConnect

    instance = SmartConnect(
        host=way.host,
        port=way.port,
        user=way.login,
        pwd=way.password,
        sslContext=ssl.create_default_context(cafile=str(way.extra["ca_cert"])),
    )
    try:
        yield instance.RetrieveContent()
    finally:
        Disconnect(instance)


def machines(content: Any) -> list[Any]:
    """Every machine and template that the lab or the product has made."""
    from pyVmomi import vim

    seen = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    try:
        return [each for each in seen.view if not each.name.startswith("DC0_")]
    finally:
        seen.DestroyView()


def _make_template(way: Connection, version: str, run: list[str]) -> None:
    from pyVmomi import vim

    marks = {"phoenix.owner": OWNER, "phoenix.family": guests.FAMILY, "phoenix.version": version}
    options = {**marks, "RUN.container": json.dumps(run)}
    with inventory_of(way) as content:
        seen = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        (seed,) = [each for each in seen.view if each.name == _SEED]
        seen.DestroyView()
        spec = vim.vm.CloneSpec(
            location=vim.vm.RelocateSpec(pool=seed.resourcePool, datastore=seed.datastore[0]),
            powerOn=False,
            template=False,
            config=vim.vm.ConfigSpec(
                extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in options.items()]
            ),
        )
        _done(seed.CloneVM_Task(seed.parent, f"{guests.FAMILY}-{version}", spec)).MarkAsTemplate()


def _done(task: Any) -> Any:
    end = time.monotonic() + _PATIENCE
    while task.info.state not in ("success", "error"):
        if time.monotonic() > end:
            raise Unavailable(f"vCenter has not made a template within {_PATIENCE:.0f} s.")
        time.sleep(0.1)
    if task.info.state == "error":
        raise Unavailable(f"vCenter has not made a template: {task.info.error}")
    return task.info.result


def _artefacts(way: Connection) -> dict[str, Artefact]:
    from phoenix_fleet.platforms.vmware import Driver

    driver = Driver(Driver.Settings(**PLACE), lambda _: way)
    return {marks["version"]: artefact for artefact, marks in driver.list_images(guests.FAMILY)}


def _told(lab: VmwareLab) -> dict[str, str]:
    inventory, way = lab.inventory(), lab.connection()
    return {
        "vCenter": f"https://{way.host}:{way.port}/sdk as {way.login}, certificate {way.extra['ca_cert']}",
        "fleet file": ", ".join(f"{key}: {value}" for key, value in PLACE.items()),
        **{f"template {version}": inventory.artefact(version).reference for version in inventory.artefacts},
        "front of HAProxy": f"{lab.front().url}, backend {BACKEND}, socket {lab.front().control}",
    }


app = app_of(NAME, "VMware vSphere, with a container behind every machine", VmwareLab, _told)
