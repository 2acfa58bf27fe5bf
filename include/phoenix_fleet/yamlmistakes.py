"""Pydantic's errors in the words of whoever wrote the file: where, what is wrong, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


class Mistake(NamedTuple):
    """One thing wrong with a file."""

    location: tuple[Any, ...]
    """Keys and item numbers (from 0) from the top of the file."""
    message: str
    remedy: str


class Below(ValueError):
    """Raised by a validator whose value another model judges: its mistakes, located below the validator's field."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(one.message for one in mistakes))
        self.mistakes = tuple(mistakes)


def explain(model: type[BaseModel], error: ValidationError, under: tuple[Any, ...] = ()) -> list[Mistake]:
    """Every mistake in ``error``, which came from validating against ``model``, in the file's order of keys.

    ``under`` is where the validated value stands in the file.
    """
    details = error.errors(include_url=False)
    return [
        mistake._replace(location=(*under, *mistake.location))
        for detail in details
        if not _follows_from(detail, details)
        for mistake in _mistakes(model, detail)
    ]


def nearest(word: str, known: Sequence[str], otherwise: str) -> str:
    """``Did you mean 'x'?`` where one of ``known`` is close to ``word``, or else that other remedy."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean '{near[0]}'?" if near else otherwise


def _follows_from(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Whether it only says "too short" of a list whose items are wrong themselves."""
    inside = (other for other in details if other["loc"][: len(detail["loc"])] == detail["loc"] and other is not detail)
    return detail["type"] == "too_short" and any(inside)


def _mistakes(model: type[BaseModel], detail: ErrorDetails) -> Iterator[Mistake]:
    location = detail["loc"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Below):
        for inner in cause.mistakes:
            yield inner._replace(location=(*location, *inner.location))
        return
    if detail["type"] == "extra_forbidden":
        known = sorted(_model_at(model, location[:-1]).model_fields)
        otherwise = f"Remove it; known keys: {', '.join(known)}." if known else "Remove it; there are no keys here."
        yield Mistake(location, "unknown key.", nearest(str(location[-1]), known, otherwise))
        return
    message, remedy = _TEXTS.get(detail["type"], _as_it_says)(detail)
    yield Mistake(
        location, message, " ".join(filter(None, (remedy, _meaning(model, location)))) or "Correct the value."
    )


def _meaning(model: type[BaseModel], location: Sequence[Any]) -> str:
    """What the field at that place is for, from its description."""
    names = [part for part in location if isinstance(part, str)]
    if not names:
        return ""
    parent = location[: len(location) - 1 - list(reversed(location)).index(names[-1])]
    field = _model_at(model, parent).model_fields.get(names[-1])
    return f"It means: {field.description}" if field and field.description else ""


def _model_at(model: type[BaseModel], location: Sequence[Any]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(str(part))
        model = (_model_in(field) if field else None) or model
    return model


def _model_in(field: FieldInfo) -> type[BaseModel] | None:
    """The model in a field's type, also inside a list or an optional one."""
    waiting = [field.annotation]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        waiting.extend(get_args(kind))
    return None


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return "empty" if value is None else kinds.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


Explain = Callable[[ErrorDetails], tuple[str, str]]


def _must_be(what: str, remedy: str) -> Explain:
    def explain_kind(detail: ErrorDetails) -> tuple[str, str]:
        value = detail["input"]
        got = _shown(value) if isinstance(value, str | int | float | bool) else _kind(value)
        return f"this must be {what}, not {got}.", remedy

    return explain_kind


def _as_it_says(detail: ErrorDetails) -> tuple[str, str]:
    """For types without words of our own: pydantic's message."""
    return f"{detail['msg'].removeprefix('Value error, ').rstrip('.')}.", ""


def _missing(detail: ErrorDetails) -> tuple[str, str]:
    return "this key is missing.", "Add it."


def _choice(detail: ErrorDetails) -> tuple[str, str]:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    known = expected.replace("'", "").replace(" or ", ", ").split(", ")
    message = f"{_shown(detail['input'])} is none of {', '.join(known)}."
    return message, nearest(str(detail["input"]), known, "Write one of them.")


def _pattern(detail: ErrorDetails) -> tuple[str, str]:
    pattern = detail.get("ctx", {}).get("pattern", "")
    return f"{_shown(detail['input'])} does not have the right form.", f"It must match {pattern}"


def _bound(word: str, key: str) -> Explain:
    def explain_bound(detail: ErrorDetails) -> tuple[str, str]:
        limit = detail.get("ctx", {}).get(key)
        return (
            f"{_shown(detail['input'])} is too {'small' if word == 'at least' else 'large'}.",
            f"Write {word} {limit}.",
        )

    return explain_bound


def _too_short(detail: ErrorDetails) -> tuple[str, str]:
    return "this must not be empty.", f"Give at least {detail.get('ctx', {}).get('min_length', 1)}."


_WHOLE = _must_be("a whole number", "Write digits, without quotes.")
_TEXT = _must_be("text", "Quote it if YAML takes it for something else.")
_LIST = _must_be("a list", "Write it as [a, b] or one item per line after a hyphen.")
_KEYS = _must_be("a mapping of keys", "Write keys below it, indented.")
_BOOL = _must_be("true or false", "Write true or false.")
_TEXTS: dict[str, Explain] = {
    "missing": _missing,
    "string_type": _TEXT,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "bool_type": _BOOL,
    "bool_parsing": _BOOL,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _KEYS,
    "model_type": _KEYS,
    "model_attributes_type": _KEYS,
    "literal_error": _choice,
    "string_pattern_mismatch": _pattern,
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
    "too_short": _too_short,
}
