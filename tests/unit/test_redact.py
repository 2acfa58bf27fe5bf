"""Secrets are taken out of what other programs print; the rest stays readable."""

from __future__ import annotations

import pytest

from phoenix_fleet.redact import Redactor, is_secret_name, redact, secrets_in


@pytest.mark.parametrize(
    "line",
    [
        "password=S3CRET-value",
        'db_password: "S3CRET-value" next',
        "--token S3CRET-value --verbose",
        "--api-key=S3CRET-value",
        "postgresql://user:S3CRET-value@host/db",
        "Authorization: Bearer S3CRET-value",
        '{"shop_password": "S3CRET-value", "x": 1}',
        '{\\"token\\": \\"S3CRET-value\\"}',
        "AWS_SECRET_ACCESS_KEY=S3CRET-value",
        "'client_secret': 'S3CRET-value'}",
    ],
)
def test_values_with_telling_names_are_masked(line: str) -> None:
    assert "S3CRET" not in redact(line)
    assert "***" in redact(line)


@pytest.mark.parametrize(
    "line",
    [
        "TASK [shop-api : Write the token file] ***",
        "ok: [instance]",
        "instance : ok=5 changed=0 unreachable=0",
        "The password for root is locked",
        "https://host:8080/path?x=1",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI",
    ],
)
def test_ordinary_lines_stay(line: str) -> None:
    assert redact(line) == line


def test_known_values_are_masked_wherever_they_stand_and_longest_first() -> None:
    assert redact("a correct-horse b correct c", ["correct", "correct-horse", "b"]) == "a *** b *** c"


def test_a_private_key_is_masked_over_its_lines() -> None:
    redactor = Redactor()
    lines = ["x", "-----BEGIN OPENSSH PRIVATE KEY-----", "AAAA", "BBBB", "-----END OPENSSH PRIVATE KEY-----", "y"]
    assert [redactor(line) for line in lines] == ["x", "***", "***", "***", "***", "y"]


def test_control_characters_go() -> None:
    assert redact("\x1b[31mred\x1b[0m \x1b]0;title\x07\x00ok\ttab") == "red ok\ttab"


def test_secrets_are_found_by_their_keys_at_any_depth() -> None:
    data = {
        "db": {"password": "one", "port": 5432},
        "tokens": ["x"],
        "api_token": {"a": ["two", 3456]},
        "l": [{"secret": "s"}],
    }
    assert sorted(secrets_in(data)) == ["3456", "one", "s", "two"]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("DB_PASSWORD", True),
        ("PGPASSWORD", True),
        ("api_key", True),
        ("client-secret", True),
        ("DB_PASSWORD_FILE", False),
        ("monkey", False),
        ("tokenizer", False),
        ("GPG_KEY", False),
    ],
)  # fmt: skip
def test_names(name: str, is_one: bool) -> None:
    assert is_secret_name(name) is is_one
