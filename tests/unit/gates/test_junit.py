"""JUnit files are written by others, and read as such."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.gates import _junit


def test_outcomes_names_and_messages() -> None:
    report = _junit.parse(
        b"""<?xml version="1.0"?><testsuites><testsuite>
        <testcase classname="a.b" name="good"/>
        <testcase classname="a.b" name="bad"><failure message="17 is not 18">trace</failure></testcase>
        <testcase name="broken"><error>no
        set-up</error></testcase>
        <testcase name="later"><skipped message="not here"/></testcase>
        <testcase name="twice"><failure message="first"/><error message="teardown"/></testcase>
        </testsuite></testsuites>"""
    )
    assert [(case.name, case.outcome, case.message.split("\n")[0]) for case in report.cases] == [
        ("a.b::good", "passed", ""),
        ("a.b::bad", "failed", "17 is not 18"),
        ("broken", "error", "no"),
        ("later", "skipped", "not here"),
        ("twice", "failed", "first"),
    ]
    assert report.value == "5 tests, 2 failed, 1 errors, 1 skipped"
    assert report.executed == 4


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "b">]><testsuite/>', "document type"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite/>'.encode("utf-16"),
         "document type"),
        (b"<testsuite>" + b"<a>" * 100, "nested deeper"),
        (b"<html/>", "no <testsuite>"),
        (b"", "not XML"),
        (b"<testsuite>", "not XML"),
        (b"x" * (_junit.LARGEST + 1), "more than"),
    ],
    ids=["entity", "utf-16", "deep", "other", "nothing", "cut", "large"],
)  # fmt: skip
def test_what_is_not_to_be_believed_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(_junit.Malformed, match=why):
        _junit.parse(data)


@given(st.binary(max_size=400) | st.text(alphabet="<>/ testcaufilre='\"&;![]", max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        _junit.parse(data)
    except _junit.Malformed:
        return
