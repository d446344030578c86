import json

import pytest

from windvane.compare_configs import config_without_secrets, diff_configs
from windvane.config import ModelConfig


def make(**sections):
    data = {"time": "at", "label": "y", **sections.pop("data", {})}
    return config_without_secrets(ModelConfig.model_validate({"model": "churn", "task": "regression", "data": data, **sections}))


def test_equal_configs_do_not_differ():
    assert diff_configs(make(), make()) == []


def test_a_difference_names_the_field_with_both_values():
    before, after = make(), make(train={"window": "60d"}, gates={"slices": {"columns": ["plan", "on"]}}, owner="true")
    assert diff_configs(before, after) == [
        "- owner: windvane",
        '+ owner: "true"',
        "- train.window: 90d",
        "+ train.window: 60d",
        '+ gates.slices.columns: ["plan", "on"]',
        "+ gates.slices.max_drop: 0.05",
        "+ gates.slices.min_rows: 200",
    ]


def test_a_field_that_a_newer_platform_added_and_nobody_set_is_no_difference():
    older = make()
    del older["gates"]["fairness"]
    assert diff_configs(older, make()) == []


def test_each_difference_is_one_short_line():
    lines = diff_configs(make(), make(description="one\ntwo" + "x" * 20_000))
    assert lines[1].startswith('+ description: "one\\ntwo')
    assert max(map(len, lines)) < 600


@pytest.mark.parametrize(
    ("source", "secret"),
    [
        ({"type": "delta", "uri": "s3://AKIA:sec/ret@bucket/rows"}, "sec/ret"),
        ({"type": "parquet", "path": "https://a.example/x.parquet?sv=1&sig=hush-hush&se=2"}, "hush-hush"),
        ({"type": "sql", "connection": "db", "query": "SELECT * FROM f('password=hush-hush') WHERE a >= :window_start"}, "hush-hush"),
    ],
    ids=["user info", "signed address", "query"],
)
def test_no_secret_that_somebody_wrote_into_a_source_is_kept(source, secret):
    kept = json.dumps(make(data={"source": source}))
    assert secret not in kept
    assert "***" in kept


def test_an_address_without_secrets_is_kept_as_it_is():
    assert make(data={"source": {"type": "delta", "uri": "s3://bucket/rows"}})["data"]["source"]["uri"] == "s3://bucket/rows"
