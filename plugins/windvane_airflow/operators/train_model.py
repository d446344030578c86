"""Plans, searches, trains, registers and gates a challenger."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import AssetAlias, Context

from windvane_airflow import assets
from windvane_airflow.operators.model_operator import MadeLink, ModelLink, ModelOperator, requested_window, run_of


class SnapshotLink(MadeLink):
    """The button that leads to what is trained on."""

    name = "Snapshot"


class MLflowRunLink(MadeLink):
    """The button that leads to the MLflow run."""

    name = "MLflow run"


class ModelVersionLink(MadeLink):
    """The button that leads to the registered version."""

    name = "Model version"


class VerdictLink(ModelLink):
    """The button that leads to the verdict of the gates."""

    name = "Verdict"
    tab = "challenger"


class PlanTrainingOperator(ModelOperator):
    """Fix what a training reads: a table version, a window, the holdout, the config, the code and the seed."""

    operator_extra_links = (SnapshotLink(), ModelLink())

    def run(self, context: Context) -> dict[str, Any]:
        """Return the snapshot."""
        from windvane.snapshot import Serving, plan_training

        # an event says that something happened, not what to train on: without a person's word the newest decision is asked for that
        window = requested_window(context) if context["params"].get("window_start") else None
        last = self.ledger.last(self.model)
        version = last.serving if last else None
        served = self.ledger.digest_of(self.model, version) if version is not None else None
        champion = Serving(version, served) if version is not None and served else None
        snapshot = plan_training(self.config, self.code, self.lake, window=window, settings=self.settings, champion=champion)
        self.log.info("Train on %s, hold out %s, table version %s", snapshot.train, snapshot.holdout, snapshot.table_version)
        for held in snapshot.excluded:
            self.log.info("Held back as bad data: %s", held)
        if snapshot.recalibrates:
            self.log.info("Only the calibration of bundle %s is made anew", snapshot.recalibrates[:12])
        return snapshot.as_json()


class SearchParamsOperator(ModelOperator):
    """Search hyperparameters as one of several workers; the train task takes the best that any of them found.

    Args:
        snapshot: What the plan task returned. (templated)
        worker: Which of the workers this is, from 0.
    """

    template_fields: Sequence[str] = ("snapshot",)

    def __init__(self, *, snapshot: Any, worker: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.worker = worker

    def run(self, context: Context) -> dict[str, Any]:
        """Return how many trials this worker tried, how many are complete, and the best value."""
        from windvane.search_params import search_params
        from windvane.snapshot import Snapshot

        snapshot = Snapshot.from_json(self.snapshot)
        found = search_params(self.config, self.code, self.settings, self.lake, snapshot, worker=self.worker)
        if found.skipped:
            self.log.info("Nothing done: %s", found.skipped)
        return found.as_json()


class TrainModelOperator(ModelOperator):
    """Tune, fit, evaluate and bundle a challenger; an earlier bundle from the same snapshot is adopted.

    Args:
        snapshot: What the plan task returned. (templated)
    """

    template_fields: Sequence[str] = ("snapshot",)
    operator_extra_links = (MLflowRunLink(), ModelLink())

    def __init__(self, *, snapshot: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot

    def run(self, context: Context) -> dict[str, Any]:
        """Return the bundle's digest, the MLflow run and the metrics."""
        from windvane.snapshot import Snapshot
        from windvane.train_model import train_model

        return train_model(self.config, self.code, self.settings, self.lake, Snapshot.from_json(self.snapshot)).as_json()

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Lead to the MLflow run."""
        return f"{self.settings.mlflow_link}/#/experiments/{result['experiment_id']}/runs/{result['run_id']}"


class RegisterModelOperator(ModelOperator):
    """Register the bundle as a version in MLflow, once.

    Args:
        training: What the train task returned. (templated)
    """

    template_fields: Sequence[str] = ("training",)
    operator_extra_links = (ModelVersionLink(), ModelLink())

    def __init__(self, *, training: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training = training

    def run(self, context: Context) -> dict[str, Any]:
        """Return the version."""
        from windvane.bundle import open_bundle
        from windvane.register_model import register_model

        digest = self.training["bundle_digest"]
        version = register_model(self.config, self.settings, bundle_digest=digest, run_id=self.training["run_id"])
        bundle = open_bundle(self.settings.bundles, digest)
        self.catalog.record_version(
            self.model,
            version=version,
            digest=digest,
            manifest=bundle.manifest,
            run_id=self.training["run_id"],
            experiment_id=self.training["experiment_id"],
            # of a bundle that was adopted, the run that made it knows
            seconds=None if self.training["adopted"] else sum(self.training["seconds"].values()),
            size_bytes=bundle.size_bytes(),
            run=run_of(context),
        )
        return {"version": version, "bundle_digest": digest}

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Lead to the registered version."""
        return f"{self.settings.mlflow_link}/#/models/{self.model}/versions/{result['version']}"


class GateChallengerOperator(ModelOperator):
    """Judge the challenger; only one that passed becomes a `<model>/challenger` event.

    Args:
        snapshot: What the plan task returned. (templated)
        registered: What the register task returned. (templated)
    """

    template_fields: Sequence[str] = ("snapshot", "registered")
    operator_extra_links = (VerdictLink(), MadeLink(), ModelLink())

    def __init__(self, *, snapshot: Any, registered: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.registered = registered

    def run(self, context: Context) -> dict[str, Any]:
        """Return the verdict with the reason of each gate."""
        from windvane.bundle import open_bundle
        from windvane.gate_challenger import gate_challenger
        from windvane.snapshot import Snapshot

        digest = self.registered["bundle_digest"]
        serving = self.ledger.last(self.model)
        served = self.ledger.digest_of(self.model, serving.serving) if serving and serving.serving is not None else None
        verdict = gate_challenger(
            self.config,
            self.settings,
            self.lake,
            Snapshot.from_json(self.snapshot),
            challenger=open_bundle(self.settings.bundles, digest),
            champion=open_bundle(self.settings.bundles, served) if served else None,
        )
        self.log.info(
            "Version %s against %s\n%s", self.registered["version"], "nothing" if served is None else "the champion", verdict.table()
        )
        refused = "; ".join(f"{gate.name}: {gate.reason}" for gate in verdict.gates if not gate.passed)
        reason = refused or f"passed {', '.join(gate.name for gate in verdict.gates)}"
        self.catalog.record_verdict(self.model, version=self.registered["version"], passed=verdict.passed, reason=reason)
        if verdict.passed:
            extra = {"version": self.registered["version"], "bundle_digest": digest}
            context["outlet_events"][AssetAlias(f"{self.model}/challenger")].add(assets.challenger(self.model), extra=extra)
        return {"version": self.registered["version"], "bundle_digest": digest, **verdict.as_json()}
