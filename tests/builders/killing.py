"""Builds in a process of their own, and the death of all that belongs to one at once, as when a machine loses power."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from phoenix_fleet.connections import Connection
from tests.contract.machinery import wait_for

ROOT = Path(__file__).resolve().parents[2]

_CALLER = """
import json, sys
from pathlib import Path
from phoenix_fleet import packer
from phoenix_fleet.connections import Connection
from phoenix_fleet.config import ImageFamily, Target
from phoenix_fleet.domain.windows import Version
told = json.load(sys.stdin)
family = ImageFamily.model_construct(family=told["family"])
family.__pydantic_private__ = {"_home": Path(told["home"])}
known = {each["id"]: Connection(**each) for each in told["connections"]}
packer.build(family, Target.model_validate(told["target"]), Version.parse(told["version"]), known.__getitem__,
             workdir=Path(told["workdir"]), log=lambda line: print(line, flush=True))
"""


class Build:
    """A build under way in another process."""

    def __init__(
        self, family: Any, target: Any, version: str, connections: Mapping[str, Connection], workdir: Path
    ) -> None:
        self.workdir = workdir
        self._output = workdir / "said"
        told = {
            "family": family.name,
            "home": str(family.home),
            "target": {
                "platform": {target.platform.name: target.platform.settings},
                "build": target.build.model_dump(mode="json"),
            },
            "version": version,
            "workdir": str(workdir),
            "connections": [vars(each) | {"extra": dict(each.extra)} for each in connections.values()],
        }
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CALLER],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'include'}:{os.environ.get('PYTHONPATH', '')}"},
                text=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told))
        self.process.stdin.close()

    @property
    def said(self) -> str:
        return self._output.read_text()

    def wait_for(self, see: Callable[[], Any], what: str, seconds: float = 180) -> Any:
        """What the condition gives once it gives something; the build must not end before."""

        def look() -> Any:
            assert self.process.poll() is None, self.said
            return see()

        return wait_for(look, what, seconds)

    def kill_all(self) -> None:
        """End the caller, Packer and whatever it started, all without a last word."""
        os.kill(self.process.pid, signal.SIGSTOP)  # so that nobody cleans up after the first one's death
        for _ in range(20):
            left = list(self.packers())
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.1)
        self.process.kill()
        self.process.wait()

    def packers(self) -> Iterator[int]:
        """Every process of this build's Packer, living ones alone."""
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                argv = (folder / "cmdline").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                env = (folder / "environ").read_bytes() if state != "Z" else b""
                if state != "Z" and argv[0].endswith(b"packer") and str(self.workdir).encode() in env:
                    yield int(folder.name)

    def end(self) -> None:
        """End it if it is still there."""
        if self.process.poll() is None:
            self.kill_all()
