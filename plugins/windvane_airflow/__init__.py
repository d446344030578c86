"""Where Windvane meets Airflow: DAGs, operators, sensors and the UI; all else is in `include/windvane`."""
