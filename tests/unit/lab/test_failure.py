"""Why a run stopped, from the owners' alert or the task's log."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lab.api import AirflowApi
from lab.failure import explain
from lab.follow import Run
from lab.places import REPOSITORY

LOG = [
    {"level": "info", "event": "Task started"},
    {
        "level": "error",
        "event": "Task failed with exception",
        "error_detail": [{"exc_type": "Refused", "exc_value": "No. Remedy: docs/runbooks/release-rejected.md"}],
    },
    {"level": "info", "event": "Task done"},
]


ANSWER = {
    "chosen_options": ["Reject"],
    "responded_by_user": {"id": "approver", "name": "approver"},
    "params_input": {"comment": "not before the fair"},
}


class _Airflow(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = json.dumps(ANSWER if self.path.endswith("/hitlDetails") else {"content": LOG}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[AirflowApi]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Airflow)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    session = AirflowApi(f"http://127.0.0.1:{server.server_port}", "demo", "secret")
    yield session
    session.close()
    server.shutdown()
    server.server_close()
    thread.join()


def task(task_id: str, state: str, ended: str, index: int = -1) -> dict[str, Any]:
    return {
        "dag_id": "image.debian-base",
        "dag_run_id": "manual__1",
        "task_id": task_id,
        "map_index": index,
        "rendered_map_index": None,
        "state": state,
        "end_date": ended,
        "start_date": ended,
        "try_number": 2,
    }


FAILED = Run(
    "image.debian-base",
    "manual__1",
    "failed",
    (task("gate", "failed", "2026-11-23T10:05"), task("test.judge", "failed", "2026-11-23T10:04", 0)),
)


def test_the_owners_alert_says_it_best(api: AirflowApi) -> None:
    alerts = [
        {"body": {"subject": "fleet.web stopped", "reason": "another"}},
        {"body": "not an alert"},
        {
            "body": {
                "subject": "image.debian-base stopped",
                "machine": "web-01",
                "step": "verify",
                "reason": "health: 503",
                "runbook": "docs/runbooks/test-failed.md",
            }
        },
    ]
    failure = explain(api, FAILED, alerts)
    assert failure is not None
    assert (failure.stage, failure.machine, failure.step) == ("test", "web-01", "verify")
    assert (failure.reason, failure.runbook) == ("health: 503", "docs/runbooks/test-failed.md")
    assert failure.link.endswith("/dags/image.debian-base/runs/manual__1/tasks/test.judge/mapped/0")


def test_without_an_alert_the_log_of_the_first_failure_does(api: AirflowApi) -> None:
    failure = explain(api, FAILED, [])
    assert failure is not None
    assert failure.stage == "test"
    assert failure.step == "test.judge [0]"
    assert failure.reason == "Refused: No."
    assert failure.runbook == "docs/runbooks/release-rejected.md"


def test_a_run_that_did_not_fail_needs_no_words(api: AirflowApi) -> None:
    assert explain(api, Run("image.debian-base", "r", "success", (task("gate", "success", "1"),)), []) is None


def test_a_rejection_names_who_said_no_and_why(api: AirflowApi) -> None:
    asked = task("approve", "failed", "2026-11-23T10:06") | {"operator_name": "ApprovalOperator"}
    failure = explain(api, Run("image.debian-base", "manual__1", "failed", (asked,)), [])
    assert failure is not None
    assert failure.reason == "approver chose Reject: not before the fair"
    assert (REPOSITORY / failure.runbook).is_file()
