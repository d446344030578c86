"""Where the platform reaches the endpoint of a model; people and clients reach it on 127.0.0.1."""

import os

from windvane.config import ModelConfig
from windvane.settings import Settings

INSIDE_PORT = 8081


def endpoint_url(config: ModelConfig, settings: Settings) -> str:
    """The address for a process of the platform: on this host, or, from a container of the platform, over its network."""
    if settings.network:
        return f"http://{endpoint_name(config.model)}:{INSIDE_PORT}"
    return f"http://127.0.0.1:{config.deploy.port}"


def public_url(config: ModelConfig) -> str:
    """The address for clients."""
    if config.deploy.target == "kubernetes":
        from windvane.kubernetes_manifests import host_of

        return f"https://{host_of(config.model, os.environ.get('WINDVANE_MODELS_DOMAIN') or '<WINDVANE_MODELS_DOMAIN>')}"
    return f"http://127.0.0.1:{config.deploy.port}"


def endpoint_name(model: str) -> str:
    """The name of a model's HAProxy in the platform's network."""
    return f"{model}-endpoint".replace("_", "-")
