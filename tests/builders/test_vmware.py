"""Real builds for vSphere: Debian's Packer against the simulated vCenter, provisioning over SSH a stand-in machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet import packer
from phoenix_fleet.builders import vmware as builder
from phoenix_fleet.config import Target
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, InvalidSpec
from phoenix_fleet.domain.models import OWNER
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.platforms import _vmware_collect as collect
from tests.builders import families
from tests.builders.killing import Build
from tests.builders.machine import Machine
from tests.contract.platforms_vmware import VmwareLab, opened, thumbprint

pytestmark = [pytest.mark.slow, pytest.mark.vmware, pytest.mark.builds]

LATER = 24 * 3600


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmwareLab]:
    with opened(tmp_path_factory.mktemp("vmware")) as found:
        yield found


class Center:
    """The simulated vCenter with one template to clone, and a key that the stand-in machine lets in."""

    def __init__(self, lab: VmwareLab, machine: Machine, folder: Path) -> None:
        self.lab, self.machine, self.folder = lab, machine, folder
        key = folder / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        machine.admit(key.with_suffix(".pub").read_text())
        self.connections = {
            "vmware": lab.direct,
            "phoenix_ssh": Connection("phoenix_ssh", extra={"key_file": str(key)}),
        }
        self.source = lab.artefact("source", "2026.11-1", ours=False).reference.partition("@")[0]

    def target(self, **settings: Any) -> Target:
        return families.target(
            {"vmware": dict(self.lab.settings)},
            "vmware.pkr.hcl",
            settings={"source": self.source, "ssh_username": "root", **settings},
            variables={"ssh_host": "127.0.0.1", "ssh_port": self.machine.port},
        )

    def build(self, family: Any, workdir: Path, **settings: Any) -> tuple[str, str]:
        lines: list[str] = []
        made = packer.build(
            family,
            self.target(**settings),
            Version.parse(families.VERSION),
            self.connections.__getitem__,
            workdir=workdir,
            log=lines.append,
        )
        return made, "\n".join(lines)

    def builder(self) -> builder.Driver:
        return builder.Driver(self.target(), self.connections.__getitem__, self.folder)

    def names(self) -> set[str]:
        """Every machine and template but those that the lab began with."""
        from pyVmomi import vim

        found = collect.listed(self.lab.vcenter, self.lab.vcenter.rootFolder, {vim.VirtualMachine: ("name",)})
        return {seen["name"] for _, seen in found if not seen["name"].startswith(("DC0_", "source-", "lab-"))}


@pytest.fixture
def center(lab: VmwareLab, machine: Machine, tmp_path: Path) -> Iterator[Center]:
    found = Center(lab, machine, tmp_path)
    yield found
    for artefact, _ in lab.platform.list_images("mini"):
        lab.platform.delete_image(artefact)
    lab.sweep()


def test_a_build_makes_a_template_that_the_driver_lists(center: Center, tmp_path: Path) -> None:
    made, said = center.build(families.make(tmp_path), tmp_path)

    ((artefact, marks),) = center.lab.platform.list_images("mini")
    assert (artefact.reference, marks) == (made, {"version": families.VERSION, "status": "candidate"})
    assert made.startswith(f"mini-{families.VERSION}-")
    assert f"provisioned: mini {families.VERSION}, layers: common machine, by root" in said
    assert center.lab.direct.password not in said + (tmp_path / "packer.log").read_text()
    assert center.names() == {made.partition("@")[0]}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("packer-")] == []


def test_a_pinned_certificate_is_all_that_packer_believes(center: Center, tmp_path: Path) -> None:
    direct = center.lab.direct
    pin = thumbprint(center.lab.folder)
    family = families.make(tmp_path)
    for told, fits in ((pin, True), ("0" * 64, False)):
        extra = {"thumbprint": told}
        center.connections["vmware"] = Connection(
            "vmware", direct.host, direct.port, direct.login, direct.password, extra
        )
        if fits:
            center.build(family, tmp_path)
        else:
            with pytest.raises(Exception, match="certificate"):
                center.build(family, tmp_path)


def test_one_that_fails_says_why_and_leaves_nothing(center: Center, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="E: no such package"):
        center.build(families.make(tmp_path, provision=families.FAILS), tmp_path)
    assert center.names() == set()


@pytest.fixture
def hanging(center: Center, tmp_path: Path) -> Iterator[Build]:
    """A build in the middle of its provisioning."""
    family = families.make(tmp_path, provision=families.HANGS)
    workdir = tmp_path / "work"
    workdir.mkdir()
    build = Build(family, center.target(), families.VERSION, center.connections, workdir)
    try:
        build.wait_for(lambda: "hangs-here" in build.said, "the provisioning")
        yield build
    finally:
        build.end()


def test_a_killed_packer_is_cleaned_up_after_at_once(center: Center, hanging: Build) -> None:
    for pid in list(hanging.packers()):
        os.kill(pid, signal.SIGKILL)
    hanging.process.wait(180)
    assert "signal 9" in hanging.said
    assert center.names() == set()


def test_the_sweep_takes_what_a_killed_build_left_once_its_time_is_over_and_nothing_else(
    center: Center, hanging: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging.kill_all()
    (left,) = center.names()
    strangers = set(look_alikes(center))

    center.builder().sweep(print)
    assert center.names() == {left} | strangers, "its build might still run"

    now = time.time()
    monkeypatch.setattr(builder.time, "time", lambda: now + LATER)
    center.builder().sweep(print)
    assert center.names() == strangers


def look_alikes(center: Center) -> Iterator[str]:
    """Machines that are no build's of ours, and look much like one."""
    build_id, past = "mini-2026.11-1-0123abcd", "1700000000"
    ours = {"phoenix.owner": OWNER, "phoenix.build": build_id}
    for name, marks in (
        (f"phoenix-build-{build_id}.{past}", {}),  # named like one
        (f"phoenix-build-{build_id[:-1]}e.{past}", ours),  # another build's marks
        (f"phoenix-build-{build_id[:-1]}f.{past}", {"phoenix.build": f"{build_id[:-1]}f"}),  # nobody's
        (f"my-phoenix-build-{build_id}.{past}", ours),
        ("web-01-0123abcd", ours),  # born from a template, whose configuration it inherits
        (
            f"phoenix-build-{build_id[:-1]}a.{past}",
            {**ours, "phoenix.build": f"{build_id[:-1]}a", "phoenix.token": "x"},
        ),
    ):
        center.lab.foreign(name, marks)
        yield name


