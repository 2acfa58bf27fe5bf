"""Everything that can be said about a project's files without touching the world: each file, and all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from croniter import croniter  # type: ignore[import-untyped]

from phoenix_fleet import drivers, yamlfile, yamlmistakes
from phoenix_fleet.config import Driver, Fleet, ImageFamily, Project, Target
from phoenix_fleet.configbuild import COMMON
from phoenix_fleet.connections import SettingsFile, from_environment
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.ladder import Rung

Location = tuple[Any, ...]

RESERVED_FLEETS = ("throwaway",)
"""Marks of machines that tests and certifications launch for themselves."""
CERTIFY = "certify"
"""The environment whose values a component is certified with."""
_CONNECTION_FIELDS = ("connection", "registry")
"""Driver settings that hold the id of an Airflow connection."""


@dataclass
class Findings:
    """What is wrong, and what only may be, each in one line."""

    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    families: int = 0
    fleets: int = 0


def inspect(project: Project, settings: Path) -> Findings:
    """Every mistake in the project's files and between them; ``settings`` is its ``airflow_settings.yaml``.

    :raises InvalidConfig: if the project's folder does not exist.
    """
    if not project.include.is_dir():
        raise InvalidConfig(f"{project.include}: there is no such folder.", remedy="Name the include/ folder.")
    return _Inspection(project, settings).run()


class _Inspection:
    """One look at all files of a project. Files that do not load are told of and left out of what follows."""

    def __init__(self, project: Project, settings: Path) -> None:
        self.project = project
        self.settings = settings
        self.found = Findings()
        self.families: dict[str, ImageFamily] = {}
        self.fleets: dict[str, Fleet] = {}
        self._documents: dict[Path, yamlfile.Document] = {}

    def run(self) -> Findings:
        self._load()
        self.found.families, self.found.fleets = len(self.families), len(self.fleets)
        self._unread_files()
        for family in self.families.values():
            self._family(family)
        for fleet in self.fleets.values():
            self._fleet(fleet)
        self._shared_backends()
        self._dependencies()
        return self.found

    def _load(self) -> None:
        for path, error in self.project.broken().items():
            self.found.mistakes += str(error).splitlines() or [f"{path}: {error}"]
        for path in self.project.family_files():
            if not self._is_broken(path):
                family = self.project.load_family(path)
                self.families[family.name] = family
        for path in self.project.fleet_files():
            if not self._is_broken(path):
                fleet = self.project.load_fleet(path)
                self.fleets[fleet.name] = fleet

    def _is_broken(self, path: Path) -> bool:
        try:
            load = self.project.load_family if path.name == "image.yaml" else self.project.load_fleet
            load(path)
        except InvalidConfig:
            return True
        return False

    def _tell(self, path: Path, location: Location, message: str, remedy: str) -> None:
        if path not in self._documents:
            self._documents[path] = yamlfile.read(path)
        self.found.mistakes.append(self._documents[path].mistake(location, message, remedy))

    def _unread_files(self) -> None:
        """Files that look like ours and that nobody reads."""
        include = self.project.include
        unread = [*include.glob("fleets/*.yml"), *include.glob("images/*/image.yml")]
        self.found.warnings += [f"{path}: nobody reads it: the name must end in .yaml." for path in sorted(unread)]
        for folder in sorted(include.glob("images/*/")):
            if folder.name != COMMON and not any((folder / f"image.{end}").exists() for end in ("yaml", "yml")):
                self.found.warnings.append(f"{folder}: it has no image.yaml, so it is no image family.")
        for family in self.families.values():
            for path in sorted(family.home.glob("components/*/component.yaml")):
                if path.parent.name not in family.components:
                    self.found.warnings.append(f"{path}: {family.name} does not list this component.")

    def _family(self, family: ImageFamily) -> None:
        path = family.home / "image.yaml"
        self._cron(path, family.schedule)
        self._twice(path, "components", family.components)
        self._twice(path, "targets", family.platforms)
        if family.left_out:
            nothing = "" if family.targets else ": nothing is left, so it has no DAG here"
            self.found.warnings.append(f"{path}: PHOENIX_TARGETS leaves out {', '.join(family.left_out)}{nothing}.")
        for index, target in enumerate(family.targets):
            self._exists(path, ("targets", index, "build", "template"), family.home / target.build.template)
        for name in family.components:
            component = family.find(f"components/{name}/component.yaml")
            self._exists(component, ("role",), Path(family.component(name).role))
        self._exists(path, ("stage", "dataset"), family.home / family.stage.dataset)
        self._gates(path, ("test",), family.home, family.test)
        self._gates(path, ("stage", "gates"), family.home, family.stage.gates)
        self._staging(path, family)
        self._environments(family)
        for location, name in _connections_of_family(family):
            self._connection(path, location, name)

    def _staging(self, path: Path, family: ImageFamily) -> None:
        fleet = self.fleets.get(family.stage.fleet)
        location = ("stage", "fleet")
        if fleet is None:
            if not (self.project.include / "fleets" / f"{family.stage.fleet}.yaml").exists():
                remedy = yamlmistakes.nearest(family.stage.fleet, sorted(self.fleets), "Add its file to fleets/.")
                self._tell(path, location, f"there is no fleet '{family.stage.fleet}'.", remedy)
            return
        if fleet.required_rung is not Rung.CERTIFIED:
            message = f"the fleet '{fleet.name}' takes only released images, and a candidate is not released yet."
            self._tell(path, location, message, "Write requires: certified in the staging fleet's file.")
        if fleet.family != family.name:
            message = f"the fleet '{fleet.name}' is of the family '{fleet.family}'."
            self._tell(path, location, message, f"Name a staging fleet of {family.name}.")

    def _environments(self, family: ImageFamily) -> None:
        """All environments of a family must exist as far as they are named, and have the same keys."""
        files = family.files("environments/*.yaml")
        keys: dict[Path, set[Location]] = {}
        for path in files:
            try:
                self._documents[path] = yamlfile.read(path)
            except InvalidConfig as error:
                self.found.mistakes += str(error).splitlines()
            else:
                keys[path] = set(_paths(self._documents[path].data))
        for missing in sorted({CERTIFY} - {path.stem for path in files}):
            self.found.mistakes.append(
                f"{family.home}/environments/{missing}.yaml: there is no such file. "
                f"Remedy: Add the values that components of {family.name} are certified with."
            )
        everything = set().union(*keys.values()) if keys else set()
        for path, own in keys.items():
            for location in sorted(everything - own, key=str):
                others = ", ".join(other.stem for other in keys if location in keys[other])
                if location[:-1] in own or len(location) == 1:
                    message = f"this key is missing; it is in {others}."
                    self._tell(path, location, message, "Give every environment the same keys.")

    def _fleet(self, fleet: Fleet) -> None:
        path = fleet.home / f"{fleet.name}.yaml"
        if fleet.schedule is not None:
            self._cron(path, fleet.schedule)
        if fleet.name in RESERVED_FLEETS:
            message = "this name is reserved for throw-away test machines."
            self._tell(path, ("fleet",), message, "Choose another name.")
        self._gates(path, ("verify",), fleet.home, fleet.verify)
        self._gates(path, ("watch",), fleet.home, fleet.watch)
        self._gates(path, ("quorum",), fleet.home, fleet.quorum)
        self._family_of(path, fleet)
        for location, name in _connections_of_fleet(fleet):
            self._connection(path, location, name)

    def _family_of(self, path: Path, fleet: Fleet) -> None:
        known = sorted(file.parent.name for file in self.project.family_files())
        if fleet.family not in known:
            remedy = yamlmistakes.nearest(fleet.family, known, "Add its folder to images/.")
            self._tell(path, ("family",), f"there is no image family '{fleet.family}'.", remedy)
        family = self.families.get(fleet.family)
        if family is None:
            return
        if fleet.required_rung is Rung.CERTIFIED and family.stage.fleet != fleet.name:
            message = f"only the staging fleet of {family.name} may say certified, and that is '{family.stage.fleet}'."
            self._tell(path, ("requires",), message, "Write requires: released.")
        built = [*family.platforms, *family.left_out]
        if (needed := fleet.artefact_platform) not in built:
            message = f"{family.name} is built only for {', '.join(built)}, not for {needed}."
            key = "workload" if fleet.workload else "platform"
            self._tell(path, (key,), message, f"Add {needed} to the targets of {family.name}.")
        names = [file.stem for file in family.files("environments/*.yaml")]
        if fleet.environment not in names:
            message = f"there is no environments/{fleet.environment}.yaml, only {', '.join(names)}."
            remedy = yamlmistakes.nearest(fleet.environment, names, f"Name one of those, or add it to {family.name}.")
            self._tell(path, ("environment",), message, remedy)

    def _dependencies(self) -> None:
        """A fleet waits for those it depends on, so each must exist and none may wait for itself in the end."""
        known = {path.stem for path in self.project.fleet_files()}
        for fleet in self.fleets.values():
            path = fleet.home / f"{fleet.name}.yaml"
            self._twice(path, "depends_on", fleet.depends_on)
            for index, name in enumerate(fleet.depends_on):
                location = ("depends_on", index)
                if name not in known:
                    remedy = yamlmistakes.nearest(name, sorted(known), "Add its file to fleets/.")
                    self._tell(path, location, f"there is no fleet '{name}'.", remedy)
                elif circle := self._circle(fleet.name, name):
                    message = f"it would wait for itself: {' → '.join(circle)}."
                    self._tell(path, location, message, "Let one of them not depend on the next.")

    def _circle(self, start: str, first: str) -> list[str]:
        """The way from ``start`` over ``first`` back to ``start``; empty if there is none."""
        ways, seen = [[start, first]], {start}
        while ways:
            way = ways.pop()
            if way[-1] == start:
                return way
            if way[-1] not in seen:
                seen.add(way[-1])
                fleet = self.fleets.get(way[-1])
                ways += [[*way, name] for name in (fleet.depends_on if fleet else ())]
        return []

    def _shared_backends(self) -> None:
        """Two fleets behind one backend would drain and terminate each other's capacity."""
        seen: dict[str, str] = {}
        for fleet in self.fleets.values():
            settings = {name: value for name, value in fleet.balancer.settings.items() if name != "state"}
            if not settings:
                continue
            key = f"{fleet.balancer.name} {sorted(settings.items(), key=str)}"
            first = seen.setdefault(key, fleet.name)
            if first != fleet.name:
                path = fleet.home / f"{fleet.name}.yaml"
                message = f"the fleet '{first}' is behind the same backend."
                self._tell(path, ("balancer",), message, "Give every fleet a backend of its own.")

    def _cron(self, path: Path, expression: str) -> None:
        if len(expression.split()) not in (1, 5) or not croniter.is_valid(expression):
            message = f"'{expression}' is not a cron expression."
            self._tell(path, ("schedule",), message, "Write minute, hour, day, month and weekday: 0 4 1 * *")

    def _twice(self, path: Path, key: str, names: Sequence[str]) -> None:
        for name, count in Counter(names).items():
            if count > 1:
                self._tell(
                    path, (key, len(names) - 1 - names[::-1].index(name)), f"'{name}' is here twice.", "Keep one."
                )

    def _exists(self, path: Path, location: Location, wanted: Path) -> None:
        if not wanted.exists():
            try:
                shown = wanted.resolve().relative_to(self.project.include.resolve())
            except ValueError:
                shown = wanted
            self._tell(path, location, f"there is no {shown}.", "Create it or correct the path.")

    def _gates(self, path: Path, location: Location, home: Path, gates: Sequence[Driver]) -> None:
        for index, gate in enumerate(gates):
            suite = gate.settings.get("suite")
            if suite:
                self._exists(path, (*location, index, gate.name, "suite"), home / suite)
            for key, name in _connections_of_driver("gates", gate):
                self._connection(path, (*location, index, gate.name, *key), name)

    @cached_property
    def _known(self) -> set[str] | None:
        if not self.settings.exists():
            self.found.warnings.append(
                f"{self.settings}: there is no such file, so connections were not looked for: they must be in Airflow."
            )
            return None
        try:
            return set(SettingsFile(self.settings).known())
        except InvalidConfig as error:
            self.found.mistakes += str(error).splitlines()
            return None

    def _connection(self, path: Path, location: Location, name: str) -> None:
        if self._known is None or name in self._known:
            return
        try:
            if from_environment(name):
                return
        except InvalidConfig as error:
            self._tell(path, location, str(error.args[0]), error.remedy)
            return
        otherwise = f"Add it to {self.settings.name}, or set AIRFLOW_CONN_{name.upper()}."
        remedy = yamlmistakes.nearest(name, sorted(self._known), otherwise)
        self._tell(path, location, f"there is no connection '{name}' in {self.settings}.", remedy)


