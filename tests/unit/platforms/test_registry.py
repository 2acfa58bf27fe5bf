"""The registry client against registries that page, lie, send for ever or refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    NotSupported,
    PhoenixError,
    Throttled,
    Unavailable,
)
from phoenix_fleet.platforms import _registry
from tests.unit.platforms.servers import Reply, answering

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


CONFIG = json.dumps({"config": {"Labels": {"phoenix.version": "2026.11-1"}}}).encode()
BODY = json.dumps({"config": {"digest": sha256(CONFIG)}}).encode()


def connection(port: int, **fields: str) -> Connection:
    return Connection("registry", host="127.0.0.1", port=port, **fields)


def test_every_page_is_read_and_none_from_elsewhere() -> None:
    seen = []

    def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply:
        seen.append(path)
        if "last" in path:
            return 200, json.dumps({"repositories": ["c/d"]}).encode(), {}
        link = '<http://registry.evil.example/v2/_catalog?last=b&n=2>; rel="next"'
        return 200, json.dumps({"repositories": ["a", "b", "../x", "UPPER"]}).encode(), {"Link": link}

    with answering(answer) as port, _registry.opened(connection(port)) as registry:
        assert registry.repositories() == ["a", "b", "c/d"]
    assert seen == ["/v2/_catalog?n=500", "/v2/_catalog?last=b&n=2"]


def test_a_broken_page_is_no_short_list() -> None:
    def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply:
        if "last" in path:
            return 500, b"", {}
        return 200, b'{"tags": ["a"]}', {"Link": "</v2/x/tags/list?last=a>; rel=next"}

    with answering(answer) as port, _registry.opened(connection(port)) as registry, pytest.raises(Unavailable):
        registry.tags("x")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b"<html>", b'{"tags": "a"}', b'{"tags": {"a": 1}}'])
def test_an_answer_without_the_list_is_no_empty_list(body: bytes) -> None:
    with (
        answering(lambda *_: (200, body, {})) as port,
        _registry.opened(connection(port)) as registry,
        pytest.raises(Unavailable),
    ):
        registry.tags("x")


def test_a_repository_without_tags_has_none() -> None:
    with answering(lambda *_: (200, b'{"tags": null}', {})) as port, _registry.opened(connection(port)) as registry:
        assert registry.tags("x") == []
    with answering(lambda *_: (404, b"{}", {})) as port, _registry.opened(connection(port)) as registry:
        assert registry.tags("x") == []
        assert registry.digest_of("x", "y") == ""


def test_pages_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = (200, b'{"tags": []}', {"Link": "</v2/x/tags/list?last=a>; rel=next"})
    monkeypatch.setattr(_registry, "_MOST_PAGES", 5)
    with (
        answering(lambda *_: reply) as port,
        _registry.opened(connection(port)) as registry,
        pytest.raises(Unavailable, match="no end"),
    ):
        registry.tags("x")


def test_labels_come_from_bytes_that_match_their_digests() -> None:
    def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply:
        if "/blobs/" in path:
            return 200, CONFIG, {}
        assert MANIFEST in headers["accept"]
        return 200, BODY, {"Content-Type": f"{MANIFEST}; charset=utf-8"}

    with answering(answer) as port, _registry.opened(connection(port)) as registry:
        manifest = registry.manifest("x", sha256(BODY))
        assert registry.labels("x", manifest) == {"phoenix.version": "2026.11-1"}


@pytest.mark.parametrize("lie", ["manifest", "config"])
def test_other_bytes_than_the_digest_says_are_refused(lie: str) -> None:
    def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply:
        if "/blobs/" in path:
            return 200, CONFIG + (b" " if lie == "config" else b""), {}
        return 200, BODY + (b" " if lie == "manifest" else b""), {"Content-Type": MANIFEST}

    with (
        answering(answer) as port,
        _registry.opened(connection(port)) as registry,
        pytest.raises(AuthenticationFailed, match="other bytes"),
    ):
        registry.labels("x", registry.manifest("x", sha256(BODY)))


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/vnd.oci.image.index.v1+json", BODY),
        (MANIFEST, b"[]"),
        (MANIFEST, b'{"config": {"digest": "../../etc"}}'),
        (MANIFEST, b'{"config": []}'),
    ],
    ids=["an index", "a list", "a path", "no config"],
)
def test_what_is_no_plain_image_has_no_labels(media_type: str, body: bytes) -> None:
    reply = (200, body, {"Content-Type": media_type})
    with answering(lambda *_: reply) as port, _registry.opened(connection(port)) as registry:
        assert registry.labels("x", registry.manifest("x", sha256(body))) == {}


def test_endless_answers_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_LARGEST", 1000)
    with (
        answering(lambda *_: (200, b"x" * 5000, {})) as port,
        _registry.opened(connection(port)) as registry,
        pytest.raises(Unavailable, match="too long"),
    ):
        registry.tags("x")


@pytest.mark.parametrize("header", ["", "sha256:short", "md5:0"])
def test_a_tag_without_a_digest_is_no_answer(header: str) -> None:
    with (
        answering(lambda *_: (200, b"", {"Docker-Content-Digest": header})) as port,
        _registry.opened(connection(port)) as registry,
        pytest.raises(Unavailable),
    ):
        registry.digest_of("x", "y")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidSpec),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, NotFound),
        (405, NotSupported),
        (429, Throttled),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_every_refusal_is_one_of_our_errors(status: int, error: type[PhoenixError]) -> None:
    with (
        answering(lambda *_: (status, b'{"errors": []}', {})) as port,
        _registry.opened(connection(port)) as registry,
        pytest.raises(error) as caught,
    ):
        registry.repositories()
    assert type(caught.value) is error


def test_the_password_goes_to_the_registry_and_nowhere_else() -> None:
    secret = "s3cret-word"
    elsewhere_saw: list[Mapping[str, str]] = []

    def elsewhere(method: str, path: str, headers: Mapping[str, str]) -> Reply:
        elsewhere_saw.append(headers)
        return 200, b'{"tags": ["a"]}', {}

    with answering(elsewhere) as other:

        def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply:
            assert headers["authorization"].startswith("Basic ")
            return 307, b"", {"Location": f"http://127.0.0.1:{other}/moved"}

        login = connection(1, login="robot", password=secret)
        assert secret not in repr(login)
        with (
            answering(answer) as port,
            _registry.opened(connection(port, login="robot", password=secret)) as registry,
        ):
            assert registry.tags("x") == ["a"]
            assert registry.credentials == {"username": "robot", "password": secret}
    assert len(elsewhere_saw) == 1
    assert "authorization" not in elsewhere_saw[0]


class TokenRegistry:
    """A registry that sends its clients elsewhere for a token, as the public ones do."""

    def __init__(self, realm: str) -> None:
        self.realm = realm
        self.seen: list[tuple[str, str]] = []

    def registry(self, method: str, path: str, headers: Mapping[str, str]) -> Reply:
        self.seen.append((path, headers.get("authorization", "")))
        if headers.get("authorization") == "Bearer abc.def":
            return 200, b'{"tags": ["a"]}', {}
        scope = "repository:x:pull"
        return 401, b"{}", {"WWW-Authenticate": f'Bearer realm="{self.realm}",service="reg",scope="{scope}"'}

    def tokens(self, method: str, path: str, headers: Mapping[str, str]) -> Reply:
        self.seen.append((path, headers.get("authorization", "")))
        return 200, b'{"access_token": "abc.def"}', {}


@pytest.mark.parametrize("login", ["", "robot"])
def test_a_token_is_fetched_where_the_registry_says(login: str) -> None:
    basic = "Basic cm9ib3Q6" if login else ""
    token = TokenRegistry("")
    with answering(token.tokens) as realm, answering(token.registry) as port:
        token.realm = f"http://127.0.0.1:{realm}/token"
        with _registry.opened(connection(port, login=login)) as registry:
            assert registry.tags("x") == ["a"]
    assert token.seen == [
        ("/v2/x/tags/list?n=500", basic),
        ("/token?service=reg&scope=repository%3Ax%3Apull", basic),
        ("/v2/x/tags/list?n=500", "Bearer abc.def"),
    ]


@pytest.mark.parametrize("realm", ["", "http://tokens.example/token", "ftp://127.0.0.1/", "file:///etc/passwd"])
def test_no_password_goes_anywhere_without_tls(realm: str) -> None:
    token = TokenRegistry(realm)
    with (
        answering(token.registry) as port,
        _registry.opened(connection(port, login="robot")) as registry,
        pytest.raises(AuthenticationFailed, match="password"),
    ):
        registry.tags("x")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((401, b"{}", {}), AuthenticationFailed),
        ((500, b"{}", {}), Unavailable),
        ((200, b"{}", {}), Unavailable),
        ((200, b'{"token": "a\\r\\nX: y"}', {}), Unavailable),
        ((200, b'{"token": "other"}', {}), AuthenticationFailed),
    ],
    ids=["refused", "broken", "empty", "hostile", "a wrong token"],
)
def test_without_a_good_token_nothing_is_read(reply: Reply, error: type[PhoenixError]) -> None:
    token = TokenRegistry("")
    with answering(lambda *_: reply) as realm, answering(token.registry) as port:
        token.realm = f"http://127.0.0.1:{realm}/token"
        with _registry.opened(connection(port)) as registry, pytest.raises(error):
            registry.tags("x")


def test_nobody_there_is_unavailable() -> None:
    with _registry.opened(connection(1)) as registry, pytest.raises(Unavailable) as caught:
        registry.repositories()
    assert caught.value.remedy


def test_only_loopback_goes_without_tls() -> None:
    for host, scheme in {
        "127.0.0.1": "http",
        "localhost": "http",
        "registry.example": "https",
        "10.0.0.1": "https",
    }.items():
        with _registry.opened(Connection("registry", host=host)) as registry:
            assert registry.client.base_url.scheme == scheme


@pytest.mark.parametrize(
    "wrong", [Connection("registry"), Connection("registry", host="x", extra={"ca_file": "/nowhere.pem"})], ids=str
)
def test_a_connection_that_says_too_little_is_refused(wrong: Connection) -> None:
    with pytest.raises(InvalidConfig), _registry.opened(wrong):
        pass
