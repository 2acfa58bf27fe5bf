"""Terminating what crashes left: one careful run over a fleet, or over the throw-away instances of a platform.

What belongs to nobody is decided by ``domain.reaping``; here the world is looked at, the platform first and the
catalog after it, and looked at again right before every call. A run waits for nothing: the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.config import Fleet, ImageFamily, Project
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain import reaping
from phoenix_fleet.domain.clock import Clock, SystemClock
from phoenix_fleet.domain.errors import (
    Busy,
    InUse,
    NotFound,
    NotOurs,
    NotSupported,
    PhoenixError,
    Refused,
    TransientError,
)
from phoenix_fleet.domain.fleets import Observed
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.reaping import Inventory, Launch, Memory, Orphan, Reaping, Rules
from phoenix_fleet.platforms.base import Platform, Volumes
from phoenix_fleet.rollout import deps, forgetting, gone, pending
from phoenix_fleet.rollout.eyes import watchful
from phoenix_fleet.rollout.forgetting import Spared
from phoenix_fleet.rollout.planning import observe
from phoenix_fleet.rollout.progress import plain
from phoenix_fleet.rollout.reaping_images import ImageReaper
from phoenix_fleet.rollout.replacement import Identity, may_have_happened
from phoenix_fleet.rollout.throwaway import FLEET as THROWAWAY

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import Action, Outcome

LOOKED = "reaper.looked"
"""The event that keeps since when an instance is an orphan: the next run, wherever it is, reads it."""
SERVING = (Backend.HEALTHY, Backend.STARTING)


@dataclass(frozen=True)
class Reaped:
    """What one run came to."""

    fleet: str
    found: Reaping
    told: tuple[str, ...] = ()
    """Names of the instances that were told to terminate."""
    spared: tuple[tuple[str, str], ...] = ()
    """Those that were due and were left alone in the end, and why; the next run looks again."""
    trouble: str = ""
    """The error that ended the run early; empty if nothing did."""
    news: tuple[str, ...] = ()
    """Names of the strangers and of those left to a person that the look before did not find."""

    def lines(self) -> list[str]:
        """For people, a line per instance."""
        due = {each.instance.id for each in self.found.due}
        found = [f"nothing is touched: {self.found.refused}"] if self.found.refused else []
        for each in self.found.orphans:
            when = "due" if each.instance.id in due else "known"
            found.append(f"orphan {each.instance.name}: {each.reason}; {when} since {each.since:%Y-%m-%d %H:%M} UTC")
        found += [f"told to terminate: {name}" for name in self.told]
        found += [f"spared {name}: {why}" for name, why in self.spared]
        found += [f"not explained {name}: {why}; never touched" for name, why in self.found.strangers]
        found += [f"left {name}: {why}" for name, why in self.found.left]
        return found + ([f"stopped early: {self.trouble}"] if self.trouble else [])

    @property
    def alarm(self) -> str:
        """What people must be told of now; empty if nothing."""
        told = [part for part in (self.found.refused, self.trouble) if part]
        if self.news:
            told.append(f"a person must look at {', '.join(self.news)}")
        return "; ".join(told)


def reaper_for(fleet: Fleet, catalog: Catalog, connections: Connections, *, log: Callable[[str], None]) -> Reaper:
    """The reaper of a fleet, with the drivers that its file names.

    :raises InvalidConfig: one of them is missing or wrong.
    :raises NotSupported: it is a fleet of workloads, whose platform itself removes what is left of replicas.
    """
    if fleet.workload:
        raise NotSupported(
            f"{fleet.name} is a fleet of workloads: what is left of replicas their platform removes by itself.",
            remedy="Nothing is to be done.",
        )
    platform = deps.load("platforms", fleet.runs_on, connections)
    return Reaper(
        platform,
        catalog,
        fleet.name,
        volumes=deps.volumes_of(platform, fleet),
        slots=fleet.slots,
        balancer=deps.load("balancers", fleet.balancer, connections),
        log=log,
    )


def throwaway_reaper_for(
    family: ImageFamily, platform: str, catalog: Catalog, connections: Connections, *, log: Callable[[str], None]
) -> Reaper:
    """The reaper of the throw-away instances on one of the family's platforms."""
    driver: Platform = deps.load("platforms", family.target(platform).platform, connections)
    return Reaper(driver, catalog, THROWAWAY, family=family.name, place=platform, log=log, rules=reaping.THROWAWAYS)


