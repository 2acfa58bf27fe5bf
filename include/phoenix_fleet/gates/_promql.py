"""Query templates: which instances and how long are filled in as literals that no name can break out of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PLACEHOLDER = re.compile(r"\{(instances?|window)\}")
_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|`[^`]*`|#[^\n]*')
"""Strings and comments as PromQL's lexer knows them."""
_META = re.compile(r"[\\.+*?()|\[\]{}^$]")
"""What Go's ``regexp.QuoteMeta`` escapes: Prometheus matches with RE2."""


def check(template: str) -> str:
    """The template, if its placeholders can be filled in.

    :raises ValueError: it names no instance, or a placeholder stands within quotes.
    """
    names = {match[1] for match in PLACEHOLDER.finditer(template)}
    if len(names & {"instance", "instances"}) != 1:
        raise ValueError("write {instances} (a regex, after =~) or {instance} (after =), one of the two")
    for literal in _LITERAL.finditer(template):
        if PLACEHOLDER.search(literal[0]):
            raise ValueError(f"{literal[0]}: leave out the quotes, a placeholder brings its own")
    return template


def is_single(template: str) -> bool:
    """Whether it asks for one instance at a time."""
    return "{instance}" in template


def fill(template: str, instances: Sequence[str], window_seconds: int) -> str:
    """The query about those instances.

    :raises ValueError: an instance has a name that no label can have.
    """
    values: Mapping[str, str] = {
        "instance": quoted(instances[0]),
        "instances": quoted("|".join(_META.sub(r"\\\g<0>", each) for each in instances)),
        "window": f"{window_seconds}s",
    }
    # In one pass: what is filled in is never looked at again.
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def quoted(text: str) -> str:
    """The text as a PromQL string, which follows Go's escapes.

    :raises ValueError: it cannot be written in UTF-8, as labels are.
    """
    text.encode("utf-8")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", escaped) + '"'


def replace(text: str, instance: Mapping[str, str]) -> str:
    """The text with ``{name}``, ``{address}`` and ``{id}`` filled in, in one pass."""
    return re.sub(r"\{(name|address|id)\}", lambda match: str(instance[match[1]]), text)
