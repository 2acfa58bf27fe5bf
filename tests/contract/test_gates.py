"""What every gate promises (``gates/base.py``), asked of the fake and of each real one on real parts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.models import Artefact, Component, Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from phoenix_fleet.gates.base import Gate
from tests.contract.gates_fixtures import Machines, a_system, docker, push
from tests.contract.gates_prometheus import BAD, GOOD, Shop
from tests.contract.gates_world import CHECKS, NEAR_MISS, World, build, subject_of, suite
from tests.unit.gates.service import Service

FROM_OUTSIDE = """
    import os, urllib.request

    def test_it_answers():
        with urllib.request.urlopen(os.environ["PHOENIX_ENDPOINT"] + "/healthz") as answer:
            assert answer.headers["X-Release"] == "2026.11-1", "an old release answers"
"""


@dataclass
class Rig:
    """A gate with three subjects: a good one, a bad one, and one that cannot be measured."""

    gate: Gate
    good: Subject
    bad: Subject
    blind: Subject
    machines: Machines | None = None
    blames: str = ""
    """What the measurement of the bad one must name."""
    others: dict[str, Any] = field(default_factory=dict)


def rig_fake(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    (home / "state.json").write_text(json.dumps({"subjects": {"bad": "failed", "blind": "error"}}))
    gate = build("fake", {"state": "state.json"}, None, home)
    good, bad, blind = (Subject(name, str(work)) for name in ("good", "bad", "blind"))
    return Rig(gate, good, bad, blind, blames="failed")


def rig_testinfra(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    world: World = request.getfixturevalue("world")
    gate = build("testinfra", {"suite": suite(home, "checks", CHECKS)}, world.connections, home)
    good, bad, blind = (
        subject_of(instance, work, hostspec=f"docker://{instance.id}")
        for instance in (world.good, world.bad, world.dead)
    )
    return Rig(gate, good, bad, blind, world.machines, blames="somebody left a mark")


def rig_testinfra_ssh(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    rig = rig_testinfra(home, work, request)
    good, bad, blind = (
        replace(subject, hostspec=f"ssh://root@{subject.instance.address}")
        for subject in (rig.good, rig.bad, rig.blind)
        if subject.instance
    )
    # The blind one: another machine answers at the address.
    assert good.instance
    assert bad.instance
    blind = replace(good, instance=replace(good.instance, host_keys=bad.instance.host_keys))
    return replace(rig, good=good, bad=bad, blind=blind)


def rig_tests(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    gate = build("tests", {"suite": suite(home, "e2e", FROM_OUTSIDE), "label": "end-to-end"}, None, home)
    good, bad = (request.getfixturevalue("serve")(release) for release in ("2026.11-1", "2026.10-1"))
    subject = Subject("the shop", str(work), endpoint=good.url)
    return Rig(
        gate, subject, replace(subject, endpoint=bad.url), replace(subject, endpoint=""), blames="an old release"
    )


def rig_unit(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    world: World = request.getfixturevalue("world")
    gate = build("tests", {"unit": True}, world.connections, home)
    command = ("python3", "/opt/unit.py", NEAR_MISS)
    shop = Component("shop-api", "1.0", "", command, "/srv/junit.xml")
    good, bad, blind = (
        subject_of(instance, work, hostspec=f"docker://{instance.id}", component=shop)
        for instance in (world.good, world.bad, world.dead)
    )
    return Rig(gate, good, bad, blind, world.machines, blames="17 is not 18")


def rig_health(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    service: Service = request.getfixturevalue("serve")("2026.11-1")
    gate = build("health", {"port": service.port, "interval": 0, "samples": 3}, None, home)
    good = Subject("web-01", str(work), instance=service.instance)
    bad = replace(good, instance=replace(service.instance, name="web-99-ffff"))
    blind = replace(good, instance=replace(service.instance, address=""))
    return Rig(gate, good, bad, blind, blames="stranger")


def rig_hygiene(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    world: World = request.getfixturevalue("world")
    gate = build("hygiene", {}, world.connections, home)
    good = Subject("clean", str(work), artefact=push(world.registry, a_system()))
    dirty = a_system(("root/.ssh/authorized_keys", b"ssh-ed25519 AAAA packer"))
    bad = replace(good, name="dirty", artefact=push(world.registry, dirty))
    nowhere = "sha256:" + "0" * 64
    blind = replace(good, artefact=Artefact("docker", f"{world.registry}/test@{nowhere}", nowhere))
    return Rig(gate, good, bad, blind, blames="/root/.ssh/authorized_keys")


def rig_metrics(home: Path, work: Path, request: pytest.FixtureRequest) -> Rig:
    shop: Shop = request.getfixturevalue("shop")
    gate = build("metrics", shop.settings, shop.connections, home)
    good, bad = (Subject(name, str(work), instance=shop.instance(name), facts=shop.watch()) for name in (GOOD, BAD))
    return Rig(gate, good, bad, replace(good, facts={}), blames="latency")


RIGS = {
    "fake": rig_fake,
    "testinfra": rig_testinfra,
    "testinfra-ssh": rig_testinfra_ssh,
    "tests": rig_tests,
    "unit": rig_unit,
    "health": rig_health,
    "hygiene": rig_hygiene,
    "metrics": rig_metrics,
}
REAL = dict.fromkeys(("testinfra", "testinfra-ssh", "unit", "hygiene"), "docker") | {"metrics": "prometheus"}


@pytest.fixture(
    params=[pytest.param(name, marks=getattr(pytest.mark, REAL[name]) if name in REAL else ()) for name in RIGS],
)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    return RIGS[request.param](home, work, request)


def kept(measurement: Measurement, subject: Subject) -> set[Path]:
    """The proofs, each of which must be a file below the subject's folder."""
    paths = {Path(artefact) for artefact in measurement.artefacts}
    for path in paths:
        assert path.is_file()
        assert path.is_relative_to(subject.workdir)
        assert path.stat().st_size
    return paths


