"""What must not be in a finished image: rules by place, by content, and on the image's configuration.

A finding says where and what kind, never the content. Places are matched wherever that is safe by base name, since
homes move and links mislead. Public keys, empty files and links to ``/dev/null`` are nobody's secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from phoenix_fleet.gates._layers import Entry
from phoenix_fleet.redact import is_secret_name

HEAD = 256 * 1024
"""Bytes of a file's beginning that rules on whole files may look at."""
_ELF = b"\x7fELF"
OVERLAP = 8 * 1024
"""Chunks overlap by this much, so that nothing hides on their border."""


@dataclass(frozen=True)
class Finding:
    """One thing that must not be there."""

    rule: str
    path: str
    layer: int | None
    """Counts from 1, the lowest; None for the image's configuration."""
    what: str


# --- by place ----------------------------------------------------------------------------------------------------

_HISTORY = (
    r"\.(?:bash|zsh|ash|sh|ksh|python|mysql|psql|sqlite|rediscli|irb|node_repl|mongo|php|octave)_history"
    r"|\.zhistory|\.histfile|\.history|fish_history|\.lesshst|\.viminfo|\.wget-hsts|dbshell"
)
_COPY = r"(?:~|\.(?:bak|old|orig|save|swp|tmp|\d+|dpkg-\w+)|[-_](?:old|bak|orig))?"
"""What people append to the name of a copy."""
_ANYWHERE: tuple[tuple[str, str, str], ...] = (
    ("ssh-authorized-keys", rf"authorized_keys2?{_COPY}", "someone may log in with the key in it"),
    ("ssh-host-key", rf"ssh_host_\w+_key(?:\.pub)?{_COPY}", "every clone would have this host key"),
    ("ssh-known-hosts", rf"(?:ssh_)?known_hosts2?{_COPY}", "it tells where the build has been"),
    ("history", _HISTORY, "a history of commands"),
    ("credentials", r"[._]netrc|\.git-credentials|\.pgpass|\.vault-token|\.dockercfg|\.s3cfg|\.boto", "credentials"),
    ("credentials", r".+\.keytab|.+\.(?:p12|pfx)|secring\.gpg|credentials\.tfrc\.json", "a store of private keys"),
)
_BELOW: tuple[tuple[str, str, str], ...] = (
    ("credentials", r".*/\.aws/(?:credentials|config|cli/.*|sso/.*)", "cloud credentials"),
    ("credentials", r".*/\.(?:azure|config/gcloud|config/gh|kube|oci|config/rclone)/.*", "cloud credentials"),
    ("credentials", r".*/\.docker/config\.json|.*/\.config/containers/auth\.json", "registry credentials"),
    ("credentials", r"/etc/apt/auth\.conf|/etc/apt/auth\.conf\.d/.+", "credentials of a package archive"),
    ("credentials", r".*/\.gnupg/private-keys-v1\.d/.+", "a private key"),
    (
        "cloud-init",
        r"/var/lib/cloud/.+|/var/log/cloud-init.*|/run/cloud-init/.+",
        "what cloud-init knew of the builder",
    ),
    ("random-seed", r"/var/lib/(?:systemd|urandom|misc)/random-seed|/var/lib/random-seed", "clones would share it"),
    ("random-seed", r"/boot/(?:efi/)?loader/random-seed|/var/lib/systemd/credential\.secret", "clones would share it"),
    ("dhcp-lease", r"/var/lib/(?:dhcp|dhclient|dhcpcd|NetworkManager)/.*\.leases?", "the builder's address"),
    ("network-rules", r"/etc/udev/rules\.d/70-persistent-(?:net|cd)\.rules", "the builder's hardware"),
    ("temporary", r"/(?:tmp|var/tmp|dev/shm)/.+", "a temporary file"),
    ("crash", r"/var/crash/.+|/var/lib/systemd/coredump/.+", "a core dump: memory of a process"),
    ("swap", r"/swapfile|/swap\.img|.*/\.?swapfile", "memory of the builder"),
    ("log", r"/var/log/.+", "a log of the build"),
    ("mail", r"/var/(?:spool/)?mail/.+", "mail of the build"),
    ("machine-id", r"/var/lib/dbus/machine-id", "clones would share it"),
)
_FINAL: tuple[tuple[str, str, str], ...] = (
    ("apt-lists", r"/var/lib/apt/lists/(?!lock$|partial$|auxfiles$).+", "stale lists of packages"),
    ("apt-lists", r"/var/cache/apt/(?:archives/.*\.deb|(?:src)?pkgcache\.bin)", "a cache of packages"),
)
"""Harmless where an upper layer deletes them, so only what is left in the end counts."""

