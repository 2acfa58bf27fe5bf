"""The documentation is true where a machine can see it: links, runbooks, schemas, words, settings, commands."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

from phoenix_fleet import cli_schema, config, drivers
from phoenix_fleet.cli import app
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.verdicts import Verdict
from phoenix_fleet.rollout.progress import Alarm

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
SOURCES = [
    path
    for folder in ("include", "dags", "lab", "scripts")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and path.suffix in (".py", ".yaml", ".md", "") and "__pycache__" not in path.parts
]
RUNBOOKS = {path.stem for path in (DOCS / "runbooks").glob("*.md")} - {"README"}
DEPLOYMENTS_OWN = {"AIRFLOW__CORE__EXECUTOR", "AIRFLOW__CORE__AUTH_MANAGER"}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" in target:
            continue
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page}: {target}#{anchor}"


def named_runbooks() -> set[str]:
    """Every runbook that code names, with the placeholders filled in."""
    found: set[str] = set()
    for path in SOURCES:
        text = path.read_text(errors="replace")
        found |= set(re.findall(r"docs/runbooks/([a-z{}_.-]+?)\.md", text))
        found |= set(re.findall(r'calls_owners\(\w+, f?"([a-z{}_-]+)"\)', text))
    filled = set()
    for name in found:
        if "{step}" in name:
            filled |= {name.replace("{step}", step) for step in Step}
        elif "{alarm}" in name:
            filled |= {name.replace("{alarm}", alarm) for alarm in get_args(Alarm)}
        elif re.search(r"\{stage(_name)?\}", name):
            filled |= {re.sub(r"\{\w+\}", stage, name) for stage in ("test", "certify", "stage")}
        else:
            filled.add(name)
    return filled


def test_every_runbook_that_code_names_exists() -> None:
    named = named_runbooks()
    assert {"rollout-halted", "build-failed", "rollout-verify-failed", "certify-failed"} <= named
    assert named - RUNBOOKS == set()


def test_every_runbook_answers_the_five_questions_and_is_listed() -> None:
    index = (DOCS / "runbooks" / "README.md").read_text()
    for name in RUNBOOKS:
        text = (DOCS / "runbooks" / f"{name}.md").read_text()
        heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert heads == [
            "What it means", "What is safe right now", "How to look", "How to go on", "How to give up"
        ], name  # fmt: skip
        assert f"Alert: `{name}`" in text
        assert f"]({name}.md)" in index


def test_every_step_has_a_runbook() -> None:
    assert {f"rollout-{step}-failed" for step in Step} <= RUNBOOKS


def test_the_schemas_are_fresh() -> None:
    assert cli_schema.stale(DOCS / "schemas") == [], "run `phoenix schema`"


def test_files_name_the_schema_that_fits_them() -> None:
    found = {
        "fleet": sorted((ROOT / "include/fleets").glob("*.yaml")),
        "image": sorted((ROOT / "include/images").glob("*/image.yaml")),
        "component": sorted((ROOT / "include/images").glob("*/components/*/component.yaml")),
    }
    for kind, paths in found.items():
        assert paths
        for path in paths:
            match = re.match(r"# yaml-language-server: \$schema=(\S+)", path.read_text())
            assert match, path
            assert (path.parent / match[1]).resolve() == DOCS / "schemas" / f"{kind}.json"


def test_the_glossary_has_the_words_of_the_code() -> None:
    text = (DOCS / "glossary.md").read_text().lower()
    words = {str(each) for kind in (Rung, Step, Verdict) for each in kind}
    words |= {"slot", "instance", "artefact", "wave", "canary", "ticket", "intent", "event", "window", "waiver"}
    assert [word for word in sorted(words) if word not in text] == []
    assert len(InstanceState) + len(Backend) == 10, "a new state needs a look at the documentation"


def test_nobody_kills_or_deletes_an_instance() -> None:
    wrong = re.compile(r"(?i)\b(kill|delete|destroy)(s|ed|ing)?\s+(the |an? |that |old |new )*(instance|machine)s?\b")
    assert [str(page) for page in PAGES if wrong.search(page.read_text())] == []


def environment_file() -> dict[str, str]:
    lines = (ROOT / "include" / "airflow.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_image_has_the_environment_of_airflow_env() -> None:
    in_image = dict(re.findall(r"\b(AIRFLOW__\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
    wanted = {name: value for name, value in environment_file().items() if name not in DEPLOYMENTS_OWN}
    assert in_image == wanted


def test_tuning_explains_every_setting() -> None:
    text = (DOCS / "tuning.md").read_text()
    for name, value in environment_file().items():
        short = name.removeprefix("AIRFLOW__")
        if short == "LOGGING__LOGGING_LEVEL":
            continue
        assert f"`{short}`" in text, name
        if name not in DEPLOYMENTS_OWN:
            assert f"`{value}`" in text, name


def test_the_image_gets_what_the_build_needs_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == {"dags", "include", "plugins", "packages.txt", "requirements.txt"}


def test_every_command_is_in_the_readme_or_the_how_to() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name in commands:
        assert re.search(rf"phoenix (\w+\|)*{name}\b", text), name
    for name in set(re.findall(r"^phoenix ([a-z|]+)", (ROOT / "README.md").read_text(), re.MULTILINE)):
        assert set(name.split("|")) <= set(commands), name


def test_the_drawing_names_every_driver_that_ships() -> None:
    drawing = (DOCS / "images" / "architecture.svg").read_text()
    ET.fromstring(drawing)  # noqa: S314 - our own file
    for seam in get_args(drivers.Seam):
        for name in drivers.names(seam):
            assert re.search(rf"\b{name}\b", drawing), f"{seam}/{name}"
    assert all(str(step) in drawing for step in Step)


@pytest.mark.parametrize("seam", ["platform", "balancer", "configurator", "gate", "workload"])
def test_every_method_of_a_seam_is_in_its_contract(seam: str) -> None:
    import importlib

    module = importlib.import_module(f"phoenix_fleet.{seam}s.base")
    beside = [module.Volumes] if seam == "platform" else []
    methods = set().union(*(each.__abstractmethods__ for each in (getattr(module, seam.capitalize()), *beside)))
    text = (DOCS / "contracts" / f"{seam}.md").read_text()
    assert [name for name in sorted(methods) if f"`{name}" not in text] == []
    assert "| Rule | Must | Why |" in text


def test_how_to_add_a_fleet_names_keys_that_exist() -> None:
    text = (DOCS / "howto" / "add-a-fleet.md").read_text()
    rows = re.findall(r"^ *\| (`[^|]+`) \|", text, re.MULTILINE)
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert keys
    assert keys <= set(config.Fleet.model_fields)
