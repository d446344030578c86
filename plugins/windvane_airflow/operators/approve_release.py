"""Asks a person before a challenger is deployed, and keeps who answered, when and why."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput

from windvane.config import shortest_duration
from windvane.errors import StaleEpoch
from windvane.record_answer import REJECTED
from windvane_airflow.operators.model_operator import (
    ModelLink,
    ModelOperator,
    actor_of,
    event_extras,
    refuse_unknown_conf,
    run_of,
    web_path,
)

_MAX_REASON = 500
_ASKED = "asked"


class ChallengerLink(ModelLink):
    """The button that leads to the challenger beside the champion."""

    name = "Challenger"
    tab = "challenger"


class ApproveReleaseOperator(ModelOperator, ApprovalOperator):
    """Ask a person whether a version that never served may serve; a rollback goes ahead unasked.

    The question names one version, the bundle of it and the champion that it was compared with. An answer counts for these alone: if
    anything else serves by then, the task ends as skipped and says so.
    """

    template_fields: Sequence[str] = ()
    operator_extra_links = (ChallengerLink(), ModelLink())

    def execute(self, context: Context) -> Any:
        """Ask, and wait for the answer without a worker slot.

        Raises:
            AirflowSkipException: If there is nothing to approve.
        """
        from windvane.record_answer import find_answer
        from windvane.resolve_release import is_rollback

        refuse_unknown_conf(context)
        requested = context["params"].get("version")
        if is_rollback(self.settings, self.model, requested):
            self.log.info("A rollback needs no approval")
            return {"chosen_options": [self.APPROVE], "reason": "a rollback needs no approval"}
        if answered := find_answer(self.settings, self.model, run=run_of(context)):
            raise AirflowSkipException(f"this run asked already: {answered.reason}; a new run of {self.dag_id} asks again")
        asked = self._find(context, requested)
        self._ask_once(context, asked)
        self._describe(asked)
        try:
            return super(ModelOperator, self).execute(context)
        except TaskAwaitingInput as parked:
            parked.kwargs = {_ASKED: asked}
            raise

    def execute_complete(self, context: Context, event: dict[str, Any], asked: Mapping[str, Any] | None = None) -> Any:
        """Take the answer.

        Returns:
            `version`, `bundle_digest` and `approval` (who, when, why) for the tasks that follow.

        Raises:
            AirflowFailException: If nobody answered in time, or somebody who may not.
            AirflowSkipException: If something else serves by now, or the model was frozen.
        """
        if asked is None:
            raise AirflowFailException(f"nothing tells what was asked; trigger {self.dag_id} anew")
        if event.get("error_type") == "timeout":
            limit = shortest_duration(self.config.approval.timeout)
            self._refuse(context, asked, "approval", f"nobody answered within {limit}", {"by": None, "at": None, "reason": None})
            raise AirflowFailException(
                f"nobody answered within {limit}: version {asked['version']} is not deployed; "
                f"trigger {self.dag_id} with version: {asked['version']} to ask again"
            )
        reason = str((event.get("params_input") or {}).get("reason") or "").strip()[:_MAX_REASON]
        event = {**event, "params_input": {"reason": reason or None}}
        if "error" in event:
            return super().execute_complete(context=context, event=event)
        approval = self._who(event) | {"reason": reason or None}
        if event["chosen_options"] == [self.APPROVE]:
            self._check_still(context, asked)
            super().execute_complete(context=context, event=event)
            self.log.info("Version %s was approved by %s: %s", asked["version"], approval["by"], reason or "no reason given")
            told = {name: asked[name] for name in ("version", "bundle_digest")}
            return {"chosen_options": [self.APPROVE], **told, "approval": approval}
        self._refuse(context, asked, approval["by"], f"{REJECTED}{approval['by']}: {reason or 'no reason given'}", approval)
        return super().execute_complete(context=context, event=event)

    def _find(self, context: Context, requested: Any) -> dict[str, Any]:
        """What to ask about: the version that a person named, or else of the event, or else the newest challenger."""
        from windvane.record_answer import find_rejection
        from windvane.resolve_release import Candidate, resolve_release

        events = [extra for extra in event_extras(context) if isinstance(extra.get("version"), int) and extra.get("bundle_digest")]
        newest = max(events, key=lambda extra: int(extra["version"]), default=None) if requested is None else None
        candidate = Candidate(int(newest["version"]), str(newest["bundle_digest"])) if newest else None
        try:
            plan = resolve_release(self.config, self.settings, requested, candidate=candidate, actor=actor_of(context))
        except StaleEpoch as exc:
            raise AirflowSkipException(f"nothing to approve: {exc}") from exc
        if plan.serves:
            raise AirflowSkipException(f"nothing to approve: version {plan.version} serves already")
        rejected = find_rejection(self.settings, self.model, plan.digest) if requested is None else None
        if rejected:
            raise AirflowSkipException(
                f"nothing to approve: version {plan.version} was {rejected.reason}; trigger {self.dag_id} with version: {plan.version} "
                "to ask again"
            )
        newer = [row["version"] for row in self.catalog.versions(self.model) if row["passed"] and row["version"] > plan.version]
        if requested is None and newer:
            raise AirflowSkipException(
                f"nothing to approve: version {newer[0]} passed its gates after version {plan.version}, and its own run asks"
            )
        return {"version": plan.version, "bundle_digest": plan.digest, "champion": self._champion(), "override": plan.override}

    def _ask_once(self, context: Context, asked: dict[str, Any]) -> None:
        """Refuse to ask about something else than before: of a run that is cleared, Airflow shows the old question again."""
        store = context["task_state_store"]
        before = store.get(_ASKED)
        if before is not None and before != asked:
            raise AirflowSkipException(
                f"this run asked about version {before['version']} when something else served; trigger {self.dag_id} anew to ask with the "
                f"figures of today, with version: {asked['version']} for that version"
            )
        store.set(_ASKED, asked)

    def _describe(self, asked: Mapping[str, Any]) -> None:
        from windvane.describe_challenger import describe_challenger
        from windvane.write_approval import challenger_markdown

        version, model = asked["version"], self.model
        told = describe_challenger(self.settings, model, version=version, digest=asked["bundle_digest"])
        if told is None:
            raise AirflowFailException(f"{model}: nothing is known of version {version}; train again")
        links = {"Models page": web_path(f"/plugin/models/{model}?tab=challenger")}
        trained = next((row.get("run") for row in self.catalog.versions(model) if row["version"] == version), None)
        if trained:
            dag_id, _, run_id = str(trained).partition("/")
            links["Verdict"] = web_path(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/gate")
        links["MLflow"] = f"{self.settings.mlflow_link}/#/models/{model}/versions/{version}"
        self.subject = f"Deploy version {version} of {model}?"
        self.body = challenger_markdown(told, links=links)

    def _check_still(self, context: Context, asked: Mapping[str, Any]) -> None:
        """Refuse an approval of a comparison that does not hold any more."""
        from windvane.resolve_release import Candidate, resolve_release

        again = f"trigger {self.dag_id} with version: {asked['version']} to ask again"
        last = self.ledger.last(self.model)
        if last and last.until:
            raise AirflowSkipException(f"version {last.version} is being rolled out since the question was asked; {again}")
        serves = self._champion()
        if serves == asked["bundle_digest"]:
            raise AirflowSkipException(f"version {asked['version']} serves already")
        if serves != asked["champion"]:
            now = f"version {last.serving}" if last and last.serving is not None else "nothing"
            raise AirflowSkipException(f"{now} serves since the question was asked, which compared with another; {again}")
        candidate = Candidate(int(asked["version"]), str(asked["bundle_digest"]))
        try:
            resolve_release(self.config, self.settings, context["params"].get("version"), candidate=candidate)
        except StaleEpoch as exc:
            raise AirflowSkipException(f"approved, but {exc}; then {again}") from exc

    def _champion(self) -> str | None:
        """The bundle with most of the traffic."""
        last = self.ledger.last(self.model)
        return self.ledger.digest_of(self.model, last.serving) if last and last.serving is not None else None

    def _who(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Who answered and when; somebody whom the config does not name any more may not."""
        user, allowed = event.get("responded_by_user") or {}, self.config.approval.approvers
        if not user or (allowed and str(user["id"]) not in allowed):
            raise AirflowFailException(
                f"approval.approvers: got an answer of {user.get('name', 'nobody')}, allowed are {', '.join(allowed) or 'users'}; "
                f"trigger {self.dag_id} anew"
            )
        return {"by": str(user.get("name") or user["id"]), "at": event["responded_at"].isoformat()}

    def _refuse(self, context: Context, asked: Mapping[str, Any], by: str, reason: str, approval: Mapping[str, Any]) -> None:
        from windvane.record_answer import record_refusal

        record_refusal(
            self.settings,
            self.model,
            version=asked["version"],
            digest=asked["bundle_digest"],
            run=run_of(context),
            actor=f"{run_of(context)} by {by}",
            reason=reason,
            approval=approval,
        )
