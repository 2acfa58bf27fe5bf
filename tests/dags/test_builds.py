"""A family for two platforms, of which one cannot be built for a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from phoenix_fleet import packer, platforms
from phoenix_fleet.airflow import build as building
from phoenix_fleet.airflow import release
from phoenix_fleet.airflow import world as airflow_world
from phoenix_fleet.config import ImageFamily, Target
from phoenix_fleet.domain.errors import BuildFailed
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.deps import load
from tests.dags.running import NOW, OLD, World, run_dag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore")]
DIGEST = f"sha256:{'5' * 64}"


@pytest.fixture(scope="session", autouse=True)
def airflow_database() -> None:
    from airflow.utils.db import initdb

    initdb()


class Two:
    """The world of fakes with a second platform, whose Packer fails for as long as it is ``broken``."""

    def __init__(self, world: World, state: Path) -> None:
        self.world, self.state, self.broken = world, state, True
        self.built: list[str] = []

    def build(self, family: ImageFamily, target: Target, version: Version, *more: Any, **named: Any) -> str:
        self.built.append(target.platform.name)
        if target.platform.name == "fake":
            self.world.build(family, target, version)
            return ""
        if self.broken:
            raise BuildFailed("Packer ended with exit code 1.")
        load("platforms", target.platform, lambda _: None).add_image(  # type: ignore[arg-type,return-value]
            Artefact("second", f"mini@{DIGEST}", DIGEST), family.name, str(version)
        )
        return f"mini@{DIGEST}"

    def run_packer(self, platform: str, version: Version) -> dict[str, str]:
        """What the task does when it is cleared."""
        ti = SimpleNamespace(dag_id="image.mini", run_id="r", task_id="build.packer", map_index=1, try_number=2)
        found: dict[str, str] = building.run_packer.function(
            platform, {"family": "mini", "version": str(version)}, ti=ti
        )
        return found


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    more = tmp_path / "more"
    more.mkdir()
    code = "from phoenix_fleet.platforms.fake import Driver, Settings\n__all__ = ['Driver', 'Settings']\n"
    (more / "second.py").write_text(f"'Another fake.'\n{code}")
    monkeypatch.setattr(platforms, "__path__", [*platforms.__path__, str(more)])
    made = World.make(tmp_path, monkeypatch)
    made.populate(made.release(OLD))
    state = tmp_path / "state" / "second.json"
    yaml, file = YAML(typ="safe"), tmp_path / "include" / "images" / "mini" / "image.yaml"
    declared = yaml.load(file.read_text())
    second = {"platform": {"second": {"state": str(state)}}, "build": {"template": "packer/fake.pkr.hcl"}}
    declared["targets"].append(second)
    with file.open("w") as out:
        yaml.dump(declared, out)
    found = Two(made, state)
    monkeypatch.setattr(packer, "build", found.build)
    yield found
    made.catalog.close()


def test_what_was_built_stays_and_a_retry_of_the_other_alone_completes_it(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_dag("image.mini", window=str(NOW))

    assert run.state == "failed"
    assert run.tasks["build.packer"] == ["success", "failed"]
    assert run.tasks["gate"] == ["failed"]
    assert set(run.tasks["test.judge"]) == {"upstream_failed"}
    half = two.world.catalog.images.in_flight("mini")
    assert (half.rung, set(half.artefacts)) == (Rung.CANDIDATE, {"fake"})
    assert release._missing(half) == "no artefact for second"

    two.broken = False
    monkeypatch.setattr(airflow_world, "mark", lambda **_: None)
    two.run_packer("second", half.version)
    whole = two.world.catalog.images.get("mini", half.version)
    # Mapped tasks have no order; the retry is the last one.
    assert (sorted(two.built), two.built[-1]) == (["fake", "second", "second"], "second")
    assert whole.artefacts["fake"] == half.artefacts["fake"]
    assert whole.artefacts["second"] == Artefact("second", f"mini@{DIGEST}", DIGEST)
    assert "artefact" not in release._missing(whole)
