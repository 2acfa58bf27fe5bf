"""A family of the tests' own: the real templates, and provisioning that takes no time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from phoenix_fleet.config import ImageFamily, Project, Target

VERSION = "2026.11-1"
PROVISION = """#!/bin/sh
set -eu
test -d "$PHOENIX_FILES/common"
echo "provisioned: $PHOENIX_FAMILY $PHOENIX_VERSION, layers: $PHOENIX_LAYERS, by $(id -un)"
"""
HANGS = "#!/bin/sh\necho hangs-here\nsleep 600\n"
FAILS = "#!/bin/sh\necho E: no such package\nexit 100\n"


def make(folder: Path, name: str = "mini", provision: str = PROVISION) -> ImageFamily:
    """The family in a folder of its own, beside what families share."""
    images = folder / "images"
    home = images / name
    home.mkdir(parents=True)
    shutil.copytree(Project.find().include / "images" / "common", images / "common")
    (images / "common" / "provision.sh").write_text(provision)
    made = ImageFamily.model_construct(family=name)
    made.__pydantic_private__ = {"_home": home}
    return made


def target(platform: dict[str, Any], template: str, **build: Any) -> Target:
    """What an image file would say of that platform."""
    return Target.model_validate({"platform": platform, "build": {"template": f"../common/packer/{template}", **build}})
