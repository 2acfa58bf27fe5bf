from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_fleet.airflow import notify
from phoenix_fleet.airflow.notify import OwnersNotifier
from phoenix_fleet.config import Fleet
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import Halted, StepFailed
from phoenix_fleet.rollout.progress import DeadlineAlarm


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bodies that a real webhook receiver got."""
    bodies: list[dict[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        extra = {"scheme": "http", "path": "/alerts"}
        connection = Connection("hook", "127.0.0.1", server.server_port, extra=extra)
        monkeypatch.setattr(notify.world, "connections", lambda conn_id: connection)
        yield bodies
        server.shutdown()
        thread.join()


class MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP as one letter needs (RFC 5321), spoken over a real connection."""

    letters: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        while line := self.rfile.readline():
            word = line.split()[0].upper()
            if word != b"DATA":
                self.wfile.write(b"250 sink\r\n")
                continue
            self.wfile.write(b"354 go on\r\n")
            letter = b""
            while (line := self.rfile.readline()) != b".\r\n":
                letter += line
            self.letters.append(letter.decode())
            self.wfile.write(b"250 kept\r\n")


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a mail server got, whose address Airflow has as its connection ``smtp_default``."""
    kept: list[str] = []
    handler = type("Handler", (MailServer,), {"letters": kept})
    with socketserver.TCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "phoenix@example.org"}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.server_address[1], "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        yield kept
        server.shutdown()
        thread.join()


def test_owners_get_a_letter(letters: list[str]) -> None:
    error = StepFailed("web-03: <b>2</b> checks failed.", remedy="See docs/runbooks/rollout-verify-failed.md.")
    OwnersNotifier({"team": "shop", "email": "shop@example.org"}, "rollout-halted").notify(context(error))
    (letter,) = [email.message_from_string(each, policy=email.policy.default) for each in letters]
    assert (letter["To"], letter["From"]) == ("shop@example.org", "phoenix@example.org")
    assert letter["Subject"] == "fleet.web stopped"
    body = letter.get_body()
    assert body is not None
    for said in ("web-03 at verify", "&lt;b&gt;2&lt;/b&gt;", "docs/runbooks/rollout-verify-failed.md", "http://ui/log"):
        assert said in body.get_content()


def context(error: BaseException) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="fleet.web", task_id="wave_1.replace", log_url="http://ui/log")
    return {"ti": ti, "exception": error, "machine": "web-03", "step": "verify"}


def test_owners_are_told_machine_step_reason_and_runbook(received: Any) -> None:
    error = StepFailed("web-03: 2 of 17 checks failed.", remedy="See docs/runbooks/rollout-verify-failed.md.")
    OwnersNotifier({"team": "shop", "webhook": "hook"}, "rollout-halted").notify(context(error))
    assert received == [
        {
            "team": "shop",
            "subject": "fleet.web stopped",
            "machine": "web-03",
            "step": "verify",
            "reason": "web-03: 2 of 17 checks failed.",
            "runbook": "docs/runbooks/rollout-verify-failed.md",
            "link": "http://ui/log",
        }
    ]


def test_refusals_behind_a_halt_are_not_told_again(received: Any) -> None:
    OwnersNotifier({"team": "shop", "webhook": "hook"}, "rollout-halted").notify(context(Halted("halted by web-01")))
    assert received == []


def test_a_failure_without_a_runbook_of_its_own_names_the_tasks(received: Any) -> None:
    OwnersNotifier({"team": "shop", "webhook": "hook"}, "plan-failed").notify(context(ValueError("odd")))
    assert received[0]["runbook"] == "docs/runbooks/plan-failed.md"


def test_a_dead_webhook_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notify.world, "connections", lambda conn_id: Connection("hook", "127.0.0.1", 1))
    OwnersNotifier({"team": "shop", "webhook": "hook"}, "rollout-halted").notify(context(StepFailed("broken")))
    said = caplog.text + capsys.readouterr().out  # Airflow's logging, once set up, writes past the standard one
    assert "ALERT for shop" in said
    assert "could not be told by webhook" in said


def test_a_deadline_at_risk_is_told_with_what_is_short(received: Any) -> None:
    fleet = Fleet.model_validate(
        {"fleet": "web", "family": "base", "owners": {"team": "shop", "webhook": "hook"}, "size": 2, "platform": "fake"}
    )
    alarm = DeadlineAlarm(True, "7 replacements are left: short of max_in_flight")
    notify.tell(fleet.owners, notify.deadline_alert(fleet, alarm, "http://log"))
    (body,) = received
    assert body["subject"] == "fleet.web: deadline at risk"
    assert body["reason"] == "7 replacements are left: short of max_in_flight."
    assert body["runbook"] == "docs/runbooks/rollout-deadline-at-risk.md"
    over = notify.deadline_alert(fleet, DeadlineAlarm(False, "the deadline is likely to be met again"), "")
    assert over.subject == "fleet.web: deadline no longer at risk"
