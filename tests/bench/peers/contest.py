"""What a contestant can do, and what one refresh by it came to."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.peers.ground import Ground


@dataclass(frozen=True)
class Refresh:
    """One refresh of one fleet."""

    seconds: float
    """From the word to begin until the last old machine is gone."""
    ended: str
    """In the contestant's own word."""
    paused: float = 0.0
    """Seconds of it in which it waited on purpose between two looks, where that is known."""
    answers: Counter[str] = field(default_factory=Counter)
    """Of the visitor's requests, by the release that answered; ``failed`` are the bad ones."""
    machines: Counter[str] = field(default_factory=Counter)
    """What there is afterwards, by release."""
    load: float = 0.0
    """The machine's load average of the last minute, at the end."""


class Contestant(ABC):
    """Somebody who keeps a fleet of that service behind a balancer."""

    name: str
    """For the table."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    @contextmanager
    @abstractmethod
    def fleet(self, name: str, size: int) -> Iterator[int | None]:
        """A fleet of that size on the old release; the port that visitors come to, if they can. Removed afterwards."""

    @abstractmethod
    def refresh(self, name: str, size: int, release: str) -> tuple[str, float]:
        """Take it to that release; how that ended, and the seconds paused on purpose. Returns when it is over."""


def settled(ground: Ground, wanted: Counter[str], seconds: float) -> bool:
    """Whether there is exactly that within so many seconds."""
    give_up = time.monotonic() + seconds
    while ground.machines() != wanted:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def load() -> float:
    """How many processes wanted a core, over the last minute."""
    return os.getloadavg()[0]
