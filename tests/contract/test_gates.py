"""What every gate promises (``gates/base.py``), asked of the fake and of each real one on real parts."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Artefact, Component, Instance, Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from phoenix_fleet.gates.base import Gate
from tests.contract.gates_fixtures import (
    Machines,
    Ssh,
    a_system,
    docker,
    free_port,
    link,
    make_image,
    make_key,
    push,
    registry,
    tar,
)
from tests.contract.gates_prometheus import BAD, GOOD, Shop, a_shop
from tests.unit.gates.service import Service, serving

CHECKS = """
    def test_it_is_debian(host):
        assert host.system_info.distribution == "debian"

    def test_no_mark(host):
        assert not host.file("/root/mark").exists, "somebody left a mark"
"""
FROM_OUTSIDE = """
    import os, urllib.request

    def test_it_answers():
        with urllib.request.urlopen(os.environ["PHOENIX_ENDPOINT"] + "/healthz") as answer:
            assert answer.headers["X-Release"] == "2026.11-1", "an old release answers"
"""
UNIT = """
    import os, sys
    bad = os.path.exists("/root/mark")
    case = '<testcase classname="shop" name="prices"><failure message="17 is not 18"/></testcase>'
    case = case if bad else '<testcase classname="shop" name="prices"/>'
    print("running as asked:", sys.argv[1:])
    if not os.path.exists("/root/mute"):
        with open("/srv/junit.xml", "w") as file:
            file.write(f'<testsuites><testsuite name="unit">{case}</testsuite></testsuites>')
    sys.exit(int(bad))
