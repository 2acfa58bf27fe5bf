"""The demo: a fleet goes from an old release to one built today, on real parts, under traffic, before your eyes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lab import breaks, traffic
from lab.alerts import received
from lab.api import AirflowApi
from lab.failure import explain
from lab.follow import Follower, Run
from lab.older import FAMILY, older_version
from lab.places import REPOSITORY, Places
from lab.progress import Screen, stage_table
from lab.summary import ENOUGH, Result, count_tests, show
from lab.world import Lab, alone
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.domain.ladder import Rung

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

IMAGE_DAG, FLEET, FLEET_DAG = f"image.{FAMILY}", "web", "fleet.web"
STAGING = "web-staging"
console = Console(soft_wrap=not sys.stdout.isatty())
Breakable = StrEnum("Breakable", {name: name for name in breaks.BREAKS})  # type: ignore[misc]


@dataclass
class Demo:
    """One demo, from start to end."""

    lab: Lab
    screen: Screen
    yes: bool
    broken: breaks.Break | None
    result: Result = field(default_factory=Result)
    _asked: set[str] = field(default_factory=set)

    def run(self) -> Result:
        """All of it; what happened, also when the chain stopped."""
        with self._timed("lab and Airflow"):
            self.lab.up(fresh=True, beside=self._start_airflow)
        self._show_login()
        catalog, api = self.lab.catalog(), self.lab.airflow.api("demo")
        try:
            self._chain(api, catalog)
        finally:
            api.close()
            catalog.close()
        return self.result

    def _start_airflow(self) -> None:
        if self.broken:
            include = self.lab.places.include
            breaks.make(self.broken.name, REPOSITORY / "include", include)
            os.environ["PHOENIX_INCLUDE"] = str(include)
            self.screen.say(f"Broken on purpose: {self.broken.told}.", "bold yellow")
        self.lab.airflow.start(self.lab.log)

    def _chain(self, api: AirflowApi, catalog: Catalog) -> None:
        window = str(older_version().window.next())
        api.wait_for_dags([IMAGE_DAG, FLEET_DAG], seconds=180)
        follower = Follower(api, catalog, self.screen)
        run = self._refresh(api, follower, IMAGE_DAG, {"reason": "demo: this month's refresh", "window": window})
        if run.state == "success":
            run = self._refresh(api, follower, FLEET_DAG, {"reason": "demo refresh", "window": window})
        if run.state != "success":
            self.result.failure = explain(api, run, received(self.lab.places.alerts))
        self._finish(run, catalog, follower)

    def _refresh(self, api: AirflowApi, follower: Follower, dag_id: str, conf: Mapping[str, Any]) -> Run:
        api.unpause(dag_id)
        run_id = api.trigger(dag_id, conf)
        self.screen.say(f"Triggered {dag_id}: {api.url}/dags/{dag_id}/runs/{run_id}")
        with self._timed(dag_id):
            fleet = FLEET if dag_id == FLEET_DAG else STAGING
            run = follower.follow(dag_id, run_id, fleet=fleet, ask=lambda question: self._ask(api, question))
        if console.is_terminal:  # elsewhere each change has been a line of its own
            console.print(stage_table([stage for stage in run.stages if stage.state in ("done", "failed")]))
        return run

    def _ask(self, api: AirflowApi, question: Mapping[str, Any]) -> None:
        task = question["task_instance"]
        if task["id"] in self._asked:
            return
        self._asked.add(task["id"])
        reject = self.broken is not None and self.broken.name == "release"
        option = "Reject" if reject else "Approve"
        self.screen.say(f"A person decides: {question['subject']}", "bold yellow")
        if not self.yes:
            self.screen.say(f"  Log in as 'approver' and click {option}: {api.page(task, 'required_actions')}", "bold")
            return
        approver = self.lab.airflow.api("approver")
        try:
            approver.answer(task, option, "demo")
        finally:
            approver.close()
        self.screen.say(f"  'approver' answers by API: {option}")

    def _finish(self, run: Run, catalog: Catalog, follower: Follower) -> None:
        result, places = self.result, self.lab.places
        if not self.broken:
            self._wait_for_requests()
        result.serving = self.lab.serving(FLEET)
        self.lab.stop_traffic()
        result.traffic = traffic.read(places.traffic)
        candidates = [image for image in catalog.images.list_images(FAMILY) if image.version != older_version()]
        if candidates:
            image = candidates[0]
            result.tests = count_tests(catalog.measurements.latest(FAMILY, image.version))
            if image.rung == Rung.RELEASED:
                result.release = str(image)
                result.digest = next(iter(image.artefacts.values())).digest
            approvals = catalog.measurements.approvals(FAMILY, image.version)
            result.approved_by = approvals[-1].responder if approvals else ""
        result.machines = [
            {"slot": slot.slot, "state": str(slot.state), "seconds": slot.seconds, "step": str(slot.step or "")}
            for slot in follower.machines(FLEET, FLEET_DAG)
        ]
        result.reports = [str(path) for path in sorted(places.reports.rglob("*")) if path.is_file()]
        self._judge(run, catalog)
        result.write(places.home / "result.json")

    def _wait_for_requests(self) -> None:
        while (sent := traffic.read(self.lab.places.traffic)["sent"]) < ENOUGH:
            self.screen.say(f"Waiting for {ENOUGH} requests: {sent} so far")
            time.sleep(5)

    def _judge(self, run: Run, catalog: Catalog) -> None:
        """Whether all is as it should be; for a break, whether it stopped exactly where it should."""
        result, old = self.result, str(older_version())
        problems = []
        if result.traffic["failed"] or not result.traffic["ok"]:
            problems.append(f"{result.traffic['failed']} requests failed, {result.traffic['ok']} were answered")
        if self.broken is None:
            released = result.release.rpartition(" ")[2]
            if run.state != "success" or run.dag_id != FLEET_DAG:
                problems.append(f"{run.dag_id} ended {run.state}")
            elif set(result.serving.values()) != {released}:
                problems.append(f"the fleet serves {result.serving}, not {released} alone")
        else:
            stage = result.failure.stage if result.failure else "nowhere"
            if run.dag_id != self.broken.dag or stage not in self.broken.stops_at:
                problems.append(
                    f"it stopped in {run.dag_id} at {stage}, not in {self.broken.dag} at {self.broken.stops_at}"
                )
            if set(result.serving.values()) != {old}:
                problems.append(f"the fleet serves {result.serving}, not {old} alone")
            halted = catalog.rollouts.current(FLEET)
            if self.broken.dag == FLEET_DAG and (halted is None or halted.state != "halted"):
                problems.append("the rollout is not halted")
        result.ok = not problems
        stopped = f"stopped at {self.broken.name}, as it should; the fleet serves on" if self.broken else ""
        result.told = "; ".join(problems) or stopped or "every machine was replaced, nothing was dropped"

    def _show_login(self) -> None:
        airflow = self.lab.airflow
        self.screen.say(f"Airflow: {airflow.url}", "bold")
        if console.is_terminal:  # a password is for the person at the terminal, never for a file
            for user in ("demo", "approver"):
                self.screen.say(f"  log in as {user} with {airflow.password(user)}")
        else:
            self.screen.say(f"  users demo and approver; passwords in {airflow.password_file}")

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.result.seconds[what] = round(time.monotonic() - began, 1)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(
    yes: Annotated[bool, typer.Option("--yes", help="Answer the approval by API, as the user approver.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Remove everything that a demo made.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="With --down: the cache too.")] = False,
    broken: Annotated[Breakable | None, typer.Option("--break", help="Break one stage and watch its gate.")] = None,
) -> None:
    """Refresh a fleet, for real: exit code 0 only if it went as it should and no request failed."""
    # SIGINT too: a shell that starts this in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    places = Places.find()
    code = 1
    with Screen(console, lambda: traffic.read(places.traffic)) as screen:
        lab = Lab(places, lambda line: screen.say(f"· {line}"))
        try:
            with alone(places):
                if down:
                    lab.down(engine=True, purge=purge)
                    screen.say("Everything that the demo made is gone.")
                    code = 0
                else:
                    code = _demo(lab, screen, yes=yes, keep=keep, broken=broken)
        except PhoenixError as error:
            screen.say(f"{type(error).__name__}: {error}", "bold red")
    raise typer.Exit(code)


def _demo(lab: Lab, screen: Screen, *, yes: bool, keep: bool, broken: str | None) -> int:
    demo = Demo(lab, screen, yes, breaks.BREAKS[broken] if broken else None)
    stay = False
    try:
        result = demo.run()
        screen.hide()
        show(console, result, lab.airflow.url)
        stay = keep
        if not keep and not yes and sys.stdin.isatty():
            console.input("The fleet and Airflow stay up until you press Enter. ")
        return 0 if result.ok else 1
    except KeyboardInterrupt:
        screen.hide()
        screen.say("Interrupted: ending what was started", "bold yellow")
        return 130
    finally:
        screen.hide()
        if stay:
            screen.say("All of it stays up; scripts/demo --down removes it.")
        else:
            _stop(lab, screen)


def _stop(lab: Lab, screen: Screen) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
    lab.stop()
    screen.say(f"Stopped. Reports, logs and the catalog stay in {lab.places.home} until the next demo.")


if __name__ == "__main__":
    typer.run(main)
