"""What the demo promised against what happened."""

import time

import requests

from windvane.call_local import local_session
from windvane.config import ModelConfig
from windvane.endpoint_url import endpoint_url
from windvane.ledger import Ledger
from windvane.register_model import get_alias
from windvane.send_traffic import TrafficSender
from windvane.settings import Settings
from windvane.windows import Window

_MIN_REQUESTS_PER_SECOND = 20
# the reconciler looks every ten seconds, and MLflow may be slow
_AGREEMENT_SECONDS = 90


def judge_demo(config: ModelConfig, settings: Settings, ledger: Ledger, traffic: TrafficSender, *, until: Window) -> list[str]:
    """Return what did not hold, one line each; none is a success."""
    problems = []
    promoted = {row.version for row in ledger.history(config.model) if row.action == "promote"}
    if len(promoted) < 2:
        problems.append(f"no retrained version was promoted by {until.start:%B}")
    if traffic.counts.failed:
        problems.append(f"{traffic.counts.failed} requests failed: {'; '.join(traffic.counts.errors)}")
    if traffic.per_second < _MIN_REQUESTS_PER_SECOND:
        problems.append(f"only {traffic.per_second:.1f} requests a second were sent, {_MIN_REQUESTS_PER_SECOND} were meant")
    return problems + ledger.verify(config.model) + _disagreement(config, settings, ledger)


def serving_version(ledger: Ledger, model: str) -> int | None:
    """The version that should serve by the ledger."""
    row = ledger.last(model)
    return row.serving if row else None


def endpoint_version(config: ModelConfig, settings: Settings) -> int | None:
    """The version that the endpoint says it serves; None when it serves none or does not answer."""
    try:
        model = local_session().get(f"{endpoint_url(config, settings)}/model", timeout=10).json()
        version = (model.get("serving") or {}).get("version")
        return int(version) if version is not None else None
    except (requests.RequestException, ValueError, AttributeError, TypeError):
        return None


def _disagreement(config: ModelConfig, settings: Settings, ledger: Ledger) -> list[str]:
    """What serves, the last row of the ledger and the alias in MLflow must become one."""
    give_up = time.monotonic() + _AGREEMENT_SECONDS
    while True:
        alias = get_alias(settings, config.model, "champion")
        found = {
            "ledger": serving_version(ledger, config.model),
            "endpoint": endpoint_version(config, settings),
            "alias": alias[0] if alias else None,
        }
        if len(set(found.values())) == 1:
            return []
        if time.monotonic() > give_up:
            return [f"what serves is not agreed on: {', '.join(f'{name} says {version}' for name, version in found.items())}"]
        time.sleep(1)
