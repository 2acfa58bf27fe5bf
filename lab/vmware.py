"""The lab's vCenter, a simulator: ``python -m lab.vmware up``, ``down``, ``status``.

It is built once from ``lab/vcsim`` with Debian's ``golang-go`` and ``golang-github-vmware-govmomi-dev`` into the
cache, answers on loopback with TLS, and forgets everything when it stops.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from lab.places import REPOSITORY, Places
from lab.processes import Processes
from lab.settings import HOST, choose_port
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import NotFound, PhoenixError, Unavailable

SOURCE = REPOSITORY / "lab" / "vcsim" / "main.go"
LIBRARY = Path("/usr/share/gocode")
PACKAGES = "golang-go golang-github-vmware-govmomi-dev"
LOGIN, PORT, NAME = "phoenix", 8989, "vcsim"


class Vcenter:
    """The simulator of one lab."""

    def __init__(self, places: Places, extra: Mapping[str, str] | None = None) -> None:
        """``extra`` is put into its environment."""
        self._places, self._extra = places, dict(extra or {})
        self._processes = Processes(places.pids, places.logs)
        self._home = places.home / NAME
        self._record = self._home / "connection.json"

    def up(self) -> Connection:
        """Build it if need be and start it unless it runs; returns once it answers, with the way to reach it."""
        self._places.make()
        if not self._processes.running(NAME):
            self._start(build(self._places.cache))
        self._processes.wait_ready(NAME, self._answers)
        return self.connection()

    def down(self) -> None:
        """Stop it, and forget what it was reached by."""
        self._processes.stop(NAME)
        shutil.rmtree(self._home, ignore_errors=True)

    def running(self) -> bool:
        """Whether it runs."""
        return self._processes.running(NAME)

    def connection(self) -> Connection:
        """How to reach it.

        :raises NotFound: it is not up.
        """
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError:
            raise NotFound("The lab's vCenter is not up.", remedy="Run `python -m lab.vmware up`.") from None
        return connection(record["port"], record["password"], self._home)

    def _start(self, program: Path) -> None:
        self._home.mkdir(exist_ok=True, mode=0o700)
        certify(self._home)
        port, password = choose_port(PORT), secrets.token_urlsafe(16)
        self._record.touch(mode=0o600)
        self._record.write_text(json.dumps({"port": port, "password": password}))
        self._processes.start(NAME, argv(program, port, self._home), env={**environment(password), **self._extra})

    def _answers(self) -> bool:
        return answers(self.connection())


def build(cache: Path) -> Path:
    """The program, built into the cache unless one of this very source is there.

    :raises Unavailable: if it cannot be built.
    """
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    folder = cache / NAME
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"{NAME}-{digest}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would write the same file
        if not program.exists():
            _build(program, folder)
    return program


def _build(program: Path, folder: Path) -> None:
    fresh = program.with_suffix(".new")
    go = {"GO111MODULE": "off", "GOPATH": f"{folder / 'go'}:{LIBRARY}", "GOCACHE": str(folder / "gocache")}
    try:
        subprocess.run(
            ["go", "build", "-o", str(fresh), "."],
            cwd=SOURCE.parent,
            env={**os.environ, **go},
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise Unavailable("There is no Go to build vcsim with.", remedy=f"apt-get install {PACKAGES}") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"vcsim: {error.stderr[-500:]}", remedy=f"apt-get install {PACKAGES}") from None
    fresh.rename(program)
    shutil.rmtree(folder / "gocache", ignore_errors=True)


def certify(folder: Path) -> None:
    """A key and a certificate for loopback in that folder, signed by itself: ``key.pem``, ``ca.pem``."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem"), "-days", "30"),
            *("-subj", "/CN=vcsim", "-addext", f"subjectAltName=IP:{HOST},DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )


def argv(program: Path, port: int, folder: Path, copying: float = 1) -> list[str]:
    """How it is called; a clone's disks take so many seconds to be ``copying``."""
    trust = [f"-cert={folder / 'ca.pem'}", f"-key={folder / 'key.pem'}"]
    return [str(program), f"-listen={HOST}:{port}", *trust, f"-copying={copying}s"]


def environment(password: str) -> dict[str, str]:
    """What it is called with: the password, which is on no command line."""
    return {**os.environ, "VCSIM_USER": LOGIN, "VCSIM_PASSWORD": password}


def connection(port: int, password: str, folder: Path) -> Connection:
    """The way to one that runs."""
    extra: dict[str, Any] = {"ca_cert": str(folder / "ca.pem")}
    return Connection("vmware", host=HOST, port=port, login=LOGIN, password=password, extra=extra)


def answers(way: Connection) -> bool:
    """Whether the one with that certificate answers there."""
    context = ssl.create_default_context(cafile=way.extra["ca_cert"])
    client = HTTPSConnection(way.host, way.port, timeout=5, context=context)
    try:
        client.request("GET", "/sdk/vimServiceVersions.xml")
        return client.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        client.close()


app = typer.Typer(help="The lab's vCenter.", no_args_is_help=True)
console = Console(stderr=True)


@app.command()
def up() -> None:
    """Build and start it; what runs is left alone."""
    way = Vcenter(Places.find()).up()
    console.print(f"· vCenter answers on https://{way.host}:{way.port}/sdk as {way.login}", highlight=False)


@app.command()
def down() -> None:
    """Stop it."""
    Vcenter(Places.find()).down()


@app.command()
def status() -> None:
    """Show whether it runs."""
    console.print("runs" if Vcenter(Places.find()).running() else "does not run")


if __name__ == "__main__":
    try:
        app()
    except PhoenixError as error:
        console.print(f"[red]{type(error).__name__}[/]: {error}", highlight=False)
        raise SystemExit(1) from None
