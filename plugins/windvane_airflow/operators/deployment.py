"""Brings a version into service, or back: approve, package, rehearse, roll out, promote."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from windvane.errors import StaleEpoch
from windvane_airflow import assets
from windvane_airflow.operators.model_operator import MadeLink, ModelOperator, refuse_unknown_conf


class EndpointLink(MadeLink):
    """The button that leads to what serves."""

    name = "Endpoint"


class ApproveReleaseOperator(ApprovalOperator):
    """Ask a person before a challenger is deployed; a named version or a rollback was already asked for by one."""

    def execute(self, context: Context) -> Any:
        """Wait for the answer, unless a person started this run with a version."""
        refuse_unknown_conf(context)
        requested = context["params"].get("version")
        if requested is not None:
            self.log.info("A person asked for version %s: no approval needed", requested)
            return {"chosen_options": ["Approve"], "reason": f"version {requested} was asked for"}
        return super().execute(context)


class PackageReleaseOperator(ModelOperator):
    """Resolve which version is meant, verify its bundle, and build its image where the target needs one."""

    def run(self, context: Context) -> dict[str, Any]:
        """Return the plan of the release."""
        from windvane.deployment import package, resolve_release

        plan = resolve_release(self.config, self.settings, context["params"].get("version"), actor=_actor(context))
        package(self.config, self.settings, plan)
        return plan.as_json()


class ReleaseOperator(ModelOperator):
    """A step of a planned release.

    Args:
        plan: What the package task returned. (templated)
    """

    template_fields: Sequence[str] = ("plan",)
    operator_extra_links = (EndpointLink(),)

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
        return f"http://127.0.0.1:{self.config.deploy.port}/model"


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


def _actor(context: Context) -> str:
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"
