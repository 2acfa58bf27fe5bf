"""Image families, components and fleets as their YAML files declare them: frozen models, every field described.

Unknown keys are errors. Durations are written ``30s``, ``5m``, ``2h`` or ``35d``; portions ``2`` or ``25%``.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from phoenix_fleet import yamlfile, yamlmistakes
from phoenix_fleet.configbuild import COMMON, Build, Seed, Target, chosen
from phoenix_fleet.configcalendar import FreezeTime, Maintenance, QuotaLimits, Waiver, check_waivers
from phoenix_fleet.configfields import (
    NAME,
    Access,
    BalancerDriver,
    ConfiguratorDriver,
    Count,
    Driver,
    Duration,
    Frozen,
    GateDriver,
    Name,
    OptionalPlatformDriver,
    OptionalWorkloadDriver,
    Owners,
    Portion,
    portion,
)
from phoenix_fleet.configfleet import Brake, Drain, Timeouts, slot_names
from phoenix_fleet.configvolumes import DataVolume, check_volumes
from phoenix_fleet.configworkload import artefact_platform, check_where, where
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Component, Environment

__all__ = [
    "Access",
    "Approval",
    "Brake",
    "Build",
    "ComponentFile",
    "Drain",
    "Driver",
    "Duration",
    "Fleet",
    "Frozen",
    "ImageFamily",
    "Owners",
    "Portion",
    "Project",
    "Seed",
    "Stage",
    "Target",
    "Timeouts",
    "portion",
]


class Stage(Frozen):
    """The staging fleet and what must pass there."""

    fleet: Name = Field(description="A fleet file with requires: certified; it is refreshed before the tests.")
    endpoint: str = Field(description="Airflow connection id of the staging fleet's front.")
    dataset: str = Field(description="Versioned dataset, a folder relative to the family's folder.")
    gates: tuple[GateDriver, ...] = Field(description="Integration and end-to-end tests, measured from outside.")


class Approval(Frozen):
    """Who may release."""

    approvers: tuple[str, ...] = Field((), description="User names that may answer. Default: anyone who may at all.")
    timeout: Duration = Field(timedelta(days=7), description="After this long without an answer the run fails.")
    four_eyes: bool = Field(True, description="Whoever triggered the run may not approve it. Default: true.")


class ComponentFile(Frozen):
    """``components/<name>/component.yaml``."""

    component: Name = Field(description="Name; must be the folder's.")
    version: str = Field(description="The component's own version, quoted.", pattern=r"^\d+(\.\d+)*$")
    role: str = Field("role", description="Ansible role, relative to this file.")
    unit_tests: tuple[str, ...] = Field(description="Command (argv) run inside a configured, fresh instance.")
    junit: str = Field(description="Absolute path of the JUnit file that the command writes there.")


class ImageFamily(Frozen):
    """``include/images/<family>/image.yaml``."""

    family: Name = Field(description="Name; must be the folder's.")
    description: str = Field("", description="One sentence for people.")
    owners: Owners
    schedule: str = Field("0 3 1 * *", description="Cron expression (UTC) of the refresh. Default: monthly.")
    targets: tuple[Target, ...] = Field(min_length=1, description="Platforms, built in parallel.")
    access: Access = Field(default_factory=Access)
    configurator: ConfiguratorDriver = Field(description="What configures throw-away instances for certification.")
    test: tuple[GateDriver, ...] = Field(min_length=1, description="Gates on a fresh instance of each artefact.")
    reboot_check: bool = Field(True, description="Reboot the test instance and test again, where the platform can.")
    components: tuple[Name, ...] = Field(
        min_length=1, description="Folders below components/, the family's own or else those in ../common/."
    )
    certify: GateDriver = Field(
        default_factory=lambda: Driver(name="tests", settings={"unit": True}),
        description="Gate on a fresh instance with one component. Default: the component's own unit tests, inside it.",
    )
    stage: Stage
    approval: Approval = Field(default_factory=Approval)

    _home: Path = PrivateAttr(Path())
    _left_out: tuple[str, ...] = PrivateAttr(())
    kind: ClassVar[str] = "image family"

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family

    @property
    def home(self) -> Path:
        """Folder of its ``image.yaml``."""
        return self._home

    @property
    def platforms(self) -> list[str]:
        """Names of the platforms it is built for."""
        return [target.platform.name for target in self.targets]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Platforms of its file that this deployment does not build for (``PHOENIX_TARGETS``)."""
        return self._left_out

    def find(self, relative: str) -> Path:
        """What the family has there, or else what all families share there; its own place if neither exists."""
        own, shared = self.home / relative, self.home.parent / COMMON / relative
        return shared if shared.exists() and not own.exists() else own

    def files(self, pattern: str) -> list[Path]:
        """Every file of that pattern that ``find`` gives, by name: its own, and those shared that it has not itself."""
        folders = (self.home.parent / COMMON, self.home)
        found = {path.relative_to(folder): path for folder in folders for path in folder.glob(pattern)}
        return [found[name] for name in sorted(found)]

    def target(self, platform: str) -> Target:
        """What the file says of that platform.

        :raises InvalidConfig: if the family is not built for it.
        """
        for target in self.targets:
            if target.platform.name == platform:
                return target
        raise InvalidConfig(f"{self.family} is not built for {platform}: only for {', '.join(self.platforms)}.")

    def component(self, name: str) -> Component:
        """One component with absolute paths."""
        folder = self.find(f"components/{name}")
        document = yamlfile.read(folder / "component.yaml")
        file = document.check(ComponentFile)
        _same_name(document, "component", file.component, name)
        return Component(
            name=name,
            version=file.version,
            role=str(folder / file.role),
            unit_tests=file.unit_tests,
            junit=file.junit,
        )

    def environment(self, name: str) -> Environment:
        """All components with the values of ``environments/<name>.yaml``."""
        values = yamlfile.read(self.find(f"environments/{_checked_name(name, 'environment')}.yaml")).data
        return Environment(name=name, components=tuple(map(self.component, self.components)), variables=values)


