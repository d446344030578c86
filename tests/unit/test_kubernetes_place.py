"""What must be set for the target `kubernetes`, and what is said when it is not."""

import pytest

from windvane.errors import ConfigError
from windvane.kubernetes_place import KubernetesPlace, read_place

ENVIRONMENT = {
    "WINDVANE_SCORER_IMAGE": "registry.example.com:5000/windvane/scorer:0123456789abcdef",
    "WINDVANE_MODELS_DOMAIN": "models.example.com",
    "WINDVANE_BUNDLES": "s3://windvane/bundles/",
    "WINDVANE_REQUESTS": "s3://windvane/requests",
}
PLACE = KubernetesPlace(
    namespace="windvane-models",
    image=ENVIRONMENT["WINDVANE_SCORER_IMAGE"],
    domain="models.example.com",
    bundles="s3://windvane/bundles",
    requests="s3://windvane/requests",
)


def test_four_variables_are_enough():
    assert read_place(ENVIRONMENT) == PLACE


def test_everything_that_is_missing_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read_place({})
    assert [problem.split(":")[0] for problem in caught.value.problems] == list(ENVIRONMENT)
    assert all("docs/kubernetes.md" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WINDVANE_SCORER_IMAGE", "registry.example.com/windvane/scorer"),
        ("WINDVANE_MODELS_DOMAIN", "https://models.example.com"),
        ("WINDVANE_MODELS_DOMAIN", "*.example.com"),
        ("WINDVANE_BUNDLES", "/var/lib/bundles"),
        ("WINDVANE_REQUESTS", "s3://bucket/requests?endpoint=x"),
        ("WINDVANE_KUBERNETES_NAMESPACE", "../kube-system"),
    ],
)
def test_what_is_wrong_names_the_variable(name, value):
    with pytest.raises(ConfigError, match=rf"{name}: got '.*', allowed is"):
        read_place(ENVIRONMENT | {name: value})
