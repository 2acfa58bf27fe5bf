"""The gate over everything measured, the approvals, and the release itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, task

from phoenix_fleet.airflow import world
from phoenix_fleet.airflow.build import Candidate
from phoenix_fleet.domain.errors import Refused, StepFailed
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.verdicts import Verdict, worst
from phoenix_fleet.domain.windows import Version


@task.branch(trigger_rule="all_done_min_one_success", retries=0)
def gate(candidate: Candidate, passed: str, inconclusive: str, failed: str, **context: Any) -> str:
    """The way on for the candidate: the id of the task for its verdict, worst measurement wins.

    :raises StepFailed: if something could not be measured or built: that is not the image's fault, so the candidate
        stays as it is, and clearing the failed tasks measures again.
    """
    catalog = world.catalog()
    try:
        image = catalog.images.get(candidate["family"], Version.parse(candidate["version"]))
        measured = catalog.measurements.latest(image.family, image.version)
    finally:
        catalog.close()
    verdict = worst(record.verdict for record in measured)
    for record in measured:
        world.log.info("%-12s %s: %s: %s", record.verdict, record.stage, record.subject, record.measurement.value)
    missing = _missing(image)
    if verdict == Verdict.FAILED:
        return failed
    if verdict == Verdict.ERROR or missing:
        raise StepFailed(
            f"{image} is not proven: {missing or 'something could not be measured, see the log above'}.",
            remedy="Mend the cause, then clear the failed tasks; docs/runbooks/gate-error.md",
        )
    return inconclusive if verdict == Verdict.INCONCLUSIVE else passed


def _missing(image: Image) -> str:
    family = world.project().family(image.family)
    platforms = [name for name in family.platforms if name not in image.artefacts]
    if platforms:
        return f"no artefact for {', '.join(platforms)}"
    return "" if image.rung in (Rung.STAGED, Rung.RELEASED) else f"it stands on '{image.rung}', not on 'staged'"


def approval(task_id: str, family: Any, question: str, trigger_rule: str = "all_success") -> ApprovalOperator:
    """A person's decision, with no default answer: nobody answering is not approval, and a reject fails."""
    return ApprovalOperator(
        task_id=task_id,
        subject=f"{question}: {family.name} {{{{ ti.xcom_pull(task_ids='build.open_candidate')['version'] }}}}",
        body=(
            f"{family.description}\n\nApproving releases this image for every fleet of the family. All measurements "
            "are in the log of task `gate`; the files kept as proof are named there.\n\nRunbook: "
            "`docs/runbooks/release-approval.md`"
        ),
        # Not "reason": Airflow would fill in what the one who triggered the run gave for theirs.
        params={"comment": Param("", type="string", title="Comment", description="Kept with the approval.")},
        response_timeout=family.approval.timeout,
        assigned_users=[{"id": name, "name": name} for name in family.approval.approvers] or None,
        fail_on_reject=True,
        trigger_rule=trigger_rule,
        retries=0,
    )


@task
def record_approval(candidate: Candidate, answer: dict[str, Any], **context: Any) -> str:
    """Store who approved which digests; returns the approver's name.

    :raises Refused: if no named person answered, who triggered the run did, or the answer was not to approve.
    """
    user = answer.get("responded_by_user") or {}
    responder = (user.get("name") or user.get("id")) if isinstance(user, dict) else str(user)
    if "Approve" not in (answer.get("chosen_options") or []):
        raise Refused("The release was not approved.", remedy="docs/runbooks/release-rejected.md")
    family = world.project().family(candidate["family"])
    if family.approval.four_eyes and responder == context["dag_run"].triggering_user_name:
        raise Refused(
            f"{responder} both triggered and approved this release.",
            remedy="Clear task 'approve' and let somebody else answer, or set approval.four_eyes: false.",
        )
    at = answer.get("responded_at") or ""
    catalog = world.catalog()
    try:
        image = catalog.images.get(candidate["family"], Version.parse(candidate["version"]))
        catalog.measurements.approve(
            image.family,
            image.version,
            digest_set={name: artefact.digest for name, artefact in image.artefacts.items()},
            responder=responder,
            approved=True,
            reason=str((answer.get("params_input") or {}).get("comment") or ""),
            at=at if isinstance(at, datetime) else datetime.fromisoformat(at),
        )
    finally:
        catalog.close()
    return str(responder)


@task(map_index_template=world.LABEL)
def promote(platform: str, candidate: Candidate, **context: Any) -> str:
    """Tag the artefact as released where its platform shows it; returns the reference by digest."""
    from phoenix_fleet import drivers

    world.mark(label=platform)
    family, version = world.project().family(candidate["family"]), Version.parse(candidate["version"])
    driver = drivers.load("platforms", platform)
    settings = driver.Settings.model_validate(family.target(platform).platform.settings)
    catalog = world.catalog()
    try:
        image = catalog.images.get(family.name, version)
        artefact = image.artefacts[platform]
        purpose = world.run_key(context)
        intent = catalog.intents.begin(
            "tag_image", artefact.reference, {"status": "released"}, ticket=None, purpose=purpose
        )
        tagged = driver(settings, world.connections).tag_image(artefact, Rung.RELEASED)
        catalog.intents.outcome(intent.id, "done", {"digest": tagged.digest})
    finally:
        catalog.close()
    if tagged.digest != artefact.digest:
        raise Refused(f"Tagging changed the digest of {artefact.reference} to {tagged.digest}.")
    return str(tagged.reference)


@task
def publish(candidate: Candidate, **context: Any) -> str:
    """The image is released from here on: immutable in the catalog, its window settled, its asset told of."""
    catalog = world.catalog()
    try:
        actor = world.actor_of(context)
        image = catalog.images.move(
            candidate["family"], Version.parse(candidate["version"]), Rung.RELEASED, actor=actor, reason="approved"
        )
        catalog.images.settle_window(
            image.family, image.window, image.version, "released", actor=actor, reason=world.reason_of(context)
        )
    finally:
        catalog.close()
    digests = {name: artefact.digest for name, artefact in image.artefacts.items()}
    for event in (context.get("outlet_events") or {}).values() if context.get("outlet_events") else ():
        event.extra = {"family": image.family, "version": str(image.version), "digests": digests}
    world.log.info("%s is released: %s", image, digests)
    return str(image.version)


@task(retries=0)
def reject(candidate: Candidate, **context: Any) -> None:
    """Mark the candidate rejected, for ever, and end the run red.

    :raises StepFailed: always, with what failed.
    """
    catalog = world.catalog()
    try:
        version = Version.parse(candidate["version"])
        measured = catalog.measurements.latest(candidate["family"], version)
        told = "; ".join(
            f"{record.gate} of {record.subject}: {record.measurement.value}"
            for record in measured
            if record.verdict == Verdict.FAILED
        )
        image = catalog.images.move(
            candidate["family"], version, Rung.REJECTED, actor=world.actor_of(context), reason=told
        )
    finally:
        catalog.close()
    raise StepFailed(f"{image} is rejected: {told}.", remedy="docs/runbooks/image-rejected.md")