class Fleet(Frozen):
    """``include/fleets/<fleet>.yaml``."""

    fleet: Name = Field(description="Name; must be the file's.")
    description: str = Field("", description="One sentence for people.")
    family: Name = Field(description="Image family that its instances are born from.")
    requires: Literal["certified", "released"] = Field(
        "released", description="Lowest rung an image must stand on. Only a staging fleet may say certified."
    )
    environment: Name = Field("production", description="Values for the components: environments/<this>.yaml.")
    owners: Owners
    schedule: str | None = Field(
        "0 4 1 * *", description="Cron expression (UTC); null: by hand only. Default: monthly."
    )
    size: Count = Field(
        ge=1,
        le=10000,
        description="How many slots it has: <fleet>-01 and up. Of a fleet of workloads: how many these must be.",
    )
    platform: OptionalPlatformDriver = Field(None, description="Where its machines run; or else say workload.")
    workload: OptionalWorkloadDriver = Field(
        None, description="Workloads that replace their own instances, each a slot; instead of platform."
    )
    balancer: BalancerDriver = Field(default_factory=lambda: Driver(name="none"))
    configurator: ConfiguratorDriver = Field(default_factory=lambda: Driver(name="none"))
    access: Access = Field(default_factory=Access)
    verify: tuple[GateDriver, ...] = Field((), description="Gates on each new instance before traffic.")
    watch: tuple[GateDriver, ...] = Field((), description="Gates at the end of the watch time.")
    watch_time: Duration = Field(timedelta(minutes=5), description="How long a new instance must stay healthy.")
    canary: Portion = Field("1", description="How many go first, rounded up, at least one.")
    waves: tuple[Portion, ...] = Field(
        ("25%", "100%"), description="Cumulative shares of the fleet after the canary; the last must be 100%."
    )
    max_surge: Portion = Field("1", description="Extra instances allowed, rounded up.")
    max_unavailable: Portion = Field("0", description="Missing instances allowed, rounded down.")
    max_in_flight: Count = Field(1, ge=1, description="Most replacements under way at once.")
    volumes: tuple[DataVolume, ...] = Field(
        (),
        max_length=10,
        description="Data volumes that each slot has and that move from its old instance to the new one. Only with "
        "max_surge: 0. Default: none.",
    )
    quorum: tuple[GateDriver, ...] = Field(
        (),
        description="Gates that must pass before an instance is taken out and after its replacement, measured on up to "
        "three others in service. Default: none.",
    )
    failure_domain: Literal["zone", "host", "none"] = Field(
        "zone",
        description="Replacements under way at once all stay within one of these: a zone, a hypervisor host, or "
        "anywhere. The next one begins when the one before is done. Default: zone.",
    )
    depends_on: tuple[Name, ...] = Field(
        (),
        description="Fleets that must be whole for a replacement here to begin: no halted rollout, and as many in "
        "service as their floor asks for. Default: none.",
    )
    brake: Brake = Field(default_factory=Brake)
    drain: Drain = Field(default_factory=Drain)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    max_age: Duration = Field(timedelta(days=35), description="How old an instance may get. Default 35d.")
    deadline: Duration | None = Field(
        None,
        description="How long after its refresh window begins (UTC) a rollout must be done. In any case no machine may "
        "get older than max_age. Default: until the window ends.",
    )
    when_late: Literal["alarm", "refuse"] = Field(
        "alarm",
        description="If the deadline cannot be met, as seen before the first replacement: call the owners and go on as "
        "well as can be, or begin nothing. Default: alarm.",
    )
    maintenance: tuple[Maintenance, ...] = Field(
        (), description="Weekly times in which replacements may begin. Default: always."
    )
    freezes: tuple[FreezeTime, ...] = Field((), description="Times in which no replacement begins. Default: none.")
    waivers: tuple[Waiver, ...] = Field((), description="Slots that are not replaced for a while. Default: none.")
    quota: QuotaLimits = Field(default_factory=QuotaLimits)
    emergency_deadline: Duration = Field(
        timedelta(hours=24), description="How long after a revocation no instance may run what is revoked. Default 24h."
    )

    _home: Path = PrivateAttr(Path())
    kind: ClassVar[str] = "fleet"

    @property
    def name(self) -> str:
        """The fleet's name."""
        return self.fleet

    @property
    def home(self) -> Path:
        """Folder of its file."""
        return self._home

    @property
    def runs_on(self) -> Driver:
        """What says where it runs: its platform, or its workloads."""
        return where(self.platform, self.workload)

    @cached_property
    def artefact_platform(self) -> str:
        """Name of the platform whose artefacts it runs."""
        return artefact_platform(self.platform, self.workload)

    @cached_property
    def slots(self) -> list[str]:
        """Names of all slots, in order: ``web-01``, …; as many digits as the size needs, at least two."""
        return slot_names(self.fleet, self.size)

    @property
    def required_rung(self) -> Rung:
        """``requires`` as a rung."""
        return Rung(self.requires)

    @field_validator("waivers")
    @classmethod
    def _waivers_fit(cls, waivers: tuple[Waiver, ...], info: ValidationInfo) -> tuple[Waiver, ...]:
        check_waivers(waivers, slot_names(info.data.get("fleet", ""), info.data.get("size", 0)))
        return waivers

    @field_validator("volumes")
    @classmethod
    def _volumes_fit(cls, volumes: tuple[DataVolume, ...], info: ValidationInfo) -> tuple[DataVolume, ...]:
        surge = portion(info.data.get("max_surge", "1"), info.data.get("size", 1), up=True)
        check_volumes(volumes, info.data.get("platform"), surge)
        return volumes

    @model_validator(mode="after")
    def _runs_somewhere(self) -> Fleet:
        others = {"balancer": self.balancer, "configurator": self.configurator, "volumes": self.volumes}
        check_where(self.platform, self.workload, others, portion(self.max_surge, self.size, up=True))
        return self

    @field_validator("waves")
    @classmethod
    def _waves_cover_all(cls, waves: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not waves or waves[-1] != "100%":
            raise ValueError("the last wave must be 100%, or some instances would never be replaced")
        size = info.data.get("size", 100)
        counts = [portion(wave, size, up=True) for wave in waves]
        if counts != sorted(counts):
            raise ValueError("shares are cumulative, so each must be at least the one before")
        return waves


class Project:
    """The families and fleets below one ``include/`` folder."""

    def __init__(self, include: Path) -> None:
        self.include = include

    @classmethod
    def find(cls) -> Project:
        """The project at ``PHOENIX_INCLUDE``, or the ``include/`` that this package lies in."""
        return cls(Path(os.environ.get("PHOENIX_INCLUDE") or Path(__file__).resolve().parents[1]))

    def family_files(self) -> list[Path]:
        """Every ``image.yaml``, by family."""
        return sorted(self.include.glob("images/*/image.yaml"))

    def fleet_files(self) -> list[Path]:
        """Every fleet file, by name."""
        return sorted(self.include.glob("fleets/*.yaml"))

    def family(self, name: str) -> ImageFamily:
        """The family of that name. :raises InvalidConfig: if its file is missing or wrong."""
        return self.load_family(
            self._file("image family", name, {path.parent.name: path for path in self.family_files()})
        )

    def fleet(self, name: str) -> Fleet:
        """The fleet of that name. :raises InvalidConfig: if its file is missing or wrong."""
        return self.load_fleet(self._file("fleet", name, {path.stem: path for path in self.fleet_files()}))

    def _file(self, kind: str, name: str, known: dict[str, Path]) -> Path:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidConfig(
                f"There is no {kind} '{name}' below {self.include}; known: {listed}.",
                remedy=yamlmistakes.nearest(name, list(known), "Use one of those, or add its file."),
            )
        return known[name]

    def load_family(self, path: Path) -> ImageFamily:
        """One ``image.yaml``, with its components checked: their mistakes are told together with its own."""
        document = yamlfile.read(path)
        family = document.check(ImageFamily)
        object.__setattr__(family, "_home", path.parent)
        kept, left_out = chosen(family.targets)
        object.__setattr__(family, "targets", kept)
        object.__setattr__(family, "_left_out", left_out)
        _same_name(document, "family", family.family, path.parent.name)
        wrong = []
        for index, name in enumerate(family.components):
            if not family.find(f"components/{name}/component.yaml").is_file():
                known = [file.parent.name for file in family.files("components/*/component.yaml")]
                message = f"there is no components/{name}/component.yaml."
                remedy = yamlmistakes.nearest(name, known, "Add it, or remove the name.")
                wrong.append(document.mistake(("components", index), message, remedy))
                continue
            try:
                family.component(name)
            except InvalidConfig as error:
                wrong.append(str(error))
        if wrong:
            raise InvalidConfig("\n".join(wrong))
        return family

    def load_fleet(self, path: Path) -> Fleet:
        """One fleet file."""
        document = yamlfile.read(path)
        fleet = document.check(Fleet)
        object.__setattr__(fleet, "_home", path.parent)
        _same_name(document, "fleet", fleet.fleet, path.stem)
        return fleet

    def broken(self) -> dict[Path, InvalidConfig]:
        """Every file that does not load, with its error."""
        found: dict[Path, InvalidConfig] = {}
        for paths, load in ((self.family_files(), self.load_family), (self.fleet_files(), self.load_fleet)):
            for path in paths:
                try:
                    load(path)
                except InvalidConfig as error:
                    found[path] = error
        return found


def _same_name(document: yamlfile.Document, key: str, said: str, expected: str) -> None:
    if said != expected:
        message = f"the file calls itself '{said}' but lies where '{expected}' belongs."
        raise InvalidConfig(document.mistake((key,), message, "Make the name and the place agree."))


def _checked_name(name: str, kind: str) -> str:
    if not re.fullmatch(NAME, name):
        raise InvalidConfig(f"'{name}' is no name of an {kind}.", remedy="Use small letters, digits and hyphens.")
    return name
