"""When a running container is replaced."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from windvane.scorer_containers import _is_ill


@pytest.mark.parametrize(
    ("health", "age_seconds", "fails_checks", "ill"),
    [
        ("healthy", 5, False, False),
        ("unhealthy", 5, False, True),
        ("healthy", 5, True, True),
        ("starting", 5, True, False),
        ("starting", 40, True, True),
        (None, 40, False, False),
    ],
    ids=["well", "ill by Docker", "was well before", "just begun", "began long ago", "no health check"],
)
def test_a_container_that_just_began_may_take_its_time(health, age_seconds, fails_checks, ill):
    started = datetime.now(UTC) - timedelta(seconds=age_seconds)
    state = {"StartedAt": f"{started:%Y-%m-%dT%H:%M:%S}.123456789Z", **({"Health": {"Status": health}} if health else {})}
    assert _is_ill(SimpleNamespace(attrs={"State": state}), fails_checks=fails_checks) is ill