Rules = tuple[tuple[str, re.Pattern[str], str], ...]


def _compiled(rules: tuple[tuple[str, str, str], ...], prefix: str = "") -> Rules:
    return tuple((rule, re.compile(f"{prefix}(?:{pattern})", re.S), what) for rule, pattern, what in rules)


_PLACES: Rules = _compiled(_ANYWHERE, r"(?!/usr/share/(?:man|doc)/)(?:.*/)?") + _compiled(_BELOW)
_PLACES_FINAL: Rules = _compiled(_FINAL)


_LINKED = frozenset({"ssh-authorized-keys", "ssh-host-key", "credentials"})
"""Where a symbolic link is as bad as a file: what it points to may have an innocent name."""


def by_place(entry: Entry, *, empty: bool) -> Finding | None:
    """What an entry may not be called, given whether it is a file without content."""
    found = _first(_PLACES, entry.path, entry.layer) if entry.kind != "folder" else None
    if not found or found.rule == "temporary":
        return found
    if entry.kind == "symlink":
        return found if found.rule in _LINKED and not entry.target.startswith("/dev/") else None
    # A hard link's content is that of another name, which may be innocent.
    return found if entry.kind == "hardlink" or (entry.kind == "file" and not empty) else None


def by_place_in_the_end(path: str, layer: int) -> Finding | None:
    """What may not be called so if it is still there when all layers are applied."""
    return _first(_PLACES_FINAL, path, layer)


def _first(rules: Rules, path: str, layer: int) -> Finding | None:
    for rule, pattern, what in rules:
        if pattern.fullmatch(path):
            return Finding(rule, path, layer, what)
    return None


# --- by content: found anywhere in any file ----------------------------------------------------------------------

_PEM = rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_PEM_BODY = re.compile(
    # A header alone is in every crypto library; with a body it is a key. Line ends may be written out, as in JSON.
    # Each part ends where the next one begins and nowhere else, or hostile bytes could be tried in endlessly many ways.
    _PEM + rb"(?:\s|\\[nrt])+(?:[A-Za-z-]+: [^\r\n\\]*(?:[\r\n]|\\[nr])(?:\s|\\[nrt])*)*(?P<body>[A-Za-z0-9+/=]{32,})"
)
_WRAPPED = re.compile(rb"LS0tLS1CRUdJTi[A-Za-z0-9+/]{26,}")
_TOKENS: tuple[tuple[bytes, re.Pattern[bytes], str], ...] = (
    (b"PRIVATE KEY", _PEM_BODY, "a private key"),
    (
        b"PuTTY-User-Key-File",
        re.compile(rb"PuTTY-User-Key-File-[23]: .{0,4000}?Private-Lines: \d", re.S),
        "a PuTTY key",
    ),
    (b"AGE-SECRET-KEY-1", re.compile(rb"AGE-SECRET-KEY-1[A-Z0-9]{58}"), "an age key"),
    (b"aws_secret_access_key", re.compile(rb"aws_secret_access_key\s*=\s*(?![^\n]*EXAMPLE)[\w/+]{40}"), "an AWS key"),
    (b"AKIA", re.compile(rb"(?<![A-Z0-9])AKIA(?![A-Z0-9]*EXAMPLE)[A-Z0-9]{16}(?![A-Za-z0-9])"), "an AWS key id"),
    (b"ghp_", re.compile(rb"(?<!\w)ghp_[A-Za-z0-9]{36}(?!\w)"), "a GitHub token"),
    (b"github_pat_", re.compile(rb"(?<!\w)github_pat_\w{60,}"), "a GitHub token"),
    (b"glpat-", re.compile(rb"(?<!\w)glpat-[\w-]{20,}"), "a GitLab token"),
    (b"xoxb-", re.compile(rb"(?<!\w)xoxb-\d{6,}-[\w-]{20,}"), "a Slack token"),
)


_EXAMPLES = frozenset(
    {
        # The self-tests of GnuTLS 3.7.9 (see ``_PUBLISHED``), of which an older copy may have been deleted.
        "36d32468a4353827c6db9a9477736adf7bb980c50854d0b57257f5132ef32d39",
        "4b86104d3a39ae361925614ff33350c34aa8370b85a3b2e79ee407705a0af571",
        "8dd51545b81e4a0a285630cfc608921c2523171d5cf57a8123116658baa84558",
        "c50f38f5a25dad1abc4c3162635f014f05e857ae7e6b590f66b42793e27f9d37",
        "d76d8725f92d87288e0466d850892bf8dd7f487ad21d40f211612ebec68852a2",
        "e36ff64abc8431d1295824c32f55327df2af968b417a4073cc696a2332d3c370",
        # What cloud-init 22.4 shows in the description of its module ssh.
        "5d436455aeb7f62836cceb609e06c733af6751e840676c7aba95f028c0ef16dd",
    }
)
"""SHA-256 of the first lines of private keys that everybody has."""


