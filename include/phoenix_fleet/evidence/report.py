"""The report of a rollout: what was released, what proved it, who approved it, and every machine with its seconds."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.evidence import pages, sources

DEFAULT_FOLDER = "/var/lib/phoenix-fleet/reports"
_ALL_EVENTS = 1_000_000
_PAUSES = ("slot.failed", "slot.done", "slot.postponed", "slot.gave_way")

StepSeconds = Mapping[str, Mapping[str, float]]
"""Seconds by slot and step, all attempts together."""


@dataclass(frozen=True)
class Report:
    """One report in its three forms."""

    markdown: str
    html: str
    data: Mapping[str, Any]


def write(
    records: sources.Records,
    rollout_id: int,
    *,
    folder: Path | None = None,
    traffic: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Path:
    """Write the rollout's report below ``folder`` as .html, .md and .json; returns the path of the HTML file.

    Writing it again replaces it; a reader never sees half a file.

    :param folder: default: ``PHOENIX_REPORTS``, or ``/var/lib/phoenix-fleet/reports``.
    :param traffic: what was seen of the fleet's clients meanwhile, by name: ``{"requests": 60000, "failed": 0}``.
    :raises NotFound: no such rollout.
    :raises InvalidConfig: the folder cannot be written to.
    """
    rollout = records.rollouts.get(rollout_id)
    about = (rollout.family, rollout.version)
    report = render(
        rollout,
        records.rollouts.slots(rollout_id),
        records.images.get(*about),
        records.measurements.latest(*about),
        records.measurements.certificates(*about),
        records.measurements.approvals(*about),
        history=_history(records.events, rollout),
        traffic=traffic,
        now=now or datetime.now(UTC),
    )
    base = folder or Path(os.environ.get("PHOENIX_REPORTS") or DEFAULT_FOLDER)
    return _save(report, base / rollout.fleet, f"rollout-{rollout.id}")


def render(
    rollout: sources.Rollout,
    slots: Sequence[sources.Slot],
    image: Image,
    measurements: Sequence[sources.Measured],
    certificates: Sequence[sources.Certificate],
    approvals: Sequence[sources.Approval],
    *,
    history: Sequence[sources.Event] = (),
    traffic: Mapping[str, Any] | None = None,
    now: datetime,
) -> Report:
    """The report of what was handed in. No I/O.

    :param history: the events of the rollout and its slots, oldest first.
    """
    steps = step_seconds(history)
    window = _window(rollout, now)
    page = pages.Page(
        title=f"Rollout {rollout.id} of {rollout.fleet} to {rollout.family} {rollout.version}",
        state=f"{rollout.state}: {_count(slots)}",
        mood={"done": "good", "halted": "bad"}.get(str(rollout.state), "plain"),
        facts=_facts(rollout, image, window),
        tables=[
            _machines(slots, steps),
            *_halts(history),
            _tests(measurements),
            _proofs(certificates),
            _answers(approvals),
            *_seen(traffic),
        ],
    )
    data = _data(rollout, slots, image, measurements, certificates, approvals, steps=steps, window=window)
    return Report(pages.to_markdown(page), pages.to_html(page), {**data, "traffic": dict(traffic or {})})


def step_seconds(history: Iterable[sources.Event]) -> dict[str, dict[str, float]]:
    """How long each slot was at each step, in seconds, from its events, oldest first."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    since: dict[str, tuple[str, datetime]] = {}
    for event in history:
        if not event.kind.startswith("slot."):
            continue
        slot = event.subject.rsplit("/", 1)[-1]
        if slot in since:
            step, start = since[slot]
            found[slot][step] += (event.at - start).total_seconds()
            since[slot] = (step, event.at)
        if event.kind == "slot.step":
            since[slot] = (str(event.payload.get("step")), event.at)
        elif event.kind in _PAUSES:
            since.pop(slot, None)
    return {slot: dict(each) for slot, each in found.items()}


def _history(events: sources.Events, rollout: sources.Rollout) -> list[sources.Event]:
    subject = f"fleets/{rollout.fleet}/rollouts/{rollout.id}"
    newest_first = events.list_events(subject, _ALL_EVENTS)
    return [
        each for each in reversed(newest_first) if each.subject == subject or each.subject.startswith(f"{subject}/")
    ]


