"""Plays mutants: each in a copy of the package, against the tests that must notice it, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.mutants.mutant import PACKAGE, Mutant

PROJECT = Path(__file__).resolve().parents[2]
AT_ONCE = 2
LONGEST_SECONDS = 900
"""No mutant needs a hundredth of it, but the machine may be busy; one that hangs is not noticed."""
FAILED = 1
"""pytest's exit code for tests that failed; collection errors and the like have others."""
ANOTHER_PACKAGE = 99
"""Exit code: what was tested is not the copy."""

_WARM = ["pytest", "pydantic", "sqlalchemy.orm", "sqlalchemy.dialects.sqlite", "alembic.command", "yaml"]
"""Loaded once and inherited by every process; nothing of ours, and no plugin of pytest, which must load those."""


@dataclass(frozen=True)
class Played:
    """What came of one play."""

    name: str
    exit_code: int | None
    """pytest's own; None if it did not end."""
    noticed_by: str
    """The first test that failed; empty if none did."""
    seconds: float
    output: str

    @property
    def verdict(self) -> Literal["caught", "survived", "broken"]:
        """``broken``: no test failed, and none could say so: an import failed, a fixture did, or it hung."""
        if self.exit_code == FAILED and self.noticed_by:
            return "caught"
        return "survived" if self.exit_code == 0 else "broken"


def play_all(mutants: Sequence[Mutant]) -> Iterator[Played]:
    """Each as soon as it is played, in the order given."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(play, mutants)


def play(mutant: Mutant) -> Played:
    """Whether the mutant is noticed. :raises LookupError: its snippet does not stand there exactly once."""
    with _copy() as project:
        mutant.apply(project)
        return _run(mutant.name, project, mutant.tests, stop=True)


def play_unchanged(tests: Sequence[str]) -> Played:
    """The control: the same tests on a copy that nothing was changed in."""
    with _copy() as project:
        return _run("unchanged", project, tests, stop=False)


@contextmanager
def _copy() -> Iterator[Path]:
    """The project, with a package of its own and links to all the rest."""
    with tempfile.TemporaryDirectory(prefix="phoenix-mutant-") as name:
        project = Path(name)
        shutil.copytree(PROJECT / PACKAGE, project / PACKAGE)
        shutil.copy(PROJECT / "pyproject.toml", project)
        for each in (*PROJECT.iterdir(), *(PROJECT / PACKAGE.parent).iterdir()):
            link = project / each.relative_to(PROJECT)
            if not link.exists() and not each.name.startswith("."):
                link.symlink_to(each)
        yield project


def _run(name: str, project: Path, tests: Sequence[str], *, stop: bool) -> Played:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_WARM)
    log, began = project / "output.txt", time.monotonic()
    process = context.Process(target=_test, args=(project, [f"tests/{each}" for each in tests], log, stop))
    process.start()
    process.join(LONGEST_SECONDS)
    if (code := process.exitcode) is None:
        process.kill()
        process.join()
    output = log.read_text(encoding="utf-8") if log.exists() else ""
    failed = re.search(r"^FAILED tests/(\S+)", output, re.MULTILINE)
    return Played(name, code, failed[1] if failed else "", time.monotonic() - began, output)


def _test(project: Path, tests: Sequence[str], log: Path, stop: bool) -> None:
    """In the process of its own: the tests, with the copy as the only package and the only tests to be found."""
    with log.open("w", encoding="utf-8") as out:
        for number in (1, 2):
            os.dup2(out.fileno(), number)
    os.chdir(project)
    # Processes forked so run no exit handlers: what tests leave for those goes away with the copy.
    os.environ["TMPDIR"] = tempfile.tempdir = str(project)
    os.environ["PYTHONPATH"] = os.pathsep.join((str(project / PACKAGE.parent), str(project)))
    sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() not in (PROJECT, PROJECT / PACKAGE.parent)]
    for module in [each for each in sys.modules if each.split(".")[0] in ("tests", "phoenix_fleet")]:
        del sys.modules[module]
    import pytest

    options = ["-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not (postgres or docker)"]
    places = ["-c", str(project / "pyproject.toml"), "--rootdir", str(project), "--basetemp", str(project / "scratch")]
    code = int(pytest.main([*options, *places, *(["-x"] if stop else []), *tests]))
    tested = getattr(sys.modules.get("phoenix_fleet"), "__file__", None)
    sys.exit(code if tested is None or Path(tested).is_relative_to(project) else ANOTHER_PACKAGE)