def _is_example(match: re.Match[bytes]) -> bool:
    return hashlib.sha256(match.groupdict().get("body") or b"").hexdigest() in _EXAMPLES


def by_content(data: bytes) -> str:
    """What secret a piece of a file holds, or nothing."""
    for needle, pattern, what in _TOKENS:
        if needle in data and not all(map(_is_example, pattern.finditer(data))):
            return what
    if b"LS0tLS1CRUdJTi" in data and any(map(_is_wrapped_key, _WRAPPED.findall(data))):
        return "a private key in base64"
    return ""


# --- by content, in what is no file any more ---------------------------------------------------------------------

_PASSWORD_HASH = re.compile(rb"(?<=:)\$(?:y|gy|7|6|5|2[abxy]|1)\$[./A-Za-z0-9$=,]{20,200}(?=:)")
_DELETED = (*_TOKENS, (b"LS0tLS1CRUdJTi", _WRAPPED, "a private key in base64"), (b"$", _PASSWORD_HASH, "a password"))


def by_deleted(data: bytes) -> Iterator[tuple[int, str]]:
    """Where secrets begin in bytes that belong to no file, and what they are.

    Public keys and names are left out: what a machine has deleted while it was built is full of them, and they let
    nobody in.
    """
    for needle, pattern, what in _DELETED:
        for match in pattern.finditer(data) if needle in data else ():
            if not _is_example(match) and (pattern is not _WRAPPED or _is_wrapped_key(match[0])):
                yield match.start(), what


