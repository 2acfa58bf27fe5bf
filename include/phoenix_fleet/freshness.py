"""What the package archive offers that a running instance does not have: the reason to build a new image, or not to."""

from __future__ import annotations

import re
from typing import Any

from phoenix_fleet.domain.errors import Unavailable

# The archive's lists are read into a folder of their own, so that nothing of the instance changes. Without
# Error-Mode=any apt would go on with part of the lists when the archive does not answer: "unknown", taken for "none".
_SCRIPT = """
set -eu
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT
set -- -q -o Dir::State::Lists="$lists" -o Dir::Cache="$lists" -o APT::Update::Error-Mode=any -o Acquire::Retries=2
LC_ALL=C apt-get "$@" update >&2
LC_ALL=C apt-get "$@" -o Debug::NoLocking=true --simulate full-upgrade
"""
_INSTALL = re.compile(r"Inst (?P<name>\S+) (?:\[(?P<old>[^\]]+)\] )?\((?P<new>\S+) ")
_REMOVE = re.compile(r"Remv (?P<name>\S+) ")
_SUMMARY = re.compile(
    r"^(?P<upgraded>\d+) upgraded, (?P<new>\d+) newly installed, (?P<removed>\d+) to remove and (?P<kept>\d+) not", re.M
)


def pending_upgrades(hostspec: str, *, ssh_config: str | None = None) -> list[str]:
    """One line per package that a full upgrade would change (``openssl: 3.0.1 → 3.0.2``), by name; seconds.

    Asks a running instance of the last release, at a testinfra URL, and changes nothing on it. ``ssh_config`` is a
    file for ``ssh://`` URLs that says which host keys to believe.

    :raises Unavailable: the instance or its archive does not answer, or not with what apt says.
    """
    import testinfra

    try:
        host: Any = testinfra.get_host(hostspec, ssh_config=ssh_config)
        result = host.run("sh -c %s", _SCRIPT)
    except Exception as error:
        raise Unavailable(f"{hostspec} does not answer: {error}") from error
    if result.rc:
        raise Unavailable(
            f"{hostspec} cannot say which upgrades are pending: {' '.join(result.stderr.split())[-500:]}",
            remedy="See that the instance runs and reaches its package archive, or force the build.",
        )
    return parsed(result.stdout)


def parsed(output: str) -> list[str]:
    """The same, from what ``apt-get --simulate full-upgrade`` has said.

    :raises Unavailable: its summary is missing, or counts other packages than it names: "unknown" is not "none".
    """
    upgrades, added = [], []
    for match in _INSTALL.finditer(output):
        if match["old"]:
            upgrades.append(f"{match['name']}: {match['old']} → {match['new']}")
        else:
            added.append(f"{match['name']}: {match['new']} (new)")
    removed = [f"{match['name']}: removed" for match in _REMOVE.finditer(output)]
    summary = _SUMMARY.search(output)
    counts = (len(upgrades), len(added), len(removed))
    if not summary or tuple(int(summary[key]) for key in ("upgraded", "new", "removed")) != counts:
        raise Unavailable(f"apt's answer cannot be read: it names {counts} packages and ends with {output[-200:]!r}.")
    return sorted([*upgrades, *added, *removed])
