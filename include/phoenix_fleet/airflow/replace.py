"""One task instance, one replacement: draws a ticket from the catalog and drives the engine step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from phoenix_fleet.airflow import notify, world
from phoenix_fleet.airflow.process import LeaseKeeper, die_with_parent, end_now, lease
from phoenix_fleet.airflow.triggers import PauseTrigger
from phoenix_fleet.domain.errors import Busy, Fenced, PhoenixError

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.rollout.engine import Engine

DEFER_FROM = timedelta(seconds=30)
"""A worker holds shorter waits itself; longer ones are deferred (a deferral costs about 3 s)."""


def _link(context: Any) -> str:
    return getattr(context["ti"], "log_url", "") or ""


class ReplaceOperator(BaseOperator):
    """Replaces the next machines of a wave, one after another, each waiting on the previous one.

    Which machine that is the catalog says, not Airflow: the ticket is for the lowest slot not done. What Airflow
    does out of order, twice, or after a failure is thereby refused, and a refusal is a failure with its reason.
    """

    template_fields: Sequence[str] = ("batch",)

    def __init__(self, *, fleet: str, wave: int, batch: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fleet = fleet
        self.wave = wave
        self.batch = batch

    def execute(self, context: Any) -> list[str]:
        """The slots that this task replaced, in order."""
        die_with_parent()
        catalog = world.catalog()
        done: list[str] = []
        try:
            engine = self._engine(catalog, context)
            while self.batch["last"] or len(done) < self.batch["count"]:
                slot = self._replace_next(engine, catalog, context)
                if slot is None:
                    break
                done.append(slot)
        finally:
            catalog.close()
        return done

    def resume_after_pause(self, context: Any, event: dict[str, Any]) -> list[str]:
        """Go on after a deferred wait; the same holder draws the same ticket again."""
        return self.execute(context)

    def on_kill(self) -> None:
        """End at once: a clear, a state set by hand, or the death of the supervisor."""
        end_now()

    def _engine(self, catalog: Catalog, context: Any) -> Engine:
        from phoenix_fleet.rollout.engine import engine_for

        return engine_for(
            world.project(),
            catalog,
            world.connections,
            rollout_id=self.batch["rollout"],
            log=self.log.info,
            workdir=world.workdir(context),
        )

    def _replace_next(self, engine: Engine, catalog: Catalog, context: Any) -> str | None:
        ticket = self._draw(engine, catalog, context)
        if ticket is None:
            self.log.info("Nothing is left to replace in this wave.")
            return None
        context["label"] = context["machine"] = ticket.slot
        self.log.info("%s: ticket %s of rollout %s, step %s", ticket.slot, ticket.token, ticket.rollout_id, ticket.step)
        try:
            with LeaseKeeper(catalog, ticket, lease()):
                return self._bring_to_its_end(engine, catalog, ticket, context)
        except Exception:
            # This try ends here: whoever goes on, the next try or one after a resume, need not wait out its lease.
            with suppress(PhoenixError):
                catalog.rollouts.give_back(ticket)
            raise

    def _bring_to_its_end(self, engine: Engine, catalog: Catalog, ticket: Any, context: Any) -> str:
        while True:
            progress = engine.advance(ticket)
            context["step"] = str(progress.step)
            self.log.info("%s: %s: %s", ticket.slot, progress.step, progress.message)
            if progress.alarm is not None:
                notify.tell(engine.fleet.owners, notify.deadline_alert(engine.fleet, progress.alarm, _link(context)))
                engine.pacer.told(progress.alarm)
            if progress.state == "done":
                return str(ticket.slot)
            if progress.state == "waiting":
                self._pause(catalog, ticket, progress.check_after)

    def _pause(self, catalog: Catalog, ticket: Any, wait: timedelta) -> None:
        if wait < DEFER_FROM:
            time.sleep(wait.total_seconds())
            return
        catalog.rollouts.renew(ticket, wait + lease())
        self.defer(trigger=PauseTrigger(wait.total_seconds()), method_name="resume_after_pause")

    def _tell_turn(self, catalog: Catalog) -> None:
        """Log what the first of this batch's slots waits for, and about how long; that is for people alone."""
        from phoenix_fleet.rollout.waits import told_of

        told = told_of(catalog, self.batch["rollout"], self.batch["label"].split("…")[0])
        if told:
            self.log.info("%s", told)

    def _draw(self, engine: Engine, catalog: Catalog, context: Any) -> Any:
        """A ticket; waits for one's turn for as long as a dead holder's lease can last.

        :raises Halted: if the rollout is halted.
        :raises Busy: if the turn does not come: another holder is alive and at it.
        """
        ti = context["ti"]
        holder = f"{ti.run_id}/{ti.task_id}/{ti.map_index}/{ti.try_number}"
        # Until it has a ticket it goes by the name that it was planned for: a refusal has a name too.
        context["label"] = context["machine"] = self.batch["label"]
        context["step"] = "turn"
        held = lease()
        give_up = time.monotonic() + 2 * held.total_seconds()
        said = ""
        while True:
            try:
                return catalog.rollouts.claim(
                    self.batch["rollout"],
                    self.wave,
                    holder,
                    lease=held,
                    max_in_flight=engine.in_flight_limit()[0],
                )
            except (Busy, Fenced) as error:
                if time.monotonic() > give_up:
                    raise
                if str(error) != said:
                    said = str(error)
                    self.log.info("%s waits: %s", self.batch["label"], said)
                    self._tell_turn(catalog)
                time.sleep(1)
