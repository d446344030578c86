"""The scoring service: answers requests with the version that the release ledger says should serve."""
