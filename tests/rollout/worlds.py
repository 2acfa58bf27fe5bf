"""The worlds that crashes leave behind, told apart by what can make a difference to whoever goes on.

From every distinct world the sequel is played once, and the worlds that a crash in that sequel leaves are the next
generation: so all pairs of crashes cost as much as there are distinct worlds, and not as much as there are pairs.
"""

from __future__ import annotations

import json
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from phoenix_fleet.catalog.database import Transaction
from phoenix_fleet.catalog.records import RolloutRecord, RolloutState, SlotState
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import InstanceState
from tests.rollout.scene import Scene
from tests.rollout.snapshots import Snapshot, opened

QUICK: dict[str, Any] = {
    "platform": {"boot_reads": 0, "boot_seconds": 1, "stop_reads": 0, "stop_seconds": 1},
    "balancer": {"start_reads": 0, "start_seconds": 1},
    "watch_time": "1s",
}
SURGE = {"max_surge": "1", "max_unavailable": "0"}
NO_SURGE = {"max_surge": "0", "max_unavailable": "1"}
DATA: dict[str, Any] = {
    **QUICK,
    **NO_SURGE,
    "platform": {**QUICK["platform"], "volume_seconds": 1},
    "volumes": [{"name": "data", "size": "10g"}],
    "quorum": ["fake"],
}
"""A stateful fleet in which no change of a volume is over at once."""

CONVERGES_WITHIN = timedelta(minutes=60)
"""Virtual time from any crash to the end of the rollout."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT")
_PASSING = (InstanceState.STARTING, InstanceState.STOPPING)


def watch_commits(scene: Scene, before: Callable[[], object], after: Callable[[], object]) -> Callable[[], None]:
    """Call these two around every commit of the scene's catalog, until the function that comes back is called."""
    database = scene.catalog._database
    original = database.write

    @contextmanager
    def write() -> Iterator[Transaction]:
        with original() as transaction:
            yield transaction
            before()
        after()

    database.write = write  # type: ignore[method-assign]

    def undo() -> None:
        database.write = original  # type: ignore[method-assign]

    return undo


