"""The real parts that contract tests of gates share, and short words for making gates and their subjects."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phoenix_fleet import drivers
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Instance, Subject
from phoenix_fleet.gates.base import Gate
from tests.contract.gates_fixtures import Machines, Ssh, make_image, make_key, registry

CHECKS = """
    def test_it_is_debian(host):
        assert host.system_info.distribution == "debian"

    def test_no_mark(host):
        assert not host.file("/root/mark").exists, "somebody left a mark"
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


@dataclass(frozen=True)
class World:
    """The real parts, shared by all gates."""

    machines: Machines
    good: Instance
    bad: Instance
    dead: Instance
    registry: str
    connections: Ssh


@contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """Machines and a registry of its own; they end with the block."""
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
