"""A person takes the fleet from the old release to a new one in the browser: form, approval, grid, halt, backfill.

With ``PHOENIX_PICTURES`` naming a folder the pictures of the documentation are kept there (``scripts/screenshots``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.api import ENDED, AirflowApi
from lab.older import older_version
from lab.places import Places
from lab.world import Lab, alone
from phoenix_fleet.domain.windows import Window
from tests.e2e.browser import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(2400)]
IMAGE, FLEET = "image.debian-base", "fleet.web"


@dataclass
class Ui:
    """The lab's Airflow with a window per user."""

    lab: Lab
    api: AirflowApi
    demo: Browser
    approver: Browser

    def newest_run(self, dag_id: str) -> str:
        runs = self.api.get(f"dags/{dag_id}/dagRuns", order_by="-run_after", limit=1)["dag_runs"]
        return str(runs[0]["dag_run_id"])

    def wait_until_ended(self, dag_id: str, run_id: str, seconds: float = 1200) -> str:
        for window in (self.demo, self.approver):
            window.rest()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = str(self.api.run(dag_id, run_id)["state"])
            if state in ENDED:
                return state
            time.sleep(1)
        return "still running"


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    pictures = Path(os.environ.get("PHOENIX_PICTURES") or tmp_path_factory.mktemp("pictures"))
    lab = Lab(Places.find(), print)
    opened: list[Browser] = []
    with alone(lab.places):
        lab.up(fresh=True)
        try:
            lab.airflow.start(print)
            api = lab.airflow.api("demo")
            api.wait_for_dags([IMAGE, FLEET], seconds=180)
            for user in ("demo", "approver"):
                window = Browser(lab.airflow.url, pictures)
                opened.append(window)
                window.log_in(user, lab.airflow.password(user))
            yield Ui(lab, api, *opened)
            api.close()
        finally:
            for window in opened:
                window.close()
            lab.down()


def trigger_by_form(ui: Ui, dag_id: str, picture: str) -> str:
    ui.demo.open(f"/dags/{dag_id}")
    ui.demo.find("[data-testid=trigger-dag-button]").click()
    ui.demo.wait_for_text("Required by hand")
    assert ui.demo.has_button("Trigger", enabled=False), "nothing can be triggered without a reason"
    ui.demo.fill("reason", "shown in a browser")
    ui.demo.fill("window", str(older_version().window.next()))
    ui.demo.picture(picture)
    ui.demo.button("Trigger", last=True).click()
    ui.demo.wait_for_text("manual__")
    return ui.newest_run(dag_id)


def test_an_image_is_released_by_form_and_approval(ui: Ui) -> None:
    run_id = trigger_by_form(ui, IMAGE, "trigger")
    deadline = time.monotonic() + 1200
    ui.demo.rest()
    while not (questions := ui.api.questions(IMAGE, run_id)):
        assert time.monotonic() < deadline
        assert ui.api.run(IMAGE, run_id)["state"] not in ENDED
        time.sleep(1)
    ui.demo.open(f"/dags/{IMAGE}/runs/{run_id}")
    ui.demo.wait_for_text("certify")
    ui.demo.picture("image-grid")
    ui.approver.open(ui.api.page(questions[0]["task_instance"], "required_actions"))
    ui.approver.wait_for_text("Release: debian-base")
    assert ui.approver.has_button("Approve", enabled=False), "nobody approves without a word"
    ui.approver.fill("comment", "looked at every measurement")
    ui.approver.picture("approval")
    ui.approver.button("Approve").click()
    assert ui.wait_until_ended(IMAGE, run_id) == "success"
    catalog = ui.lab.catalog()
    released = catalog.images.newest_released("debian-base")
    assert released is not None
    (approval,) = catalog.measurements.approvals("debian-base", released.version)
    assert (approval.responder, approval.reason) == ("approver", "looked at every measurement")
    catalog.close()


def test_the_grid_shows_every_machine_by_name(ui: Ui) -> None:
    run_id = trigger_by_form(ui, FLEET, "trigger-fleet")
    killed = kill_a_replacement(ui)
    halt_and_resume(ui, run_id)
    assert ui.wait_until_ended(FLEET, run_id) == "success"
    ui.demo.open(f"/dags/{FLEET}/runs/{run_id}/tasks/wave_2.replace/mapped")
    assert "web-03" in (text := ui.demo.wait_for_text("web-04")), text
    ui.demo.picture("fleet-grid")
    catalog = ui.lab.catalog()
    (rollout,) = catalog.rollouts.list_rollouts("web")
    slots = {slot.slot: slot for slot in catalog.rollouts.slots(rollout.id)}
    assert {slot.state for slot in slots.values()} == {"done"}
    assert slots[killed].attempt == 1, "the same attempt went on with the same machine"
    launches = [intent for intent in catalog.intents.list_intents(f"rollout-{rollout.id}") if intent.action == "launch"]
    assert len(launches) == len(ui.lab.serving("web")) == 4, "no second machine, and none lost"
    catalog.close()


def halt_and_resume(ui: Ui, run_id: str) -> None:
    """Halt while web-03 is replaced; clearing alone is refused by name and with the reason, after a resume it goes on.

    By the DAG ``operate`` and "clear only failed", as a person does it in the UI.
    """
    wait_for_step(ui, "web-03", ("ready", "configure"))
    operate(ui, "halt", "the shop rings")
    assert ui.wait_until_ended(FLEET, run_id) == "failed"
    refused, left = told_by_machine(ui, run_id), machines_left(ui)
    assert set(refused) == left
    assert "web-04" in left
    assert all("halted by demo: the shop rings" in told for told in refused.values()), refused
    clear_only_failed(ui, run_id)
    assert ui.wait_until_ended(FLEET, run_id) == "failed", "clearing is no resuming"
    assert set(told_by_machine(ui, run_id)) == machines_left(ui) == left
    operate(ui, "resume", "it was the wrong number")
    clear_only_failed(ui, run_id)


