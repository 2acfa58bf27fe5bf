"""The demo itself and each of its breaks, as a visitor runs them; what they claim is checked against the parts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from lab import traffic
from lab.alerts import received
from lab.breaks import BREAKS
from lab.engine import NETWORK
from lab.older import FAMILY, older_version
from lab.places import REPOSITORY, Places
from lab.processes import MARK
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutState, SlotState
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER
from tests.sampling import sample

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.timeout(1500)]

PLACES = Places.find()
FIRST, SECOND = 12 * 60, 5 * 60
"""Seconds that a demo may take: with an empty cache, and after that."""
HUNG = 20 * 60
"""Seconds after which it is not going to end, however busy the machine is."""


@dataclass(frozen=True)
class Ended:
    """A demo that has ended."""

    code: int
    output: str
    seconds: float

    @property
    def result(self) -> dict[str, Any]:
        return dict(json.loads((PLACES.home / "result.json").read_text()))


def demo(*arguments: str) -> Ended:
    began = time.monotonic()
    done = subprocess.run(
        ["scripts/demo", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HUNG,
        check=False,
    )
    ended = Ended(done.returncode, done.stdout, time.monotonic() - began)
    print(f"{' '.join(arguments)}: exit {ended.code} after {ended.seconds:.0f} s\n{ended.output}")
    return ended


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    ended = demo("--down")
    assert ended.code == 0
    # It may have stopped an engine that set-up had started; what lies in one shows only while it runs.
    subprocess.run(["scripts/setup", "--dev"], cwd=REPOSITORY, check=True)
    assert leftovers() == []


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    opened = Catalog(PLACES.catalog_url)
    yield opened
    opened.close()


def containers() -> list[Any]:
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock")
    try:
        wanted = {"label": [f"phoenix.owner={OWNER}"], "network": [NETWORK]}
        return list(client.containers.list(all=True, filters=wanted))
    finally:
        client.close()


def fleet(name: str) -> dict[str, str]:
    """Version by slot, of containers that run."""
    return {
        container.labels["phoenix.slot"]: container.labels["phoenix.version"]
        for container in containers()
        if container.labels["phoenix.fleet"] == name and container.status == "running"
    }


def leftovers() -> list[str]:
    """What a demo that has been removed must not leave."""
    found = [container.name for container in containers()]
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock")
    found += [network.name for network in client.networks.list(names=[NETWORK])]
    client.close()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={PLACES.pids}".encode() in path.read_bytes():
                found.append(str(path))
        except OSError:
            continue
    return found + [str(path) for path in (PLACES.home, PLACES.run) if path.exists()]


def no_request_failed() -> int:
    """How many were answered."""
    seen = traffic.read(PLACES.traffic)
    assert seen["failed"] == 0, seen["failures"]
    assert seen["ok"] == seen["sent"]
    return int(seen["ok"])


def test_the_chain_refreshes_the_fleet_and_drops_nothing(catalog: Catalog) -> None:
    bound = SECOND if (PLACES.cache / "older").exists() else FIRST
    ended = demo("--yes", "--keep")
    assert ended.code == 0
    print(f"The demo took {ended.seconds:.0f} s: {ended.seconds / bound:.2f} of its bound of {bound} s")
    assert no_request_failed() >= 10_000

    image = catalog.images.newest_released(FAMILY)
    assert image is not None
    assert image.version.window == older_version().window.next()
    assert fleet("web") == {f"web-0{number}": str(image.version) for number in range(1, 5)}
    assert fleet("web-staging") == {f"web-staging-0{number}": str(image.version) for number in (1, 2)}
    assert fleet("throwaway") == {}

    rollout = catalog.rollouts.list_rollouts("web")[0]
    slots = catalog.rollouts.slots(rollout.id)
    assert rollout.state == RolloutState.DONE
    assert [slot.state for slot in slots] == [SlotState.DONE] * 4
    ends = [slot.finished_at for slot in slots]
    begins = [slot.started_at for slot in slots]
    assert all(end and begin and end <= begin for end, begin in zip(ends, begins[1:], strict=False)), "one by one"
    approval = catalog.measurements.approvals(FAMILY, image.version)[-1]
    assert (approval.responder, approval.approved) == ("approver", True)
    assert {measured.stage for measured in catalog.measurements.latest(FAMILY, image.version)} >= {
        "test",
        "certify",
        "stage",
    }
    catalog.events.verify()

    result = ended.result
    assert result["digest"] == next(iter(image.artefacts.values())).digest
    assert [machine["slot"] for machine in result["machines"]] == [slot.slot for slot in slots]
    for said in (str(image), result["digest"], "0 failed", "tests run"):
        assert said.replace(" ", "") in re.sub(r"[\s│]", "", ended.output), f"not in the box, however wrapped: {said}"
    reports = result["reports"]
    assert reports
    assert all(Path(report).exists() for report in reports)


@pytest.mark.parametrize("name", [*sample([name for name in BREAKS if name != "rollout"], 1), "rollout"])
def test_a_broken_stage_stops_the_chain_there(name: str) -> None:
    ended = demo("--yes", "--keep", "--break", name)
    assert ended.code == 0
    assert no_request_failed() > 1000

    old = str(older_version())
    assert fleet("web") == {f"web-0{number}": old for number in range(1, 5)}
    failure = ended.result["failure"]
    assert failure["stage"] in BREAKS[name].stops_at
    assert failure["step"]
    assert failure["reason"]
    assert (REPOSITORY / failure["runbook"]).is_file()
    for said in (failure["runbook"], failure["step"].split()[0]):
        assert said in ended.output

    catalog = Catalog(PLACES.catalog_url)
    try:
        image = catalog.images.list_images(FAMILY)[0]
        rollout = catalog.rollouts.current("web")
        if name == "rollout":
            assert image.rung == Rung.RELEASED
            assert rollout is not None
            assert rollout.state == RolloutState.HALTED
            assert rollout.halted_slot == failure["machine"] == "web-01"
            assert str(rollout.halted_step) == failure["step"]
            slots = catalog.rollouts.slots(rollout.id)
            assert [slot.state for slot in slots[1:]] == [SlotState.WAITING] * 3
        else:
            assert image.rung not in (Rung.RELEASED, Rung.REVOKED)
            assert rollout is None
        catalog.events.verify()
    finally:
        catalog.close()
    if name != "release":  # a rejection is no news to the one who rejects
        assert any(alert["body"]["runbook"] == failure["runbook"] for alert in received(PLACES.alerts))


@pytest.mark.parametrize("when", sample(["Filling", "image.debian-base test: running"], 1))
def test_ctrl_c_ends_all_of_it(when: str) -> None:
    process = subprocess.Popen(
        ["scripts/demo", "--yes"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if when in line:
            break
    assert when in said
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=120)
    print(f"{said}{rest}\nended {time.monotonic() - began:.1f} s after Ctrl-C at '{when}'")
    assert process.returncode == 130
    assert [thing for thing in leftovers() if thing not in (str(PLACES.home), str(PLACES.run))] == []
