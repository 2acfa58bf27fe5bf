"""A lab's registry of images, on loopback, its storage in the lab's places."""

from __future__ import annotations

import httpx

from lab.places import Places
from lab.settings import HOST

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http:
  addr: {host}:{port}
  headers:
    X-Phoenix-Lab: ["{root}"]
"""


def argv(places: Places, port: int) -> list[str]:
    """How it is called; what it needs is made."""
    places.registry.mkdir(exist_ok=True)
    file = places.home / "registry.yml"
    file.write_text(_CONFIG.format(root=places.registry, host=HOST, port=port))
    return ["docker-registry", "serve", str(file)]


def answers(places: Places, port: int) -> bool:
    """Whether it is the one of these places that answers there."""
    try:
        headers = httpx.get(f"http://{HOST}:{port}/v2/", timeout=2, trust_env=False).headers
    except httpx.HTTPError:
        return False
    return bool(headers.get("X-Phoenix-Lab") == str(places.registry))
