"""Throw-away instances for tests and certifications: launched, ready, and gone for certain afterwards.

They carry the fleet name ``throwaway``, so nothing mistakes them for a fleet's, and a slot such as ``test-docker``.
Their launches and terminations have intents as everything else has, without a ticket: no rollout owns them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from phoenix_fleet.config import ImageFamily
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.clock import Clock, SystemClock
from phoenix_fleet.domain.errors import NotFound, PermanentError, PhoenixError, TimedOut, TransientError
from phoenix_fleet.domain.models import Image, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms.base import Platform
from phoenix_fleet.rollout import deps, gone, readiness, rebooting
from phoenix_fleet.rollout.deps import SshProbe
from phoenix_fleet.rollout.progress import words
from phoenix_fleet.rollout.replacement import may_have_happened
from phoenix_fleet.rollout.retiring import ASK_AGAIN

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import Action, IntentRecord, Outcome

FLEET = "throwaway"
"""The fleet mark of all of them."""

Poll = Callable[[], None]
"""Called between two looks: it waits, or moves a clock on, or raises to give up."""
Reply = TypeVar("Reply")


def throwaways_for(
    family: ImageFamily,
    platform: str,
    catalog: Catalog,
    connections: Connections,
    *,
    purpose: str,
    log: Callable[[str], None],
) -> Throwaways:
    """The throw-away instances of one purpose (a run) on one of the family's platforms.

    :raises InvalidConfig: the family is not built for that platform, or its key cannot be read.
    """
    declared = family.target(platform).platform
    driver: Platform = deps.load("platforms", declared, connections)
    return Throwaways(
        driver,
        platform,
        catalog,
        purpose=purpose,
        settings=declared.settings,
        authorized_key=deps.public_key(family.access, connections),
        probe=deps.probe_for(driver),
        run_inside=rebooting.runner(connections, family.access.connection),
        log=log,
    )


class Throwaways:
    """The throw-away instances of one purpose on one platform. Nothing is kept in memory: any process can go on."""

    def __init__(
        self,
        platform: Platform,
        platform_name: str,
        catalog: Catalog,
        *,
        purpose: str,
        probe: SshProbe,
        run_inside: rebooting.RunInside,
        log: Callable[[str], None],
        settings: dict[str, Any] | None = None,
        authorized_key: str = "",
        clock: Clock | None = None,
        ready_within: timedelta = timedelta(minutes=5),
        gone_within: timedelta = timedelta(minutes=10),
    ) -> None:
        self.platform = platform
        self.platform_name = platform_name
        self.catalog = catalog
        self.purpose = purpose
        self.probe = probe
        self.run_inside = run_inside
        self.log = log
        self.settings = settings or {}
        self.authorized_key = authorized_key
        self.clock: Clock = clock or SystemClock()
        self.ready_within = ready_within
        self.gone_within = gone_within

    def hostspec(self, instance: Instance) -> str:
        """A testinfra URL that reaches the instance."""
        return self.platform.hostspec(instance)

    def launch(self, image: Image, slot: str, *, poll: Poll) -> Instance:
        """The instance of that slot, ready: it runs the image, and answers SSH with its own host key.

        Asking again gives the same one, also from another process; after ``retire`` it is a new one. One that does
        not become ready is retired before the error is raised.

        :raises StepFailed: it failed, or runs another image.
        :raises AuthenticationFailed: something else answers at its address.
        :raises TimedOut: it was not ready in time.
        :raises NotFound: the image has no artefact on this platform.
        """
        intent = self._intent(image, slot)
        try:
            born = self._until("is accepted", intent.name, self.ready_within, poll, lambda: self._ask(intent))
            return self._ready(born.id, intent.artefact.digest, poll)
        except (PermanentError, TimedOut) as error:
            self.log(f"{intent.name}: {error}")
            self.retire(slot, poll=poll)
            raise

    def retire(self, slot: str, *, poll: Poll) -> None:
        """Return once every instance of that slot and purpose is gone for certain; none is fine.

        :raises TimedOut: one is still there after the time for it.
        """
        known = {intent.token: intent for intent in self._intents("launch", slot)}
        if not known:
            return
        found = {each.token: each.id for each in self.platform.list_instances(FLEET) if each.token in known}
        for token, intent in known.items():
            instance_id = found.get(token) or str(intent.result.get("instance") or "")
            if instance_id and not self._is_over(instance_id):
                self._terminate(instance_id, token, slot, poll)

    def reboot(self, instance: Instance, *, poll: Poll) -> Instance:
        """The same instance, ready again after a reboot from inside.

        :raises TimedOut: it did not come back in time.
        :raises StepFailed: it came back failed, or as another image.
        :raises AuthenticationFailed: it came back with host keys that the platform does not report.
        """
        before = rebooting.boot_of(self.run_inside, instance, self.hostspec(instance))
        self.log(f"{instance.name}: reboot")
        rebooting.reboot(self.run_inside, instance, self.hostspec(instance))

        def another_boot() -> bool | None:
            boot = rebooting.boot_of(self.run_inside, instance, self.hostspec(instance))
            return boot != before or None

        self._until("is in another boot", instance.name, self.ready_within, poll, another_boot)
        return self._ready(instance.id, instance.digest, poll)

    def sweep(self, purpose_prefix: str, older_than: timedelta, *, poll: Poll) -> list[str]:
        """Terminate what runs of that kind have left behind; returns the names of what is gone for certain now.

        Only instances whose launch the catalog knows under a purpose with that prefix, and that are older than that.

        :raises TimedOut: one is still there after the time for it.
        """
        # The platform is listed first: an instance born in between is then in the catalog, and not an orphan.
        listed = self.platform.list_instances(FLEET)
        ours = {
            intent.token: intent
            for intent in self.catalog.intents.list_intents()
            if intent.action == "launch" and intent.purpose.startswith(purpose_prefix)
        }
        swept = []
        for instance in listed:
            born = instance.launched_at
            if instance.token not in ours or born is None or self.clock.now() - born < older_than:
                continue
            self.log(f"{instance.name}: left behind by {ours[instance.token].purpose}")
            self._terminate(instance.id, instance.token, instance.slot, poll)
            swept.append(instance.name)
        return swept

    # Inside

    def _intent(self, image: Image, slot: str) -> LaunchIntent:
        artefact = image.artefacts.get(self.platform_name)
        if artefact is None:
            raise NotFound(f"{image} has no artefact on {self.platform_name}.", remedy="Build it for that platform.")
        over = {intent.params["token"] for intent in self._intents("terminate", slot)}
        return LaunchIntent(
            fleet=FLEET,
            slot=slot,
            purpose=self.purpose,
            attempt=1 + len(over),
            family=image.family,
            version=str(image.version),
            artefact=artefact,
            authorized_key=self.authorized_key,
            settings=dict(self.settings),
        )

    def _ask(self, intent: LaunchIntent) -> Instance:
        params = {**asdict(intent), "name": intent.name, "fingerprint": intent.fingerprint}
        return self._act("launch", intent.slot, params, lambda: self.platform.launch(intent), token=intent.token)

    def _ready(self, instance_id: str, digest: str, poll: Poll) -> Instance:
        def look() -> Instance | None:
            try:
                instance = self.platform.get_instance(instance_id)
            except NotFound:
                return None
            return None if readiness.missing(instance, digest, self.probe) else instance

        return self._until("is ready", instance_id, self.ready_within, poll, look)

    def _terminate(self, instance_id: str, token: str, slot: str, poll: Poll) -> None:
        missing: datetime | None = None
        asked: datetime | None = None
        seen = False

        def look() -> bool | None:
            nonlocal missing, asked, seen
            now = self.clock.now()
            found = gone.look(self.platform, FLEET, instance_id, missing_since=missing, seen=seen, now=now)
            missing = found.missing_since
            if found.gone:
                return True
            if found.instance is None or found.instance.token != token:
                return None
            seen = True
            if found.instance.state is not InstanceState.STOPPING and (asked is None or now - asked > ASK_AGAIN):
                asked = now
                params = {"token": token, "slot": slot, "name": found.instance.name}
                self._act("terminate", instance_id, params, lambda: self.platform.terminate(instance_id))
            return None

        self._until("is gone", instance_id, self.gone_within, poll, look)

    def _is_over(self, instance_id: str) -> bool:
        """Whether its termination is on record as done and it is no longer to be seen."""
        done = any(
            intent.target == instance_id and intent.outcome == "done"
            for intent in self.catalog.intents.list_intents(self.purpose)
            if intent.action == "terminate"
        )
        if not done:
            return False
        try:
            return self.platform.get_instance(instance_id).state is InstanceState.GONE
        except NotFound:
            return True

    def _intents(self, action: Action, slot: str) -> list[IntentRecord]:
        return [
            intent
            for intent in self.catalog.intents.list_intents(self.purpose)
            if intent.action == action and intent.params.get("slot") == slot
        ]

    def _act(
        self, action: Action, target: str, params: dict[str, Any], call: Callable[[], Reply], *, token: str = ""
    ) -> Reply:
        self.log(f"{params['name']}: {action}")
        intent = self.catalog.intents.begin(action, target, params, ticket=None, purpose=self.purpose, token=token)
        try:
            reply = call()
        except PhoenixError as error:
            outcome: Outcome = "unknown" if may_have_happened(error) else "failed"
            self.catalog.intents.outcome(intent.id, outcome, {"error": type(error).__name__, "message": str(error)})
            raise
        result = {"instance": reply.id} if isinstance(reply, Instance) else {}
        self.catalog.intents.outcome(intent.id, "done", result)
        return reply

    def _until(self, what: str, name: str, limit: timedelta, poll: Poll, look: Callable[[], Reply | None]) -> Reply:
        """What ``look`` comes back with, once it is not None; transient errors only mean another look."""
        give_up = self.clock.now() + limit
        trouble = ""
        while True:
            try:
                found = look()
                trouble = ""
            except TransientError as error:
                found, trouble = None, f" ({error})"
            if found is not None:
                return found
            if self.clock.now() >= give_up:
                raise TimedOut(f"{name}: it took longer than {words(limit)} until it {what}{trouble}.")
            poll()
