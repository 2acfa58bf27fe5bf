"""Secrets by their content alone: what everybody has is none, and hostile bytes take no time."""

from __future__ import annotations

import pytest

from phoenix_fleet.gates import _leftovers

EXAMPLE = b"-----BEGIN RSA PRIVATE KEY-----\n  MIIBxwIBAAJhAKD0YSHy73nUgysO13XsJmd4fHiFyQ+00R7VVu2iV9Qco\n  ...\n"
"""As cloud-init shows it in the description of its module ssh."""
REAL = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIBxwIBAAJhAKD0YSHy73nUgysO13Xs" * 4 + b"\n"


def test_the_example_that_cloud_init_shows_is_no_secret_and_hides_none() -> None:
    assert _leftovers.by_content(EXAMPLE) == ""
    assert list(_leftovers.by_deleted(EXAMPLE)) == []
    assert _leftovers.by_content(EXAMPLE + REAL) == "a private key"
    assert list(_leftovers.by_deleted(EXAMPLE + REAL)) == [(len(EXAMPLE), "a private key")]


@pytest.mark.parametrize("line", [b"A: b\n", b"A: b\\n", b"A:  A:  \\n \n", b"Proc-Type: 4\r\n"])
def test_headers_without_end_are_read_once_and_not_in_every_way_there_is(line: bytes) -> None:
    assert _leftovers.by_content(b"-----BEGIN PRIVATE KEY-----\n" + line * 20_000) == ""
