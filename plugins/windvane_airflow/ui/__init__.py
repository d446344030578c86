"""What the plugin adds to Airflow's web server."""