class Tracer:
    """Notes every point of a run at which a process can die: around each call and around each commit."""

    def __init__(self, scene: Scene, found: Callable[[str, Snapshot], object]) -> None:
        self.scene = scene
        self.points = 0
        self._found = found
        self._catalog = scene.read_catalog()

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Trace what happens inside; what a test had hooked in still happens."""
        hooked = self.scene.on_call

        def called(position: str, method: str, subject: str) -> None:
            self._point(f"{position} {method} {subject}")
            hooked(position, method, subject)

        self.scene.on_call = called
        undo = watch_commits(self.scene, lambda: self._point("before a commit"), self._committed)
        try:
            yield
        finally:
            undo()
            self.scene.on_call = hooked

    def _point(self, name: str) -> None:
        self.points += 1
        self._found(name, self.scene.snapshot(self._catalog))

    def _committed(self) -> None:
        self._catalog = self.scene.read_catalog()
        self._point("after a commit")


def essence(snapshot: Snapshot) -> str:
    """Equal for worlds in which the same will happen.

    What was written down for people alone (events, measurements, messages, when something that is over began) and
    names that only have to differ (holders, tokens) decide nothing; moments only count by how long ago they were.
    """
    now = snapshot.now
    with opened(snapshot.catalog) as connection:
        connection.row_factory = lambda cursor, row: {
            column[0]: value for column, value in zip(cursor.description, row, strict=True)
        }
        fleets = {row["name"]: row["fence"] for row in connection.execute("SELECT * FROM fleets")}
        rollouts = list(connection.execute("SELECT * FROM rollouts ORDER BY id"))
        slots = list(connection.execute("SELECT * FROM slots ORDER BY rollout_id, position"))
        intents = list(connection.execute("SELECT * FROM intents"))
    done = {(row["rollout_id"], row["slot"]) for row in slots if row["state"] == SlotState.DONE}
    platform, balancer = json.loads(snapshot.platform), json.loads(snapshot.balancer)
    whole = {
        "rollouts": [[row["id"], row["state"], row["version"], row["halted_slot"]] for row in rollouts],
        "slots": [_slot(row, now, next(iter(fleets.values()))) for row in slots],
        "intents": sorted(_intent(row, done) for row in intents),
        "volumes": [_volume(each, now) for each in platform.pop("volumes", {}).values()],
        "machines": [_machine(each, now) for each in platform.pop("machines").values()],
        "servers": [_server(name, each, now) for name, each in sorted(balancer.pop("servers").items())],
        "rest": [{**platform, "calls": 0}, {**balancer, "calls": 0}, sorted(snapshot.applied)],
    }
    return json.dumps(whole, sort_keys=True, default=str)


def _slot(row: Mapping[str, Any], now: datetime, fence: int) -> list[Any]:
    told = [row["slot"], row["wave"], row["state"]]
    if row["state"] == SlotState.DONE:
        return told
    facts = {key: _relative(value, now) for key, value in json.loads(row["facts"]).items() if value is not None}
    kept = [row[name] for name in ("step", "attempt", "postponed", "old_instance", "new_instance", "resume_at")]
    started, lease = (_moment(row[name], now) for name in ("step_started_at", "lease_until"))
    return [*told, *kept, facts, started, lease, row["token"] > fence]


def _intent(row: Mapping[str, Any], done: set[tuple[int, str]]) -> list[str]:
    over = (row["rollout_id"], row["slot"]) in done
    outcome = row["outcome"] if row["outcome"] is None or not over else "settled"
    return [row["slot"], row["action"], row["target"], row["token"], str(outcome)]


def _machine(machine: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    since, state = machine["timeline"][-1]
    age = now.timestamp() - since if state in _PASSING else None
    return {**machine, "timeline": [state, age]}


def _volume(volume: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    at = now.timestamp()
    state = next(entry[1] for entry in reversed(volume["timeline"]) if entry[0] <= at)
    coming = [[entry[0] - at, entry[1]] for entry in volume["timeline"] if entry[0] > at]
    # A snapshot that was taken is as good as any other.
    snapshots = [{**each, "id": "", "at": min(at - each["at"], 60)} for each in volume["snapshots"]]
    return {**volume, "timeline": [state, coming], "snapshots": snapshots}


def _server(name: str, server: Mapping[str, Any], now: datetime) -> list[Any]:
    since, state = server["timeline"][-1] if server["timeline"] else (0, "absent")
    if state == "absent":
        return [name, state]
    return [name, state, now.timestamp() - since if state == "starting" else None, server["reads_left"]]


def _moment(text: str | None, now: datetime) -> float | None:
    return (now - datetime.fromisoformat(text).replace(tzinfo=UTC)).total_seconds() if text else None


def _relative(value: Any, now: datetime) -> Any:
    """The value with its moments told as how long ago they were, in seconds."""
    if isinstance(value, dict):
        # Born when it was born: that only has to be the same in both places where it is told.
        return {key: "" if key == "launched_at" else _relative(each, now) for key, each in value.items()}
    if isinstance(value, str) and _MOMENT.match(value):
        return (now - datetime.fromisoformat(value)).total_seconds()
    return value


@dataclass
class Found:
    """One distinct world, and how a crash came to leave it."""

    name: str
    packed: bytes
    snapshot: Snapshot = field(repr=False)

    @classmethod
    def pack(cls, name: str, snapshot: Snapshot) -> Found:
        """With the catalog's file compressed: there are thousands of them."""
        return cls(name, zlib.compress(snapshot.catalog, 1), Snapshot(b"", *_rest(snapshot)))

    def unpack(self) -> Snapshot:
        return Snapshot(zlib.decompress(self.packed), *_rest(self.snapshot))


def _rest(snapshot: Snapshot) -> tuple[str, str, datetime, dict[str, str]]:
    return snapshot.platform, snapshot.balancer, snapshot.now, snapshot.applied


@dataclass
class Counts:
    """What an exploration came to."""

    points: list[int] = field(default_factory=list)
    """Points at which a process could die, by how many had died before."""
    worlds: list[int] = field(default_factory=list)
    """Distinct worlds, new in that generation."""
    played: list[int] = field(default_factory=list)
    """How many of those were played to their end."""
    slowest: timedelta = timedelta()
    """The longest virtual time from a crash to the end of the rollout."""


