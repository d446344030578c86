"""Brings a version into service, or back, once it is approved: package, rehearse, roll out, promote."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from windvane.endpoint_url import public_url
from windvane.errors import StaleEpoch
from windvane_airflow import assets
from windvane_airflow.operators.model_operator import MadeLink, ModelLink, ModelOperator, actor_of


class EndpointLink(MadeLink):
    """The button that leads to what serves."""

    name = "Endpoint"


class ReleasesLink(ModelLink):
    """The button that leads to what served and why."""

    name = "Releases"
    tab = "releases"


class PackageReleaseOperator(ModelOperator):
    """Resolve which version is meant, verify its bundle, and build its image where the target needs one.

    Args:
        approved: What the approve task returned; None where the config asks for no approval. (templated)
    """

    template_fields: Sequence[str] = ("approved",)
    operator_extra_links = (MadeLink(), ReleasesLink(), ModelLink())

    def __init__(self, *, approved: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approved = approved

    def run(self, context: Context) -> dict[str, Any]:
        """Return the plan of the release.

        Raises:
            AirflowFailException: If a person must approve the version and none did, such as when the task was marked as done.
        """
        from windvane.deployment import package, resolve_release
        from windvane.resolve_release import Candidate, is_rollback

        requested, candidate, answer = context["params"].get("version"), None, self.approved or {}
        if answer.get("approval"):
            # exactly what the person saw, whatever was registered since
            candidate = Candidate(int(answer["version"]), str(answer["bundle_digest"]))
        elif self.config.approval.required and not is_rollback(self.settings, self.model, requested):
            raise AirflowFailException(
                f"{self.model}: approval.required is set and nobody approved this version: it is not deployed; trigger {self.dag_id} anew"
            )
        plan = resolve_release(self.config, self.settings, requested, candidate=candidate, actor=actor_of(context))
        plan = replace(plan, approval=answer.get("approval"))
        package(self.config, self.settings, plan)
        return plan.as_json()


class ReleaseOperator(ModelOperator):
    """A step of a planned release.

    Args:
        plan: What the package task returned. (templated)
    """

    template_fields: Sequence[str] = ("plan",)
    operator_extra_links = (EndpointLink(), ReleasesLink(), ModelLink())

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the step; one that something newer overtook ends as skipped.

        Raises:
            AirflowSkipException: If something else was released since the plan was made.
        """
        try:
            return super().execute(context)
        except StaleEpoch as exc:
            raise AirflowSkipException(f"superseded: {exc}") from exc

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Lead to what serves."""
        return f"{public_url(self.config)}/model"


class RehearseReleaseOperator(ReleaseOperator):
    """Score the golden rows in the runtime that would serve, before the version takes traffic."""

    def run(self, context: Context) -> dict[str, Any]:
        """Return the evidence."""
        from windvane.deployment import Plan, rehearse

        return dict(rehearse(self.config, self.settings, Plan.from_json(self.plan)))


class EvidencedReleaseOperator(ReleaseOperator):
    """A step whose ledger row keeps what the step before saw.

    Args:
        evidence: What the step before returned. (templated)
    """

    template_fields: Sequence[str] = ("plan", "evidence")

    def __init__(self, *, evidence: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.evidence = evidence


class RollOutReleaseOperator(EvidencedReleaseOperator):
    """Move the traffic, and move it back if the version does not serve."""

    def run(self, context: Context) -> dict[str, Any]:
        """Return the evidence."""
        from windvane.deployment import Plan, roll_out

        return dict(roll_out(self.config, self.settings, Plan.from_json(self.plan), evidence=self.evidence))


class PromoteReleaseOperator(EvidencedReleaseOperator):
    """Write the promotion into the ledger and emit `<model>/champion`."""

    def run(self, context: Context) -> dict[str, Any]:
        """Return the ledger row: epoch, action, version."""
        from windvane.deployment import Plan, promote

        release = promote(self.config, self.settings, Plan.from_json(self.plan), evidence=self.evidence)
        result = {"version": release.version, "epoch": release.epoch, "action": release.action, "bundle_digest": release.digest}
        context["outlet_events"][assets.champion(self.model)].extra = result
        return result
