"""What a person reads before they approve: all that is known, and data that stays data in Markdown and in HTML."""

import re

import pytest

from windvane.write_approval import challenger_markdown

HOSTILE = [
    pytest.param("<script>document.title='owned'</script>", id="script"),
    pytest.param("<img src=x onerror=alert(1)>", id="image"),
    pytest.param("[x](javascript:alert(1))", id="link"),
    pytest.param("![x](https://evil.example/pixel)", id="picture"),
    pytest.param("a|b\\|c\\\\|d|", id="pipes"),
    pytest.param("`` ` ```\n# heading\n| a | b |\n|---|---|\r\n", id="backticks and lines"),
    pytest.param("\u202ertl\u202c \u2066x\u2069 \u200b\x00\x1b[31m \u2028 \ud800", id="direction and control"),
    pytest.param("https://evil.example www.evil.example a@evil.example", id="addresses"),
    pytest.param("x" * 10_000, id="long"),
    pytest.param("\U0001f469\u200d\U0001f680 \u05e9\u05dc\u05d5\u05dd", id="emoji and Hebrew"),
    pytest.param("   ", id="blank"),
    pytest.param("{{ conn.secret }} {% raw %} ${7*7} ~~a~~ **b** _c_ <!-- ", id="templates and markup"),
]


def describe(value="basic", **changes):
    return {
        "version": 5,
        "digest": "a" * 64,
        "against": 4,
        "against_since": "2024-02-01T10:30:00+00:00",
        "metric": "roc_auc",
        "trained_at": "2024-03-02T10:00:00+00:00",
        "train": {"start": "2024-01-01T00:00:00+00:00", "end": "2024-02-20T00:00:00+00:00"},
        "holdout": {"start": "2024-02-20T00:00:00+00:00", "end": "2024-03-01T12:00:00+00:00"},
        "rows": {"training": 12000, "holdout": 3400},
        "metrics": [{"name": "roc_auc", "challenger": 0.81, "champion": 0.79, "difference": 0.02}],
        "passed": True,
        "gates": [{"name": "slices", "passed": True, "reason": f"plan={value} loses 0.01", "value": 0.01, "threshold": 0.05}],
        "slices": [
            {"column": value, "value": value, "rows": 500, "challenger": 0.7, "champion": 0.71, "difference": -0.01, "passed": True}
        ],
        "fairness": [{"column": value, "measure": "equalized_odds_difference", "challenger": 0.05, "champion": None, "at_most": 0.1}],
        "latency": {"challenger_ms": 0.041, "champion_ms": 0.039},
        "size_bytes": {"challenger": 1_250_000, "champion": None},
        "decision": {"window_end": "2024-03-01T00:00:00+00:00", "decision": "retrain", "reason": f"version 4 does worse: {value}"},
        "config_diff": ["- train.window: 90d", f"+ description: {value}"],
        "state": "waiting",
        **changes,
    }


def test_the_body_says_what_is_known():
    body = challenger_markdown(describe(), links={"Models page": "/plugin/models/churn?tab=challenger"})
    assert body.startswith("**Version 5** would serve instead of version 4, which serves since 2024-02-01 10:30.")
    for line in (
        "**Why now:** of the window until 2024-03-01 it was decided `retrain`: version 4 does worse: basic",
        "### Metrics on the same 3,400 rows",
        "| `roc_auc` | 0.8100 | 0.7900 | +0.0200 |",
        "| `basic` | `basic` | 500 | 0.7000 | 0.7100 | -0.0100 | passed |",
        "| slices | passed | plan=basic loses 0.01 |",
        "| `basic` | `equalized_odds_difference` | 0.0500 | – | 0.1000 |",
        "| One row, median | 0.041 ms | 0.039 ms |",
        "| Size | 1.25 MB | – |",
        "| Held out | 2024-02-20 | 2024-03-01 12:00 | 3,400 |",
        "### Config since version 4",
        "- `- train.window: 90d`",
        "[Models page](/plugin/models/churn?tab=challenger)",
    ):
        assert line in body.splitlines(), line


def test_a_first_version_has_nothing_to_be_compared_with():
    nothing = {"against": None, "against_since": None, "decision": None, "config_diff": [], "slices": [], "fairness": [], "latency": None}
    body = challenger_markdown(describe(**nothing))
    assert "as the first one: nothing serves yet" in body
    assert "no decision of the monitor did" in body
    assert not re.search("### (Config|Slices|Fairness)", body)


def test_a_version_that_failed_its_gates_is_not_offered_as_a_good_one():
    failed = [{"name": "floor", "passed": False, "reason": "0.5 is too low", "value": 0.5, "threshold": 0.6}]
    body = challenger_markdown(describe(passed=False, gates=failed))
    assert "**Its gates did not pass.**" in body
    assert "| floor | **failed** | 0.5 is too low |" in body


def test_only_the_worst_slices_are_shown():
    (slice_,) = describe()["slices"]
    body = challenger_markdown(describe(slices=[{**slice_, "value": str(n)} for n in range(40)]))
    assert body.count("| `basic` |") == 10 + 1
    assert "30 more are on the model's page." in body


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_becomes_markup(value):
    body = challenger_markdown(describe(value))
    prose = _without_code(body)
    assert not re.search(r"<[a-zA-Z!/]", prose)
    assert not re.search(r"(?<!\\)\]\((?!/)", prose)
    assert "://" not in prose
    assert "www." not in prose
    assert not re.search(r"[-.\w+]@", prose)
    assert not re.search("[\x00-\x09\x0b-\x1f\u200b\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]", body)
    assert len(body) < 6000
    tables = re.findall(r"(?:^\|.*\|\n?)+", body, re.M)
    assert len(tables) == 6
    for table in tables:
        assert len({_cells(line) for line in table.splitlines()}) == 1, table


def _without_code(body: str) -> str:
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", body)


def _cells(line: str) -> int:
    """The cells of a row: as in GitHub's tables, a backslash protects the pipe or the backslash behind it, also within code."""
    return len(re.findall(r"(?:\\[\\|]|[^|])*\|", line))