class Exploration:
    """All worlds that up to so many crashes leave behind one after another, each played to its end."""

    def __init__(self, scene: Scene, crashes: int, *, give_up: float = float("inf")) -> None:
        self.scene = scene
        self.crashes = crashes
        self.give_up = give_up
        """When to stop between two worlds, by ``time.monotonic``."""
        self.counts = Counts()
        self._seen: set[str] = set()
        self._next: list[Found] = []
        self._rests: dict[str, timedelta] = {}
        self._traced_rests: set[str] = set()
        self._lives = 0
        self.lost = 0
        """How many requests and replies were lost in runs of their own."""

    def explore(
        self,
        rollout: RolloutRecord,
        *,
        sample: int = 0,
        seed: int = 0,
        lost: bool = False,
        told: Callable[[str], None] = lambda line: None,
    ) -> Counts:
        """Every generation in turn; ``sample`` limits each to so many, drawn with that seed; 0 for all of them.

        ``lost``: runs without a crash in which one reply or one request is lost belong to the first generation too.
        """
        beginning = self.scene.snapshot()
        generation = [Found.pack("nobody died", beginning)]
        draw = random.Random(seed)  # noqa: S311
        for deaths in range(self.crashes + 1):
            self.counts.points.append(0)
            self.counts.worlds.append(len(generation))
            chosen = draw.sample(generation, sample) if 0 < sample < len(generation) else generation
            self.counts.played.append(0)
            for number, found in enumerate(chosen):
                if time.monotonic() > self.give_up:
                    return self.counts
                if number % 200 == 0:
                    told(f"{deaths} crashes: {number} of {len(chosen)} worlds played")
                self._play(found, rollout, traced=deaths < self.crashes)
                self.counts.played[-1] += 1
            if deaths == 0 and lost:
                self._lose_each(beginning, rollout)
            generation, self._next = self._next, []
        return self.counts

    def _play(self, found: Found, rollout: RolloutRecord, *, traced: bool) -> None:
        """To the end of the rollout, or to where the rest has been played before."""
        scene = self.scene.restore(found.unpack())
        self._lives += 1
        scene.holders = 1000 * self._lives  # the dead one must not come back by its name
        began = scene.clock.now()
        self._trail: list[tuple[str, datetime]] = []
        try:
            left = self._to_the_end(rollout, traced=traced)
            took = scene.clock.now() - began + left
            assert took <= CONVERGES_WITHIN, f"it took {took} to get over it"
        except Exception as error:
            raise AssertionError(f"{found.name}: {error}\n" + "\n".join(scene.story)) from error
        for key, at in self._trail:
            self._rests[key] = scene.clock.now() - at + left
        self.counts.slowest = max(self.counts.slowest, took)

    def _to_the_end(self, rollout: RolloutRecord, *, traced: bool) -> timedelta:
        """How much longer it takes from where this stops, which is the end or a rest that was played before."""
        scene = self.scene
        tracer = Tracer(scene, self._note)
        while True:
            if traced:
                with tracer.tracing():
                    replaced = scene.replace_next(rollout)
            else:
                replaced = scene.replace_next(rollout)
            if not replaced:
                break
            _check_rest(scene)
            key = essence(scene.snapshot())
            if key in self._rests and (not traced or key in self._traced_rests):
                self.counts.points[-1] += tracer.points
                return self._rests[key]
            self._trail.append((key, scene.clock.now()))
            if traced:
                self._traced_rests.add(key)
        assert scene.catalog.rollouts.complete(rollout.id).state is RolloutState.DONE
        scene.check_at_rest()
        self.counts.points[-1] += tracer.points
        return timedelta()

    def _note(self, name: str, snapshot: Snapshot) -> None:
        key = essence(snapshot)
        if key not in self._seen:
            self._seen.add(key)
            self._next.append(Found.pack(name, snapshot))

    def _lose_each(self, beginning: Snapshot, rollout: RolloutRecord) -> None:
        """Of each call of the first replacement once the reply, and once the request, is lost; its caller goes on."""
        number = 0
        while True:
            self.scene.restore(beginning)
            fault = _Loss(number)
            self.scene.on_call = fault.meet
            with Tracer(self.scene, self._note).tracing():
                self.scene.replace_next(rollout)
            if not fault.met:
                return
            _check_rest(self.scene)
            number += 1
            self.lost += 1


class _Loss:
    """The so-maniest position around a call at which the connection breaks."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.met = ""

    def meet(self, position: str, method: str, subject: str) -> None:
        self.left -= 1
        if self.left == -1:
            self.met = f"{position} {method} {subject}"
            raise Unavailable(f"{method}({subject}): the connection broke.")


def _check_rest(scene: Scene) -> None:
    """Between two replacements, whoever died meanwhile: the fleet is whole, and no machine too many was launched."""
    scene.check_between()
    done = [each.slot for each in scene.catalog.rollouts.slots(1) if each.state is SlotState.DONE]
    launched = {call.subject for call in scene.platform.calls("launch")}
    assert len(launched) == scene.fleet.size + len(done), "a machine too many was launched"
