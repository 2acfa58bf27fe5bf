"""Whether an instance is ready: it runs, is the image it should be, and answers with its own SSH host key."""

from __future__ import annotations

from phoenix_fleet.domain.errors import AuthenticationFailed, StepFailed
from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.rollout.deps import SshProbe


def missing(instance: Instance, digest: str, probe: SshProbe | None) -> str:
    """What it still lacks, in words; empty once it is ready. ``digest`` is that of the image it should run.

    Without a ``probe`` nobody can log in to it, so neither an address nor a host key is asked for.

    :raises StepFailed: it never will be: it failed, is going, or runs another image.
    :raises AuthenticationFailed: something else answers at its address.
    """
    if instance.state in (InstanceState.FAILED, InstanceState.STOPPING, InstanceState.GONE):
        said = f": {instance.message}" if instance.message else ""
        raise StepFailed(f"{instance.name} is {instance.state}{said}")
    lacks = [
        what
        for what, known in (
            ("running", instance.state is InstanceState.RUNNING),
            ("an address", instance.address or probe is None),
            ("SSH host keys", instance.host_keys or probe is None),
            ("an image digest", instance.digest),
        )
        if not known
    ]
    if lacks:
        told = f": {instance.message}" if instance.message else ""
        return f"{instance.name} is {instance.state}, still without {', '.join(lacks)}{told}"
    if instance.digest != digest:
        raise StepFailed(f"{instance.name} runs {instance.digest}, not {digest}")
    if probe is None:
        return ""
    answered = probe(instance)
    if not answered:
        return f"nothing answers SSH at {instance.address} yet"
    strangers = sorted(set(answered) - set(instance.host_keys))
    if strangers:
        raise AuthenticationFailed(
            f"what answers SSH at {instance.address} has the host key {strangers[0]}, "
            f"which is not one that the platform reports for {instance.name}",
            remedy="Find out who answers there before anything else.",
        )
    return ""