def _window(rollout: sources.Rollout, now: datetime) -> str:
    """Whether the refresh window was met: ``met``, ``met late``, ``open`` or ``missed``."""
    if rollout.state == "done" and rollout.closed_at is not None:
        return "met" if rollout.closed_at <= rollout.window.end else "met late"
    return "open" if now <= rollout.window.end else "missed"


def _facts(rollout: sources.Rollout, image: Image, window: str) -> list[tuple[str, str]]:
    digests = [(f"Digest on {name}", artefact.digest) for name, artefact in sorted(image.artefacts.items())]
    ended = f"{_moment(rollout.closed_at)} ({_span(rollout)})" if rollout.closed_at else "not yet"
    return [
        ("Release", f"{image.family} {image.version} ({image.rung})"),
        ("Kind", _kind(rollout)),
        *digests,
        ("Window", f"{rollout.window}, until {_moment(rollout.window.end)}: {window}"),
        ("Opened", f"{_moment(rollout.opened_at)} by {rollout.actor}: {rollout.reason}"),
        ("Ended", ended),
        ("Run", rollout.run),
    ]


def _kind(rollout: sources.Rollout) -> str:
    """What the rollout was for: ``refresh``, ``rollback of rollout 3, away from 2026.11-1``, ``emergency, due …``."""
    undone = f", away from {rollout.undone}" if rollout.undone else ""
    return f"{rollout.kind}{f' of rollout {rollout.undoes}' if rollout.undoes else ''}{undone}" + (
        f", due {_moment(rollout.deadline)}" if rollout.deadline else ""
    )


def _machines(slots: Sequence[sources.Slot], steps: StepSeconds) -> pages.Table:
    order = list(Step)
    taken = [step for step in order if any(str(step) in steps.get(each.slot, {}) for each in slots)]
    rows = [
        [
            str(each.seq),
            each.slot,
            "canary" if each.wave == 0 else str(each.wave),
            f"{each.state} at {each.step}" if each.step and each.state != "done" else str(each.state),
            "" if each.seconds is None else f"{each.seconds:.1f}",
            *(_seconds(steps, each.slot, step) for step in taken),
            each.reason,
            f"{_short(each.old_instance) or 'none'} → {_short(each.new_instance) or 'none'}",
            each.message,
        ]
        for each in slots
    ]
    header = ["#", "Machine", "Wave", "State", "Seconds", *map(str, taken), "Why", "Instances", "Message"]
    note = "In the order they are replaced; seconds in all, then at each step, with all attempts."
    return pages.Table("Machines", header, rows, note if rows else "Every machine was up to date: none was replaced.")


def _seconds(steps: StepSeconds, slot: str, step: Step) -> str:
    seconds = steps.get(slot, {}).get(str(step))
    return "" if seconds is None else f"{seconds:.1f}"


def _halts(history: Sequence[sources.Event]) -> list[pages.Table]:
    rows = [
        [_moment(each.at), each.kind.removeprefix("rollout."), each.actor, _told(each.payload)]
        for each in history
        if each.kind in ("rollout.halted", "rollout.resumed", "rollout.cancelled", "rollout.superseded")
    ]
    return [pages.Table("Halts and decisions", ["When", "What", "Who", "Why"], rows)] if rows else []


def _told(payload: Mapping[str, Any]) -> str:
    where = " at ".join(str(payload[key]) for key in ("slot", "step") if payload.get(key))
    why = str(payload.get("reason") or payload.get("by") or "")
    return f"{where}: {why}" if where else why


def _tests(measurements: Sequence[sources.Measured]) -> pages.Table:
    rows = [
        [
            each.stage,
            each.gate,
            each.subject,
            str(each.verdict),
            each.measurement.error or each.measurement.value,
            _moment(each.at),
            ", ".join(Path(proof).name for proof in each.measurement.artefacts),
        ]
        for each in measurements
    ]
    header = ["Stage", "Gate", "Of", "Verdict", "Measured", "When", "Proof"]
    return pages.Table("Tests of the image", header, rows, "" if rows else "None is on record.")