def test_constructors_do_no_io(rig: Rig) -> None:
    type(rig.gate)(rig.gate.settings, None, Path("/nonexistent"))  # type: ignore[arg-type]  # nobody is asked


def test_a_good_subject_passes_with_proof_and_measuring_changes_nothing(rig: Rig) -> None:
    before = {path for path in rig.gate.home.rglob("*") if not path.name.startswith("state.json")}
    first, second = rig.gate.measure(rig.good), rig.gate.measure(rig.good)

    assert (judge(first), first.error, judge(second)) == (Verdict.PASSED, "", Verdict.PASSED)
    assert first.value
    json.dumps(dict(first.details))
    assert kept(first, rig.good)
    assert not kept(first, rig.good) & kept(second, rig.good), "no proof is written over another"
    assert {path for path in rig.gate.home.rglob("*") if not path.name.startswith("state.json")} == before
    if rig.machines and rig.good.instance:
        assert rig.machines.read(rig.good.instance, "/root/injected") == ""
        assert not docker("exec", rig.good.instance.id, "find", "/root", "-name", "injected")


def test_a_bad_subject_fails_and_is_told_why(rig: Rig) -> None:
    measurement = rig.gate.measure(rig.bad)

    assert (judge(measurement), measurement.error) == (Verdict.FAILED, "")
    assert rig.blames in json.dumps(dict(measurement.details)) + measurement.value
    assert kept(measurement, rig.bad)


def test_what_cannot_be_measured_is_an_error_and_never_passed(rig: Rig) -> None:
    measurement = rig.gate.measure(rig.blind)

    assert judge(measurement) is Verdict.ERROR
    assert measurement.passed is not True
    assert measurement.error


def test_a_subject_that_lacks_everything_is_an_error(rig: Rig) -> None:
    if type(rig.gate).__module__.endswith(".fake"):
        assert judge(rig.gate.measure(replace(rig.good, name="nobody"))) is Verdict.PASSED, "it needs nothing"
        return
    measurement = rig.gate.measure(Subject("nobody", rig.good.workdir))

    assert judge(measurement) is Verdict.ERROR
    assert not measurement.artefacts
