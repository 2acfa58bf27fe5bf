"""The hygiene gate on a real registry: every kind of left-over is found, and what was not seen whole never passes."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Verdict, judge
from tests.contract.gates_fixtures import a_system, docker, free_port, link, push, tar
from tests.contract.gates_world import World, build

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
