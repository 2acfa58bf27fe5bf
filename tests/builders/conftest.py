"""One machine to provision for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.builders import machine as machines


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[machines.Machine]:
    """Something that SSH reaches and that may be provisioned."""
    if os.geteuid():
        pytest.skip("a root file system of its own needs root")
    with machines.running(tmp_path_factory.mktemp("machine")) as found:
        yield found
