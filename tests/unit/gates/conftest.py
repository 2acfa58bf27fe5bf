from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.gates.oracle import Oracle, an_oracle


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with an_oracle() as found:
        yield found
