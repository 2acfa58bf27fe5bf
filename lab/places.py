"""Where the lab keeps its things. ``scripts/lib/common.sh`` knows the same two variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_HOME = Path("/var/lib/phoenix-lab")


@dataclass(frozen=True)
class Places:
    """The lab's folders: what ``down`` removes, sockets, and what is worth keeping from one lab to the next."""

    home: Path
    run: Path
    cache: Path

    @classmethod
    def find(cls) -> Places:
        """The folders of this machine, or those of ``PHOENIX_LAB_HOME`` and ``PHOENIX_CACHE``."""
        home = Path(os.environ.get("PHOENIX_LAB_HOME") or _HOME)
        return cls(
            home=home,
            run=Path("/run/phoenix-lab") if home == _HOME else home / "run",
            cache=Path(os.environ.get("PHOENIX_CACHE") or "/var/cache/phoenix-fleet"),
        )

    def beside(self, name: str) -> Places:
        """Places next to these, for a lab on one platform that comes and goes by itself."""
        home = self.home.with_name(f"{self.home.name}-{name}")
        inside = self.run.parent == self.home
        return Places(home, home / "run" if inside else self.run.with_name(f"{self.run.name}-{name}"), self.cache)

    def make(self) -> None:
        """Create what is missing, for root alone."""
        for folder in (self.home, self.run, self.cache, self.pids, self.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        self.home.chmod(0o700)

    @property
    def engine(self) -> Path:
        """The record of a Docker engine that ``scripts/setup`` had to start."""
        return self.home.with_name(self.home.name + "-engine") / "dockerd.json"

    @property
    def pids(self) -> Path:
        """A record per process that the lab started."""
        return self.home / "pids"

    @property
    def logs(self) -> Path:
        """Their output."""
        return self.home / "log"

    @property
    def environment_file(self) -> Path:
        """Overrides of ``airflow_settings.yaml`` where a port was taken: lines ``KEY=VALUE``."""
        return self.home / "env"

    @property
    def key_file(self) -> Path:
        """The private SSH key that reaches the instances."""
        return self.home / "ssh" / "id_ed25519"

    @property
    def catalog_url(self) -> str:
        """The lab's own catalog."""
        return f"sqlite:///{self.home}/catalog.db"

    @property
    def artefacts(self) -> Path:
        """Where tasks keep proof: JUnit files, reports."""
        return self.home / "artefacts"

    @property
    def reports(self) -> Path:
        """Where rollouts are reported."""
        return self.home / "reports"

    @property
    def registry(self) -> Path:
        """Storage of the registry."""
        return self.home / "registry"

    @property
    def alerts(self) -> Path:
        """What the alert receiver received, a JSON object a line."""
        return self.home / "alerts.jsonl"

    @property
    def traffic(self) -> Path:
        """Totals of the traffic so far, a JSON object; seconds lie beside it in ``traffic.jsonl``."""
        return self.home / "traffic.json"

    @property
    def airflow_home(self) -> Path:
        """``AIRFLOW_HOME``."""
        return self.home / "airflow"

    @property
    def include(self) -> Path:
        """A copy of ``include/`` with one thing broken, when the demo was told to break one."""
        return self.home / "include"
