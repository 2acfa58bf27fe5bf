"""Takes secrets out of lines that other programs print, before they reach a log, an alert or a proof.

Airflow masks only values that it has handed out itself, and only in logs; this looks at the text instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
_HIDDEN = r"(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)"
_SECRET_NAME = re.compile(rf"(?i)(?:^|[_\-.])(?:\w*{_HIDDEN})(?:$|[_\-.])")
_ABOUT_ONE = re.compile(r"(?i)[_\-.](?:file|path|dir|stdin|url|ttl|length|policy|expiry)$")
"""What is said about a secret is none: ``POSTGRES_PASSWORD_FILE``."""
_SHORTEST = 4
"""Shorter secrets are not masked by value: they would blank out half of every line."""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # URL credentials: scheme://user:password@host
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)", re.I), rf"\g<keep>{MASK}"),
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\g<keep>{MASK}"),
    # name=value, "name": "value", --name value
    (
        re.compile(
            rf"(?P<keep>\b[\w.-]*{_HIDDEN}[\w.-]*[\\'\"]*\s*[=:]\s*)(?P<quote>\\?['\"]?)"
            rf"(?!{re.escape(MASK)})(?:(?<=['\"])[^'\"\\]+|[^\s,;'\"\\}}\]]+)",
            re.I,
        ),
        rf"\g<keep>\g<quote>{MASK}",
    ),
    (re.compile(rf"(?P<keep>--?[\w-]*{_HIDDEN}[\w-]*\s+)[^\s-]\S*", re.I), rf"\g<keep>{MASK}"),
    # Tokens that give themselves away
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), MASK),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), MASK),
    (re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [^-]*-----|$)", re.S), MASK),
)
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name holds a secret, as far as a name can tell (``DB_PASSWORD``, ``api_key``)."""
    return bool(_SECRET_NAME.search(name)) and not _ABOUT_ONE.search(name)


def secrets_in(data: Any) -> list[str]:
    """Every text below a key with a secret's name, at any depth of mappings and lists."""
    if isinstance(data, Mapping):
        found = [text for name, value in data.items() if is_secret_name(str(name)) for text in _texts(value)]
        return found + [text for value in data.values() for text in secrets_in(value)]
    if isinstance(data, list | tuple):
        return [text for item in data for text in secrets_in(item)]
    return []


def _texts(data: Any) -> list[str]:
    if isinstance(data, Mapping):
        return [text for value in data.values() for text in _texts(value)]
    if isinstance(data, list | tuple):
        return [text for item in data for text in _texts(item)]
    return [str(data)] if isinstance(data, str | int) and not isinstance(data, bool) else []


class Redactor:
    """Redacts line after line of one stream; it remembers when it is inside a private key."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        lines = {line for secret in secrets for line in [secret, *secret.splitlines()] if len(line) >= _SHORTEST}
        self._secrets = sorted(lines, key=len, reverse=True)
        self._in_key = False

    def __call__(self, line: str) -> str:
        """The line without secrets and without terminal control characters."""
        line = _CONTROL.sub("", line)
        if self._in_key:
            self._in_key = not _KEY_END.search(line)
            return MASK
        begin = _KEY_BEGIN.search(line)
        self._in_key = bool(begin and not _KEY_END.search(line, begin.end()))
        for secret in self._secrets:
            line = line.replace(secret, MASK)
        for pattern, replacement in _PATTERNS:
            line = pattern.sub(replacement, line)
        return line


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """A whole text, redacted line by line."""
    redactor = Redactor(secrets)
    return "\n".join(redactor(line) for line in text.splitlines())