"""
NEAR_MISS = "; $(touch /root/injected) `touch /root/injected` ' \" \\ %s"


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


@dataclass(frozen=True)
class World:
    """The real parts, shared by all gates."""

    machines: Machines
    good: Instance
    bad: Instance
    dead: Instance
    registry: str
    connections: Ssh


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    key = make_key(folder)
    machines = Machines(make_image(folder), key)
    try:
        with registry(folder) as where:
            good, bad, dead = (machines.start(slot) for slot in ("web-01", "web-02", "web-03"))
            machines.write(bad, "/root/mark", "x")
            for instance in (good, bad):
                machines.write(instance, "/opt/unit.py", textwrap.dedent(UNIT))
            machines.remove(dead)
            lookup = Ssh(key.private, registry=Connection("registry", host=where))
            yield World(machines, good, bad, dead, where, lookup)
    finally:
        machines.close()


def build(name: str, settings: dict[str, Any], connections: Any, home: Path) -> Gate:
    kind = drivers.load("gates", name)
    gate: Gate = kind(kind.Settings.model_validate(settings), connections, home)
    return gate


def suite(home: Path, name: str, text: str) -> str:
    (home / name).mkdir(exist_ok=True)
    (home / name / "test_it.py").write_text(textwrap.dedent(text))
    return name


def subject_of(instance: Instance, workdir: Path, **more: Any) -> Subject:
    return Subject(f"test of {instance.slot}", str(workdir), instance=instance, **more)


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


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with a_shop(tmp_path_factory.mktemp("prometheus")) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Any]:
    with serving() as start:
        yield start


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


# --- testinfra and unit tests on real machines --------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.parametrize(
    ("keys", "why"),
    [((), "reports no SSH host key"), (("ssh-ed25519 AAAA\n* ssh-rsa AAAA",), "not a public SSH host key")],
    ids=["none", "injected"],
)
def test_ssh_without_believable_host_keys_is_not_tried(
    world: World, tmp_path: Path, keys: tuple[str, ...], why: str
) -> None:
    gate = build("testinfra", {"suite": suite(tmp_path, "checks", CHECKS)}, world.connections, tmp_path)
    instance = replace(world.good, host_keys=keys)
    measurement = gate.measure(subject_of(instance, tmp_path, hostspec=f"ssh://root@{instance.address}"))

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error


@pytest.mark.docker
@pytest.mark.parametrize(
    "hostspec",
    ["local://", "", "web-01", "paramiko://root@{address}", "ssh://root:pw@{address}", "docker://{id},docker://x"],
)
def test_a_hostspec_that_cannot_be_trusted_is_an_error(world: World, tmp_path: Path, hostspec: str) -> None:
    gate = build("testinfra", {"suite": suite(tmp_path, "checks", CHECKS)}, world.connections, tmp_path)
    filled = hostspec.format(address=world.good.address, id=world.good.id)
    measurement = gate.measure(subject_of(world.good, tmp_path, hostspec=filled))

    assert judge(measurement) is Verdict.ERROR
    assert "hostspec" in measurement.error


@pytest.mark.docker
def test_an_instance_that_goes_away_halfway_is_an_error_not_a_bad_image(world: World, tmp_path: Path) -> None:
    victim = world.machines.start("web-04")
    text = f"""
        import subprocess

        def test_first(host):
            assert host.file("/etc/passwd").exists
            subprocess.run(["docker", "rm", "-f", "{victim.id}"], check=True)

        def test_second(host):
            assert host.file("/etc/passwd").exists
    """
    gate = build("testinfra", {"suite": suite(tmp_path, "checks", text)}, world.connections, tmp_path)
    measurement = gate.measure(subject_of(victim, tmp_path, hostspec=f"docker://{victim.id}"))

    assert judge(measurement) is Verdict.ERROR
    assert "does not answer" in measurement.error


def unit_gate(world: World, home: Path, *command: str, **settings: Any) -> tuple[Gate, Subject]:
    gate = build("tests", {"unit": True, **settings}, world.connections, home)
    component = Component("shop-api", "1.0", "", command, "/srv/junit.xml")
    return gate, subject_of(world.good, home, hostspec=f"docker://{world.good.id}", component=component)


@pytest.mark.docker
def test_unit_tests_that_crash_do_not_pass_with_an_old_result(world: World, tmp_path: Path) -> None:
    gate, subject = unit_gate(world, tmp_path, "python3", "/opt/unit.py")
    assert judge(gate.measure(subject)) is Verdict.PASSED
    crash, subject = unit_gate(world, tmp_path, "sh", "-c", "echo boom; exit 0")
    measurement = crash.measure(subject)

    assert judge(measurement) is Verdict.ERROR
    assert "left no JUnit file" in measurement.error
    assert "boom" in json.dumps(dict(measurement.details))


@pytest.mark.docker
def test_unit_tests_that_hang_are_killed_inside_too(world: World, tmp_path: Path) -> None:
    gate, subject = unit_gate(world, tmp_path, "sleep", "4242", timeout="1s")
    measurement = gate.measure(subject)

    assert judge(measurement) is Verdict.ERROR
    assert "longer than 1 s" in measurement.error
    assert "4242" not in docker("top", world.good.id)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("junit", "code", "why"),
    [
        ('<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuite>&b;</testsuite>', 0, "document type"),
        ("<testsuite></testsuite>", 0, "no test was carried out"),
        ('<testsuite><testcase name="a"/></testsuite>', 3, "exit code is 3"),
        ('<testsuite><testcase name="a"><failure/></testcase></testsuite>', 0, "exit code is 0"),
        ("not xml", 0, "not XML"),
    ],
    ids=["bomb", "empty", "disagrees", "hides a failure", "garbage"],
)
def test_a_junit_file_from_inside_is_not_believed_blindly(
    world: World, tmp_path: Path, junit: str, code: int, why: str
) -> None:
    script = 'printf %s "$0" > /srv/junit.xml; exit "$1"'
    gate, subject = unit_gate(world, tmp_path, "sh", "-c", script, junit, str(code))
    measurement = gate.measure(subject)

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error


# --- hygiene on real registries -----------------------------------------------------------------------------------

PEM = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmU" * 4 + b"\n-----END"
CANARIES: dict[str, bytes] = {
    "root/.ssh/authorized_keys": b"ssh-ed25519 AAAA packer\n",
    "home/debian/.ssh/authorized_keys2": b"ssh-rsa AAAA\n",
    "opt/hidden/authorized_keys": b"ssh-rsa AAAA\n",
    "etc/ssh/ssh_host_ed25519_key": PEM,
    "etc/ssh/ssh_host_rsa_key.pub": b"ssh-rsa AAAA\n",
    "etc/ssh/ssh_host_ecdsa_key.bak": b"x",
    "root/.ssh/id_rsa": PEM.replace(b"OPENSSH", b"RSA"),
    "srv/app/notes.txt": b"x" * (1024 * 1024 - 20) + PEM,
    "opt/app/config.json": b'{"key": "' + PEM.replace(b"\n", b"\\n") + b'"}',
    "opt/app/encrypted.pem": PEM.replace(b"KEY-----\n", b"KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: X,1\n\n"),
    "opt/app/kube.yaml": b"client-key-data: LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFcEFJQkFBS0NBUUVB\n",
    "root/backup.asc": PEM.replace(b"OPENSSH PRIVATE KEY", b"PGP PRIVATE KEY BLOCK"),
    "root/key.ppk": b"PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nAAAA\n",
    "root/age.txt": b"AGE-SECRET-KEY-1" + b"Q" * 58,
    "root/.aws/credentials": b"[default]\n",
    "root/.netrc": b"machine x login y password z\n",
    "root/.git-credentials": b"https://u:p@host\n",
    "root/.pgpass": b"x",
    "root/.docker/config.json": b"{}",
    "root/.kube/config": b"x",
    "root/.npmrc": b"//registry/:_authToken=abc\n",
    "root/.pypirc": b"[x]\npassword = y\n",
    "root/.my.cnf": b"[client]\npassword=x\n",
    "root/.config/pip/pip.conf": b"[global]\nindex-url = https://u:p@host/simple\n",
    "etc/apt/auth.conf": b"machine x\n",
    "etc/apt/auth.conf.d/90internal.conf": b"machine x\n",
    "etc/apt/sources.list.d/internal.list": b"deb https://user:pw@host/debian bookworm main\n",
    "etc/environment": b"DB_PASSWORD=hunter2\n",
    "opt/app/.env": b"export API_TOKEN='abc'\n",
    "opt/app/boto.ini": b"aws_secret_access_key = " + b"a" * 40 + b"\n",
    "opt/app/aws.txt": b"id AKIAABCDEFGHIJKLMNOP\n",
    "opt/app/github.txt": b"ghp_" + b"a" * 36 + b"\n",
    "root/.bash_history": b"ls\n",
    "root/.python_history": b"1\n",
    "root/.mysql_history": b"x\n",
    "root/.ssh/known_hosts": b"host ssh-rsa AAAA\n",
    "root/.viminfo": b"x\n",
    "var/lib/cloud/instance/user-data.txt": b"#cloud-config\n",
    "var/log/cloud-init-output.log": b"x\n",
    "var/lib/systemd/random-seed": b"1234",
    "var/lib/dbus/machine-id": b"0123\n",
    "var/lib/dhcp/dhclient.eth0.leases": b"lease\n",
    "etc/udev/rules.d/70-persistent-net.rules": b"x\n",
    "etc/shadow-": b"root:$6$abc$def:1:::::::\n",
    "etc/sudoers.d/packer": b"packer ALL=(ALL) NOPASSWD: ALL\n",
    "etc/passwd-": b"packer:x:1000:1000::/home/packer:/bin/sh\n",
    "etc/gshadow-": b"wheel:$6$abc::\n",
    "usr/bin/core": b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x04\x00" + b"x" * 20,
    "var/crash/nginx.crash": b"x",
    "swapfile": b"x",
    "opt/innocent": b"\0" * 4086 + b"SWAPSPACE2",
    "tmp/script_1234.sh": b"",
    "var/tmp/x": b"x",
    "var/log/dpkg.log": b"x\n",
    "var/log/nginx/access.log": b"x\n",
    "var/spool/mail/root": b"x\n",
    "etc/krb5.keytab": b"x",
    "etc/ssl/server.p12": b"x",
}
FINAL = {"var/lib/apt/lists/deb_dists_InRelease": b"x", "var/cache/apt/archives/x.deb": b"x"}


@pytest.mark.docker
def test_every_canary_is_found_in_whichever_layer_and_deleted_ones_too(world: World, tmp_path: Path) -> None:
    assert len(CANARIES) + len(FINAL) >= 40
    lower = tar(*CANARIES.items())
    whiteouts = tar(*((str(Path(name).with_name(f".wh.{Path(name).name}")), b"") for name in CANARIES))
    above = tar(*FINAL.items(), *((f"again/{name}", data) for name, data in {"id_rsa": PEM}.items()))
    # The release's files come first, so the canaries' layers are the second to the fourth.
    artefact = push(world.registry, a_system(), lower, whiteouts, above)
    gate = build("hygiene", {}, world.connections, tmp_path)
    measurement = gate.measure(Subject("canaries", str(tmp_path), artefact=artefact))

    assert judge(measurement) is Verdict.FAILED
    found = {(row["path"], row["layer"]) for row in measurement.details["findings"]}
    planted = {(f"/{name}", 2) for name in CANARIES} | {(f"/{name}", 4) for name in (*FINAL, "again/id_rsa")}
    assert found == planted
    proof = json.loads(Path(measurement.artefacts[0]).read_text())
    assert {(row["path"], row["layer"]) for row in proof["findings"]} == planted
    assert "hunter2" not in Path(measurement.artefacts[0]).read_text(), "findings never quote what they found"


@pytest.mark.docker
def test_a_clean_debian_with_an_ssh_server_has_no_findings(world: World, tmp_path: Path) -> None:
    container = docker("create", world.machines.image, "true")
    rootfs = tmp_path / "rootfs.tar"
    with rootfs.open("wb") as file:
        subprocess.run(["docker", "export", container], stdout=file, check=True)
    docker("rm", container)
    clean = clean_up(rootfs)
    plain = "application/vnd.oci.image.layer.v1.tar"
    artefact = push(world.registry, clean, tar(("etc/machine-id", b"")), media=plain)
    measurement = build("hygiene", {}, world.connections, tmp_path).measure(
        Subject("debian", str(tmp_path), artefact=artefact)
    )

    assert measurement.details.get("findings") == [], measurement.value
    assert judge(measurement) is Verdict.PASSED
    assert measurement.details["files"] > 5000


def clean_up(rootfs: Path) -> bytes:
    """The archive without what a fresh SSH server makes."""
    out = io.BytesIO()
    with tarfile.open(rootfs) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            if not member.name.startswith("etc/ssh/ssh_host_"):
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return out.getvalue()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("layers", "wrong"),
    [
        ([tar(("etc/machine-id", b"0123456789abcdef\n"))], "filled"),
        ([tar(("etc/.wh.machine-id", b""))], "deleted"),
        ([tar(("etc/.wh..wh..opq", b""))], "deleted"),
        ([tar(link("etc/machine-id", "/run/machine-id"))], "a symlink"),
        ([tar(("etc/machine-id", b"0123\n")), tar(("etc/machine-id", b""))], ""),
        ([tar(("etc/machine-id", b"uninitialized\n"))], ""),
    ],
    ids=["filled", "deleted", "opaque", "link", "emptied", "uninitialized"],
)
def test_the_machine_id_must_be_empty_in_the_end(world: World, tmp_path: Path, layers: list[bytes], wrong: str) -> None:
    artefact = push(world.registry, a_system(), *layers)
    gate = build("hygiene", {}, world.connections, tmp_path)
    measurement = gate.measure(Subject("ids", str(tmp_path), artefact=artefact))

    assert measurement.error == ""
    assert [row["path"] for row in measurement.details["findings"]] == (["/etc/machine-id"] if wrong else [])
    assert f"is {wrong}" in measurement.value or not wrong


@pytest.mark.docker
def test_lists_that_an_upper_layer_deletes_do_not_count_and_allowed_paths_are_still_listed(
    world: World, tmp_path: Path
) -> None:
    lists = tar(("var/lib/apt/lists/deb_InRelease", b"x"), ("var/log/dpkg.log", b"x\n"))
    artefact = push(world.registry, a_system(), lists, tar(("var/lib/apt/.wh.lists", b"")))
    gate = build("hygiene", {"allow": ["/var/log/dpkg.*"]}, world.connections, tmp_path)
    measurement = gate.measure(Subject("allowed", str(tmp_path), artefact=artefact))

    assert judge(measurement) is Verdict.PASSED
    assert [row["path"] for row in measurement.details["allowed"]] == ["/var/log/dpkg.log"]


@pytest.mark.docker
def test_secrets_in_the_configuration_are_found(world: World, tmp_path: Path) -> None:
    config = {
        "config": {
            "Env": ["PATH=/bin", "DB_PASSWORD=x", "PROXY=http://u:p@proxy:3128", "GPG_KEY=ABCD", "TOKEN_FILE=/run/t"],
            "Labels": {"phoenix.owner": "phoenix-fleet", "api_token": "x"},
            "Cmd": ["serve", "--password", "x"],
        },
        "history": [
            {"created_by": "/bin/sh -c apt-get install -y nginx-light"},
            {"created_by": "/bin/sh -c curl -H 'token: abc' https://host"},
            {"created_by": "|1 NPM_TOKEN=abc /bin/sh -c npm ci"},
            {"created_by": "RUN echo $DB_PASSWORD"},
        ],
    }
    artefact = push(world.registry, a_system(), config=config)
    gate = build("hygiene", {}, world.connections, tmp_path)
    measurement = gate.measure(Subject("config", str(tmp_path), artefact=artefact))

    assert [(row["path"], row["what"]) for row in measurement.details["findings"]] == [
        ("(config)/Env", "the variable DB_PASSWORD"),
        ("(config)/Env", "the variable PROXY"),
        ("(config)/Labels", "the label api_token"),
        ("(config)/Cmd", "a value for password"),
        ("(config)/history[2]", "a value for token"),
        ("(config)/history[3]", "a value for NPM_TOKEN"),
    ]


@pytest.mark.docker
@pytest.mark.parametrize(
    ("layers", "media", "settings", "why"),
    [
        ([a_system(files=10)], None, {}, "only 16 files"),
        ([tar(*((f"usr/x{n}", b"x") for n in range(300)))], None, {}, "no /etc/os-release"),
        ([a_system()], "application/vnd.oci.image.layer.v1.tar+zstd", {}, "cannot be read here"),
        ([a_system(), b"not an archive" * 100], None, {}, "layer 2 cannot be read"),
        ([a_system(("usr/big", b"\0" * 3_000_000))], None, {"max_bytes": 2_000_000}, "larger than 2000000 bytes"),
        ([a_system()], None, {"max_entries": 100}, "more than 100 entries"),
        ([a_system() + tar(("root/.netrc", b"x"))], None, {}, "data behind its end"),
    ],
    ids=["few files", "no system", "unknown kind", "damaged", "too large", "too many", "hidden behind"],
)
def test_what_was_not_seen_whole_is_never_passed(
    world: World, tmp_path: Path, layers: list[bytes], media: str | None, settings: dict[str, Any], why: str
) -> None:
    artefact = push(world.registry, *layers, **({"media": media} if media else {}))
    gate = build("hygiene", settings, world.connections, tmp_path)
    measurement = gate.measure(Subject("partial", str(tmp_path), artefact=artefact))

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error


@pytest.mark.docker
def test_a_registry_that_is_not_there_or_not_pinned_is_an_error(world: World, tmp_path: Path) -> None:
    gate = build("hygiene", {}, world.connections, tmp_path)
    real = push(world.registry, a_system())
    gone = replace(real, reference=real.reference.replace(world.registry, f"127.0.0.1:{free_port()}"))
    moving = replace(real, reference=f"{world.registry}/test:latest")
    other = replace(real, digest="sha256:" + "1" * 64)

    for artefact, why in ((gone, "cannot be fetched"), (moving, "by its digest"), (other, "by its digest")):
        measurement = gate.measure(Subject("absent", str(tmp_path), artefact=artefact))
        assert judge(measurement) is Verdict.ERROR
        assert why in measurement.error


# --- metrics on a real Prometheus ---------------------------------------------------------------------------------


def watched(shop: Shop, work: Path, name: str, **settings: Any) -> Measurement:
    gate = build("metrics", {**shop.settings, **settings}, shop.connections, work)
    return gate.measure(Subject(name, str(work), instance=shop.instance(name), facts=shop.watch()))


@pytest.mark.prometheus
def test_counted_failures_are_compared(shop: Shop, tmp_path: Path) -> None:
    good, bad = (watched(shop, tmp_path, name, queries=[shop.failures]) for name in (GOOD, BAD))

    assert (judge(good), good.error) == (Verdict.PASSED, "")
    assert (judge(bad), bad.error) == (Verdict.FAILED, "")
    assert "worse (p = " in bad.value
    new, old = (bad.details["findings"]["failed requests"]["details"][side] for side in ("new", "old"))
    assert new[0] / new[1] == pytest.approx(0.5, abs=0.1)
    assert old[1] > new[1], "both old ones are counted"


@pytest.mark.prometheus
def test_a_firing_alert_blocks_a_pending_one_does_not_and_a_name_without_a_rule_is_an_error(
    shop: Shop, tmp_path: Path
) -> None:
    verdicts = {
        name: judge(watched(shop, tmp_path, GOOD, queries=[], alerts=[name]))
        for name in ("Burning", "Smouldering", "Calm", "Nonesuch")
    }
    assert verdicts == {
        "Burning": Verdict.FAILED,
        "Smouldering": Verdict.PASSED,
        "Calm": Verdict.PASSED,
        "Nonesuch": Verdict.ERROR,
    }
    elsewhere = {"name": "Burning", "labels": {"fleet": "elsewhere"}}
    assert judge(watched(shop, tmp_path, GOOD, queries=[], alerts=[elsewhere])) is Verdict.PASSED


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("query", "verdict", "told"),
    [
        ("absent_metric{instance=~{instances}}", Verdict.INCONCLUSIVE, "no samples of the new instance"),
        ("avg(latency_seconds{instance=~{instances}})", Verdict.INCONCLUSIVE, "no label 'instance'"),
        ("latency_seconds{instance=~{instances}} / 0 * 0", Verdict.INCONCLUSIVE, "no samples of the new instance"),
        ("latency_seconds{instance=~{instances}} / 0", Verdict.INCONCLUSIVE, "infinite"),
        ("latency_seconds{instance=~{instances}", Verdict.ERROR, "parse error"),
    ],
)
def test_what_prometheus_does_not_know_never_passes(
    shop: Shop, tmp_path: Path, query: str, verdict: Verdict, told: str
) -> None:
    measurement = watched(shop, tmp_path, GOOD, queries=[{**shop.latency, "query": query}])

    assert judge(measurement) is verdict
    assert told in measurement.value


@pytest.mark.prometheus
def test_hostile_names_are_names_to_prometheus(shop: Shop, tmp_path: Path) -> None:
    """Were one of them to break out, the query would be another one, with series or an error."""
    gate = build("metrics", {**shop.settings, "queries": [shop.latency]}, shop.connections, tmp_path)
    for name in (
        '"} or latency_seconds{instance!="',
        ".*",
        "a|web-01-good",
        "\\",
        "\n",
        "\x00\x7f",
        "é日",
        "$1",
        NEAR_MISS,
    ):
        facts = {**shop.watch(), "beside": []}
        instance = replace(shop.instance(GOOD), name=name)
        measurement = gate.measure(Subject("hostile", str(tmp_path), instance=instance, facts=facts))
        assert (judge(measurement), measurement.error) == (Verdict.INCONCLUSIVE, ""), name
        assert "no samples of the new instance" in measurement.value
