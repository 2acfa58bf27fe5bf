"""Kubernetes' control plane, built once from Debian's own source package, and the program that holds a pod's network.

It takes both cores six minutes and 1.5 GB, and no network beyond the package archive: all that it needs is vendored in
the source. What comes out lies in the cache; what it was built from does not stay.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab import roots
from lab.roots import SUITE, Log
from phoenix_fleet import processes
from phoenix_fleet.domain.errors import Unavailable

VERSION = "1.20.2"
"""What Debian's source package holds; another is another place in the cache."""
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PAUSE = "pause"
"""What a pod's sandbox runs: it does nothing, and reaps."""

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ARCHIVE = "$(ORIGIN) $(CODENAME) $(COMPONENT) $(SITE)"


def build(cache: Path, log: Log) -> Path:
    """The folder with the programs, built unless they are in the cache.

    :raises Unavailable: the source cannot be had, or what builds it is missing or fails.
    """
    return roots.cached(cache, "kubernetes", [VERSION, PROGRAMS, PAUSE, SUITE, 1], lambda made: _make(made, log), log)


def _make(made: Path, log: Log) -> None:
    log(f"Building Kubernetes {VERSION} from Debian's source: both cores for minutes")
    work = made / "work"
    source = _source(work)
    _make_programs(source, work)
    for program in PROGRAMS:
        shutil.move(source / "_output" / "bin" / program, made / program)
    pause = source / "build" / "pause" / "linux" / "pause.c"
    roots.run("gcc", "-Os", "-Wall", "-static", "-o", made / PAUSE, pause)
    shutil.rmtree(work)


def _source(work: Path) -> Path:
    """The source with Debian's patches. APT checks it by the archive's signature, in a place of its own."""
    lists, apt = work / "lists", work / "apt"
    for folder in (lists / "partial", apt / "archives" / "partial"):
        folder.mkdir(parents=True)
    sources = work / "sources.list"
    sources.write_text(f"deb-src [signed-by={_KEYRING}] {_site()} {SUITE} main\n")
    own = [
        *("-qq", "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={apt}", "-o", "APT::Sandbox::User=root"),
    ]
    roots.run("apt-get", *own, "update")
    _run(["apt-get", *own, "source", "--download-only", "kubernetes"], work)
    (described,) = work.glob("kubernetes_*.dsc")
    if VERSION not in described.name:
        raise Unavailable(
            f"Debian's source of Kubernetes is {described.name} and not {VERSION}.",
            remedy="Set VERSION in lab/kubernetes_build.py to it, and run the lab's tests.",
        )
    roots.run("dpkg-source", "--no-check", "-x", described, work / "source")
    return work / "source"


def _site() -> str:
    """Where this machine has its packages from."""
    for line in roots.run("apt-get", "indextargets", "--format", _ARCHIVE, "Created-By: Packages").splitlines():
        origin, suite, component, site = line.split(" ", 3)
        if (origin, suite, component) == ("Debian", SUITE, "main"):
            return site
    raise Unavailable(
        f"APT on this machine knows no Debian {SUITE}, from whose source Kubernetes is built.",
        remedy=f"Run the lab on Debian {SUITE}, or add its main archive to APT's sources.",
    )


def _make_programs(source: Path, work: Path) -> None:
    env = processes.bare_environment(HOME=str(work), TMPDIR=str(work), GOPROXY="off", GOFLAGS="", CGO_ENABLED="0")
    _run(["make", f"WHAT={' '.join(f'cmd/{program}' for program in PROGRAMS)}"], source, env)


def _run(argv: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
    """Run it there. :raises Unavailable: it failed, or is not installed."""
    try:
        subprocess.run(
            argv,
            cwd=folder,
            env=env or processes.bare_environment(),
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        raise Unavailable(f"There is no {argv[0]}.", remedy="Run scripts/setup --dev.") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(
            f"Kubernetes cannot be built: {argv[0]}: {error.stdout[-1000:]}", remedy="Run scripts/setup --dev."
        ) from None
