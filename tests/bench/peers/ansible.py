"""Ansible: a play with ``serial: 1`` over the machines of one engine, behind HAProxy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.peers.contest import Contestant
from tests.bench.peers.ground import BACKEND, CHECK_MS, OLD, PORT, control_of, front

HERE = Path(__file__).parent


class Ansible(Contestant):
    """One host of the inventory per slot, on a local connection and without gathering facts: as quick as it can."""

    name = "Ansible, serial: 1"

    @contextmanager
    def fleet(self, name: str, size: int) -> Iterator[int]:
        """Filled by the same play, which finds nothing to take out."""
        with front(self.ground.folder, name) as balancer:
            try:
                filled = self._play(name, size, OLD, standing="")
                assert filled.returncode == 0, filled.stdout
                yield balancer.port
            finally:
                self.ground.sweep()

    def refresh(self, name: str, size: int, release: str) -> tuple[str, float]:
        """The play, from the start of the program to its end."""
        played = self._play(name, size, release, standing=OLD)
        return "completed" if played.returncode == 0 else f"ended with status {played.returncode}", 0.0

    def _play(self, name: str, size: int, release: str, *, standing: str) -> subprocess.CompletedProcess[str]:
        folder = self.ground.folder
        inventory = folder / f"{name}.ini"
        inventory.write_text("\n".join(["[fleet]", *(f"{name}-{number:02d}" for number in range(1, size + 1)), ""]))
        variables = {
            "release": release,
            "standing": standing,
            "image": self.ground.releases[release].reference,
            "network": self.ground.lab.network,
            "backend": BACKEND,
            "port": PORT,
            "check_ms": CHECK_MS,
            "socket": str(control_of(folder, name)),
            "python": sys.executable,
            "ansible_python_interpreter": sys.executable,
            "runtime": str(HERE / "runtime.py"),
        }
        (folder / f"{name}.json").write_text(json.dumps(variables))
        program = Path(sys.executable).with_name("ansible-playbook")
        return subprocess.run(
            [
                *(str(program), "--inventory", str(inventory), "--extra-vars", f"@{folder / name}.json"),
                str(HERE / "refresh.yml"),
            ],
            env={**os.environ, "ANSIBLE_HOME": str(folder / "ansible"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