def test_a_finished_template_is_never_swept(center: Center, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = center.build(families.make(tmp_path), tmp_path)
    now = time.time()
    monkeypatch.setattr(builder.time, "time", lambda: now + LATER)
    center.builder().sweep(print)
    assert center.names() == {made.partition("@")[0]}


def test_a_template_is_cloned_only_if_it_was_made_of_what_is_pinned(center: Center, tmp_path: Path) -> None:
    """As ``ubuntu-base`` pins Canonical's OVA: whoever imported one has written down which it was."""
    pinned, family = "ab" * 32, families.make(tmp_path)
    noble = "source-noble"
    for name, marks in (
        (noble, {"phoenix.source": f"sha256:{pinned}"}),
        (f"{noble}-older", {"phoenix.source": f"sha256:{'cd' * 32}"}),
        (f"{noble}-bare", {"phoenix.source": pinned}),
        (f"{noble}-silent", {}),
    ):
        center.lab.template(name, marks)
    for name in (f"{noble}-older", f"{noble}-bare", f"{noble}-silent"):
        with pytest.raises(InvalidSpec, match=f"source_sha256 is {pinned}, and the template '{name}' says") as refused:
            center.build(family, tmp_path, source=name, source_sha256=pinned)
        assert "docs/platforms/vmware.md" in refused.value.remedy
    assert center.names() == set(), "nothing was cloned"

    made, _ = center.build(family, tmp_path, source=noble, source_sha256=pinned)
    assert center.names() == {made.partition("@")[0]}


def test_what_cannot_work_is_said_before_anything_is_cloned(center: Center, tmp_path: Path) -> None:
    family = families.make(tmp_path)
    with pytest.raises(InvalidSpec, match="no template 'ubuntu'; there is: "):
        center.build(family, tmp_path, source="ubuntu")
    center.connections["phoenix_ssh"] = Connection("phoenix_ssh", extra={"key_file": "/nowhere"})
    with pytest.raises(InvalidConfig, match="key_file"):
        center.build(family, tmp_path)
    assert center.names() == set()