def operate(ui: Ui, action: str, reason: str) -> None:
    ui.api.unpause("operate")
    run_id = ui.api.trigger("operate", {"fleet": "web", "action": action, "reason": reason})
    assert ui.wait_until_ended("operate", run_id, 600) == "success"


def clear_only_failed(ui: Ui, run_id: str) -> None:
    body = {"dag_run_id": run_id, "only_failed": True, "reset_dag_runs": True, "dry_run": False}
    ui.api.send("POST", f"dags/{FLEET}/clearTaskInstances", body)


def told_by_machine(ui: Ui, run_id: str) -> dict[str, str]:
    """The log of every failed replacement of that run, by the name that the grid shows."""
    failed = [
        task
        for task in ui.api.tasks(FLEET, run_id)
        if task["state"] == "failed" and task["task_id"].endswith(".replace")
    ]
    return {task["rendered_map_index"]: str(ui.api.log(task)) for task in failed}


def machines_left(ui: Ui) -> set[str]:
    """The slots that the running rollout has not replaced: where the halt met it depends on how busy the host is."""
    catalog = ui.lab.catalog()
    rollout = catalog.rollouts.current("web")
    assert rollout is not None
    left = {slot.slot for slot in catalog.rollouts.slots(rollout.id) if slot.state != "done"}
    catalog.close()
    return left


def wait_for_step(ui: Ui, slot: str, steps: tuple[str, ...]) -> None:
    catalog = ui.lab.catalog()
    deadline = time.monotonic() + 900
    try:
        while time.monotonic() < deadline:
            rollout = catalog.rollouts.current("web")
            for found in catalog.rollouts.slots(rollout.id) if rollout else []:
                if found.slot == slot and found.state == "running" and found.step in steps:
                    return
            time.sleep(0.1)
    finally:
        catalog.close()
    raise AssertionError(f"{slot} was never at {steps}")


def kill_a_replacement(ui: Ui) -> str:
    """SIGKILL the process that replaces a machine of the first wave, right after its launch; returns the slot."""
    wait_for_step(ui, "web-02", ("ready", "configure"))
    running = ui.api.get(f"dags/{FLEET}/dagRuns/~/taskInstances", state="running")["task_instances"]
    (victim,) = [task for task in running if task["task_id"].endswith(".replace")]
    found = subprocess.run(["pgrep", "-f", f"airflow worker -- {victim['id']}"], capture_output=True, check=False)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    assert found.stdout, "no process of that task is to be found"
    return "web-02"


def test_missed_windows_are_backfilled_without_building_or_downgrading(ui: Ui) -> None:
    missed = [str(older_version().window.previous()), str(older_version().window)]
    catalog = ui.lab.catalog()
    before = {str(image.version) for image in catalog.images.list_images("debian-base")}
    serving = ui.lab.serving("web")
    for dag_id, create in ((IMAGE, backfill_by_command), (FLEET, backfill_by_form)):
        create(ui, dag_id, missed)
        runs = wait_for_backfill(ui, dag_id, len(missed))
        assert [run["state"] for run in runs] == ["success", "success"]
        assert [run["run_after"][:7] for run in sorted(runs, key=lambda run: run["start_date"])] == missed
    for window in missed:
        settled = catalog.images.window("debian-base", Window.parse(window))
        assert settled is not None
        assert settled.how == "covered"
    assert {str(image.version) for image in catalog.images.list_images("debian-base")} == before
    assert ui.lab.serving("web") == serving, "no machine was replaced, least of all by an older image"
    catalog.close()


def backfill_by_command(ui: Ui, dag_id: str, windows: list[str]) -> None:
    argv = [
        sys.executable, "-m", "airflow", "backfill", "create", "--dag-id", dag_id, "--from-date", f"{windows[0]}-01",
        "--to-date", f"{windows[-1]}-02", "--max-active-runs", "1", "--reprocess-behavior", "none",
    ]  # fmt: skip
    done = subprocess.run(argv, env=ui.lab.airflow.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def backfill_by_form(ui: Ui, dag_id: str, windows: list[str]) -> None:
    ui.demo.open(f"/dags/{dag_id}")
    ui.demo.find("[data-testid=trigger-dag-button]").click()
    ui.demo.choose("Backfill")
    ui.demo.fill_date("From", f"{windows[0]}-01")
    ui.demo.fill_date("To", f"{windows[-1]}-02")
    ui.demo.wait_for_text(f"{len(windows)} runs will be triggered")
    ui.demo.fill("reason", "the scheduler was down")
    ui.demo.picture("backfill")
    ui.demo.button("Run Backfill").click()


def wait_for_backfill(ui: Ui, dag_id: str, number: int) -> list[dict[str, str]]:
    """The runs of the backfill once all of them have ended."""
    deadline = time.monotonic() + 900
    while True:
        found = ui.api.get(f"dags/{dag_id}/dagRuns", limit=50)["dag_runs"]
        runs = [run for run in found if run["run_type"] == "backfill"]
        if len(runs) == number and all(run["state"] in ENDED for run in runs):
            return runs
        assert time.monotonic() < deadline, runs
        time.sleep(1)
