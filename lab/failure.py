"""Says why a run stopped: where, at which step, for what reason, and which runbook helps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.api import AirflowApi
from lab.follow import Run
from lab.progress import label

REJECTED = "docs/runbooks/release-rejected.md"
_RUNBOOK = re.compile(r"docs/runbooks/[a-z0-9-]+\.md")


@dataclass(frozen=True)
class Failure:
    """Why a run stopped."""

    stage: str
    """What stands before the first dot of the failed task's id."""
    machine: str
    step: str
    reason: str
    runbook: str
    link: str


def explain(api: AirflowApi, run: Run, alerts: Sequence[Mapping[str, Any]]) -> Failure | None:
    """The first failure of a run, from the alert that its owners got or else from the task's log; None if none."""
    task = run.first_failure
    if task is None:
        return None
    stage, link = str(task["task_id"]).partition(".")[0], api.page(task)
    for alert in (entry["body"] for entry in alerts):
        if isinstance(alert, dict) and str(alert.get("subject", "")).startswith(run.dag_id):
            return Failure(
                stage=stage,
                machine=str(alert.get("machine") or ""),
                step=str(alert.get("step") or label(task)),
                reason=str(alert.get("reason") or ""),
                runbook=str(alert.get("runbook") or ""),
                link=link,
            )
    if task.get("operator_name") == "ApprovalOperator":
        return Failure(stage, "", label(task), _rejection(api.given_answer(task)), REJECTED, link)
    text = _last_error(api.log(task))
    found = _RUNBOOK.search(text)
    return Failure(stage, "", label(task), text.split(" Remedy: ")[0], found[0] if found else "", link)


def _rejection(answer: Mapping[str, Any]) -> str:
    who = (answer.get("responded_by_user") or {}).get("name")
    if not who:
        return "nobody answered in time"
    reason = (answer.get("params_input") or {}).get("comment") or "no reason given"
    return f"{who} chose {', '.join(answer.get('chosen_options') or [])}: {reason}"


def _last_error(events: Sequence[Mapping[str, Any]]) -> str:
    """The last error in a task's log, in one line."""
    for event in reversed(events):
        details = event.get("error_detail") or []
        if details:
            return f"{details[0].get('exc_type', '')}: {details[0].get('exc_value', '')}"
        if event.get("level") in ("error", "critical"):
            return str(event.get("event", ""))
    return "its log says nothing"
