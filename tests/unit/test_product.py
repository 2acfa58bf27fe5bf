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

from phoenix_fleet import packer
from phoenix_fleet.config import ImageFamily, Project

COMMON = Project.find().include / "images" / "common"
COMPONENTS = ("shop-api", "shop-front")


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environments() -> dict[str, dict[str, Any]]:
    return {path.stem: read(path) for path in (COMMON / "environments").glob("*.yaml")}


@pytest.fixture(scope="module")
def families() -> dict[str, ImageFamily]:
    return {name: Project.find().family(name) for name in ("debian-base", "ubuntu-base")}


class TestFamilies:
    def test_both_are_built_for_every_platform_from_one_provisioning(self, families: dict[str, ImageFamily]) -> None:
        for family in families.values():
            assert family.platforms == ["docker", "ec2", "vmware", "libvirt"]
            assert [path.name for path in family.home.iterdir()] == ["image.yaml"]
            for target in family.targets:
                template = (family.home / target.build.template).resolve()
                assert template.is_relative_to(COMMON.resolve())
                assert template.is_file()

    def test_both_are_proven_by_the_same_product(self, families: dict[str, ImageFamily]) -> None:
        debian, ubuntu = families.values()
        assert debian.environment("production") == ubuntu.environment("production")
        assert (debian.test, debian.stage.gates) == (ubuntu.test, ubuntu.stage.gates)

    def test_what_they_share_counts_among_the_inputs_of_each(
        self, families: dict[str, ImageFamily], tmp_path: Path
    ) -> None:
        shutil.copytree(COMMON.parent, tmp_path / "images")
        copies = [Project(tmp_path).family(name) for name in families]
        before = [packer.inputs_fingerprint(family) for family in copies]
        assert before == [packer.inputs_fingerprint(family) for family in families.values()]
        assert len(set(before)) == 2
        (tmp_path / "images/common/components/shop-api/src/shop_api.py").write_text("")
        after = [packer.inputs_fingerprint(family) for family in copies]
        assert [old == new for old, new in zip(before, after, strict=True)] == [False, False]

    def test_ubuntu_starts_from_what_canonical_publishes_and_is_pinned(self, families: dict[str, ImageFamily]) -> None:
        ubuntu = families["ubuntu-base"]
        docker, libvirt = (ubuntu.target(name).build.seed for name in ("docker", "libvirt"))
        assert docker is not None
        assert re.fullmatch(r"ubuntu@sha256:[0-9a-f]{64}", docker.image)
        assert libvirt is not None
        assert re.fullmatch(
            r"https://cloud-images\.ubuntu\.com/releases/noble/release-\d{8}/ubuntu-24\.04-\S+-amd64\.img", libvirt.url
        )
        assert ubuntu.target("ec2").build.settings["source_owner"] == "099720109477"
        vmware = ubuntu.target("vmware").build.settings
        assert len(vmware["source_sha256"]) == 64
        assert re.search(r"release-(\d{8})", libvirt.url)[1] in vmware["source"]  # type: ignore[index]


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
            assert (COMMON / "datasets" / values["dataset"] / "manifest.json").is_file()


@pytest.mark.parametrize("folder", sorted((COMMON / "datasets").iterdir()), ids=lambda folder: folder.name)
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
            for task in read(COMMON / "components" / component / "role" / part / "main.yml"):
                modules = [key for key in task if "." in key]
                assert len(modules) == 1, task["name"]
                assert modules[0].startswith("ansible.builtin."), task["name"]

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_they_use_no_values_but_those_of_the_environment(
        self, component: str, environments: dict[str, dict[str, Any]]
    ) -> None:
        role = COMMON / "components" / component / "role"
        text = "".join(path.read_text() for path in role.rglob("*") if path.is_file())
        used = set(re.findall(r"\b((?:shop|phoenix)_[a-z_]+|dataset)\b", text))
        registered = set(re.findall(r"register: (\w+)", text)) | {"shop_front_version", "shop_api"}
        assert used - registered <= {*environments["production"], "phoenix_environment"}

    def test_shell_scripts_can_be_read_by_the_shell(self) -> None:
        scripts = [path for path in COMMON.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")]
        assert len(scripts) >= 5
        for script in scripts:
            subprocess.run(["sh", "-n", str(script)], check=True)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The API's folder as the role makes it on an instance for certification."""
    home = tmp_path / "shop-api"
    component = COMMON / "components" / "shop-api"
    shutil.copytree(component / "src", home)
    shutil.copytree(component / "tests", home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(COMMON / "components" / "common" / "run_tests.py", home / "tests")
    folder = COMMON / "datasets" / "2026-10"
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
        shutil.copy(COMMON / "components" / "common" / "run_tests.py", folder)
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
