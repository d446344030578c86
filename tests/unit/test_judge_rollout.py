"""The judge: what is worse reverts, what is missing never advances, and an honest challenger of a stale champion passes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.config import ModelConfig
from windvane.judge_rollout import LiveFigures, Rescored, judge_rehearsal, judge_step, summarize_replay

HELD_OUT = 800
LOGGED = 500


def make_config(task="binary_classification", *, target="process", gates=None, **deploy):
    return ModelConfig.model_validate(
        {
            "model": "tiny",
            "task": task,
            "data": {"id": "key", "time": "at", "label": "y"},
            "gates": gates or {},
            "deploy": {"target": target, **deploy},
        }
    )


def rehearsal(scores, *, classes=(0, 1), refused=0, errors=0, p99=3.0, memory=150.0, **more):
    replay = {
        "rows": len(scores),
        "refused": refused,
        "errors": errors,
        "timed": 300,
        "p99_ms": p99,
        "p99_low_ms": p99,
        "mean_ms": p99 / 2,
        "scores": [None if score is None or math.isnan(score) else float(score) for score in scores],
        "classes": None if classes is None else list(classes),
    }
    return {"ok": True, "error": None, "peak_rss_mb": memory, "runtime": "onnx", "replay": replay} | more


def chances(x):
    return 1 / (1 + np.exp(-x))


def world(seed=0, *, n=LOGGED + HELD_OUT):
    """Rows with two features; the first counts much, the second little."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=n), random.normal(size=n)
    y = (random.random(n) < chances(1.5 * a + 0.5 * b - 1)).astype(float)
    return random, a, b, y


def unknown_when_logged(y):
    return [None] * LOGGED + list(y[LOGGED:])


def judge(candidate, champion, outcomes, *, config=None, held_out=HELD_OUT):
    return judge_rehearsal(candidate, champion, outcomes=outcomes, held_out=held_out, config=config or make_config())


def verdicts(judgement):
    return {check.name: check.verdict for check in judgement.checks}