def _is_wrapped_key(text: bytes) -> bool:
    try:
        return bool(re.match(_PEM[:-5], base64.b64decode(text[: len(text[:80]) // 4 * 4])))
    except binascii.Error:
        return False


@dataclass
class Seen:
    """What one pass over a file's content tells."""

    secret: str = ""
    head: bytes = b""
    blank: bool = True
    """Whether it is all zero bytes, as lastlog and faillog are when nobody has logged in."""

    @classmethod
    def of(cls, chunks: Iterator[bytes]) -> Seen:
        """Read a file to its end."""
        seen, last = cls(), b""
        for chunk in chunks:
            if len(seen.head) < HEAD:
                seen.head += chunk[: HEAD - len(seen.head)]
            seen.blank = seen.blank and not chunk.strip(b"\0")
            seen.secret = seen.secret or by_content(last + chunk)
            last = chunk[-OVERLAP:]
        return seen


_PUBLISHED = re.compile(r"(?:/usr)?/lib(?:64)?/(?:[\w-]+/)?libgnutls\.so\.[\d.]+")
"""Holds the keys of its own self-test in plain sight, the same in every copy (GnuTLS, lib/crypto-selftests-pk.c)."""


def _is_published(path: str, seen: Seen) -> bool:
    return seen.head[:4] == _ELF and bool(_PUBLISHED.fullmatch(path))


# --- by both -----------------------------------------------------------------------------------------------------


def _shadow(text: str) -> str:
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        password = rest.split(":")[0]
        if name and not re.fullmatch(r"[*!x]+", password):
            return f"the account '{name[:40]}' has " + ("a password" if password else "an empty password")
    return ""


def _passwd(text: str) -> str:
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[1] not in ("x", "*", "!", "!!"):
            return f"the account '{fields[0][:40]}' has a password, or an empty one, here"
        if fields[0] in ("packer", "vagrant", "builder"):
            return f"the build's account '{fields[0]}'"
        if len(fields) > 2 and fields[2].strip("0") == "" and fields[0] != "root":
            return f"the account '{fields[0][:40]}' is root by another name"
    return ""


def _gshadow(text: str) -> str:
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if rest.split(":")[0].lstrip("!").startswith("$"):
            return f"the group '{name[:40]}' has a password"
    return ""


def _sudoers(text: str) -> str:
    joined = text.replace("\\\n", " ")
    rights = (line.strip() for line in joined.splitlines() if not line.lstrip().startswith("#"))
    return next(("root for somebody without a password" for line in rights if re.search(r"\bNOPASSWD\s*:", line)), "")


def _url_credentials(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return next(("a password in a URL" for line in lines if _URL.search(line)), "")


_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@${<]+@", re.I)


def _named_value(names: str) -> Callable[[str], str]:
    pattern = re.compile(rf"^[^#;\n]*(?:{names})\s*[=:]\s*['\"]?[^\s'\"$<#;]+", re.I | re.M)
    return lambda text: "a password or token" if pattern.search(text) else ""


def _environment_file(text: str) -> str:
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_]\w*)=['\"]?([^\s'\"]+)", line)
        if match and is_secret_name(match[1]) and not match[2].startswith(("$", "<")):
            return f"the variable {match[1]}"
    return ""


_FILES: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("password", r"/etc/shadow-?|.*/etc/shadow-?", _shadow),
    ("password", r"/etc/passwd-?", _passwd),
    ("password", r"/etc/gshadow-?", _gshadow),
    ("sudoers", r"/etc/sudoers|/etc/sudoers\.d/.+|/usr/local/etc/sudoers.*", _sudoers),
    ("credentials", r"/etc/apt/(?:sources\.list|apt\.conf)(?:\.d/.+)?", _url_credentials),
    ("credentials", r".*/(?:\.?pip\.conf|\.pip/pip\.conf|\.config/pip/pip\.conf)|/etc/pip\.conf", _url_credentials),
    ("credentials", r".*/\.(?:npmrc|yarnrc(?:\.yml)?)", _named_value(r"_auth(?:token)?|_password|npmAuthToken")),
    ("credentials", r".*/(?:\.my\.cnf|\.mylogin\.cnf|\.pypirc)|/etc/mysql/debian\.cnf", _named_value("password")),
    ("credentials", r"/etc/wpa_supplicant/.+|/etc/NetworkManager/system-connections/.+", _named_value("psk|password")),
    ("credentials", r"/etc/environment|/etc/profile\.d/.+|/etc/default/.+", _environment_file),
    ("credentials", r"/(?:root|home/[^/]+)/\.(?:bashrc|profile|bash_profile|zshrc|env)", _environment_file),
    ("credentials", r".*/\.env(?:\.[\w-]+)?", _environment_file),
)
_WHOLE = tuple((rule, re.compile(pattern, re.S), check) for rule, pattern, check in _FILES)


def by_file(path: str, layer: int, seen: Seen) -> Finding | None:
    """What a file's place and content say together."""
    if seen.secret and not _is_published(path, seen):
        return Finding("secret", path, layer, seen.secret)
    if seen.head[:4] == _ELF and seen.head[16:18] in (b"\x04\x00", b"\x00\x04"):
        return Finding("crash", path, layer, "a core dump: memory of a process")
    if seen.head[4086:4096] == b"SWAPSPACE2":
        return Finding("swap", path, layer, "swap space: memory of the builder")
    for rule, pattern, check in _WHOLE:
        if pattern.fullmatch(path):
            too_long = "larger than any honest one" if len(seen.head) >= HEAD else ""
            if what := check(seen.head.decode(errors="replace")) or too_long:
                return Finding(rule, path, layer, what)
    return None


# --- the image's configuration -----------------------------------------------------------------------------------

_ASSIGNED = re.compile(r"""(?:^|[\s;"'|])(?:--?)?([A-Za-z_][\w.-]*)(?:\s*=\s*|:\s+)['"]?([^\s'"$<*{][^\s'"]*)""")
_OPTION = re.compile(r"(?:^|\s)--?([A-Za-z][\w-]*)\s+['\"]?([^\s'\"$<*{-][^\s'\"]*)")


def by_configuration(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Secrets in variables, labels, commands and the history of the build."""
    inner = config.get("config")
    inner = inner if isinstance(inner, Mapping) else {}
    for item in _listed(inner.get("Env")):
        name, _, value = str(item).partition("=")
        if value and (is_secret_name(name) or _secret_text(value)):
            yield Finding("configuration", "(config)/Env", None, f"the variable {name[:60]}")
    labels = inner.get("Labels")
    for name, value in labels.items() if isinstance(labels, Mapping) else ():
        if value and (is_secret_name(str(name)) or _secret_text(str(value))):
            yield Finding("configuration", "(config)/Labels", None, f"the label {str(name)[:60]}")
    for part in ("Cmd", "Entrypoint"):
        if what := _secret_text(" ".join(map(str, _listed(inner.get(part))))):
            yield Finding("configuration", f"(config)/{part}", None, what)
    for number, step in enumerate(_listed(config.get("history")), 1):
        said = " ".join(str(step.get(key, "")) for key in ("created_by", "comment")) if isinstance(step, dict) else ""
        if what := _secret_text(said):
            yield Finding("history", f"(config)/history[{number}]", None, what)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _secret_text(text: str) -> str:
    if what := by_content(text.encode(errors="replace")):
        return what
    if _URL.search(text):
        return "a password in a URL"
    for pattern in (_ASSIGNED, _OPTION):
        for name, _ in pattern.findall(text):
            if is_secret_name(name):
                return f"a value for {name[:60]}"
    return ""
