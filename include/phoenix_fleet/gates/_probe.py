"""A pytest plugin that lets no suite pass which was not carried out whole, on an instance that answers.

The suite's runner copies it beside the suite's own configuration. Where there is an instance, it is asked for a sign
of life before the suite, and again after a failure: a container that is gone would otherwise turn into failed
tests, and a machine that does not answer says nothing about its image.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

UNREACHABLE = 77
"""Exit code of pytest when the instance does not answer."""
STOPPED = 78
"""Exit code of pytest when the suite has stopped itself, whatever code it asked for."""


def _problem() -> str:
    if not os.environ.get("PHOENIX_HOSTSPEC"):
        return ""
    import testinfra

    try:
        host = testinfra.get_host(os.environ["PHOENIX_HOSTSPEC"], ssh_config=os.environ.get("PHOENIX_SSH_CONFIG"))
        result = host.backend.run("true")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if result.rc == 0 else f"exit code {result.rc}: {result.stderr_bytes[-500:]!r}"


class Watch:
    """Follows one session."""

    stopped = False

    def pytest_sessionstart(self) -> None:
        """End the session at once if the instance does not answer."""
        if problem := _problem():
            pytest.exit(f"phoenix: the instance does not answer: {problem}", returncode=UNREACHABLE)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[Any]) -> None:
        """Remember a ``pytest.exit``, which comes here and may ask for exit code 0."""
        self.stopped = getattr(excinfo.value, "returncode", UNREACHABLE) != UNREACHABLE

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Say with the exit code what the tests' results would hide."""
        if self.stopped:
            session.exitstatus = STOPPED
        elif session.testsfailed and (problem := _problem()):
            print(f"\nphoenix: the instance has stopped answering: {problem}")
            session.exitstatus = UNREACHABLE


def pytest_configure(config: pytest.Config) -> None:
    """Follow the session."""
    config.pluginmanager.register(Watch(), "phoenix-watch")
