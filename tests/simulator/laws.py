"""The invariants, judged by the truth of the fake world and never by what reads show.

What an engine cannot have seen yet is no fault of its: reads lag by ``blur`` seconds, or its process stood still for
so long. Harm done by others within that time is left out; what the engine itself did counts at once.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.models import Backend
from phoenix_fleet.rollout.planning import brake_of, shape_of
from tests.simulator.datacentre import DataCentre, Machine

if TYPE_CHECKING:
    from phoenix_fleet.catalog.records import Ticket

TAKING = ("drain", "remove", "terminate")


class Violation(BaseException):
    """An invariant does not hold. Nothing of the engine may catch it, so it is no ``Exception``."""


@dataclass
class Actor:
    """Who makes a call: the ticket it holds and how long it stood still during this step, in seconds."""

    name: str
    ticket: Ticket | None = None
    paused: float = 0.0


class Laws:
    """I1 to I27, as far as they can be judged at one call, at one step or at rest."""

    def __init__(self, world: DataCentre, fleet: Fleet, raw: sqlite3.Connection) -> None:
        self.world = world
        self.fleet = fleet
        self.raw = raw
        self.shape = shape_of(fleet)
        self.brake = brake_of(fleet)
        self.budget = self.shape.budget
        self.floor = max(1, self.shape.size - min(self.shape.size, self.budget.max_unavailable))
        self.target, self.digest = "", ""
        self.revoked_at: float | None = None
        self.excused: frozenset[str] = frozenset()
        self.blurred = 0.0
        """How far what reads show may lag behind the truth now."""
        self.outsiders: set[str] = set()
        """Ids of machines that carry the fleet's marks and that no engine launched."""
        self.ended: set[str] = set()
        """Ids of machines that an engine has told to terminate."""

    def aim(self, version: str, digest: str, unfilled: frozenset[str]) -> None:
        """A rollout of that release has opened, with those slots empty."""
        if version != self.target:
            self.revoked_at = None
        self.target, self.digest, self.excused = version, digest, unfilled

    # At every call that changes something

    def at_call(self, actor: Actor, method: str, subject: str, machine: Machine | None) -> None:
        """The call may be made, by everything that is true now."""
        ticket = actor.ticket
        _hold(ticket is not None, "I14", f"{actor.name} calls {method} without a ticket")
        assert ticket is not None
        self._on_record(actor, method, subject)
        blur = self.blurred + actor.paused
        if machine is not None:
            self._ours(actor, method, machine, blur)
        if method != "admit":
            self._no_meltdown(actor, method, blur)
        if method == "launch":
            self._may_launch(blur)
        elif method in TAKING and machine is not None:
            self._may_take(actor, method, machine, blur)
        if method == "terminate":
            self.ended.add(subject)

    def _on_record(self, actor: Actor, method: str, subject: str) -> None:
        """I7, I14, I27: open, newest ticket, and an intent on record, all in the catalog itself."""
        ticket = actor.ticket
        assert ticket is not None
        column = "token" if method == "launch" else "target"
        pending = self.raw.execute(
            f"SELECT count(*) FROM intents WHERE purpose = ? AND action = ? AND {column} = ? AND outcome IS NULL",  # noqa: S608
            (f"rollout-{ticket.rollout_id}", method, subject),
        ).fetchone()[0]
        _hold(pending >= 1 or actor.paused > 0, "I27", f"{method} {subject} has no intent on record")
        if actor.paused:
            return  # between the intent and the call others may have gone on; tokens and identities cover that
        state, token, holder = self.raw.execute(
            "SELECT r.state, s.token, s.holder FROM rollouts r JOIN slots s ON s.rollout_id = r.id "
            "WHERE r.id = ? AND s.seq = ?",
            (ticket.rollout_id, ticket.seq),
        ).fetchone()
        _hold(state == "open", "I7", f"{method} {subject} although the rollout is {state}")
        _hold((token, holder) == (ticket.token, ticket.holder), "I14", f"{method} {subject} with a stale ticket")

    def _ours(self, actor: Actor, method: str, machine: Machine, blur: float) -> None:
        """I8, I12: only what carries our marks, in the slot whose ticket is held, or left over where nobody is."""
        assert actor.ticket is not None
        if machine.marks_since > self.world.at - blur - 1e-6:
            return
        now = machine.now
        mine = machine.ours and now.fleet == self.fleet.name
        _hold(mine, "I8", f"{method} {now.name}, which is not ours")
        if now.slot != actor.ticket.slot:
            spare = self._is_left_over(actor, method, machine, blur)
            _hold(spare, "I12", f"{method} {now.name} with the ticket of {actor.ticket.slot}")

    def _is_left_over(self, actor: Actor, method: str, machine: Machine, blur: float) -> bool:
        """Whether another one is beside it, no newcomer, which serves if it does itself, and nobody else is at it.

        Where the replacement is done, what runs another release is left over beside one on it that serves.
        """
        assert actor.ticket is not None
        now, serving = machine.now, self.world.serving
        serves = now.id in serving and machine.seen[-1][0] <= self.world.at - blur
        at_it, done, newcomers = False, False, set()
        for number, new, state in self.raw.execute(
            "SELECT s.seq, s.new_instance, s.state FROM slots s JOIN rollouts r ON r.id = s.rollout_id "
            "WHERE r.state = 'open' AND s.slot = ? AND s.state IN ('running', 'done')",
            (now.slot,),
        ):
            if number != actor.ticket.seq:
                at_it, done = at_it or state == "running", done or state == "done"
            newcomers.add(new)
        if done and not at_it:
            stays = any(
                each.now.slot == now.slot and each.now.version == self.target and each.now.id in serving
                for each in self.world.roster.values()
            )
            return method in TAKING and now.version != self.target and (stays or blur > 0)
        beside = any(
            each is not machine
            and each.now.slot == now.slot
            and each.now.state.value != "gone"
            and each.now.id not in newcomers
            and (not serves or each.now.id in serving)
            for each in self.world.roster.values()
        )
        return method in TAKING and beside and (not at_it or blur > 0)

    def _no_meltdown(self, actor: Actor, method: str, blur: float) -> None:
        """I26: nothing is touched while too much of the fleet is out of service."""
        if self.shape.size == 1:
            return
        dark = [slot for slot in self.shape.slots if not self.world.lit[slot] and slot not in self.excused]
        if len(dark) <= self.brake.most:
            return
        meant = {each.now.slot for each in self.world.roster.values() if each.served and each.down_by_us}
        recent = {each.now.slot for each in self._harmed(blur)}
        dark = [slot for slot in dark if slot not in recent and not (slot in meant and not self.budget.max_surge)]
        on = len(dark) > self.brake.most and len(dark) >= min(self.brake.at_least, self.shape.size)
        _hold(not on, "I26", f"{method} by {actor.name} while {len(dark)} of {self.shape.size} are out of service")

    def _harmed(self, blur: float) -> list[Machine]:
        """Machines that others took out of service so recently that no read shows it yet."""
        since = self.world.at - blur
        return [
            each
            for each in self.world.roster.values()
            if each.served
            and not each.down_by_us
            and each.down_since >= since
            and each.now.id not in self.world.serving
        ]

    def _may_launch(self, blur: float) -> None:
        """I24, I6: released, and never a wave before the one before it is done."""
        if self.revoked_at is not None:
            late = self.world.at - self.revoked_at > blur
            _hold(not late, "I24", "a launch from a release that was revoked")
        behind = self.raw.execute(
            "SELECT count(*) FROM slots a JOIN slots b ON a.rollout_id = b.rollout_id AND b.wave < a.wave "
            "JOIN rollouts r ON r.id = a.rollout_id "
            "WHERE r.state = 'open' AND a.state = 'running' AND b.state != 'done'"
        ).fetchone()[0]
        _hold(not behind, "I6", "a replacement is under way while an earlier wave is not done")

    def _may_take(self, actor: Actor, method: str, machine: Machine, blur: float) -> None:
        """I3, I4, I5, I13, I25: the floor, never the last, replace before remove, not the new one, no cut session."""
        world, now = self.world, machine.now
        recent = self._harmed(blur)
        serves = now.id in world.serving
        meant = machine.served and machine.down_by_us and machine.drained_at <= world.at
        # Of one that began to serve a moment ago no read can tell, so nobody can be asked to spare it.
        known = not serves or machine.seen[-1][0] <= world.at - blur
        if (serves and known) or (meant and now.version != self.target):
            left = len(world.serving) - serves + len(recent)
            _hold(left >= self.floor, "I3", f"{method} {now.name}: {left} would serve, and the floor is {self.floor}")
            _hold(left >= 1, "I4", f"{method} {now.name}, the last healthy one")
        if serves and known:
            near = world.by_zone[now.zone] - 1 + sum(each.now.zone == now.zone for each in recent)
            _hold(not now.zone or near >= 1, "I4", f"{method} {now.name}, the last healthy one in {now.zone}")
            if now.version != self.target and self.budget.max_surge:
                self._replaced(actor, method, machine, blur)
        if now.version == self.target and method == "terminate":
            done = self.raw.execute(
                "SELECT count(*) FROM slots s JOIN rollouts r ON r.id = s.rollout_id "
                "WHERE r.state = 'open' AND s.slot = ? AND s.state = 'done'",
                (now.slot,),
            ).fetchone()[0]
            _hold(not done, "I13", f"{method} {now.name}, which has come to stay")
        if method == "terminate" and machine.connections and world.balanced:
            waited = world.at - machine.drained_at
            forced = self.fleet.drain.policy == "force" or now.version == self.target
            enough = waited >= self.fleet.drain.limit.total_seconds() - 1e-6
            _hold(
                forced and enough, "I25", f"{method} {now.name} cuts {machine.connections} sessions at {waited:.0f} s"
            )

    def _replaced(self, actor: Actor, method: str, machine: Machine, blur: float) -> None:
        """I5: its replacement runs the certified image and was healthy for the watch time, or it is one too many."""
        world = self.world
        if self._is_left_over(actor, method, machine, blur):
            return
        for each in world.roster.values():
            if each.now.slot != machine.now.slot or each.now.version != self.target or each is machine:
                continue
            healthy = each.status is Backend.HEALTHY or each.down_since >= world.at - blur
            if healthy and each.now.digest == self.digest:
                since = next((at for at, word in reversed(each.seen) if word is Backend.HEALTHY), world.at)
                long = world.at - since + blur >= self.fleet.watch_time.total_seconds() - 1e-6
                if long or each.now.id in self.outsiders:
                    return
        _hold(False, "I5", f"{method} {machine.now.name} before its replacement has proven itself")

    # After every step

    def after_step(self) -> None:
        """I1, I2: never more machines than may be."""
        living, most = self.world.living, self.shape.size + self.budget.max_surge
        if living <= most:
            return
        hand = sum(
            each.now.state.value != "gone" and each.now.fleet == self.fleet.name and each.ours
            for key in sorted(self.outsiders)
            if (each := self.world.machines[key])
        )
        _hold(living - hand <= most, "I2", f"{living} machines live, {hand} of them by hand, and {most} may")

    # At rest

    def at_rest(self, refused: frozenset[str]) -> None:
        """I9, I16: every slot has exactly one machine, on the release, in service; the balancer knows nobody else.

        ``refused`` are slots that the plan itself says can get no replacement.
        """
        world = self.world
        standing: dict[str, list[str]] = {}
        moved = set[str]()
        for each in world.machines.values():
            if each.ours and each.now.fleet == self.fleet.name and each.now.state.value != "gone":
                standing.setdefault(each.now.slot, []).append(each.now.version)
                if each.marks_since > 0 or each.now.id in self.outsiders:
                    moved.add(each.now.slot)
        wrong = {slot: found for slot, found in sorted(standing.items()) if found != [self.target]}
        wrong = {slot: found for slot, found in wrong.items() if not (slot in refused and len(found) == 1)}
        # By I13 nobody takes what serves on the release; that somebody put two into one slot is for the audit to tell.
        wrong = {slot: found for slot, found in wrong.items() if not (slot in moved and set(found) == {self.target})}
        missing = [slot for slot in self.shape.slots if slot not in standing]
        _hold(not wrong and not missing, "I9", f"at rest there are {wrong}, and nothing in {missing}")
        _hold(len(world.serving) >= self.shape.size, "I16", f"only {sorted(world.serving)} serve at rest")
        # Servers of machines that others ended are for the audit to find: no engine has ever held them.
        # Those of machines that a cancelled rollout had ended are for the reaper (tests/rollout/test_reaper.py).
        cut_short = {
            target
            for (target,) in self.raw.execute(
                "SELECT i.target FROM intents i JOIN rollouts r ON r.id = i.rollout_id "
                "JOIN slots s ON s.rollout_id = r.id AND s.slot = i.slot "
                "WHERE i.action = 'terminate' AND r.state = 'cancelled' AND s.state != 'done'"
            )
        }
        ended = [world.machines[key] for key in sorted(self.ended - cut_short)]
        known = [
            each.now.name for each in ended if each.server is not Backend.ABSENT and each.now.state.value == "gone"
        ]
        _hold(not known or not world.balanced, "I9", f"the balancer still knows {known}")

    def journals(self, calls: list[tuple[str, str, str]]) -> None:
        """I21, I27: what was called is what was meant, and every intent has an outcome, at last a known one."""
        rows = self.raw.execute(
            "SELECT i.purpose, i.action, i.target, i.token, i.outcome, r.state "
            "FROM intents i JOIN rollouts r ON r.id = i.rollout_id"
        ).fetchall()
        meant = {
            (purpose, action, token if action == "launch" else target) for purpose, action, target, token, *_ in rows
        }
        stray = [call for call in calls if call not in meant]
        _hold(not stray, "I27", f"calls without an intent: {stray[:3]}")
        lost = [
            (action, target)
            for _, action, target, _, outcome, state in rows
            if outcome is None or (outcome, state) == ("unknown", "done")
        ]
        _hold(not lost, "I21", f"intents without an outcome: {lost[:3]}")


def _hold(holds: bool, law: str, otherwise: str) -> None:
    if not holds:
        raise Violation(f"{law}: {otherwise}")
