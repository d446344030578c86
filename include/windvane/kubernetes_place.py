"""Where the target `kubernetes` works: a namespace, the image of the scorers, the object store, and the domain of the endpoints."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from windvane.errors import ConfigError
from windvane.object_path import SCHEMES

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_URI = rf"({'|'.join(SCHEMES)})://[^\s?#]+"
# variable, form, what is allowed
_WANTED = (
    ("WINDVANE_SCORER_IMAGE", r"[a-z0-9][^\s@]*(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})", "the scorer image in a registry, with its tag"),
    ("WINDVANE_MODELS_DOMAIN", rf"{_LABEL}(\.{_LABEL})+", "a domain such as models.example.com"),
    ("WINDVANE_BUNDLES", _URI, "a place in an object store such as s3://bucket/bundles"),
    ("WINDVANE_REQUESTS", _URI, "a place in an object store such as s3://bucket/requests"),
    ("WINDVANE_KUBERNETES_NAMESPACE", _LABEL, "the name of a namespace"),
)
_NAMESPACE = "windvane-models"


@dataclass(frozen=True)
class KubernetesPlace:
    """The cluster's side of an installation.

    Attributes:
        namespace: Namespace of everything that serves models (WINDVANE_KUBERNETES_NAMESPACE).
        image: The scorer image, without any model (WINDVANE_SCORER_IMAGE).
        domain: Each model answers at `<model>.<domain>` (WINDVANE_MODELS_DOMAIN).
        bundles: URI of the bundles (WINDVANE_BUNDLES).
        requests: URI of the request logs (WINDVANE_REQUESTS).
    """

    namespace: str
    image: str
    domain: str
    bundles: str
    requests: str


def read_place(environ: Mapping[str, str] = os.environ) -> KubernetesPlace:
    """Read the place from the environment.

    Raises:
        ConfigError: With everything that is missing or wrong.
    """
    values = {"WINDVANE_KUBERNETES_NAMESPACE": _NAMESPACE, **{name: value for name, value in environ.items() if value}}
    problems = [
        f"{name}: got {values.get(name)!r:.120}, allowed is {allowed}; deploy.target kubernetes needs it, see docs/kubernetes.md"
        for name, form, allowed in _WANTED
        if not re.fullmatch(form, values.get(name, ""))
    ]
    if problems:
        raise ConfigError(problems)
    return KubernetesPlace(
        namespace=values["WINDVANE_KUBERNETES_NAMESPACE"],
        image=values["WINDVANE_SCORER_IMAGE"],
        domain=values["WINDVANE_MODELS_DOMAIN"],
        bundles=values["WINDVANE_BUNDLES"].rstrip("/"),
        requests=values["WINDVANE_REQUESTS"].rstrip("/"),
    )
