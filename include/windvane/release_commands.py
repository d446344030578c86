"""The commands about what serves: the record, the way back, the freeze, the images and the keys."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from windvane.errors import ConfigError, StorageError
from windvane.print_results import AsJson, Model, print_json, print_table, say
from windvane.settings import load_settings

if TYPE_CHECKING:
    from windvane.ledger import Ledger, Release

_SETTLES_SECONDS = 20

commands = typer.Typer()
keys = typer.Typer(no_args_is_help=True, help="API keys of an endpoint; without any, the endpoint asks for none.")
commands.add_typer(keys, name="key")


@commands.command()
def ledger(
    model: Annotated[str | None, typer.Argument(help="Name of the model; all if not given.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Only say whether the record is untouched.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what served, when and why; exit status 1 if the record was touched."""
    book = _open_ledger()
    models = [_known(book, model)] if model else book.models()
    histories = {name: book.history(name) for name in models}
    problems = [problem for name in models for problem in book.verify(name)]
    if as_json:
        print_json({"releases": [row.as_json() for rows in histories.values() for row in rows], "problems": problems})
    else:
        for name, rows in histories.items():
            if verify:
                touched = any(problem.startswith(f"ledger of '{name}'") for problem in problems)
                say(f"{name}: {len(rows)} rows, {'the record was touched' if touched else f'untouched, newest hash {rows[-1].hash}'}")
            else:
                _print_rows(name, rows)
        for problem in problems:
            say(problem, style="red")
    raise typer.Exit(1 if problems else 0)


