"""Where things are: paths and addresses, from the environment with defaults that need none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from windvane.object_path import ObjectPath
from windvane.shared_folder import BundleRoot, SharedFolder
from windvane.store_files import Place

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """The places of one installation.

    Attributes:
        project: The team's files: `dags/configs`, `expectations`, `include/models` (WINDVANE_PROJECT).
        var: What belongs to this host alone, and all else that is not placed elsewhere (WINDVANE_VAR).
        lake: Path or URI of the Delta tables (WINDVANE_LAKE).
        database: SQLAlchemy URL of the release ledger (WINDVANE_DB).
        bundles: Directory of the bundles, or an object store with a directory of this host before it (WINDVANE_BUNDLES).
        reports: Directory or URI of validation results, monitoring reports and verdicts (WINDVANE_REPORTS).
        staging: Directory or URI of batches between extract and commit (WINDVANE_STAGING).
        mlflow_uri: Address of the MLflow tracking server (MLFLOW_TRACKING_URI).
        mlflow_page: Address at which people reach MLflow, where that is another (WINDVANE_MLFLOW_PAGE).
        network: Docker network of the platform, when it runs in containers itself (WINDVANE_NETWORK). Models are then reached over it,
            and their endpoints are closed to whoever has no key.
    """

    project: Path
    var: Path
    lake: str
    database: str
    bundles: BundleRoot
    reports: Place
    staging: Place
    mlflow_uri: str
    mlflow_page: str = ""
    network: str = ""

    @property
    def mlflow_link(self) -> str:
        """Address of MLflow for links that people follow."""
        return self.mlflow_page or self.mlflow_uri

    @property
    def requests(self) -> Path:
        """Directory of the request logs that the scoring services of this host write, one directory per model."""
        return self.var / "requests"

    @property
    def scratch(self) -> Path:
        """Directory of files that a task makes for itself or for a container of this host, and removes."""
        return self.var / "scratch"

    def as_environment(self) -> dict[str, str]:
        """The variables from which another process reads the same settings."""
        return {
            "WINDVANE_PROJECT": str(self.project),
            "WINDVANE_VAR": str(self.var),
            "WINDVANE_LAKE": self.lake,
            "WINDVANE_DB": self.database,
            "WINDVANE_BUNDLES": str(self.bundles),
            "WINDVANE_REPORTS": str(self.reports),
            "WINDVANE_STAGING": str(self.staging),
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
        }


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of this process from the environment.

    Raises:
        ConfigError: If a URI is of an unknown kind.
    """
    var = Path(environ.get("WINDVANE_VAR") or REPOSITORY / "var").resolve()

    def place(name: str, directory: str) -> Place:
        value = environ.get(name) or str(var / directory)
        return ObjectPath.of(value) if "://" in value else Path(value).resolve()

    bundles = place("WINDVANE_BUNDLES", "bundles")
    return Settings(
        project=Path(environ.get("WINDVANE_PROJECT") or REPOSITORY).resolve(),
        var=var,
        lake=environ.get("WINDVANE_LAKE") or str(var / "lake"),
        database=environ.get("WINDVANE_DB") or f"sqlite:///{var / 'windvane.db'}",
        bundles=bundles if isinstance(bundles, Path) else SharedFolder(bundles, cache=var / "cache" / "bundles"),
        reports=place("WINDVANE_REPORTS", "reports"),
        staging=place("WINDVANE_STAGING", "staging"),
        mlflow_uri=environ.get("MLFLOW_TRACKING_URI") or "http://127.0.0.1:5000",
        mlflow_page=environ.get("WINDVANE_MLFLOW_PAGE") or "",
        network=environ.get("WINDVANE_NETWORK") or "",
    )
