"""Writes a whole project on fakes into a folder: one family `mini`, a fleet `shop` and its staging fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ENVIRONMENTS = ("production", "staging", "certify")


def write_project(root: Path, *, size: int = 4, **changes: Any) -> Path:
    """The ``include`` folder of a project whose every driver is a fake with its state below ``root/state``.

    ``changes`` are merged into the fleet file ``shop``.
    """
    include, state = root / "include", root / "state"
    state.mkdir(parents=True, exist_ok=True)
    home = include / "images" / "mini"
    role = home / "components" / "app" / "role" / "tasks"
    role.mkdir(parents=True)
    (role / "main.yml").write_text("[]\n")
    (home / "environments").mkdir()
    (home / "data").mkdir()
    (home / "packer").mkdir()
    (home / "packer" / "fake.pkr.hcl").write_text("# the fake platform needs no template\n")
    for name in ENVIRONMENTS:
        _yaml(home / "environments" / f"{name}.yaml", {"colour": name})
    component = {"component": "app", "version": "1.0", "unit_tests": ["true"], "junit": "/tmp/junit.xml"}  # noqa: S108
    _yaml(home / "components" / "app" / "component.yaml", component)
    platform = {"fake": {"state": str(state / "platform.json")}}
    steered = {"fake": {"state": str(state / "gate.json")}}
    _yaml(
        home / "image.yaml",
        {
            "family": "mini",
            "owners": {"team": "testers"},
            "targets": [{"platform": platform, "build": {"template": "packer/fake.pkr.hcl", "seed": {"suite": "x"}}}],
            "configurator": "fake",
            "test": [steered],
            "reboot_check": False,
            "components": ["app"],
            "certify": steered,
            "stage": {"fleet": "shop-staging", "endpoint": "front", "dataset": "data", "gates": [steered]},
        },
    )
    common = {
        "family": "mini",
        "owners": {"team": "testers"},
        "platform": platform,
        "configurator": "fake",
        "watch_time": "0s",
    }
    balancer = {"fake": {"state": str(state / "balancer.json")}}
    (include / "fleets").mkdir()
    shop = {"fleet": "shop", "size": size, "balancer": balancer, "waves": ["50%", "100%"], "verify": [steered]}
    _yaml(include / "fleets" / "shop.yaml", {**common, **shop, **changes})
    staging = {"fleet": "shop-staging", "requires": "certified", "environment": "staging", "size": 2, "schedule": None}
    _yaml(include / "fleets" / "shop-staging.yaml", {**common, **staging, "balancer": balancer, "waves": ["100%"]})
    return include


def steer_gates(root: Path, steering: dict[str, Any]) -> None:
    """Tell every fake gate of the project what to say from now on."""
    (root / "state" / "gate.json").write_text(json.dumps(steering))


def _yaml(path: Path, data: Any) -> None:
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(data, file)
