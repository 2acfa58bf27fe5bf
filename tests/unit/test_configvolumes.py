"""Data volumes and the quorum in a fleet file: what may be written, and what is told of what may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phoenix_fleet.config import Fleet, Project
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.rollout.planning import _thaw, freeze
from tests.unit.projects import FLEET, make_project

STATEFUL = (
    FLEET.replace("max_surge: 1", "max_surge: 0")
    + """\
volumes:
  - {name: data, size: 100g, mount: /srv/data, filesystem: xfs, options: {kind: fast}}
  - {name: logs, size: 2t}
quorum:
  - fake: {verdict: passed}
  - command: {argv: [etcd-health, "{address}"], label: members}
"""
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def refused(project: Project, text: str) -> str:
    (project.include / "fleets/web.yaml").write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        project.fleet("web")
    return str(caught.value)


def test_what_is_written_is_what_is_kept(project: Project) -> None:
    (project.include / "fleets/web.yaml").write_text(STATEFUL)
    fleet = project.fleet("web")
    data, logs = fleet.volumes
    assert (data.name, data.size_gib, data.mount, data.filesystem, data.options) == (
        "data",
        100,
        "/srv/data",
        "xfs",
        {"kind": "fast"},
    )
    assert (logs.size_gib, logs.mount, logs.filesystem) == (2048, "", "ext4")
    assert [each.name for each in fleet.quorum] == ["fake", "command"]
    assert Fleet.model_validate(_thaw(json.loads(json.dumps(freeze(fleet))))) == fleet


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_surge: 0", "max_surge: 1", "volumes: a data volume is at one machine at a time"),
        ("max_surge: 0", "max_surge: 1", "Remedy: Set max_surge: 0 and max_unavailable: 1."),
        ("max_surge: 0", "max_surge: 25%", "volumes: a data volume is at one machine at a time"),
        ("platform:\n  fake: {boot_reads: 2}", "platform:\n  docker: {network: lab}", "docker has no data volumes"),
        ("kind: fast", "kid: fast", "volumes.0.options.kid: unknown key. Remedy: Did you mean 'kind'?"),
        ("kind: fast", "type: gp3", "volumes.0.options.type: unknown key"),
        ("name: logs", "name: data", "two of them have the name 'data'"),
        ("size: 2t}", "size: 2t, mount: /srv/data}", "two of them have the mount '/srv/data'"),
        ("size: 2t", "size: 2tb", "volumes.1.size: '2tb' does not have the right form"),
        ("size: 2t", "size: 0g", "volumes.1.size: '0g' does not have the right form"),
        ("/srv/data", "srv/data", "volumes.0.mount: 'srv/data' does not have the right form"),
        ("/srv/data", "/srv/../etc", "volumes.0.mount: '/srv/../etc' must not go up"),
        ("name: logs", "name: ../x", "volumes.1.name: '../x' does not have the right form"),
        ("xfs", "zfs", "volumes.0.filesystem: 'zfs' is none of ext4, xfs"),
        ("argv: [etcd-health", "argv: ['{name}'", "the program itself must be named"),
        ("label: members", "labl: members", "quorum.1.command.labl: unknown key"),
    ],
)
def test_mistakes_name_field_and_remedy(project: Project, old: str, new: str, said: str) -> None:
    assert STATEFUL.count(old) == 1
    told = refused(project, STATEFUL.replace(old, new))
    assert said in told
    assert "fleets/web.yaml" in told


def test_more_than_a_machine_has_places_for(project: Project) -> None:
    many = "\n".join(f"  - {{name: d{number}, size: 1g}}" for number in range(11))
    assert "volumes" in refused(project, FLEET.replace("max_surge: 1", "max_surge: 0") + f"volumes:\n{many}\n")
