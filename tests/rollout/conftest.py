from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rollout.scene import Scene

MEMORY = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the catalog waits for the disk at every commit, tests need not."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="phoenix-", dir=MEMORY))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def stage(folder: Path) -> Iterator[Callable[..., Scene]]:
    """Makes scenes: a prepared fleet on fakes, with the given changes to its file."""
    scenes: list[Scene] = []

    def make(**changes: Any) -> Scene:
        scenes.append(Scene(folder / f"scene-{len(scenes)}", **changes))
        return scenes[-1].prepare()

    yield make
    for scene in scenes:
        scene.catalog.close()
