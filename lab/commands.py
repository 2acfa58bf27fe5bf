"""The commands of a lab whose machines are containers: ``up``, ``down`` and ``status``, alike for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import typer
from rich.console import Console

from lab import guests
from lab.places import Places
from lab.world import Log

console = Console(stderr=True)


class ContainerLab(Protocol):
    """A lab that marks its containers with its own name."""

    owner: str

    def up(self) -> Any:
        """What was made, also if it runs already."""

    def down(self) -> None:
        """Remove all of it."""

    def running(self) -> bool:
        """Whether it runs."""


Lab = TypeVar("Lab", bound=ContainerLab)


def app_of(name: str, what: str, make: Callable[[Places, Log], Lab], tell: Callable[[Lab], Mapping[str, str]]) -> Any:
    """The commands of that lab.

    :param name: of its folder, beside the lab's own.
    :param tell: how it is reached, once it is up.
    """
    app = typer.Typer(help=f"The lab's {what}.", no_args_is_help=True)

    def lab() -> Lab:
        return make(Places.find().beside(name), lambda line: console.print(f"· {line}", highlight=False))

    @app.command()
    def up() -> None:
        """Start it; what runs is left alone."""
        started = lab()
        started.up()
        for key, value in tell(started).items():
            console.print(f"· {key}: {value}", highlight=False, soft_wrap=True)

    @app.command()
    def down(
        images: bool = typer.Option(False, "--images", help="Remove the machines' images from the engine too."),
    ) -> None:
        """Remove all of it."""
        lab().down()
        if images:
            guests.remove_images()

    @app.command()
    def status() -> None:
        """Show whether it runs, and its machines."""
        found = lab()
        console.print("runs" if found.running() else "does not run")
        for each in guests.containers(found.owner):
            console.print(f"· {each['Names'][0].lstrip('/')}: {each['Status']}, {each['Image']}", highlight=False)

    return app