def _proofs(certificates: Sequence[sources.Certificate]) -> pages.Table:
    rows = [
        [each.component, each.component_version, each.platform, each.digest, str(each.verdict), _moment(each.at)]
        for each in certificates
    ]
    header = ["Component", "Version", "Platform", "On digest", "Verdict", "When"]
    return pages.Table("Certificates", header, rows, "" if rows else "None is on record.")


def _answers(approvals: Sequence[sources.Approval]) -> pages.Table:
    rows = [
        [
            each.responder,
            "approved" if each.approved else "rejected",
            each.reason,
            _moment(each.at),
            ", ".join(f"{name} {digest}" for name, digest in sorted(each.digest_set.items())),
        ]
        for each in approvals
    ]
    header = ["Who", "Answer", "Reason", "When", "About"]
    return pages.Table("Approvals", header, rows, "" if rows else "None is on record.")


def _seen(traffic: Mapping[str, Any] | None) -> list[pages.Table]:
    rows = [[str(name), str(value)] for name, value in (traffic or {}).items()]
    return [pages.Table("Traffic meanwhile", ["What", "Value"], rows)] if rows else []


def _data(
    rollout: sources.Rollout,
    slots: Sequence[sources.Slot],
    image: Image,
    measurements: Sequence[sources.Measured],
    certificates: Sequence[sources.Certificate],
    approvals: Sequence[sources.Approval],
    *,
    steps: StepSeconds,
    window: str,
) -> dict[str, Any]:
    return {
        "rollout": {
            **_pick(
                rollout,
                "id fleet family version window run state actor reason opened_at closed_at kind undoes undone deadline",
            ),
            "window_end": _plain(rollout.window.end),
            "window_outcome": window,
        },
        "image": {
            "rung": str(image.rung),
            "artefacts": {
                name: {"reference": artefact.reference, "digest": artefact.digest}
                for name, artefact in sorted(image.artefacts.items())
            },
        },
        "machines": [
            {
                **_pick(each, "seq slot wave state step attempt reason message old_instance new_instance seconds"),
                "finished_at": _plain(each.finished_at),
                "steps": dict(steps.get(each.slot, {})),
            }
            for each in slots
        ],
        "measurements": [
            {
                **_pick(each, "stage gate subject verdict at"),
                **_pick(each.measurement, "value passed error"),
                "proof": list(each.measurement.artefacts),
            }
            for each in measurements
        ],
        "certificates": [
            _pick(each, "component component_version platform digest verdict at") for each in certificates
        ],
        "approvals": [
            {**_pick(each, "responder approved reason at"), "digests": dict(each.digest_set)} for each in approvals
        ],
    }


def _pick(source: object, names: str) -> dict[str, Any]:
    return {name: _plain(getattr(source, name)) for name in names.split()}


def _plain(value: Any) -> Any:
    """The value as JSON has it; what JSON has not, as its text (versions, windows, verdicts, enumerations)."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    return value if type(value) in (str, int, float, bool, type(None)) else str(value)


def _count(slots: Sequence[sources.Slot]) -> str:
    done = sum(1 for each in slots if each.state == "done")
    return f"{done} of {len(slots)} machines replaced" if slots else "nothing had to be replaced"


def _span(rollout: sources.Rollout) -> str:
    seconds = int(((rollout.closed_at or rollout.opened_at) - rollout.opened_at).total_seconds())
    return f"after {seconds // 60} min {seconds % 60} s"


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def _short(instance: str) -> str:
    return instance[:12]


def _save(report: Report, folder: Path, name: str) -> Path:
    contents = {
        "md": report.markdown,
        "json": json.dumps(report.data, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
        "html": report.html,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, content in contents.items():
            _replace(folder / f"{name}.{suffix}", content)
    except OSError as error:
        raise InvalidConfig(
            f"The report cannot be written to {folder}: {error.strerror}.",
            remedy="Make the folder writable for this user, or let PHOENIX_REPORTS name another.",
        ) from None
    return folder / f"{name}.html"


def _replace(path: Path, content: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(content)
    os.chmod(file.name, 0o640)
    os.replace(file.name, path)
