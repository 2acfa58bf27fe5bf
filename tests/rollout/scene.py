"""A fleet on the public fakes with a catalog of its own and a clock that stands still until told otherwise."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet.balancers import fake as fake_balancer
from phoenix_fleet.balancers import none
from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import REFRESH, Errand, RolloutKind, RolloutRecord, RolloutState, SlotState, Ticket
from phoenix_fleet.config import Fleet
from phoenix_fleet.configurators import fake as fake_configurator
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Busy, TransientError
from phoenix_fleet.domain.ladder import CLIMB, Rung
from phoenix_fleet.domain.models import OWNER, Artefact, Backend, Environment, Image, InstanceState, LaunchIntent
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.gates import fake as fake_gate
from phoenix_fleet.platforms import fake as fake_platform
from phoenix_fleet.rollout.deps import Deps, NamedGate
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.planning import draw_plan, freeze, frozen_fleet
from phoenix_fleet.rollout.progress import Progress
from tests.rollout.snapshots import Skewed, Snapshot, opened
from tests.rollout.strict import action_of, check_before, check_kept, check_room

START = datetime(2026, 11, 1, 4, tzinfo=UTC)
OLD, NEW = Version.parse("2026.10-1"), Version.parse("2026.11-1")
LEASE = timedelta(seconds=60)
LONGEST = timedelta(hours=3)


def no_connections(conn_id: str) -> Connection:
    raise AssertionError(f"fakes need no connection, and {conn_id} was asked for")


def digest_of(version: Version) -> str:
    return "sha256:" + str(version).replace(".", "").replace("-", "").ljust(64, "0")


class Scene:
    """Everything on one stage. ``fleet`` changes are merged into a fleet file of three machines."""

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 3,
        platform: dict[str, Any] | None = None,
        balancer: dict[str, Any] | None = None,
        balanced: bool = True,
        url: str = "",
        **fleet: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.clock = ManualClock(START - timedelta(days=20))
        """The world's own time, in which machines boot and stop."""
        self.watch_on_the_wall = Skewed(self.clock)
        """What the catalog and the engine take for the time; it may go wrong."""
        self.story: list[str] = []
        self.url = url or f"sqlite:///{folder}/catalog.db"
        self.catalog = Catalog(self.url, self.watch_on_the_wall)
        settings = fake_platform.Settings(**{"boot_seconds": 2, **(platform or {})})
        self.platform = fake_platform.Driver(settings, no_connections, clock=self.clock, hook=self._at_call)
        self.balancer = fake_balancer.Driver(
            fake_balancer.Settings(**(balancer or {})), no_connections, clock=self.clock, hook=self._at_call
        )
        self.front: Balancer = self.balancer if balanced else none.Driver(none.Settings(), no_connections)
        """What the engine is given."""
        self.on_call: Callable[[str, str, str], None] = lambda position, method, subject: None
        """What a test wants to happen at every call: (before or after, method, subject)."""
        self.strict = False
        """Whether every call that changes something must be meant by whoever holds the ticket at that moment."""
        self.violations: list[str] = []
        """What did not hold at some call."""
        self.raised = False
        """Whether the curtain is up: from then on every call is held against the invariants."""
        self.configurator = fake_configurator.Driver(fake_configurator.Settings(), no_connections)
        self.data: dict[str, str] = {}
        """The data volume of each slot as it was before, by its id."""
        self.quorum = fake_gate.Driver(fake_gate.Settings(), no_connections, folder)
        self.verify = fake_gate.Driver(fake_gate.Settings(), no_connections, folder)
        self.watch = fake_gate.Driver(fake_gate.Settings(), no_connections, folder)
        self.probe: Callable[..., tuple[str, ...]] = lambda instance: instance.host_keys
        self.fleet = Fleet.model_validate(
            {
                "fleet": "web",
                "family": "base",
                "owners": {"team": "shop"},
                "size": size,
                "platform": "fake",
                "balancer": "fake" if balanced else "none",
                "configurator": "fake",
                "watch_time": "10s",
                "waves": ["100%"],
                "drain": {"limit": "30s", "policy": "fail"},
                **fleet,
            }
        )
        self.holders = 0
        self.by_hand: set[str] = set()
        """Tokens and names of the instances that were launched or drained by hand."""

    # Before the curtain

    def prepare(self) -> Scene:
        """The catalog with two releases, and the fleet on the older one."""
        self.catalog.migrate()
        for version in (OLD, NEW):
            self.release(version)
        for number, slot in enumerate(self.fleet.slots):
            key = self.seed(slot, OLD, attempt=number + 1)
            for volume in self.fleet.volumes:
                marks = {"owner": OWNER, "fleet": self.fleet.name, "slot": slot}
                self.data[slot] = self.platform.add_volume(volume.name, attached_to=key, **marks)
        self.clock.advance(START - self.clock.now())
        self.raised = True
        return self

    def release(self, version: Version, upto: Rung = Rung.RELEASED) -> Image:
        """That version in the catalog, on that rung, and held by the platform."""
        digest = digest_of(version)
        artefact = Artefact("fake", f"registry/base@{digest}", digest)
        image = self.catalog.images.open_candidate(
            "base", version.window, f"inputs-{version}", "builder", run=f"build-{version}"
        )
        assert image.version == version
        self.catalog.images.add_artefact("base", version, artefact)
        for rung in CLIMB[1 : CLIMB.index(upto) + 1]:
            image = self.catalog.images.move("base", version, rung, actor="builder")
        self.platform.add_image(artefact, "base", str(version), upto)
        return image

    def seed(self, slot: str, version: Version, *, attempt: int = 1, admit: bool = True) -> str:
        """An instance that stood there before; its id comes back."""
        digest = digest_of(version)
        intent = LaunchIntent(
            fleet=self.fleet.name,
            slot=slot,
            purpose=f"seed-{slot}",
            attempt=attempt,
            family="base",
            version=str(version),
            artefact=Artefact("fake", f"registry/base@{digest}", digest),
        )
        self.by_hand |= {intent.token, intent.name}
        born = self.platform.launch(intent)
        while (seen := self.platform.get_instance(born.id)).state is InstanceState.STARTING:
            self.clock.advance(timedelta(seconds=1))
        if admit and self.front is self.balancer:
            self.balancer.admit(seen)
            while self.balancer.state(seen).state is not Backend.HEALTHY:
                self.clock.advance(timedelta(seconds=1))
        return born.id

    def open(
        self,
        run: str = "run-1",
        version: Version = NEW,
        *,
        only: Sequence[str] = (),
        window: Window = NEW.window,
        errand: Errand = REFRESH,
        **kwargs: Any,
    ) -> RolloutRecord:
        """The rollout of that version, as planned now."""
        image = self.catalog.images.get("base", version)
        plan = draw_plan(self.deps(), self.fleet, image, only, undone=errand.undone, force=errand.forced)
        self.story.extend(plan.lines())
        return self.catalog.rollouts.open(
            self.fleet.name,
            self.fleet.family,
            version,
            window,
            run,
            plan.slots,
            settings=freeze(self.fleet),
            actor="airflow",
            reason="scheduled refresh",
            errand=errand,
            **kwargs,
        )

    def roll_back(self, run: str = "back") -> RolloutRecord:
        """The rollout that undoes the last one, once nobody is at that any more."""
        found = self.catalog.lifecycle.roll_back("web", actor="alice", reason="it drops sessions")
        self.story.append(f"{self.at()} alice rolls back from {found.undone} to {found.version}")
        errand = Errand(RolloutKind.ROLLBACK, undoes=found.undoes, undone=found.undone)
        give_up = self.clock.now() + LONGEST
        while True:
            try:
                return self.open(run, found.version, only=found.slots, errand=errand)
            except Busy:
                assert self.clock.now() < give_up, "whoever is at it never lets go"
                self.clock.advance(timedelta(seconds=10))

    def deps(self) -> Deps:
        return Deps(
            catalog=self.catalog,
            platform=self.platform,
            balancer=self.front,
            configurator=self.configurator,
            verify_gates=(NamedGate("checks", self.verify),),
            watch_gates=(NamedGate("metrics", self.watch),),
            environment=Environment("production", (), {"colour": "blue"}),
            ssh_probe=lambda instance: self.probe(instance),
            workdir=self.folder / "proof",
            log=lambda line: self.story.append(f"{self.at()}   {line}"),
            clock=self.watch_on_the_wall,
            authorized_key="ssh-ed25519 AAAA tests",
            volumes=self.platform if self.fleet.volumes else None,
            quorum_gates=(NamedGate("quorum", self.quorum),) if self.fleet.quorum else (),
        )

    # On stage

    def at(self) -> str:
        seconds = int((self.clock.now() - START).total_seconds())
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def engine(self, rollout: RolloutRecord) -> Engine:
        fleet = frozen_fleet(rollout, self.fleet)
        return Engine(self.deps(), fleet, self.catalog.images.get("base", rollout.version), rollout)

    def holder(self) -> str:
        self.holders += 1
        return f"worker-{self.holders}"

    def claim(self, engine: Engine, wave: int, holder: str) -> Ticket | None:
        """A ticket, once there is one to be had."""
        give_up = self.clock.now() + LONGEST
        while True:
            try:
                limit, _ = engine.in_flight_limit()
                return self.catalog.rollouts.claim(engine.rollout.id, wave, holder, lease=LEASE, max_in_flight=limit)
            except TransientError:
                assert self.clock.now() < give_up, "nobody's turn ever comes"
                self.clock.advance(timedelta(seconds=10))

    def drive(self, engine: Engine, ticket: Ticket, until: Callable[[Progress], bool] | None = None) -> Progress:
        """Advance until the ticket has nothing more to do, or ``until`` says stop; the clock moves as told."""
        give_up, said = self.clock.now() + LONGEST, ""
        while True:
            progress = engine.advance(ticket)
            line = f"{ticket.slot}: {progress.step}: {progress.message}"
            if line != said:
                self.story.append(f"{self.at()} {line}")
                said = line
            if progress.state == "done" or (until and until(progress)):
                return progress
            assert self.clock.now() < give_up, f"it never ends: {line}"
            self.clock.advance(progress.check_after)
            if progress.check_after > LEASE / 2:
                self.catalog.rollouts.renew(ticket, LEASE)

    def run(self, rollout: RolloutRecord) -> RolloutRecord:
        """The whole rollout, wave by wave, by one holder per replacement; complete at the end."""
        while self.replace_next(rollout):
            pass
        return self.catalog.rollouts.complete(rollout.id)

    def replace_next(self, rollout: RolloutRecord) -> bool:
        """One more replacement by a new holder; False if none was left."""
        left = [each.wave for each in self.catalog.rollouts.slots(rollout.id) if each.state is not SlotState.DONE]
        engine = self.engine(rollout)
        ticket = self.claim(engine, min(left), self.holder()) if left else None
        if ticket is None:
            return False
        self.drive(engine, ticket)
        return True

    # Looking at it

    def living(self) -> dict[str, dict[str, Any]]:
        """Every machine of ours that is not gone, by id: the truth, not what reads show."""
        return {
            key: machine
            for key, machine in self.platform.machines().items()
            if machine["state"] is not InstanceState.GONE and machine["owner"]
        }

    def serving(self) -> list[str]:
        """Names of the machines that are in service: the truth."""
        running = [m["name"] for m in self.living().values() if m["state"] is InstanceState.RUNNING]
        if self.front is not self.balancer:
            return sorted(running)
        servers = self.balancer.servers()
        return sorted(name for name in running if servers.get(name) is Backend.HEALTHY)

    def versions(self) -> dict[str, list[str]]:
        """What lives in each slot, by version."""
        found: dict[str, list[str]] = {}
        for machine in sorted(self.living().values(), key=lambda each: str(each["slot"])):
            found.setdefault(machine["slot"], []).append(machine["version"])
        return found

    def state(self, rollout: RolloutRecord) -> RolloutState:
        return self.catalog.rollouts.get(rollout.id).state

    # What must hold at every call

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        # The engine takes what a driver raises for the driver's own mistake, so a violation must not be lost in it.
        try:
            yield
        except AssertionError as error:
            self.violations.append(str(error))
            raise

    def _at_call(self, position: str, method: str, subject: str) -> None:
        with self._kept():
            if self.raised and position == "before":
                check_before(self, method, subject)
            self.on_call(position, method, subject)
            if self.raised and (position, method) == ("after", "launch"):
                check_room(self)

    def check_journals(self) -> None:
        """Every call that changes something has an intent, and every intent has an outcome; and nothing was broken."""
        assert not self.violations, self.violations
        intents = self.catalog.intents.list_intents()
        by_token = ("launch", "create_volume")
        meant = {(each.action, each.token if each.action in by_token else each.target) for each in intents}
        meant |= {(each.action, each.params["name"]) for each in intents}
        calls = [(call.method, call.subject, call.at) for call in (*self.platform.calls(), *self.balancer.calls())]
        made = {(action_of(method), subject) for method, subject, at in calls if at >= START.timestamp()}
        made = {each for each in made if each[0]}
        made -= {
            (method, subject) for method in ("launch", "admit", "drain", "remove") for subject in self.by_hand
        } - meant
        assert made <= meant, f"calls without an intent: {made - meant}"
        assert not [each for each in intents if each.outcome is None], "an intent was left without an outcome"

    def check_at_rest(self, version: Version = NEW) -> None:
        """The fleet is complete on that version, everything serves, and nothing is left over anywhere."""
        assert self.versions() == {slot: [str(version)] for slot in self.fleet.slots}
        self.check_between()
        self.catalog.events.verify()

    def check_between(self) -> None:
        """Between two replacements: as many machines as slots, all in service, nothing left over, all on record."""
        assert sorted(self.versions()) == sorted(self.fleet.slots)
        assert len(self.living()) == len(self.serving()) == self.fleet.size
        if self.front is self.balancer:
            assert sorted(self.balancer.servers()) == self.serving(), "the balancer knows somebody who is not there"
        if self.fleet.volumes:
            check_kept(self)
        self.check_journals()

    # Death and resurrection

    def snapshot(self, catalog: bytes | None = None) -> Snapshot:
        """The world as a process that is killed at this very moment would leave it behind."""
        with self.platform.world.transaction() as platform, self.balancer.world.transaction() as balancer:
            return Snapshot(
                catalog or self.read_catalog(),
                json.dumps(platform),
                json.dumps(balancer),
                self.clock.now(),
                dict(self.configurator.applied),
            )

    def read_catalog(self) -> bytes:
        """The database as committed."""
        with contextlib.closing(sqlite3.connect(self.folder / "catalog.db")) as connection:
            return connection.serialize()

    def restore(self, snapshot: Snapshot) -> Scene:
        """This scene, with the world of that snapshot: what another process finds."""
        with (
            opened(snapshot.catalog) as kept,
            contextlib.closing(sqlite3.connect(self.folder / "catalog.db")) as connection,
        ):
            kept.backup(connection)
        for driver, world in ((self.platform, snapshot.platform), (self.balancer, snapshot.balancer)):
            with driver.world.transaction() as data:
                data.clear()
                data.update(json.loads(world))
        shutil.rmtree(self.folder / "proof", ignore_errors=True)
        self.configurator.applied = dict(snapshot.applied)
        self.on_call = lambda position, method, subject: None
        self.story.clear()
        self.violations.clear()
        self.clock.advance(snapshot.now - self.clock.now())
        self.watch_on_the_wall.off = timedelta()
        self.holders = 100
        self.raised = True
        return self
