#!/bin/bash
# Three databases, each with a role that owns it and gets into no other. Runs on every start, and changes only what differs.
set -euo pipefail

for name in airflow mlflow windvane; do
  password="${name^^}_DB_PASSWORD"
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres --set name="$name" --set password="${!password}" <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres --command 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC'
