from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.windows import Version, Window

windows = st.builds(Window, st.integers(1970, 2999), st.integers(1, 12))


@given(windows)
def test_a_window_reads_back_as_it_was_written(window: Window) -> None:
    assert Window.parse(str(window)) == window


@given(windows, windows)
def test_windows_order_as_their_names_and_their_starts_do(one: Window, other: Window) -> None:
    assert (one < other) == (str(one) < str(other)) == (one.start < other.start)


@given(windows)
def test_a_window_ends_where_the_next_one_starts(window: Window) -> None:
    assert window.end == window.next().start
    assert Window.of(window.end - timedelta(microseconds=1)) == window
    assert Window.of(window.end) == window.next()


def test_the_window_of_a_moment_is_that_of_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert Window.of(datetime(2026, 12, 1, 8, 59, tzinfo=tokyo)) == Window(2026, 11)
    assert Window.of(datetime(2026, 12, 1, 9, 0, tzinfo=tokyo)) == Window(2026, 12)
    assert Window(2026, 12).end == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-00", "26-11", "2026-11-01", " 2026-11", "2026-11\n"])
def test_what_is_not_a_window(text: str) -> None:
    with pytest.raises(InvalidConfig, match="is not a window"):
        Window.parse(text)


@given(st.builds(Version, windows, st.integers(1, 99999)))
def test_a_version_reads_back_as_it_was_written(version: Version) -> None:
    assert Version.parse(str(version)) == version


@pytest.mark.parametrize(
    "text",
    ["", "2026.11", "2026.11-0", "2026.11-01", "2026-11-1", "2026.13-1", "2026.11-1x", "v2026.11-1", "2026.11-1\n"],
)
def test_what_is_not_a_version(text: str) -> None:
    with pytest.raises(InvalidConfig, match="is not an image version"):
        Version.parse(text)


def test_versions_order_by_window_then_by_number_and_not_as_text() -> None:
    written = ["2026.9-1", "2026.10-2", "2026.10-10", "2026.11-1"]
    versions = [Version.parse(text.replace("2026.9", "2026.09")) for text in written]
    assert versions == sorted(versions)
