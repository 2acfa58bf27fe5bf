"""Long waits happen here, in the triggerer: no worker slot is held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from phoenix_fleet.airflow import questions, world

LOOK_AGAIN_SECONDS = 600.0
"""A deferred task wakes this often even without an answer: some facts only a worker can see."""


class CatalogTrigger(BaseTrigger):
    """Fires when the catalog says yes to a question, or after a while so that the task can look again."""

    def __init__(
        self,
        question: str,
        arguments: dict[str, str],
        poll_seconds: float = 2.0,
        limit_seconds: float = LOOK_AGAIN_SECONDS,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.question = question
        self.arguments = arguments
        self.poll_seconds = poll_seconds
        self.limit_seconds = limit_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which the triggerer makes it again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "question": self.question,
                "arguments": self.arguments,
                "poll_seconds": self.poll_seconds,
                "limit_seconds": self.limit_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, ``{"answered": bool, "message": str}``. The catalog being away is only a reason to wait on."""
        catalog = world.catalog()
        started, said = time.monotonic(), ""
        try:
            while True:
                try:
                    answered, message = await asyncio.to_thread(questions.ask, catalog, self.question, self.arguments)
                except Exception as error:  # the triggerer must outlive a restart of the database
                    answered, message = False, f"cannot ask the catalog: {error}"
                if message != said:
                    self.log.info("%s: %s", self.question, message)
                    said = message
                if answered or time.monotonic() - started > self.limit_seconds:
                    yield TriggerEvent({"answered": answered, "message": message})  # type: ignore[no-untyped-call]
                    return
                await asyncio.sleep(self.poll_seconds)
        finally:
            catalog.close()


class PauseTrigger(BaseTrigger):
    """Fires after that many seconds; what has come to pass by then the task looks up itself."""

    def __init__(self, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which the triggerer makes it again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"seconds": self.seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event after the pause."""
        await asyncio.sleep(self.seconds)
        yield TriggerEvent({"paused": self.seconds})  # type: ignore[no-untyped-call]
