"""JSON Schemas of the configuration files, for editors: written from the models, byte for byte the same every time."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from phoenix_fleet.config import ComponentFile, Fleet, ImageFamily
from phoenix_fleet.configfields import duration_text

MODELS: dict[str, type[BaseModel]] = {"image": ImageFamily, "fleet": Fleet, "component": ComponentFile}


class _Generator(GenerateJsonSchema):
    """Writes the defaults of durations as files write them."""

    def encode_default(self, dft: Any) -> Any:
        return duration_text(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def render(name: str) -> str:
    """The schema of that kind of file (``image``, ``fleet`` or ``component``) as JSON text."""
    schema = MODELS[name].model_json_schema(schema_generator=_Generator)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def stale(folder: Path) -> list[Path]:
    """The files in ``folder`` that are missing or differ from what the models say now."""
    wanted = {folder / f"{name}.json": render(name) for name in MODELS}
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def write(folder: Path) -> list[Path]:
    """Write what is stale; returns those files."""
    changed = stale(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in changed:
        path.write_text(render(path.stem), encoding="utf-8")
    return changed
