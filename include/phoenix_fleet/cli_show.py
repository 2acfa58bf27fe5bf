"""What the command line prints of records: tables for people, plain data for programs."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from phoenix_fleet import cli_pace
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.errors import NotFound
from phoenix_fleet.domain.fleets import Plan
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.waits import Wait
from phoenix_fleet.rollout.waits import waits_of

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import RolloutRecord, SlotRecord

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")
_STYLES = {
    "done": "green", "released": "green", "running": "cyan", "open": "cyan", "waiting": "",
    "halted": "bold red", "failed": "bold red", "rejected": "red", "revoked": "red", "cancelled": "yellow",
}  # fmt: skip


def clean(text: object) -> str:
    """The text in one line, unable to steer a terminal."""
    return _CONTROL.sub(" ", str(text)).strip()


def console(*, stderr: bool = False) -> Console:
    """Where to print; wide where nobody's window limits it, so that nothing is cut in a pipe."""
    found = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, soft_wrap=True, width=240)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of texts, states in their colours."""
    found = Table(title=Text(clean(title)), title_justify="left", header_style="bold")
    for name in header:
        found.add_column(name, overflow="fold")
    for row in rows:
        found.add_row(*(Text(clean(cell), style=_STYLES.get(str(cell).split(" ")[0], "")) for cell in row))
    return found


def fleet_status(catalog: Catalog, name: str, fleet: Fleet | None, now: datetime) -> dict[str, Any]:
    """How a fleet stands by the catalog: its newest release, its last rollout and every replacement in it.

    ``fleet`` is its file, None where that cannot be read.

    :raises NotFound: if neither a file nor a rollout of that name is known.
    """
    rollouts = catalog.rollouts.list_rollouts(name)
    if fleet is None and not rollouts:
        raise NotFound(f"There is no fleet '{name}': no file and no rollout has that name.")
    last = rollouts[0] if rollouts else None
    family = fleet.family if fleet else rollouts[0].family
    released = catalog.blocks.newest_good(name, family)  # a blocked one is not what the fleet is to have
    slots = catalog.rollouts.slots(last.id) if last else []
    waits = {each.slot: each for each in (waits_of(catalog, last, slots, now) if last else ())}
    completed = next((each for each in rollouts if each.state == "done"), None)
    return {
        "fleet": name,
        "family": family,
        "size": fleet.size if fleet else None,
        "release": str(released.version) if released else None,
        "release_age_days": _days(now, released.created_at) if released else None,
        "completed": _completed(completed, now),
        "outdated": bool(released and (completed is None or completed.version < released.version)),
        "max_age_days": fleet.max_age / timedelta(days=1) if fleet else None,
        "rollout": _rollout(last) if last else None,
        "forecast": cli_pace.forecast_data(catalog, last, now),
        "waived": {each.slot: str(each) for each in fleet.waivers if now < each.ends} if fleet else {},
        "slots": [_slot(each, waits.get(each.slot)) for each in slots],
        "queue": _queue(catalog, name),
        "blocked": _blocks(catalog, name),
    }


def trigger_command(fleet: str, conf: dict[str, Any]) -> str:
    """How to start the run of the fleet's DAG that carries this out, for whoever reads it in a terminal."""
    return f"Now start: airflow dags trigger fleet.{fleet} --conf {shlex.quote(json.dumps(conf))}"


