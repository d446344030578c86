"""Where things are: paths and addresses, from the environment with defaults that need none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """The places of one installation.

    Attributes:
        project: The team's files: `dags/configs`, `expectations`, `include/models` (WINDVANE_PROJECT).
        var: All state that is not in a database of its own (WINDVANE_VAR).
        lake: Path or URI of the Delta tables (WINDVANE_LAKE).
        database: SQLAlchemy URL of the release ledger (WINDVANE_DB).
        bundles: Directory of the bundles (WINDVANE_BUNDLES).
        mlflow_uri: Address of the MLflow tracking server (MLFLOW_TRACKING_URI).
    """

    project: Path
    var: Path
    lake: str
    database: str
    bundles: Path
    mlflow_uri: str

    @property
    def requests(self) -> Path:
        """Directory of the request logs that the scoring services write, one directory per model."""
        return self.var / "requests"

    @property
    def staging(self) -> Path:
        """Directory of batches between extract and commit."""
        return self.var / "staging"

    @property
    def reports(self) -> Path:
        """Directory of validation results, monitoring reports and verdicts."""
        return self.var / "reports"


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of this process from the environment."""
    var = Path(environ.get("WINDVANE_VAR") or REPOSITORY / "var").resolve()
    return Settings(
        project=Path(environ.get("WINDVANE_PROJECT") or REPOSITORY).resolve(),
        var=var,
        lake=environ.get("WINDVANE_LAKE") or str(var / "lake"),
        database=environ.get("WINDVANE_DB") or f"sqlite:///{var / 'windvane.db'}",
        bundles=Path(environ.get("WINDVANE_BUNDLES") or var / "bundles").resolve(),
        mlflow_uri=environ.get("MLFLOW_TRACKING_URI") or "http://127.0.0.1:5000",
    )
