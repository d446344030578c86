"""Freezes a model, so that only a rollback changes what serves, and lifts the freeze again."""

from windvane.errors import ConfigError
from windvane.ledger import Action, Ledger, Release, settled_row
from windvane.settings import Settings


def freeze_model(settings: Settings, model: str, *, actor: str, reason: str) -> Release:
    """Let nothing but rollbacks change what serves; a rollout that is under way is given up, its traffic goes back.

    Returns:
        The ledger's row; the one that froze the model already, if one did.

    Raises:
        ConfigError: If the ledger does not know the model.
        StaleEpoch: If somebody else changed what serves at the same moment.
    """
    return _append(settings, model, "freeze", actor=actor, reason=reason)


def unfreeze_model(settings: Settings, model: str, *, actor: str, reason: str) -> Release:
    """Let challengers be deployed again.

    Returns:
        The ledger's row; the newest one, if the model was not frozen.

    Raises:
        ConfigError: If the ledger does not know the model.
        StaleEpoch: If somebody else changed what serves at the same moment.
    """
    return _append(settings, model, "unfreeze", actor=actor, reason=reason)


def _append(settings: Settings, model: str, action: Action, *, actor: str, reason: str) -> Release:
    ledger = Ledger(settings.database)
    try:
        history = ledger.history(model)
        if not history:
            known = ", ".join(ledger.models()) or "none"
            raise ConfigError([f"release ledger: '{model}' never served, so there is nothing to {action}; known models: {known}"])
        last, settled = history[-1], settled_row(history)
        if ledger.is_frozen(model) == (action == "freeze"):
            return next((row for row in reversed(history) if row.action == action), last)
        serving = settled.serving if settled else None
        return ledger.append(
            model,
            expected_epoch=last.epoch,
            action=action,
            version=last.version if serving is None else serving,
            digest=(last.digest if serving is None else ledger.digest_of(model, serving)) or last.digest,
            traffic=settled.traffic if settled else {},
            actor=actor,
            reason=reason,
        )
    finally:
        ledger.close()