def _queue(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    return [
        {"run": each.run, "version": str(each.version), "kind": str(each.kind), "since": _moment(each.queued_at)}
        for each in catalog.queue.waiting(name)
    ]


def _blocks(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    return [
        {"version": str(each.version), "by": each.actor, "reason": each.reason, "at": _moment(each.at)}
        for each in catalog.blocks.list_blocks(name)
    ]


def _completed(rollout: RolloutRecord | None, now: datetime) -> dict[str, Any] | None:
    if rollout is None:
        return None
    return {
        "rollout": rollout.id,
        "version": str(rollout.version),
        "at": _moment(rollout.closed_at),
        "age_days": _days(now, rollout.closed_at),
    }


def _rollout(rollout: RolloutRecord) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "state": str(rollout.state),
        "version": str(rollout.version),
        "window": str(rollout.window),
        "run": rollout.run,
        "actor": rollout.actor,
        "reason": rollout.reason,
        "opened_at": _moment(rollout.opened_at),
        "closed_at": _moment(rollout.closed_at),
        "kind": str(rollout.kind),
        "undoes": rollout.undoes,
        "deadline": _moment(rollout.deadline),
        "paused_by": rollout.paused_by or None,
        "paused_reason": rollout.paused_reason or None,
        "halted_slot": rollout.halted_slot or None,
        "halted_step": str(rollout.halted_step) if rollout.halted_step else None,
        "halted_reason": rollout.halted_reason or None,
        "halted_by": rollout.halted_by or None,
        "resumed_by": rollout.resumed_by or None,
    }


def _slot(slot: SlotRecord, wait: Wait | None) -> dict[str, Any]:
    return {
        "seq": slot.seq,
        "slot": slot.slot,
        "wave": slot.wave,
        "state": str(slot.state),
        "step": str(slot.step) if slot.step else None,
        "attempt": slot.attempt,
        "reason": slot.reason,
        "message": slot.message or None,
        "old_instance": slot.old_instance or None,
        "new_instance": slot.new_instance or None,
        "seconds": slot.seconds,
        **_wait(wait),
    }


def _wait(wait: Wait | None) -> dict[str, Any]:
    """Why a slot waits, and in how many seconds it will begin; nothing for one that does not wait."""
    begins = wait.begins_in if wait else None
    return {
        "waits": wait.reason if wait else None,
        "begins_in_seconds": round(begins.total_seconds()) if begins is not None else None,
    }


def _when(data: dict[str, Any]) -> str:
    """When a waiting slot begins, for people."""
    if data["waits"] is None:
        return ""
    seconds = data["begins_in_seconds"]
    if seconds is None:
        return "nobody can tell"
    return "now" if not seconds else f"in about {_length(seconds)}"


def _length(seconds: int) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{seconds} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"


def status_tables(status: dict[str, Any]) -> list[Table]:
    """One fleet's status for people."""
    rollout, completed = status["rollout"], status["completed"]
    facts = [
        (
            "release",
            f"{status['release']} ({status['release_age_days']} days old)" if status["release"] else "none yet",
        ),
        ("last completed", f"{completed['version']} on {completed['at']}" if completed else "never"),
        ("outdated", "yes: the newest release that it may have is not rolled out" if status["outdated"] else "no"),
    ]
    if rollout:
        facts.append(
            ("rollout", f"{rollout['state']} (number {rollout['id']}) to {rollout['version']}{_errand(rollout)}")
        )
        facts.append(("opened", f"{rollout['opened_at']} by {rollout['actor']}: {rollout['reason']}"))
    if rollout and rollout["halted_reason"]:
        where = f"{rollout['halted_slot']} at {rollout['halted_step']}" if rollout["halted_slot"] else ""
        facts.append(("halted", f"{where or rollout['halted_by']}: {rollout['halted_reason']}"))
    if rollout and rollout["paused_by"]:
        facts.append(("paused", f"{rollout['paused_by']}: {rollout['paused_reason']}"))
    behind = f"rollout {rollout['id']}" if rollout and rollout["closed_at"] is None else "its turn"
    facts += [("waits", f"{each['run']} with {each['version']} for {behind}") for each in status["queue"]]
    facts += [("blocked", f"{each['version']} by {each['by']}: {each['reason']}") for each in status["blocked"]]
    if status["forecast"]:
        facts.append(cli_pace.forecast_row(status["forecast"]))
    facts += [(f"waiver {slot}", why) for slot, why in status["waived"].items()]
    tables = [table(status["fleet"], ["", ""], facts)]
    if status["slots"]:
        rows = [
            [each["seq"], each["slot"], each["wave"], each["state"], each["step"] or "", each["reason"],
             each["message"] or "", "" if each["seconds"] is None else f"{each['seconds']:.1f}", each["waits"] or "",
             _when(each)]
            for each in status["slots"]
        ]  # fmt: skip
        tables.append(
            table("", ["#", "slot", "wave", "state", "step", "why", "message", "seconds", "waits", "begins"], rows)
        )
    return tables


def _errand(rollout: dict[str, Any]) -> str:
    if rollout["undoes"] is not None:
        return f", rolling back number {rollout['undoes']}"
    return f", an emergency, to be over by {rollout['deadline']}" if rollout["deadline"] else ""


def images(found: Sequence[Image]) -> list[dict[str, Any]]:
    """Images as plain data, in the order given."""
    return [
        {
            "version": str(each.version),
            "rung": str(each.rung),
            "created_at": _moment(each.created_at),
            "digests": {name: artefact.digest for name, artefact in sorted(each.artefacts.items())},
            "reason": each.reason or None,
        }
        for each in found
    ]


def image_table(family: str, found: Sequence[dict[str, Any]]) -> Table:
    """Images for people."""
    rows = [
        [each["version"], each["rung"], each["created_at"],
         ", ".join(f"{name} {digest}" for name, digest in each["digests"].items()), each["reason"] or ""]
        for each in found
    ]  # fmt: skip
    return table(family, ["version", "rung", "created", "digests", "reason"], rows)


def plan_data(fleet: str, image: Image, plan: Plan, waits: Sequence[Wait] = ()) -> dict[str, Any]:
    """A plan as plain data; ``waits`` says why each of its slots would wait, and how long."""
    told = {each.slot: each for each in waits}
    return {
        "fleet": fleet,
        "version": str(image.version),
        "replace": [
            {
                "slot": each.slot,
                "wave": each.wave,
                "reason": each.reason,
                "old_instance": each.old_instance or None,
                **_wait(told.get(each.slot)),
            }
            for each in plan.slots
        ],
        "up_to_date": dict(plan.up_to_date),
        "refused": dict(plan.refusals),
        "waived": dict(plan.waived),
        "strays": dict(plan.strays),
    }


def plan_table(data: dict[str, Any]) -> Table:
    """A plan for people."""
    rows: list[list[object]] = [
        [each["slot"], "replace", each["wave"], each["reason"], each["old_instance"] or "", each["waits"] or "",
         _when(each)]
        for each in data["replace"]
    ]  # fmt: skip
    for key, word in (("up_to_date", "leave"), ("waived", "leave"), ("refused", "refuse"), ("strays", "stray")):
        rows += [[name, word, "", why, "", "", ""] for name, why in data[key].items()]
    title = f"{data['fleet']} to {data['version']}: {len(data['replace'])} replacements"
    return table(title, ["slot", "what", "wave", "why", "instance", "waits", "begins"], rows)


def _moment(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else None


def _days(now: datetime, then: datetime | None) -> float | None:
    return round((now - then) / timedelta(days=1), 1) if then else None
