"""Calls the owners: what failed, where, why, and the runbook; to the log, a webhook and mail, each on its own."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from airflow.sdk import BaseNotifier

from phoenix_fleet.airflow import world
from phoenix_fleet.config import Fleet, Owners
from phoenix_fleet.domain.errors import Halted, InvalidConfig, PhoenixError
from phoenix_fleet.rollout.progress import DeadlineAlarm

RUNBOOKS = "docs/runbooks"


@dataclass(frozen=True)
class Alert:
    """One call to the owners."""

    team: str
    subject: str
    machine: str
    step: str
    reason: str
    runbook: str
    link: str

    def __str__(self) -> str:
        where = f"{self.machine} at {self.step}" if self.machine else self.step
        return f"{self.subject}: {where}: {self.reason} Runbook: {self.runbook} Look: {self.link}"


class OwnersNotifier(BaseNotifier):
    """Tells the owners of a family or fleet that a task failed. One way failing never stops the others."""

    def __init__(self, owners: dict[str, str], runbook: str) -> None:
        super().__init__()
        self.owners = owners
        self.runbook = runbook

    def notify(self, context: Any) -> None:
        """Send one alert everywhere; refusals behind a halt stay quiet, because the halt itself was told already."""
        error = context.get("exception")
        if isinstance(error, Halted):
            return
        tell(Owners.model_validate(self.owners), self.alert(context, error))

    def alert(self, context: Any, error: BaseException | None) -> Alert:
        """The message for one failed task."""
        ti = context["ti"]
        remedy = error.remedy if isinstance(error, PhoenixError) else ""
        named = re.search(rf"{RUNBOOKS}/[a-z-]+\.md", remedy)
        runbook = named[0] if named else f"{RUNBOOKS}/{self.runbook}.md"
        machine, step = context.get("machine") or "", context.get("step") or ti.task_id
        return Alert(
            team=self.owners.get("team", ""),
            subject=f"{ti.dag_id} stopped",
            machine=machine,
            step=step,
            reason=str(error or "the task's process died").split(" Remedy: ")[0],
            runbook=_located(runbook),
            link=getattr(ti, "log_url", "") or "",
        )


def tell(owners: Owners, alert: Alert) -> None:
    """Send one alert everywhere: log, webhook, mail. Raises nothing: what it tells of matters more."""
    world.log.error("ALERT for %s: %s", alert.team, alert)
    for way, send in (("webhook", _send_webhook), ("mail", _send_mail)):
        try:
            send(owners, alert)
        except Exception as failure:  # an alert that cannot leave must not hide the failure it tells of
            world.log.error("The owners could not be told by %s: %s", way, failure)


def deadline_alert(fleet: Fleet, alarm: DeadlineAlarm, link: str) -> Alert:
    """The message about a rollout's deadline."""
    return Alert(
        team=fleet.owners.team,
        subject=f"fleet.{fleet.name}: {'deadline at risk' if alarm.raised else 'deadline no longer at risk'}",
        machine="",
        step="rollout",
        reason=f"{alarm.message}.",
        runbook=_located(f"{RUNBOOKS}/rollout-deadline-at-risk.md"),
        link=link,
    )


def _located(runbook: str) -> str:
    base = os.environ.get("PHOENIX_RUNBOOKS_URL", "")
    return f"{base.rstrip('/')}/{runbook}" if base else runbook


def _send_webhook(owners: Owners, alert: Alert) -> None:
    if not owners.webhook:
        return
    connection = world.connections(owners.webhook)
    scheme = connection.extra.get("scheme", "https")
    path = str(connection.extra.get("path", "/")).lstrip("/")
    port = f":{connection.port}" if connection.port else ""
    headers = {"Authorization": f"Bearer {connection.password}"} if connection.password else {}
    httpx.post(
        f"{scheme}://{connection.host}{port}/{path}", json=asdict(alert), headers=headers, timeout=10
    ).raise_for_status()


def _send_mail(owners: Owners, alert: Alert) -> None:
    if not owners.email:
        return
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    if "\n" in owners.email or "\r" in owners.email:
        raise InvalidConfig("An owner's address may not contain line breaks.")
    with SmtpHook() as smtp:
        smtp.send_email_smtp(
            to=owners.email,
            subject=alert.subject,
            html_content="<pre>" + _escape(str(alert)) + "</pre>",
            from_email=smtp.from_email or "phoenix-fleet@localhost",
        )


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
