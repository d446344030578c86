"""Windvane as plain Python: everything the Airflow operators call, importable and testable without Airflow."""

import os

# onnxruntime reports to its maker unless told otherwise before it is loaded
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