def _paths(data: Mapping[str, Any], under: Location = ()) -> Iterator[Location]:
    for key, value in data.items():
        yield (*under, key)
        if isinstance(value, dict):
            yield from _paths(value, (*under, key))


def _connections_of_family(family: ImageFamily) -> Iterator[tuple[Location, str]]:
    if family.owners.webhook:
        yield ("owners", "webhook"), family.owners.webhook
    yield ("access", "connection"), family.access.connection
    yield ("stage", "endpoint"), family.stage.endpoint
    for key, name in _connections_of_driver("configurators", family.configurator):
        yield ("configurator", family.configurator.name, *key), name
    for index, target in enumerate(family.targets):
        if _pushes(target):
            yield ("targets", index, "build", "registry"), target.build.registry
        for key, name in _connections_of_driver("platforms", target.platform):
            yield ("targets", index, "platform", target.platform.name, *key), name


def _pushes(target: Target) -> bool:
    """Whether its artefacts go to the registry; those of a platform without a builder might."""
    name = target.platform.name
    return name not in drivers.names("builders") or bool(drivers.load("builders", name).pushes)


def _connections_of_fleet(fleet: Fleet) -> Iterator[tuple[Location, str]]:
    if fleet.owners.webhook:
        yield ("owners", "webhook"), fleet.owners.webhook
    if fleet.workload is None:
        yield ("access", "connection"), fleet.access.connection
    runs: tuple[str, drivers.Seam] = ("platform", "platforms") if fleet.platform else ("workload", "workloads")
    declared: tuple[tuple[str, drivers.Seam, Driver], ...] = (
        (*runs, fleet.runs_on),
        ("balancer", "balancers", fleet.balancer),
        ("configurator", "configurators", fleet.configurator),
    )
    for place, seam, driver in declared:
        for key, name in _connections_of_driver(seam, driver):
            yield (place, driver.name, *key), name


def _connections_of_driver(seam: drivers.Seam, driver: Driver) -> Iterator[tuple[Location, str]]:
    """The connections that a driver's settings name, at the top or in the entries of a list, and where."""
    settings = drivers.load(seam, driver.name).Settings.model_validate(driver.settings)
    entries: list[tuple[Location, Any]] = [((), settings)]
    for key, value in settings:
        if isinstance(value, tuple):
            entries += [((key, index), each) for index, each in enumerate(value)]
    for location, each in entries:
        for key in _CONNECTION_FIELDS:
            name = getattr(each, key, "")
            if name:
                yield (*location, key), str(name)
