"""A small, sound project on fake drivers, for tests that then break one thing in it."""

from __future__ import annotations

from pathlib import Path

from phoenix_fleet.config import Project

FLEET = """\
# The shop.
fleet: web
family: base
requires: released
environment: production
owners: {team: shop}
schedule: "0 4 1 * *"
size: 4
platform:
  fake: {boot_reads: 2}
balancer: none
verify:
  - fake: {verdict: passed}
canary: 1
waves: [50%, 100%]
max_surge: 1
drain: {limit: 60s, policy: fail}
"""

STAGING = (
    FLEET.replace("fleet: web", "fleet: web-staging")
    .replace("requires: released", "requires: certified")
    .replace("environment: production", "environment: staging")
    .replace('schedule: "0 4 1 * *"', "schedule: null")
)

FAMILY = """\
# The base image.
family: base
owners: {team: platform}
targets:
  - platform: fake
    build: {template: packer/fake.pkr.hcl, repository: base,
      seed: {suite: bookworm}}
access: {connection: phoenix_ssh}
configurator: none
reboot_check: true
test:
  - fake
components: [api]
stage:
  fleet: web-staging
  endpoint: front_staging
  dataset: datasets/2026-10
  gates: [fake]
approval: {timeout: 7d}
"""

COMPONENT = """\
component: api
version: "1.10"
role: role
unit_tests: [python3, -m, pytest]
junit: /tmp/junit.xml
"""

FILES = {
    "fleets/web.yaml": FLEET,
    "fleets/web-staging.yaml": STAGING,
    "images/base/image.yaml": FAMILY,
    "images/base/packer/fake.pkr.hcl": "",
    "images/base/components/api/component.yaml": COMPONENT,
    "images/base/components/api/role/tasks/main.yml": "[]\n",
    "images/base/datasets/2026-10/items.json": "[]\n",
    "images/base/environments/production.yaml": "api_workers: 4\nbanner: shop\n",
    "images/base/environments/staging.yaml": "api_workers: 1\nbanner: rehearsal\n",
    "images/base/environments/certify.yaml": "api_workers: 1\nbanner: proof\n",
}


def make_project(folder: Path) -> Project:
    """The project, written below ``folder``."""
    for name, content in FILES.items():
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Project(folder / "include")
