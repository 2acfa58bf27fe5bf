"""Checks of an instance from within: a testinfra suite, run by pytest, JUnit kept."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from phoenix_fleet.config import Duration, Frozen
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _suite
from phoenix_fleet.gates._hosts import reaching
from phoenix_fleet.gates.base import Gate


class Settings(Frozen):
    """Which checks."""

    suite: str = Field(description="Folder or file of tests, relative to the file that names this gate.", min_length=1)
    timeout: Duration = Field(timedelta(minutes=10), description="The suite is killed after this long. Default 10m.")
    connection: str = Field(
        "phoenix_ssh", description="Airflow connection with extra.key_file, for instances reached over SSH."
    )


class Driver(Gate):
    """Passed if at least one check ran and none failed."""

    Settings = Settings

    def measure(self, subject: Subject) -> Measurement:
        """What the suite found on the subject's instance.

        An instance that does not answer, a suite that cannot be loaded, one without tests and one that takes too
        long come back as errors.
        """
        path = (self.home / self.settings.suite).resolve()
        suite = _suite.Suite(path, f"testinfra-{path.stem}", self.settings.timeout)
        try:
            with reaching(subject, self.connections, self.settings.connection) as reach:
                return _suite.run_suite(suite, subject, reach)
        except PhoenixError as error:
            return _suite.could_not(str(error))
