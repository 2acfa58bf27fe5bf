"""Another machine at the address of one of the lab's: same image, same key that may log in, its own host key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lab import guests
from tests.contract.machinery import wait_for


@contextmanager
def answering_instead(owner: str, public_key: str) -> Iterator[Callable[[str], None]]:
    """Gives what to call with a container's name, to take its place in its network; gone afterwards."""
    name = f"{owner}-impostor"
    config = {"ssh_authorized_keys": [public_key.strip()], "disable_root": False}
    user_data = f"#cloud-config\n{json.dumps(config)}\n".encode()

    def take_over(victim: str) -> None:
        with guests.engine() as engine:
            seen = engine.inspect_container(victim)
            ((network, place),) = seen["NetworkSettings"]["Networks"].items()
            engine.disconnect_container_from_network(victim, network, force=True)
            made = engine.create_container(
                seen["Config"]["Image"],
                name=name,
                labels={guests.LABEL: owner},
                networking_config=engine.create_networking_config(
                    {network: engine.create_endpoint_config(ipv4_address=place["IPAddress"])}
                ),
                host_config=engine.create_host_config(network_mode=network),
            )["Id"]
            seed = {"var/lib/cloud/seed/nocloud/user-data": user_data}
            engine.put_archive(made, "/", guests.packed(seed).getvalue())
            engine.start(made)
            wait_for(lambda: b"login:" in engine.logs(made), "the impostor")

    try:
        yield take_over
    finally:
        with guests.engine() as engine, guests.gone_is_fine():
            engine.remove_container(name, force=True, v=True)
