"""A YAML file read for configuration: plain data plus the line of every key, and nothing that could surprise.

It reads YAML 1.2's plain core (mappings, lists, text, whole and decimal numbers, true/false, null; dates and
``yes`` stay text). Duplicate keys, tags, merge keys, several documents, huge files and alias bombs are errors.
Parsing goes through libyaml's event stream, because every DAG parse reads every file that concerns it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from phoenix_fleet import yamlmistakes
from phoenix_fleet.domain.errors import InvalidConfig

Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 256 * 1024
"""A larger file is a mistake, not a configuration."""
MAX_DEPTH = 40
MAX_NODES = 20_000
"""Values in one file, with every use of an alias counted in full."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING_TAG = "tag:yaml.org,2002:str"
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")


@dataclass
class _Node:
    """One value with its line (from 1); a key's line counts as its value's."""

    line: int
    value: Any = None
    children: dict[Any, _Node] = field(default_factory=dict)
    size: int = 1


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, and where everything in it stands."""

    path: Path
    data: dict[str, Any]
    _root: _Node

    def line(self, location: Sequence[Any]) -> int:
        """The line (from 1) of the key or item at ``location``, or that of its nearest parent."""
        node = self._root
        for part in location:
            if part not in node.children:
                break
            node = node.children[part]
        return node.line

    def mistake(self, location: Sequence[Any], message: str, remedy: str) -> str:
        """One mistake in the form that people and editors read: ``file:line: field: message Remedy: …``."""
        name = ".".join(str(part) for part in location) or "(file)"
        return f"{self.path}:{self.line(location)}: {name}: {message} Remedy: {remedy}"

    def check(self, model: type[Model]) -> Model:
        """The content as that model.

        :raises InvalidConfig: with one line ``file:line: field: what is wrong. Remedy: …`` for every mistake.
        """
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            found = yamlmistakes.explain(model, error)
        raise InvalidConfig("\n".join(self.mistake(*one) for one in found))


def load(path: Path, model: type[Model]) -> Model:
    """The file's content as that model.

    :raises InvalidConfig: with one line ``file:line: field: what is wrong. Remedy: …`` for every mistake in it.
    """
    return read(path).check(model)


def read(path: Path) -> Document:
    """The parsed file.

    :raises InvalidConfig: if it is missing, too big, not UTF-8, not plain YAML, or not a mapping.
    """
    return _parse(path, _text(path))


@lru_cache(maxsize=512)  # a DAG processor reads the same few files time and again
def _parse(path: Path, text: str) -> Document:
    builder = _Builder(path)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = " ".join(filter(None, (error.context, error.problem)))
        raise _refuse(path, line, f"this is not YAML: {what}.", "Check quotes, colons and indentation there.") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise _refuse(path, line, f"this is not YAML: {error.reason}.", "Remove that character.") from None
    root = builder.root
    if root is None or not isinstance(root.value, dict):
        raise _refuse(path, 1, "the file must be a mapping of keys.", "Start from an example file.")
    return Document(path, root.value, root)


def _refuse(path: Path, line: int, message: str, remedy: str) -> InvalidConfig:
    return InvalidConfig(f"{path}:{line}: {message}", remedy=remedy)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidConfig(f"{path}: there is no such file.", remedy="Create it or correct the name.") from None
    except OSError as error:
        raise InvalidConfig(
            f"{path}: it cannot be read: {error.strerror}.", remedy="Check the path and mode."
        ) from None
    if len(raw) > MAX_BYTES:
        raise _refuse(
            path, 1, f"it is larger than {MAX_BYTES // 1024} KiB.", "Configuration files are short; split it."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _refuse(path, line, f"it is not UTF-8 text: {error.reason}.", "Save it as UTF-8 text.") from None


class _Builder:
    """Turns the parser's events into nodes, without recursion and within bounds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root: _Node | None = None
        self._open: list[_Node] = []
        self._keys: list[tuple[str, int] | None] = []
        self._anchors: dict[str, _Node] = {}
        self._anchor_of: list[str | None] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._error(line, "a second document starts here.", "Keep one document per file.")
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor or "", line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _error(self, line: int, message: str, remedy: str) -> InvalidConfig:
        return _refuse(self.path, line, message, remedy)

    def _start(self, event: yaml.CollectionStartEvent, line: int) -> None:
        if event.tag is not None:
            raise self._tagged(event.tag, line)
        if len(self._open) >= MAX_DEPTH:
            raise self._error(line, f"it is nested more than {MAX_DEPTH} levels deep.", "Flatten it.")
        if self._awaits_key():
            raise self._error(line, "a key must be text, not a list or mapping.", "Quote it if it is text.")
        self._open.append(_Node(line, {} if isinstance(event, yaml.MappingStartEvent) else []))
        self._keys.append(None)
        self._anchor_of.append(event.anchor)

    def _end(self) -> None:
        node, anchor = self._open.pop(), self._anchor_of.pop()
        self._keys.pop()
        if anchor:
            self._anchors[anchor] = node
        self._add(node)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        if event.tag not in (None, "!", _STRING_TAG):
            raise self._tagged(event.tag, line)
        if self._awaits_key():
            self._key(event, line)
            return
        plain = event.style in (None, "") and event.tag is None
        node = _Node(line, _scalar(event.value) if plain else event.value)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._add(node)

    def _key(self, event: yaml.ScalarEvent, line: int) -> None:
        key = event.value
        if key == "<<":
            raise self._error(line, "merge keys (<<) are not supported.", "Write the keys out.")
        if first := self._open[-1].children.get(key):
            raise self._error(
                line, f"the key '{key}' is here twice; the first is on line {first.line}.", "Keep one of them."
            )
        self._keys[-1] = (key, line)

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors or self._awaits_key():
            raise self._error(line, f"the alias '*{anchor}' has nothing to refer to.", "Write the value out.")
        known = self._anchors[anchor]
        self._add(_Node(line, known.value, known.children, known.size))

    def _tagged(self, tag: str, line: int) -> InvalidConfig:
        return self._error(line, f"tags such as {tag!r} are not supported.", "Write plain text, numbers and lists.")

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._keys[-1] is None

    def _add(self, node: _Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.size += node.size
        if parent.size > MAX_NODES:
            raise self._error(node.line, f"it holds more than {MAX_NODES} values.", "Split it; mind the aliases.")
        if isinstance(parent.value, dict):
            key, line = self._keys[-1] or ("", node.line)
            self._keys[-1] = None
            parent.value[key] = node.value
            parent.children[key] = _Node(line, node.value, node.children, node.size)
        else:
            parent.children[len(parent.value)] = node
            parent.value.append(node.value)


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
