"""Windvane as plain Python: everything the Airflow operators call, importable and testable without Airflow."""
