"""What a build starts from: a root file system made from scratch with mmdebstrap, at most one day old.

It lies in the cache and, for Docker, also in the engine as ``phoenix-seed:<suite>-<day>-<hash>``. Several builds may
ask at once: one makes it, the others wait for that one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from phoenix_fleet import processes
from phoenix_fleet.cache import alone, cache_folder
from phoenix_fleet.config import Seed
from phoenix_fleet.dockercommand import DockerCommand, Failed
from phoenix_fleet.domain.errors import BuildFailed, Unavailable

REPOSITORY = "phoenix-seed"
"""Name under which a Docker engine holds our seeds; nothing else may use it."""

_LABEL = "phoenix.seed"
_MAKING = timedelta(minutes=15)
"""How long mmdebstrap, an import or a pull may take."""

_ARGUMENTS = (
    "--variant=minbase",
    # Servers have no readers of manuals: a third less to store, push and scan.
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    # mmdebstrap copies these two from the machine that it runs on.
    '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
)

Log = Callable[[str], None]


def name_of(seed: Seed, day: date) -> str:
    """The seed's name on that day, which changes with all that goes into it: ``bookworm-20261123-0c5d…``."""
    recipe = json.dumps([seed.suite, sorted(set(seed.include)), _ARGUMENTS])
    return f"{seed.suite}-{day:%Y%m%d}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def root_file_system(seed: Seed, log: Log, *, day: date | None = None) -> Path:
    """The day's seed (today's, UTC) as a tar file in the cache, made if it is not there yet; half a minute.

    :raises BuildFailed: mmdebstrap failed, with what it said.
    """
    name = name_of(seed, day or datetime.now(UTC).date())
    with _lock(name):
        return _root_file_system(seed, name, log)


def docker_image(seed: Seed, log: Log, *, docker: DockerCommand, day: date | None = None) -> str:
    """A reference that the Docker engine holds: the day's seed, or ``seed.image``, which is pinned by its digest.

    :raises BuildFailed: the seed cannot be made or imported.
    :raises Unavailable: ``seed.image`` is not here and cannot be pulled, or the engine does not answer.
    """
    if seed.image:
        return _pulled(docker, seed.image, log)
    name = name_of(seed, day or datetime.now(UTC).date())
    reference = f"{REPOSITORY}:{name}"
    with _lock(name):
        if docker.label(reference, _LABEL) == name:
            log(f"seed: {reference}, made earlier today")
            return reference
        tar = _root_file_system(seed, name, log)
        log(f"seed: importing it as {reference}")
        try:
            docker.run("import", "--change", f"LABEL {_LABEL}={name}", str(tar), reference)
        except Failed as error:
            raise BuildFailed(f"The seed cannot be imported: {error}", remedy="See what the engine lacks.") from error
        _forget_older(docker, name, log)
    return reference


def _root_file_system(seed: Seed, name: str, log: Log) -> Path:
    folder = _folder()
    tar = folder / f"{name}.tar"
    if tar.exists():
        log(f"seed: {tar.name} is in the cache")
        return tar
    # We hold the lock of this name, so whatever is there is what a killed run has left; its mmdebstrap may be on its
    # way out still, so the name is never used twice.
    for left in folder.glob(f"{name}.*.part.tar"):
        left.unlink(missing_ok=True)
    part = folder / f"{name}.{secrets.token_hex(4)}.part.tar"
    log(f"seed: making {seed.suite} from scratch with {', '.join(seed.include) or 'nothing else'}")
    include = [f"--include={','.join(sorted(set(seed.include)))}"] if seed.include else []
    try:
        _make(["mmdebstrap", *_ARGUMENTS, *include, seed.suite, str(part)], log)
        os.replace(part, tar)
    finally:
        part.unlink(missing_ok=True)
    for old in _older(folder, name):
        old.unlink(missing_ok=True)
    return tar


def _folder() -> Path:
    return cache_folder("seeds")


def _older(folder: Path, name: str) -> list[Path]:
    """Tar files of the same recipe from earlier days; a name's middle part is its day."""
    suite, day, recipe = name.rsplit("-", 2)
    same = [path for path in folder.glob(f"{suite}-*-{recipe}.tar") if not path.name.endswith(".part.tar")]
    return [path for path in same if path.stem.rsplit("-", 2)[0] == suite and path.stem.rsplit("-", 2)[1] < day]


def _lock(name: str) -> AbstractContextManager[None]:
    """Alone with the seed of that name."""
    return alone(_folder() / f"{name.rsplit('-', 2)[0]}.lock")


def _pulled(docker: DockerCommand, image: str, log: Log) -> str:
    if not docker.has_image(image):
        log(f"seed: pulling {image}")
        try:
            docker.run("pull", "--quiet", image)
        except Failed as error:
            raise Unavailable(
                f"seed.image cannot be pulled: {error}",
                remedy="Try again; if it is gone, name a newer one in image.yaml.",
            ) from error
    return image


def _forget_older(docker: DockerCommand, name: str, log: Log) -> None:
    """Take the names off this recipe's seeds of earlier days. Images that were built on one keep its layers."""
    suite, day, recipe = name.rsplit("-", 2)
    for tag in docker.run("image", "ls", "--format", "{{.Tag}}", REPOSITORY):
        parts = tag.rsplit("-", 2)
        if len(parts) == 3 and (parts[0], parts[2]) == (suite, recipe) and parts[1] < day:
            reference = f"{REPOSITORY}:{tag}"
            if docker.label(reference, _LABEL) == tag:
                log(f"seed: forgetting {reference}")
                with suppress(Failed):  # a build of that day is still at it
                    docker.run("image", "rm", reference)


def _make(argv: list[str], log: Log) -> None:
    """Run the program, its lines of output to ``log`` as they come. :raises BuildFailed: it failed."""
    last: deque[str] = deque(maxlen=10)

    def note(line: str) -> None:
        last.append(line)
        log(line)

    code = processes.run(argv, note, timeout=_MAKING, env=processes.bare_environment())
    if code:
        said = "\n".join(last) or "(nothing)"
        raise BuildFailed(
            f"{argv[0]} failed with exit code {code}; its last words:\n{said}",
            remedy="If the archive did not answer, try again; else mend the seed in image.yaml.",
        )
