"""Moves the writing of Airflow's audit log off the event loop of the web server."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.api_fastapi.logging import decorators
from anyio import CapacityLimiter, to_thread
from fastapi import Request

_log_action_of = decorators.action_logging
# threads of its own: those of the requests may all be taken by requests that wait for the writer below
_THREADS = CapacityLimiter(4)


def action_logging(event: str | None = None) -> Callable[..., Coroutine[Any, Any, None]]:
    """Airflow's dependency of the same name, which commits in a thread.

    SQLite has one writer. It may be another request that has written and waits for the event loop to let it commit; Airflow's own
    function waits for the writer on that loop, and so nobody is answered until SQLite gives up, after a minute.
    """
    log_action = _log_action_of(event)

    async def log_action_aside(request: Request, session: SessionDep, user: GetUserDep) -> None:
        if "application/json" in request.headers.get("content-type", ""):
            # read on this loop; the thread finds it in the request
            await request.body()
        await to_thread.run_sync(asyncio.run, log_action(request, session, user), limiter=_THREADS)

    return log_action_aside


def log_actions_aside() -> None:
    """Give it to Airflow's routes; to be called before they are imported."""
    decorators.action_logging = action_logging
