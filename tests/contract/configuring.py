"""Roles for contract tests of configurators, and one configurator with an instance that it may configure."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from phoenix_fleet.configurators.base import Configurator
from phoenix_fleet.domain.models import Component, Environment, Instance
from tests.contract.gates_fixtures import Machines

SECRET = "correct-horse-battery"


def role(folder: Path, name: str, tasks: str) -> Component:
    """A component whose role has those tasks; every role lies in a folder named ``role``."""
    home = folder / "components" / name / "role"
    (home / "tasks").mkdir(parents=True, exist_ok=True)
    (home / "tasks" / "main.yml").write_text(textwrap.dedent(tasks))
    return Component(name=name, version="1.0", role=str(home))


API = """
    - name: Write what it was told
      ansible.builtin.copy:
        dest: /etc/shop-api.json
        content: "{{ {'env': phoenix_environment, 'instance': phoenix_instance, 'version': phoenix_version,
          'components': phoenix_components, 'greeting': greeting} | to_json }}"
        mode: "0644"
"""
FRONT = """
    - name: Make a folder
      ansible.builtin.file: {path: /srv/shop, state: directory, mode: "0755"}
    - name: Write the page
      ansible.builtin.copy: {dest: /srv/shop/index.html, content: "{{ greeting }}\\n", mode: "0644"}
    - name: Keep the password
      ansible.builtin.copy: {dest: /srv/shop/password, content: "{{ shop_password }}\\n", mode: "0600"}
    - name: Say too much
      ansible.builtin.debug: {msg: "connecting with {{ shop_password }}"}
"""


@dataclass
class Rig:
    """One configurator with an instance that it may configure."""

    name: str
    driver: Configurator
    instance: Instance
    environment: Environment
    machines: Machines | None = None
    lines: list[str] = field(default_factory=list)

    def apply(self, instance: Instance | None = None, environment: Environment | None = None) -> list[str]:
        self.lines.clear()
        self.driver.apply(instance or self.instance, environment or self.environment, self.lines.append)
        return list(self.lines)
