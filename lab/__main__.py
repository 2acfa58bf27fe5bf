"""The lab from the command line: ``python -m lab up``, ``down``, ``status``; each machine platform has its own."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lab import ec2_lab, kubernetes_lab, qemu_host, vmware_lab, xen_host
from lab.places import Places
from lab.world import Lab, alone
from phoenix_fleet.domain.errors import PhoenixError

app = typer.Typer(help="The local data centre that the demo and the end-to-end tests share.", no_args_is_help=True)
app.add_typer(ec2_lab.app, name="ec2")
app.add_typer(vmware_lab.app, name="vmware")
app.add_typer(kubernetes_lab.app, name="kubernetes")
app.add_typer(qemu_host.app, name="libvirt")
app.add_typer(xen_host.app, name="xen")
console = Console(stderr=True)


def _lab() -> Lab:
    return Lab(Places.find(), lambda line: console.print(f"· {line}", highlight=False))


@app.command()
def up(
    fresh: Annotated[bool, typer.Option(help="Remove what there is and begin anew.")] = False,
    airflow: Annotated[bool, typer.Option(help="Start Airflow too.")] = False,
) -> None:
    """Bring up network, registry, balancers, fleets on the older release, and traffic; what runs is left alone."""
    lab = _lab()
    with alone(lab.places):
        lab.up(fresh=fresh, beside=(lambda: lab.airflow.start(lab.log)) if airflow else None)
    if airflow:
        lab.log(f"Airflow answers on {lab.airflow.url}; passwords: {lab.airflow.password_file}")


@app.command()
def down(
    purge: Annotated[bool, typer.Option(help="Remove the cache too: seeds and the older release.")] = False,
    engine: Annotated[bool, typer.Option(help="Stop the Docker engine too, if scripts/setup started it.")] = False,
) -> None:
    """Remove everything that the lab made."""
    lab = _lab()
    with alone(lab.places):
        lab.down(purge=purge, engine=engine)


@app.command()
def status() -> None:
    """Show what runs."""
    table = Table("part", "state", box=None)
    for name, state in _lab().status().items():
        table.add_row(name, state)
    Console().print(table)


if __name__ == "__main__":
    try:
        app()
    except PhoenixError as error:
        console.print(f"[red]{type(error).__name__}[/]: {error}", highlight=False)
        raise SystemExit(1) from None
