"""Sessions for services on this machine."""

import requests


def local_session() -> requests.Session:
    """A session that never takes a detour: no proxy, no netrc, no retries."""
    session = requests.Session()
    session.trust_env = False
    return session