def image_reaper_for(
    project: Project,
    family: str,
    platform: str,
    catalog: Catalog,
    connections: Connections,
    *,
    log: Callable[[str], None],
) -> ImageReaper:
    """The reaper of the family's artefacts on one of its platforms.

    :raises InvalidConfig: a fleet's file is wrong, so nobody knows what it may go back to.
    """
    driver: Platform = deps.load("platforms", project.family(family).target(platform).platform, connections)
    fleets = [project.load_fleet(path) for path in project.fleet_files()]
    takers = [each.name for each in fleets if each.family == family]
    return ImageReaper(driver, catalog, family, takers, place=platform, log=log)


class Reaper:
    """One run over the instances that carry one fleet mark. Nothing is kept in memory between runs."""

    def __init__(
        self,
        platform: Platform,
        catalog: Catalog,
        fleet: str,
        *,
        slots: list[str] | None = None,
        balancer: Balancer | None = None,
        volumes: Volumes | None = None,
        family: str = "",
        place: str = "",
        log: Callable[[str], None],
        clock: Clock | None = None,
        rules: Rules = reaping.FLEETS,
    ) -> None:
        """Name what it works on.

        :param balancer: the fleet's; None for throw-away instances, which no traffic reaches.
        :param volumes: the platform, if the fleet has data volumes: what has one is left to a rollout.
        :param family: the image family whose throw-away instances they are, and ``place`` the platform's name.
        """
        self.platform = watchful(platform)
        self.balancer = watchful(balancer) if balancer is not None else None
        self.volumes = watchful(volumes) if volumes is not None else None
        self.catalog = catalog
        self.fleet = fleet
        self.slots = frozenset(slots or ())
        self.family = family
        self.log = log
        self.clock: Clock = clock or SystemClock()
        self.rules = rules
        self.subject = f"fleets/{fleet}/reaper/{f'{family}/{place}/' if family else ''}"

    def look(self) -> Reaped:
        """What a run would find now; touches nothing and writes nothing, so it is also the dry run.

        :raises Blind: there is no complete view, or what was listed cannot be true.
        """
        found, memory, _ = self._look()
        return Reaped(self.fleet, found, news=self._news(found, memory))

    def run(self, *, actor: str, reason: str) -> Reaped:
        """Look, remember what was found, and terminate what is due, exactly that; safe to run again after a crash.

        :raises Blind: there is no complete view, or what was listed cannot be true; nothing was touched.
        """
        found, memory, seen = self._look()
        news = self._news(found, memory)
        self._settle()
        missing, trouble = forgetting.forget(self, seen, memory.get("missing", {}))
        payload = {"reason": reason, **_facts(found), "missing": missing}
        self.catalog.events.append(LOOKED, self.subject, actor, payload)
        told: list[str] = []
        spared: list[tuple[str, str]] = []
        for orphan in found.due if not trouble else ():
            try:
                self._reap(orphan)
                told.append(orphan.instance.name)
            except Spared as why:
                spared.append((orphan.instance.name, str(why)))
            except PhoenixError as error:
                # Whatever went wrong may go wrong with the others too, and none of them is in a hurry.
                trouble = f"{orphan.instance.name}: {plain(error)}"
                break
        done = Reaped(self.fleet, found, tuple(told), tuple(spared), trouble, news)
        for line in done.lines():
            self.log(line)
        return done

    # Looking

    def _look(self) -> tuple[Reaping, dict[str, Any], Observed]:
        # In this order: what is born after the listing is not in it, and what is in it was written down before.
        if self.balancer is not None:
            seen = observe(self.platform, self.balancer, self.fleet)
        else:
            seen = Observed(tuple(self.platform.list_instances(self.fleet)))
        inventory = self._inventory(seen)
        kept = self.catalog.events.list_events(self.subject, limit=1)
        memory: dict[str, Any] = {"at": kept[0].at, **kept[0].payload} if kept else {}
        now = self.clock.now()
        if self.balancer is None:
            return reaping.decide_throwaways(seen.instances, inventory, _memory(memory), now), memory, seen
        return reaping.decide(seen, inventory, _memory(memory), now, self.rules), memory, seen

    def _inventory(self, seen: Observed) -> Inventory:
        known = self.catalog.reaping.launches(each.token for each in seen.instances)
        alive, in_hand = set[str](), frozenset[str]()
        if self.family and (image := self.catalog.images.in_flight(self.family)) is not None:
            alive.add(image.run)
        rollout = self.catalog.rollouts.current(self.fleet)
        if rollout is not None:
            alive.add(rollout.purpose)
            in_hand = frozenset(each.slot for each in self.catalog.rollouts.slots(rollout.id))
        return Inventory(
            fleet=self.fleet,
            family=self.family,
            slots=self.slots,
            launches={token: Launch(*parts) for token, parts in known.items()},
            alive=frozenset(alive),
            in_hand=in_hand,
            placed=self.catalog.reaping.placed(self.fleet),
        )

    @staticmethod
    def _news(found: Reaping, memory: Mapping[str, Any]) -> tuple[str, ...]:
        before = {*memory.get("strangers", ()), *memory.get("left", ())}
        return tuple(name for name, _ in (*found.strangers, *found.left) if name not in before)

    # Acting

    def _reap(self, orphan: Orphan) -> None:
        """Tell it to terminate, out of the balancer first. :raises Spared: it is left alone for now."""
        instance, status = self._read_again(orphan)
        self._check_data(instance)
        if self.balancer is not None and status.state is not Backend.ABSENT:
            self._take_out(orphan, instance, self.balancer)
            instance, status = self._read_again(orphan)
            if status.state is not Backend.ABSENT:
                raise Spared(f"the balancer still knows it: {status.state}")
        try:
            self._reap_by("terminate", orphan, lambda: self.platform.terminate(instance.id))
        except NotFound as error:
            raise Spared(plain(error)) from error

    def _check_data(self, instance: Instance) -> None:
        """Return if it has no data volume. :raises Spared: it has one, which a rollout gives back in order."""
        for each in self.volumes.list_volumes(self.fleet) if self.volumes is not None else ():
            if each.attached_to == instance.id:
                raise Spared(f"the data volume {each.label} is at it")

    def _take_out(self, orphan: Orphan, instance: Instance, balancer: Balancer) -> None:
        self._reap_by("drain", orphan, lambda: balancer.drain(instance))
        _, status = self._read_again(orphan)
        if status.connections:
            raise Spared(f"{status.connections} connections are open on it")
        try:
            self._reap_by("remove", orphan, lambda: balancer.remove(instance))
        except InUse as error:
            raise Spared(plain(error)) from error

    def _read_again(self, orphan: Orphan) -> tuple[Instance, BackendStatus]:
        """The orphan and what the balancer says of it, read now. :raises Spared: it may not be taken any more."""
        wanted = Identity.of(orphan.instance)
        instance = gone.see(self.platform, wanted.id)
        if instance is None:
            raise Spared("it is not to be seen, so nothing is known of it")
        if difference := wanted.difference(instance):
            raise Spared(f"what stands there is another one: {difference}")
        if instance.state in (InstanceState.STOPPING, InstanceState.GONE):
            raise Spared(f"it is {instance.state} already")
        if self.balancer is None:
            return instance, BackendStatus(Backend.ABSENT)
        status = self._status(instance)
        if status.state in SERVING:
            raise Spared(f"it is {status.state} at the balancer")
        witness = gone.see(self.platform, orphan.witness)
        alone = witness is None or witness.slot != instance.slot or witness.state is not InstanceState.RUNNING
        if alone or witness is None or self._status(witness).state is not Backend.HEALTHY:
            raise Spared(f"nothing else is in service in {instance.slot} any more")
        return instance, status

    def _status(self, instance: Instance) -> BackendStatus:
        assert self.balancer is not None  # noqa: S101 (asked for fleets alone)
        try:
            return self.balancer.state(instance)
        except NotOurs:
            # Somebody else's server has its name there, so whatever it says is not about this instance.
            return BackendStatus(Backend.ABSENT)

    def _reap_by(self, action: Action, orphan: Orphan, call: Callable[[], None]) -> None:
        machine = Identity.of(orphan.instance)
        purpose = self.catalog.reaping.launches([machine.token])[machine.token][0]
        self.act(action, machine, purpose, orphan.reason, call)

    def act(self, action: Action, machine: Identity, purpose: str, why: str, call: Callable[[], None]) -> None:
        """Intent, call, outcome. :raises Spared: a rollout or the rate limit forbids it; nothing was called."""
        params = {**machine.params(), "fleet": self.fleet, "launched_at": machine.launched_at}
        try:
            intent = self.catalog.reaping.begin(
                action, machine.id, params, purpose=purpose, per_hour=self.rules.per_hour
            )
        except (Refused, Busy) as error:
            raise Spared(plain(error)) from error
        self.log(f"{machine.name}: {action}: {why}")
        try:
            call()
        except PhoenixError as error:
            outcome: Outcome = "unknown" if may_have_happened(error) else "failed"
            self.catalog.intents.outcome(intent.id, outcome, {"error": type(error).__name__, "message": str(error)})
            raise
        self.catalog.intents.outcome(intent.id, "done", {})

    def _settle(self) -> None:
        """Give the intents of a run that died, or did not hear the reply, the outcome that can be seen now.

        Those that a cancelled rollout left, too: no later one need have anything to do in their slots.
        """
        pending.settle_left(self, self.catalog, self.fleet, self.log)
        for intent in self.catalog.reaping.pending(self.fleet):
            kept = intent.result.get("missing_since")
            since = datetime.fromisoformat(kept) if kept else None
            try:
                now = self.clock.now()
                look = gone.look(self.platform, self.fleet, intent.target, missing_since=since, seen=True, now=now)
            except (TransientError, NotOurs):
                continue  # it stays open: the next run looks again
            going = look.instance is not None and look.instance.state is InstanceState.STOPPING
            result: dict[str, Any] = {"seen_later": look.message}
            if look.missing_since is not None:
                result["missing_since"] = look.missing_since.isoformat()
            self.catalog.intents.outcome(intent.id, "done" if look.gone or going else "unknown", result)


def _facts(found: Reaping) -> dict[str, Any]:
    """What the next run, and an auditor, must know of a look."""
    return {
        "orphans": {
            each.instance.id: {
                "name": each.instance.name,
                "token": each.instance.token,
                "since": each.since.isoformat(),
                "reason": each.reason,
            }
            for each in found.orphans
        },
        "due": [each.instance.name for each in found.due],
        "strangers": [name for name, _ in found.strangers],
        "left": [name for name, _ in found.left],
        "refused": found.refused,
    }


def _memory(kept: Mapping[str, Any]) -> Memory:
    if not kept:
        return Memory()
    orphans = kept.get("orphans", {}).items()
    since = {(key, each["token"]): datetime.fromisoformat(each["since"]) for key, each in orphans}
    return Memory(kept["at"], since)
