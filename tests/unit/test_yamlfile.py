"""Reading YAML: what it gives, where everything stands, and everything that it refuses with its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet import yamlfile
from phoenix_fleet.domain.errors import InvalidConfig


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(content: str | bytes) -> Path:
        path = tmp_path / "file.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def refusal(path: Path) -> str:
    with pytest.raises(InvalidConfig) as caught:
        yamlfile.read(path)
    return str(caught.value)


def test_plain_data_with_yaml_1_2_scalars(write: Any) -> None:
    path = write(
        "text: hello\nnumber: 12\nnegative: -3\nshare: 2.5\ntrue_: true\nempty:\ntilde: ~\nlist: [1, two]\n"
        "quoted: '12'\nyes_: yes\ndate: 2026-10-01\nversion: 1.10\nfolded: >\n  a\n  b\n"
        "unicode: \u00e9\u4e2d\U0001f525\n"
    )
    assert yamlfile.read(path).data == {
        "text": "hello",
        "number": 12,
        "negative": -3,
        "share": 2.5,
        "true_": True,
        "empty": None,
        "tilde": None,
        "list": [1, "two"],
        "quoted": "12",
        "yes_": "yes",
        "date": "2026-10-01",
        "version": 1.1,
        "folded": "a b\n",
        "unicode": "\u00e9\u4e2d\U0001f525",
    }


def test_an_alias_repeats_the_value_and_keeps_its_own_line(write: Any) -> None:
    document = yamlfile.read(write("a: &x\n  b: 1\nc: *x\n"))
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.line(["c"]) == 3
    assert document.line(["c", "b"]) == 2


def test_lines_of_keys_items_and_nearest_parents(write: Any) -> None:
    document = yamlfile.read(write("a: 1\nb:\n  c:\n    - x\n    - d: 2\n      e: 3\n"))
    assert [document.line(place) for place in (["a"], ["b"], ["b", "c"], ["b", "c", 1], ["b", "c", 1, "e"])] == [
        1, 2, 3, 5, 6,
    ]  # fmt: skip
    assert document.line(["b", "missing"]) == 2
    assert document.line([]) == 1


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' is here twice; the first is on line 1"),
        ("a:\n  b: 1\n  b: 2\n", 3, "the key 'b' is here twice; the first is on line 2"),
        ("a:\n\t- b\n", 2, "cannot start any token"),
        ("a: {b: 1\n", 2, "this is not YAML"),
        ("a: b: c\n", 1, "mapping values are not allowed"),
        ("a: 'open\n", 2, "end of stream"),
        ("- a\n- b\n", 1, "must be a mapping"),
        ("just text\n", 1, "must be a mapping"),
        ("", 1, "must be a mapping"),
        ("# only a comment\n", 1, "must be a mapping"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: 1\nb: *nowhere\n", 2, "*nowhere"),
        ("a: &me [*me]\n", 1, "*me"),
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", 2, "tags such as"),
        ("a: !custom 1\n", 1, "tags such as '!custom'"),
        ("a: {x: 1}\nb:\n  <<: {y: 2}\n", 3, "merge keys"),
        ("a: 1\n? [b, c]\n: 2\n", 2, "a key must be text"),
        (b"a: 1\nb: \xff\xfe\n", 2, "not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", 1, "this is not YAML"),
        ("a: 1\nb: \x00\n", 2, "control characters"),
        ('a: "\\ud800"\n', 1, "Unicode"),
        ("a: " + "[" * 100 + "]" * 100, 1, "levels deep"),
        ("[" * 100_000, 1, "levels deep"),
        ("a: 1\n" + "#" * yamlfile.MAX_BYTES, 1, "larger than 256 KiB"),
    ],
)
def test_what_it_refuses_says_where_and_what_to_do(write: Any, content: str | bytes, line: int, says: str) -> None:
    path = write(content)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: ")
    assert says in message
    assert " Remedy: " in message


def test_an_alias_bomb_is_refused(write: Any) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    assert "more than 20000 values" in refusal(write(bomb))


def test_missing_and_unreadable_files_say_so(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "absent.yaml")
    assert "cannot be read" in refusal(tmp_path)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    assert "larger than" in refusal(Path("/dev/zero"))
    assert os.path.exists("/dev/zero")


def test_a_byte_order_mark_is_no_key(write: Any) -> None:
    assert yamlfile.read(write(b"\xef\xbb\xbfa: 1\n")).data == {"a": 1}


@given(st.binary(max_size=300) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`\n\t ,?~0", max_size=120).map(str.encode))
def test_whatever_the_bytes_it_answers_or_refuses(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.yaml"
    path.write_bytes(content)
    try:
        answer: Any = yamlfile.read(path).data
    except InvalidConfig as error:
        answer = str(error)
    assert isinstance(answer, dict) or str(path) in answer


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=1, le=9, description="How many.")
    on: bool = True


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern="^[a-z]+$", description="What it is called.")
    inner: Inner
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None


def mistakes(path: Path) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        yamlfile.load(path, Outer)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name: a\ninner:\n  size: 1\n  sizee: 2\n", "4: inner.sizee: unknown key. Remedy: Did you mean 'size'?"),
        ("name: a\ninner: {size: 1}\nnamee: b\n", "3: namee: unknown key. Remedy: Did you mean 'name'?"),
        (
            "name: a\ninner: {size: 1}\nmany:\n  - size: 1\n  - size: 1\n    zzz: 1\n",
            "6: many.1.zzz: unknown key. Remedy: Remove it; known keys: on, size.",
        ),
        (
            "name: a\ninner: {size: 1}\nmaybe:\n  size: 1\n  sizee: 1\n",
            "5: maybe.sizee: unknown key. Remedy: Did you mean 'size'?",
        ),
        ("name: a\ninner: {}\n", "2: inner.size: this key is missing. Remedy: Add it. It means: How many."),
        (
            "name: a\ninner: {size: lots}\n",
            "2: inner.size: this must be a whole number, not 'lots'. "
            "Remedy: Write digits, without quotes. It means: How many.",
        ),
        ("name: a\ninner: {size: 0}\n", "2: inner.size: 0 is too small. Remedy: Write at least 1. It means: How many."),
        (
            "name: a\ninner: {size: 10}\n",
            "2: inner.size: 10 is too large. Remedy: Write at most 9. It means: How many.",
        ),
        (
            "name: 5\ninner: {size: 1}\n",
            "1: name: this must be text, not 5. Remedy: Quote it if YAML takes it for something else. "
            "It means: What it is called.",
        ),
        (
            "name: A\ninner: {size: 1}\n",
            "1: name: 'A' does not have the right form. Remedy: It must match ^[a-z]+$ It means: What it is called.",
        ),
        (
            "name: a\ninner: 3\n",
            "2: inner: this must be a mapping of keys, not 3. Remedy: Write keys below it, indented.",
        ),
        (
            "name: a\ninner:\n",
            "2: inner: this must be a mapping of keys, not empty. Remedy: Write keys below it, indented.",
        ),
        (
            "name: a\ninner: {size: 1}\nmany: 7\n",
            "3: many: this must be a list, not 7. Remedy: Write it as [a, b] or one item per line after a hyphen.",
        ),
        (
            "name: a\ninner: {size: 1, on: [x]}\n",
            "2: inner.on: this must be true or false, not a list. Remedy: Write true or false.",
        ),
    ],
)
def test_a_mistake_against_the_model_has_line_field_and_remedy(write: Any, content: str, expected: str) -> None:
    assert mistakes(write(content)) == [expected]


def test_every_mistake_is_told_at_once(write: Any) -> None:
    assert [line.split(":")[0:2] for line in mistakes(write("inner:\n  size: x\n  extra: 1\n"))] == [
        ["1", " name"],
        ["2", " inner.size"],
        ["3", " inner.extra"],
    ]


def test_a_long_value_is_cut_in_the_message(write: Any) -> None:
    (message,) = mistakes(write(f"name: {'X' * 5000}\ninner: {{size: 1}}\n"))
    assert len(message) < 200
