"""Imports Great Expectations so that it neither phones home nor fills the log."""

import logging
import os
import warnings
from typing import Any


def load_gx() -> Any:
    """Return the module `great_expectations` with analytics off and its own log quiet."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    for name in ("_docs_decorators", "expectations.registry"):
        logging.getLogger(f"great_expectations.{name}").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations
        import great_expectations.expectations.core
    # its modules set levels of their own, so that the parent's level does not reach them
    for name in list(logging.root.manager.loggerDict):
        if name == "great_expectations" or name.startswith("great_expectations."):
            logging.getLogger(name).setLevel(logging.ERROR)
    return great_expectations


def quiet_context() -> Any:
    """Return an ephemeral context: nothing on disk, no progress bars, no analytics."""
    gx = load_gx()
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    # the default of GX leaves a temporary directory behind for each context
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
    )
    return gx.get_context(project_config=config, mode="ephemeral")