@commands.command("served-at")
def served_at(
    model: Model,
    moment: Annotated[str, typer.Argument(help="ISO 8601 such as 2026-11-20T14:05; UTC if it names no zone.")],
    local: Annotated[bool, typer.Option("--local", help="A moment without a zone is in this machine's time zone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what served at a moment, with the bundle of each version."""
    from windvane.find_served import find_served
    from windvane.windows import as_utc

    try:
        given = datetime.fromisoformat(moment)
        at = as_utc(given.astimezone() if local and given.tzinfo is None else given)
    except (ValueError, OverflowError) as exc:
        raise ConfigError([f"moment: got {moment!r}, allowed is ISO 8601 such as 2026-01-31T12:00:00Z"]) from exc
    found = find_served(_open_ledger(), model, at)
    if as_json:
        print_json(found.as_json())
        return
    when = _moment(at)
    row = found.release
    if row is None:
        say(f"Nothing of {model} served at {when}: its ledger begins at {_moment(found.begins)}")
        return
    if at > datetime.now(UTC):
        say(f"{when} has not come yet; this is what the last row says:")
    if not found.shares:
        say(f"{model} at {when}: nothing served (epoch {row.epoch})")
    for share in found.shares:
        since = f", since {_moment(found.since)}" if found.since else ""
        say(f"{model} at {when}: version {share.version}, {share.percent}% of the traffic{since}, bundle {share.digest}")
    say(f"Epoch {row.epoch}: {row.action} of version {row.version} by {row.actor}: {row.reason}")


@commands.command()
def rollback(
    model: Model,
    to: Annotated[int | None, typer.Option(help="Version to go back to; default: the one before the champion.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the ledger.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve an earlier version again, now; needs neither Airflow nor MLflow. Exit status 0: the endpoint serves it."""
    from windvane.load_config import load_model_config
    from windvane.record_platform import of_platform
    from windvane.roll_back import roll_back

    settings, began = load_settings(), time.monotonic()
    try:
        settings = of_platform(settings)
    except StorageError as exc:
        say(f"MLflow's address is not known, so its alias follows later: {exc}", style="yellow")

    def tell(line: str) -> None:
        if not as_json:
            say(f"{time.monotonic() - began:5.1f} s  {line}")

    config = load_model_config(settings.project, model)
    release = roll_back(config, settings, to, actor=_actor(), reason=reason, say=tell)
    if as_json:
        print_json(release.as_json() | {"seconds": round(time.monotonic() - began, 2)})
    else:
        say(f"{model} serves version {release.version} after {time.monotonic() - began:.1f} s", style="green")


@commands.command()
def freeze(model: Model, reason: Annotated[str, typer.Option(help="Why, for the ledger.")], as_json: AsJson = False) -> None:
    """Let only rollbacks change what a model serves; a rollout under way is given up."""
    from windvane.freeze_model import freeze_model

    row = freeze_model(load_settings(), model, actor=_actor(), reason=reason)
    _tell_row(row, f"{model} is frozen: only a rollback changes what it serves", as_json=as_json)


@commands.command()
def unfreeze(model: Model, reason: Annotated[str, typer.Option(help="Why, for the ledger.")], as_json: AsJson = False) -> None:
    """Let challengers of a model be deployed again."""
    from windvane.freeze_model import unfreeze_model

    row = unfreeze_model(load_settings(), model, actor=_actor(), reason=reason)
    _tell_row(row, f"{model} is not frozen", as_json=as_json)


@commands.command()
def release(
    model: Model,
    window_start: Annotated[str, typer.Option(help="First moment of the window, ISO 8601; UTC if it names no zone.")],
    window_end: Annotated[str, typer.Option(help="End of the window, exclusive.")],
    reason: Annotated[str, typer.Option(help="Why these rows are good, for the record.")],
    as_json: AsJson = False,
) -> None:
    """Let the rows of a window that was decided `fix_data` be trained on; exit status 1 if it is not held back."""
    from windvane.lake import Lake
    from windvane.load_config import load_model_config
    from windvane.release_window import release_window, unreleased_windows
    from windvane.windows import resolve_window

    settings = load_settings()
    config, lake = load_model_config(settings.project, model), Lake(settings.lake)
    window = resolve_window(params={"window_start": window_start, "window_end": window_end})
    release_window(config, lake, window, actor=_actor(), reason=reason)
    left = [other.as_extra() for other in unreleased_windows(config, lake)]
    if as_json:
        print_json({"model": model, **window.as_extra(), "reason": reason, "held": left})
        return
    say(f"{model}: the window {window} is released; {len(left)} left that nothing may train on", style="green")
    say(f"To decide about it again, trigger {model}__monitor with window_start {window_start} and window_end {window_end}")


@commands.command()
def reconcile(
    every: Annotated[float | None, typer.Option(help="Repeat after so many seconds, until stopped.")] = None, as_json: AsJson = False
) -> None:
    """Bring what runs in line with what the ledger says should serve; exit status 1 if an endpoint does not serve then."""
    import logging

    import windvane.reconcile as reconciling
    from windvane.check_health import silent_endpoints
    from windvane.record_platform import of_platform

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = of_platform(load_settings())
    if every is not None:
        reconciling.Reconciler(settings).run(every_seconds=every)
        return
    actions = reconciling.reconcile(settings)
    give_up = time.monotonic() + _SETTLES_SECONDS
    # what was started a moment ago needs another to answer
    while (silent := silent_endpoints(settings)) and time.monotonic() < give_up:
        time.sleep(1)
    if as_json:
        print_json({"actions": actions, "problems": silent})
    else:
        for action in actions or ["Everything is as the ledger says"]:
            say(action)
        for problem in silent:
            say(problem, style="red")
    raise typer.Exit(1 if silent else 0)


@commands.command()
def images(as_json: AsJson = False) -> None:
    """Prepare the images that `target: docker` needs, so that no deployment waits for a download."""
    from windvane.build_image import prepare_images
    from windvane.connect_docker import docker_engine

    with docker_engine() as client:
        made = prepare_images(client, say=(lambda line: None) if as_json else say)
    if as_json:
        print_json([vars(image) for image in made])
    else:
        for image in made:
            say(f"{image.tag} {f'is ready after {image.seconds:.1f} s' if image.made else 'is there already'}", style="green")


@keys.command("add")
def add_key(model: Model, as_json: AsJson = False) -> None:
    """Make an API key and show it, once; the endpoint asks for a key from then on. At most two are live, for a change without a gap."""
    import windvane.manage_keys as managing

    settings = load_settings()
    _configured(model)
    made = managing.add_key(settings, model)
    if as_json:
        print_json({"key": made, "id": managing.list_keys(settings, model)[-1].id})
        return
    say(made)
    say(
        f"It cannot be shown again. Clients send it as: Authorization: Bearer <key>. Its id is {managing.list_keys(settings, model)[-1].id}"
    )


@keys.command("list")
def list_keys(model: Model, as_json: AsJson = False) -> None:
    """List the ids of a model's live keys; the keys themselves are nowhere."""
    import windvane.manage_keys as managing

    _configured(model)
    found = managing.list_keys(load_settings(), model)
    if as_json:
        print_json([{"id": key.id, "created": key.created} for key in found])
    elif found:
        print_table(f"keys of {model}", ["id", "made (UTC)"], [[key.id, key.created] for key in found])
    else:
        say(f"{model} has no keys: its endpoint asks for none")


@keys.command("remove")
def remove_key(
    model: Model, key_id: Annotated[str, typer.Argument(metavar="ID", help="Id from `windvane key list`.")], as_json: AsJson = False
) -> None:
    """Remove a key by its id; requests with it are refused within seconds. Without any key left, the endpoint is open again."""
    import windvane.manage_keys as managing

    settings = load_settings()
    _configured(model)
    managing.remove_key(settings, model, key_id)
    left = managing.list_keys(settings, model)
    if as_json:
        print_json({"removed": key_id, "left": [key.id for key in left]})
    else:
        say(f"{model}: key {key_id} is removed; {len(left)} left" + ("" if left else ", the endpoint is open again"))


def _configured(model: str) -> None:
    """Refuse a name that no config has: its keys would guard nothing."""
    from windvane.config import config_path
    from windvane.load_config import list_configs

    settings = load_settings()
    if not config_path(settings.project, model).is_file():
        known = ", ".join(path.stem for path in list_configs(settings.project)) or "none"
        raise ConfigError([f"dags/configs/{model}.yaml: there is no model '{model}'; known models: {known}"])


def _open_ledger() -> "Ledger":
    from windvane.ledger import Ledger

    return Ledger(load_settings().database)


def _known(book: "Ledger", model: str) -> str:
    if model not in (known := book.models()):
        raise ConfigError([f"release ledger: there is no model '{model}'; known models: {', '.join(known) or 'none'}"])
    return model


def _print_rows(model: str, rows: list["Release"]) -> None:
    cells = []
    for row in rows:
        serves = ", ".join(f"version {version} {percent}%" for version, percent in row.traffic.items()) or "nothing"
        until = f" until {row.until:%H:%M:%S}" if row.until else ""
        at = f"{row.time:%Y-%m-%d %H:%M:%S}"
        cells.append([str(row.epoch), row.action, str(row.version), serves + until, at, row.actor, row.reason])
    print_table(model, ["epoch", "action", "version", "serves after it", "time (UTC)", "actor", "reason"], cells)


def _tell_row(row: "Release", text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(row.as_json())
    else:
        say(f"{text} (epoch {row.epoch}, {row.action} by {row.actor} at {_moment(row.time)}: {row.reason})")


def _moment(moment: datetime) -> str:
    """UTC, and this machine's time where that differs."""
    utc, local = moment.astimezone(UTC), moment.astimezone()
    text = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    return text if local.utcoffset() == utc.utcoffset() else f"{text} ({local:%Y-%m-%d %H:%M:%S %Z})"


def _actor() -> str:
    import getpass

    try:
        return f"cli/{getpass.getuser()}"
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return "cli"
