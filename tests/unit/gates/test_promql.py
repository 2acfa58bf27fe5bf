"""Names in queries: whatever an instance is called, it stays inside its literal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_fleet.gates import _promql


def unquoted(literal: str) -> str:
    """What Go's strconv.Unquote makes of what we write."""
    assert literal[0] == literal[-1] == '"'
    out, rest = "", literal[1:-1]
    while rest:
        assert rest[0] not in '"\n', "it broke out"
        if rest[:2] == "\\x":
            out, rest = out + chr(int(rest[2:4], 16)), rest[4:]
        elif rest[0] == "\\":
            assert rest[1] in '\\"'
            out, rest = out + rest[1], rest[2:]
        else:
            out, rest = out + rest[0], rest[1:]
    return out


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_name_breaks_out_of_its_literal(name: str) -> None:
    assert unquoted(_promql.quoted(name)) == name
    hostile = name + '"} or vector(0) # {window} {instances}'
    assert _promql.fill("up{instance={instance}}", [hostile], 1) == f"up{{instance={_promql.quoted(hostile)}}}"
