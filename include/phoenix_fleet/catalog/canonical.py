"""One way to write a value down as text, so that equal values have equal text and equal hashes everywhere."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from phoenix_fleet.domain.errors import InvalidConfig

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL, which PostgreSQL refuses, and lone surrogates, which UTF-8 cannot say."""


def clean(text: str) -> str:
    """The text with what no database can hold replaced by U+FFFD; outside systems send such things."""
    return _UNSTORABLE.sub("\ufffd", text)


def dumps(value: Any) -> str:
    """Canonical JSON: ASCII, keys sorted, no spaces. Numbers that JSON cannot say (NaN) become text.

    :raises InvalidConfig: if it holds something that is not JSON-able, naming its type.
    """
    try:
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InvalidConfig("A value is nested too deep to be stored.", remedy="Store less of it.") from None


def loads(text: str) -> Any:
    """The value that ``dumps`` wrote down."""
    return json.loads(text)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return clean(str(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise InvalidConfig(
        f"A {type(value).__name__} cannot be stored in the catalog: {value!r:.80}.",
        remedy="Turn it into text, a number, a list or a mapping first.",
    )
