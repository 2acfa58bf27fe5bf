"""The ``docker`` command against one engine: Packer's Docker builder runs it, and seeds are imported with it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from phoenix_fleet import processes
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig, Unavailable

_LONGEST = timedelta(minutes=15)
"""How long one command may take: an import or a pull of a large image."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TLS_FILES = {"ca_cert": "ca.pem", "client_cert": "cert.pem", "client_key": "key.pem"}
"""What an Airflow connection of type docker calls them, and what the command does."""


class Failed(Exception):
    """The command failed; the message is what it said."""


class DockerCommand:
    """The command with an environment that reaches the connection's engine and knows nothing of the user's own."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        """``folder`` is a private one, for the command's configuration: a login ends with it.

        :raises InvalidConfig: the connection names no engine, or one that would be reached without protection.
        """
        self.folder = folder
        self.env = {"DOCKER_CONFIG": str(folder), "DOCKER_HOST": _host(connection)}
        if connection.extra.get("ca_cert"):
            for name, file in _TLS_FILES.items():
                if source := connection.extra.get(name):
                    (folder / file).symlink_to(source)
            self.env |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(folder)}

    def run(self, *arguments: str) -> list[str]:
        """Its lines of output.

        :raises Failed: it failed.
        """
        lines: list[str] = []
        env = processes.bare_environment(**self.env)
        if code := processes.run(["docker", *arguments], lines.append, timeout=_LONGEST, env=env):
            said = " ".join(lines[-5:]) or f"exit code {code}"
            raise Failed(f"docker {' '.join(arguments[:2])}: {said}")
        return lines

    def check_answers(self) -> None:
        """Return if the engine answers. :raises Unavailable: otherwise, with what the command said."""
        try:
            self.run("version", "--format", "{{.Server.Version}}")
        except Failed as error:
            raise Unavailable(
                f"The Docker engine at {self.env['DOCKER_HOST']} does not answer: {error}",
                remedy="See that dockerd runs and can be reached.",
            ) from error

    def has_image(self, reference: str) -> bool:
        """Whether the engine holds that image. :raises Unavailable: it does not answer, which is not "no"."""
        return self.label(reference, "") is not None

    def label(self, reference: str, name: str) -> str | None:
        """An image's label (empty if it has none of that name); None if the engine has no such image.

        :raises Unavailable: it does not answer, which is not "none".
        """
        shown = f'{{{{index .Config.Labels "{name}"}}}}'
        try:
            lines = self.run("image", "inspect", "--format", shown, reference)
        except Failed:
            self.check_answers()
            return None
        return lines[0].removeprefix("<no value>") if lines else ""


def _host(connection: Connection) -> str:
    host = connection.host.removeprefix("unix://")
    if host.startswith("var/"):  # how a URI without its third slash comes out
        host = f"/{host}"
    if host.startswith("/"):
        return f"unix://{host}"
    if not host:
        raise InvalidConfig(f"The connection '{connection.id}' names no engine.", remedy="Set its host to the socket.")
    if host not in _LOOPBACK and not connection.extra.get("ca_cert"):
        raise InvalidConfig(
            f"The connection '{connection.id}' reaches {host} without TLS: whoever is in between would be root there.",
            remedy="Set extra.ca_cert, extra.client_cert and extra.client_key.",
        )
    return f"tcp://{host}:{connection.port or 2376}"
