"""What runs behind the lab's EC2: one container for each instance, at the instance's private address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import docker.errors

from lab import guests

_SEED = "var/lib/cloud/seed/nocloud/user-data"
_LARGEST_CONSOLE = 64 * 1024
"""Bytes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html"""
_STOP_SECONDS = 2


@dataclass(frozen=True)
class Order:
    """What a machine is made from."""

    instance_id: str
    image: str
    """The image in the engine that the AMI's tag names."""
    subnet: str
    address: str
    user_data: bytes


class Machines:
    """The containers and bridges of one lab; each method may be called again after anything went wrong."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def start(self, order: Order) -> None:
        """Have it run, made new unless it is there."""
        with guests.engine() as engine:
            try:
                made = engine.inspect_container(self._name(order.instance_id))["Id"]
            except docker.errors.NotFound:
                made = self._make(engine, order)
            engine.start(made)

    def stop(self, instance_id: str) -> None:
        """Have it stand still; its disk stays."""
        with guests.engine() as engine, guests.gone_is_fine():
            engine.stop(self._name(instance_id), timeout=_STOP_SECONDS)

    def end(self, instance_id: str) -> None:
        """Have it gone, with its disk."""
        with guests.engine() as engine, guests.gone_is_fine():
            engine.remove_container(self._name(instance_id), force=True, v=True)

    def console(self, instance_id: str) -> str:
        """What it has written since it was made; nothing of one that is not there."""
        with guests.engine() as engine, guests.gone_is_fine():
            text: bytes = engine.logs(self._name(instance_id), stdout=True, stderr=True)
            return text[-_LARGEST_CONSOLE:].decode(errors="replace")
        return ""

    def running(self) -> set[str]:
        """The instances whose machine runs."""
        return {
            str(each["Labels"]["phoenix.lab.instance"])
            for each in guests.containers(self.owner)
            if each["State"] == "running" and "phoenix.lab.instance" in each["Labels"]
        }

    def _make(self, engine: Any, order: Order) -> str:
        network = guests.bridge_name(self.owner, order.subnet)
        at = engine.create_endpoint_config(ipv4_address=order.address)
        made = engine.create_container(
            order.image,
            name=self._name(order.instance_id),
            hostname=f"ip-{order.address.replace('.', '-')}",
            labels={guests.LABEL: self.owner, "phoenix.lab.instance": order.instance_id},
            networking_config=engine.create_networking_config({network: at}),
            host_config=engine.create_host_config(network_mode=network),
        )["Id"]
        engine.put_archive(made, "/", guests.packed({_SEED: order.user_data}).getvalue())
        return str(made)

    def _name(self, instance_id: str) -> str:
        return f"{self.owner}-{instance_id}"