class TestRehearsal:
    def test_an_equal_model_advances_and_the_evidence_is_small(self):
        _, a, b, y = world()
        same = rehearsal(chances(1.5 * a + 0.5 * b - 1))

        found = judge(same, same, unknown_when_logged(y))

        assert found.verdict == "advance", found.reason
        assert set(verdicts(found)) == {"replay", "errors", "refused inputs", "latency", "memory", "predictions", "quality"}
        assert len(json.dumps(found.as_json(), allow_nan=False)) < 4000

    def test_an_honest_challenger_that_disagrees_with_a_stale_champion_advances(self):
        _, a, b, y = world()
        stale = rehearsal(chances(0.4 * a - 1.2 * b - 2))

        assert judge(rehearsal(chances(1.5 * a + 0.5 * b - 1)), stale, unknown_when_logged(y)).verdict == "advance"

    def test_an_important_feature_permuted_reverts(self):
        random, a, b, y = world()
        champion = rehearsal(chances(1.5 * a + 0.5 * b - 1))

        found = judge(rehearsal(chances(1.5 * random.permutation(a) + 0.5 * b - 1)), champion, unknown_when_logged(y))

        assert found.verdict == "revert"
        assert verdicts(found)["quality"] == "revert"
        assert found.reason.startswith("quality: roc_auc -0.")

    def test_a_feature_permuted_on_requests_only_reverts_though_held_out_rows_are_fine(self):
        random, a, b, y = world()
        good = chances(1.5 * a + 0.5 * b - 1)
        bad = chances(1.5 * random.permutation(a) + 0.5 * b - 1)

        found = judge(rehearsal(np.r_[bad[:LOGGED], good[LOGGED:]]), rehearsal(good), unknown_when_logged(y))

        assert verdicts(found)["quality"] == "revert"
        assert "on held-out rows it was" in found.reason

    def test_known_outcomes_of_requests_show_what_held_out_rows_do_not(self):
        random, a, b, y = world()
        good = chances(1.5 * a + 0.5 * b - 1)
        bad = chances(1.5 * random.permutation(a) + 0.5 * b - 1)

        found = judge(rehearsal(np.r_[bad[:LOGGED], good[LOGGED:]]), rehearsal(good), list(y))

        assert "requests whose outcome is known" in found.reason

    @pytest.mark.parametrize(
        ("share", "verdict"), [(0.1, "advance"), (1.25, "inconclusive"), (2.0, "revert")], ids=["agrees", "doubtful", "knows nothing"]
    )
    def test_without_any_outcome_the_estimate_decides(self, share, verdict):
        random, a, b, _ = world()
        x = 1.5 * a + 0.5 * b
        candidate = rehearsal(chances(x + 1.5 * share * random.normal(size=len(x)) - 1))

        found = judge(candidate, rehearsal(chances(x - 1)), [None] * len(x))

        assert verdicts(found)["quality"] == verdict, found.reason

    def test_a_worse_model_within_a_negative_gates_margin_advances(self):
        random, a, b, y = world()
        champion = rehearsal(chances(1.5 * a + 0.5 * b - 1))
        worse = rehearsal(chances(1.5 * a + 0.5 * b - 1 + 0.8 * random.normal(size=len(a))))
        allowed = make_config(gates={"versus_champion": {"margin": -0.3}})

        assert judge(worse, champion, list(y)).verdict == "revert"
        assert judge(worse, champion, list(y), config=allowed).verdict == "advance"

    @pytest.mark.parametrize(
        ("change", "check"),
        [
            ({"errors": 2}, "errors"),
            ({"refused": 40}, "refused inputs"),
            ({"p99": 24.0}, "latency"),
            ({"memory": 500.0}, "memory"),
            ({"scores": "constant"}, "predictions"),
            ({"scores": "far"}, "predictions"),
        ],
        ids=lambda value: str(value),
    )
    def test_each_check_reverts_alone(self, change, check):
        _, a, b, y = world()
        scores = chances(1.5 * a + 0.5 * b - 1)
        changed = dict(change)
        kind = changed.pop("scores", None)
        theirs = scores if kind is None else np.full(len(a), 0.4) + 1e-4 * scores if kind == "constant" else 0.9 + scores / 10
        lost = changed.get("errors", 0) + changed.get("refused", 0)
        theirs = [None] * lost + list(theirs[lost:])

        found = judge(rehearsal(theirs, **changed), rehearsal(scores), unknown_when_logged(y), config=make_config(target="docker"))

        assert [name for name, verdict in verdicts(found).items() if verdict == "revert"] == [check]
        assert found.reason.startswith(f"{check}: ")

    def test_refused_rows_that_the_champion_refuses_too_are_not_held_against_it(self):
        _, a, b, y = world()
        scores = [None] * 40 + list(chances(1.5 * a + 0.5 * b - 1)[40:])

        assert judge(rehearsal(scores, refused=40), rehearsal(scores, refused=40), unknown_when_logged(y)).verdict == "advance"

    @pytest.mark.parametrize(("champion", "allowed"), [(3.0, 23.0), (50.0, 100.0)])
    def test_latency_may_be_twice_the_champions_or_20_ms_more(self, champion, allowed):
        _, a, b, y = world()
        scores = chances(a + b)
        for p99, verdict in ((allowed, "advance"), (allowed + 0.1, "revert")):
            found = judge(rehearsal(scores, p99=p99), rehearsal(scores, p99=champion), unknown_when_logged(y))
            assert verdicts(found)["latency"] == verdict

    def test_rows_that_were_not_answered_in_time_revert(self):
        _, a, b, y = world()
        slow = rehearsal(chances(a + b))
        slow["replay"] |= {"rows": 20, "scores": slow["replay"]["scores"][:20] + [None] * (len(a) - 20)}

        assert verdicts(judge(slow, rehearsal(chances(a + b)), unknown_when_logged(y)))["replay"] == "revert"

    def test_failed_golden_rows_revert_whatever_else(self):
        found = judge({"ok": False, "error": "golden rows differ"}, None, [])
        assert (found.verdict, found.reason) == ("revert", "golden rows: golden rows differ")

    def test_a_first_version_is_judged_by_stated_bounds(self):
        _, a, b, y = world()
        good = rehearsal(chances(1.5 * a + 0.5 * b - 1), p99=900.0)

        assert judge(good, None, unknown_when_logged(y)).verdict == "advance"
        assert judge(good, None, unknown_when_logged(y), config=make_config(gates={"at_least": 0.95})).verdict == "revert"
        assert judge(rehearsal(chances(a), p99=1001.0), None, unknown_when_logged(y)).verdict == "revert"
        assert judge(rehearsal(np.full(len(a), 0.3)), None, unknown_when_logged(y)).verdict == "revert"

    def test_regression(self):
        random, a, b, y = world()
        y = 100 * a + 20 * b + 30 * random.normal(size=len(a))
        config = make_config("regression")
        champion = rehearsal(90 * a + 20 * b, classes=None)

        assert judge(rehearsal(100 * a + 20 * b, classes=None), champion, unknown_when_logged(y), config=config).verdict == "advance"
        bad = rehearsal(100 * random.permutation(a) + 20 * b, classes=None)
        assert verdicts(judge(bad, champion, unknown_when_logged(y), config=config))["quality"] == "revert"

    def test_more_than_two_classes_are_compared_by_label_not_by_place(self):
        random, *_ = world()
        y = random.integers(0, 3, LOGGED + HELD_OUT)
        told = np.where(random.random(len(y)) < 0.8, y, random.integers(0, 3, len(y)))
        config = make_config("multiclass_classification")
        # the champion has its classes in another order
        champion = rehearsal(np.array([2, 0, 1])[told], classes=("b", "c", "a"))
        candidate = rehearsal(told, classes=("a", "b", "c"))
        bad = rehearsal(random.permutation(told), classes=("a", "b", "c"))

        assert judge(candidate, champion, unknown_when_logged(y), config=config).verdict == "advance"
        found = judge(bad, champion, unknown_when_logged(y), config=config)
        assert verdicts(found)["quality"] == "revert"
        assert "accuracy" in found.reason

    @pytest.mark.parametrize(
        "break_it",
        [
            lambda c: c.pop("replay"),
            lambda c: c["replay"].pop("scores"),
            lambda c: c["replay"].pop("errors"),
            lambda c: c["replay"].update(refused=None),
            lambda c: c["replay"].update(p99_ms=None),
            lambda c: c["replay"].pop("timed"),
            lambda c: c["replay"].update(p99_ms=math.nan),
            lambda c: c["replay"]["scores"].pop(),
            lambda c: c["replay"].update(scores=[None] * (LOGGED + HELD_OUT)),
            lambda c: c["replay"]["scores"].__setitem__(slice(10), [math.nan] * 10),
            lambda c: c.pop("peak_rss_mb"),
            lambda c: c.pop("ok"),
        ],
    )
    @pytest.mark.parametrize("first", [False, True])
    def test_a_missing_figure_never_advances(self, break_it, first):
        _, a, b, y = world()
        candidate = rehearsal(chances(a + b))
        break_it(candidate)

        assert judge(candidate, None if first else rehearsal(chances(a + b)), unknown_when_logged(y)).verdict != "advance"

    def test_a_champion_that_was_not_rehearsed_never_lets_it_advance(self):
        _, a, b, y = world()
        for champion in ({}, {"ok": False, "error": "gone"}, rehearsal(chances(a[:-1])), rehearsal([None] * len(a), refused=len(a))):
            assert judge(rehearsal(chances(a + b)), champion, unknown_when_logged(y)).verdict == "inconclusive"

    def test_too_few_rows_never_advance(self):
        _, a, b, y = world(n=40)
        scores = rehearsal(chances(a + b))
        assert judge(scores, scores, list(y), held_out=40).verdict == "inconclusive"
        assert judge(rehearsal([]), rehearsal([]), [], held_out=0).verdict == "inconclusive"

    @settings(max_examples=60, deadline=None)
    @given(
        scores=st.lists(st.one_of(st.none(), st.floats()), min_size=0, max_size=80),
        outcomes=st.sampled_from([0.0, 1.0, None, math.nan, math.inf]),
        p99=st.one_of(st.none(), st.floats()),
        task=st.sampled_from(["binary_classification", "regression", "multiclass_classification"]),
    )
    def test_it_never_raises_and_advances_only_on_finite_figures(self, scores, outcomes, p99, task):
        candidate = rehearsal([0.5] * len(scores), classes=("a", "b", "c"))
        candidate["replay"] |= {"scores": scores, "p99_ms": p99, "p99_low_ms": p99}

        found = judge(candidate, candidate, [outcomes] * len(scores), config=make_config(task), held_out=len(scores) // 2)

        json.dumps(found.as_json(), allow_nan=False)
        usable = all(score is not None and math.isfinite(score) for score in scores)
        assert found.verdict != "advance" or (usable and math.isfinite(p99))


def live(requests=300, *, errors=0, refused=0, scores=(), p99=3.0, p50=1.0):
    return LiveFigures(requests, errors, refused, list(scores), p99, p99, p50_ms=None if p99 is None else p50)


class TestStep:
    @pytest.fixture
    def rows(self):
        return world()

    @pytest.fixture
    def replay(self, rows):
        _, a, b, _ = rows
        candidate, champion = rehearsal(chances(1.5 * a + 0.5 * b - 1)), rehearsal(chances(1.4 * a + 0.5 * b - 1))
        return json.loads(json.dumps(summarize_replay(candidate, champion, held_out=HELD_OUT, config=make_config()), allow_nan=False))

    def judge(self, candidate, champion, replay, *, min_requests=200, task="binary_classification", rescored=None):
        return judge_step(
            candidate=candidate,
            champion=champion,
            replay=replay,
            min_requests=min_requests,
            config=make_config(task),
            rescored=rescored,
        )

    def scores(self, seed, size, *, shift=0.0):
        _, a, b, _ = world(seed, n=size)
        return chances(1.5 * a + 0.5 * b - 1 + shift)

    def test_a_good_candidate_advances_and_the_summary_is_small(self, replay):
        found = self.judge(live(scores=self.scores(1, 300)), live(2000, scores=self.scores(2, 2000)), replay)

        assert found.verdict == "advance", found.reason
        assert len(json.dumps(replay)) < 4000

    def test_little_traffic_advances_by_what_was_replayed_and_without_a_replay_it_does_not(self, replay):
        assert self.judge(live(3, scores=[0.5] * 3), live(3), replay).verdict == "advance"
        assert self.judge(live(0, p99=None), live(0, p99=None), replay).verdict == "advance"
        assert self.judge(live(0, p99=None), None, replay).verdict == "advance"
        for nothing in (None, {}):
            assert self.judge(live(3, scores=[0.5] * 3), live(3), nothing).verdict == "inconclusive"
            assert self.judge(live(0, p99=None), None, nothing, min_requests=0).verdict == "inconclusive"
        assert self.judge(live(3), live(3), replay, min_requests=5000).verdict == "inconclusive"

    def test_a_few_slow_requests_at_the_start_are_no_reason(self, replay):
        few = live(5, scores=[0.5] * 5, p99=100.0, p50=100.0)
        assert self.judge(few, live(2000, scores=self.scores(2, 2000)), replay).verdict == "advance"

    @pytest.mark.parametrize("p99", [40.0, 2000.0])
    def test_a_moment_in_which_the_machine_stood_still_is_no_reason_while_requests_are_few(self, replay, p99):
        few = live(56, scores=self.scores(1, 56), p99=p99)
        assert self.judge(few, live(2000, scores=self.scores(2, 2000)), replay).verdict == "advance"

    def test_one_request_sent_again_and_again_has_no_distribution(self, replay):
        found = self.judge(live(scores=[0.9] * 300), live(2000, scores=[0.2] * 2000), replay)
        assert found.verdict == "advance", found.reason
        assert (
            self.judge(live(scores=[0.9] * 280 + list(np.linspace(0.89, 0.91, 20))), live(2000, scores=[0.2] * 2000), replay).verdict
            == "revert"
        )

    def test_different_rows_count_and_where_there_are_too_few_of_them_the_replay_does(self, replay):
        beside = live(2000, scores=self.scores(2, 2000))
        few = replace(live(300, scores=self.scores(1, 49, shift=1.5)), rows=300)
        assert self.judge(few, beside, replay).verdict == "advance"
        enough = replace(live(300, scores=self.scores(1, 80, shift=5)), rows=300)
        assert self.judge(enough, beside, replay).verdict == "revert"
        assert self.judge(replace(few, rows=49), beside, replay).verdict == "inconclusive"

    @pytest.mark.parametrize(
        ("candidate", "champion", "check"),
        [
            (live(300, errors=1), live(2000), "errors"),
            (live(300, errors=30), live(2000, errors=20), "errors"),
            (live(300, refused=15), live(2000, refused=3), "refused inputs"),
            (live(300, p99=40.0), live(2000, p99=15.0), "latency"),
            (live(10, errors=1), live(2000), "errors"),
            (live(10, p99=2000.0, p50=1500.0), live(2000), "latency"),
            (live(50, p99=100.0, p50=60.0), live(2000, p99=3.0), "latency"),
        ],
    )
    def test_live_figures_beside_the_champions_revert(self, replay, candidate, champion, check):
        candidate = replace(candidate, scores=self.scores(1, 300))

        found = self.judge(candidate, champion, replay)

        assert [name for name, verdict in verdicts(found).items() if verdict == "revert"] == [check]

    @pytest.mark.parametrize(
        ("candidate", "champion"),
        [
            (live(2000, errors=2), live(20000)),
            (live(300, errors=3), live(2000, errors=20)),
            (live(300, refused=15), live(2000, refused=90)),
            (live(300, p99=34.0), live(2000, p99=15.0)),
        ],
        ids=["one in a thousand", "errors like the champion's", "refusals like the champion's", "within 20 ms"],
    )
    def test_what_happens_to_both_is_not_held_against_it(self, replay, candidate, champion):
        assert self.judge(replace(candidate, scores=self.scores(1, 300)), champion, replay).verdict == "advance"

    def test_scores_that_move_while_the_champions_do_not_revert_and_a_shift_of_both_does_not(self, replay):
        moved, still = self.scores(1, 300, shift=1.5), self.scores(2, 2000)

        assert self.judge(live(scores=moved), live(2000, scores=still), replay).reason.startswith("predictions: ")
        assert self.judge(live(scores=moved), live(2000, scores=self.scores(2, 2000, shift=1.5)), replay).verdict == "advance"
        assert self.judge(live(scores=self.scores(1, 300, shift=5)), LiveFigures.none(), replay).verdict == "revert"
        assert self.judge(live(scores=self.scores(1, 300)), LiveFigures.none(), replay).verdict == "advance"

    def test_requests_that_are_not_in_the_log_are_no_evidence(self, replay):
        assert self.judge(live(300), live(2000), replay).verdict == "inconclusive"

    def test_figures_that_contradict_themselves_never_advance(self, replay):
        assert self.judge(live(3, errors=5), live(2000), replay).verdict == "inconclusive"

    def test_scrambled_inputs_leave_the_distribution_and_are_found_by_scoring_the_rows_again(self, rows, replay):
        random, a, b, _ = rows
        a, b = a[:300], b[:300]
        right, wrong = chances(1.5 * a + 0.5 * b - 1), chances(1.5 * random.permutation(a) + 0.5 * b - 1)
        beside = live(2000, scores=self.scores(2, 2000))
        again, champion = rehearsal(right), rehearsal(chances(1.4 * a + 0.5 * b - 1))

        def judged(scores, own, other):
            return self.judge(live(scores=scores), beside, replay, rescored=Rescored(list(scores), own, other)).verdict

        assert self.judge(live(scores=wrong), beside, replay).verdict == "advance"
        assert judged(wrong, again, None) == "revert"
        assert judged(wrong, None, champion) == "revert"
        assert judged(right, again, None) == "advance"
        assert judged(right, None, champion) == "advance"
        assert judged(right, None, None) == "inconclusive"
        assert judged(right, rehearsal(right[:200]), None) == "inconclusive"

    def test_more_than_two_classes(self):
        random = np.random.default_rng(0)
        told = random.integers(0, 3, 1300)
        config = make_config("multiclass_classification")
        summary = summarize_replay(rehearsal(told, classes="abc"), rehearsal(told, classes="abc"), held_out=HELD_OUT, config=config)
        usual = random.integers(0, 3, 1000)

        def judged(scores):
            return self.judge(live(scores=scores), live(1000, scores=usual), summary, task="multiclass_classification").verdict

        assert judged(random.integers(0, 3, 300)) == "advance"
        assert judged(np.zeros(300)) == "revert"
