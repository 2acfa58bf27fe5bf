"""The example product: its values, dataset, roles, and its API's own unit tests in the layout that the role makes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from phoenix_fleet.config import Project

FAMILY = Project.find().include / "images" / "debian-base"
COMPONENTS = ("shop-api", "shop-front")


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environments() -> dict[str, dict[str, Any]]:
    return {path.stem: read(path) for path in (FAMILY / "environments").glob("*.yaml")}


class TestEnvironments:
    def test_all_have_the_same_keys_with_the_same_kinds_of_values(
        self, environments: dict[str, dict[str, Any]]
    ) -> None:
        assert set(environments) == {"production", "staging", "certify"}
        kinds = {
            name: {key: type(value).__name__ for key, value in values.items()} for name, values in environments.items()
        }
        assert kinds["staging"] == kinds["certify"] == kinds["production"]

    def test_they_differ(self, environments: dict[str, dict[str, Any]]) -> None:
        assert len({json.dumps(values, sort_keys=True) for values in environments.values()}) == 3

    def test_production_has_nothing_of_a_rehearsal(self, environments: dict[str, dict[str, Any]]) -> None:
        production = environments["production"]
        assert not production["shop_install_tests"]
        assert not production["shop_slow_requests"]
        assert production["shop_banner"] == ""

    def test_their_datasets_exist(self, environments: dict[str, dict[str, Any]]) -> None:
        for values in environments.values():
            assert (FAMILY / "datasets" / values["dataset"] / "manifest.json").is_file()


@pytest.mark.parametrize("folder", sorted((FAMILY / "datasets").iterdir()), ids=lambda folder: folder.name)
def test_a_dataset_is_what_its_manifest_says(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["name"] == folder.name
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *manifest["files"]}
    for name, said in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == said["sha256"]
        assert len(json.loads(content)) == said["rows"]


class TestRoles:
    @pytest.mark.parametrize("component", COMPONENTS)
    def test_they_need_nothing_but_what_comes_with_ansible(self, component: str) -> None:
        for part in ("tasks", "handlers"):
            for task in read(FAMILY / "components" / component / "role" / part / "main.yml"):
                modules = [key for key in task if "." in key]
                assert len(modules) == 1, task["name"]
                assert modules[0].startswith("ansible.builtin."), task["name"]

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_they_use_no_values_but_those_of_the_environment(
        self, component: str, environments: dict[str, dict[str, Any]]
    ) -> None:
        role = FAMILY / "components" / component / "role"
        text = "".join(path.read_text() for path in role.rglob("*") if path.is_file())
        used = set(re.findall(r"\b((?:shop|phoenix)_[a-z_]+|dataset)\b", text))
        registered = set(re.findall(r"register: (\w+)", text)) | {"shop_front_version", "shop_api"}
        assert used - registered <= {*environments["production"], "phoenix_environment"}

    def test_shell_scripts_can_be_read_by_the_shell(self) -> None:
        every = [*FAMILY.rglob("*"), *(FAMILY.parent / "common").rglob("*")]
        scripts = [path for path in every if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")]
        assert len(scripts) >= 5
        for script in scripts:
            subprocess.run(["sh", "-n", str(script)], check=True)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The API's folder as the role makes it on an instance for certification."""
    home = tmp_path / "shop-api"
    component = FAMILY / "components" / "shop-api"
    shutil.copytree(component / "src", home)
    shutil.copytree(component / "tests", home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FAMILY / "components" / "common" / "run_tests.py", home / "tests")
    folder = FAMILY / "datasets" / "2026-10"
    manifest = json.loads((folder / "manifest.json").read_text())
    texts = {name: (folder / name).read_text() for name in manifest["files"]}
    (home / "dataset.json").write_text(json.dumps({"manifest": manifest, "texts": texts}))
    config = {
        "version": "1.0",
        "environment": "certify",
        "dataset": str(home / "dataset.json"),
        "database": str(tmp_path / "shop.db"),
        "currency": "EUR",
        "order_limit": 20,
        "slow_requests": True,
        "log_requests": False,
    }
    (home / "config.json").write_text(json.dumps(config))
    return home


def run_tests(folder: Path) -> tuple[int, ET.Element]:
    """The exit code, and the suite in the JUnit file."""
    junit = folder.parent / "junit.xml"
    done = subprocess.run(
        [sys.executable, "-B", str(folder / "run_tests.py"), str(junit)], capture_output=True, text=True, check=False
    )
    assert junit.exists(), done.stderr
    return done.returncode, ET.fromstring(junit.read_text())  # noqa: S314 - written just now by our own


def test_the_apis_own_unit_tests_pass(installed: Path) -> None:
    code, suite = run_tests(installed / "tests")
    assert [case.attrib for case in suite if len(case)] == []
    assert code == 0
    assert int(suite.attrib["tests"]) >= 25


def test_the_apis_own_unit_tests_notice_a_broken_api(installed: Path) -> None:
    program = installed / "shop_api.py"
    text = program.read_text()
    broken = text.replace('"price": product["price"]', '"price": line.get("price", 1)')
    assert broken != text
    program.write_text(broken)
    code, suite = run_tests(installed / "tests")
    assert code == 1
    assert int(suite.attrib["failures"]) >= 1


TESTS = """
import unittest

class Some(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.assertEqual(1, 2, "<&\\x00\\ud800>")
    def test_breaks(self): raise KeyError("x")
    @unittest.skip("not today")
    def test_skipped(self): pass
    def test_parts(self):
        for part in range(3):
            with self.subTest(part=part):
                self.assertNotEqual(part, 1)
"""


class TestRunner:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "component" / "tests"
        folder.mkdir(parents=True)
        shutil.copy(FAMILY / "components" / "common" / "run_tests.py", folder)
        return folder

    def test_every_outcome_is_in_the_junit_file(self, folder: Path) -> None:
        (folder / "test_some.py").write_text(TESTS)
        code, suite = run_tests(folder)
        outcomes = {case.attrib["name"].split(" ")[0]: [part.tag for part in case] for case in suite}
        assert code == 1
        assert suite.attrib["name"] == "component"
        assert {key: suite.attrib[key] for key in ("failures", "errors", "skipped")} == {
            "failures": "2",
            "errors": "1",
            "skipped": "1",
        }
        assert outcomes["test_passes"] == []
        assert outcomes["test_fails"] == ["failure"]
        assert outcomes["test_breaks"] == ["error"]
        assert outcomes["test_skipped"] == ["skipped"]
        assert ["failure"] in [tags for name, tags in outcomes.items() if "test_parts" in name or "part=1" in name]

    def test_no_test_is_no_success(self, folder: Path) -> None:
        code, suite = run_tests(folder)
        assert (code, suite.attrib["tests"]) == (1, "0")

    def test_a_module_that_cannot_be_loaded_is_no_success(self, folder: Path) -> None:
        (folder / "test_some.py").write_text("import no_such_module\n")
        code, suite = run_tests(folder)
        assert (code, suite.attrib["errors"]) == (1, "1")

    def test_all_passed_is_success(self, folder: Path) -> None:
        (folder / "test_some.py").write_text(
            "import unittest\nclass T(unittest.TestCase):\n    def test_x(self): pass\n"
        )
        assert run_tests(folder)[0] == 0
