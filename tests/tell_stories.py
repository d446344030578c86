"""Made-up models and what happened to each within a year: the same for the same seed, every state among them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from windvane.windows import Window

WEEKS = 52

# every way a model can be; the first ones are told in this order, those after them are mostly well
ENDS = (
    "config_error",
    "retrain",
    "waiting_for_approval",
    "rolling_out",
    "not_serving",
    "never_trained",
    "serving",
    "fix_data",
    "failed_run",
    "revert",
    "frozen",
    "rollback",
    "hostile",
)
_WELL = ("serving",) * 14 + ("rollback", "frozen", "retrain", "fix_data", "waiting_for_approval", "rolling_out", "revert", "failed_run")

_SUBJECTS = (
    *("churn", "fraud", "demand", "price", "delay", "credit", "basket", "energy", "queue", "refund", "uplift", "stock", "claims"),
    *("noshow", "lead", "wear", "route", "spam", "yield_loss", "traffic", "budget", "rating", "return_rate", "stay", "load"),
)
_PLACES = (
    *("emea", "apac", "latam", "nordics", "iberia", "dach", "benelux", "uk", "us_east", "us_west", "canada", "japan", "india"),
    *("france", "italy", "poland", "brazil", "mexico", "korea", "anz"),
)
_TEAMS = ("flights-team", "payments", "supply-chain", "growth", "risk", "operations")
_TAGS = ("critical", "pilot", "customer-facing", "batch", "gdpr", "seasonal")
_COLUMNS = ("amount", "distance", "weekday", "carrier", "origin", "age_days", "basket_size", "temperature", "channel", "device")
_QUESTIONS = ("Will this {} be a problem within a month?", "How much {} comes next week?", "Which {} needs a person?")
HOSTILE = "<script>document.title='owned'</script> \"quoted\" 'single' \u202eRTL\u202c \U0001f525 " + "long " * 40


@dataclass(frozen=True)
class Week:
    """One monitored window."""

    window: Window
    version: int | None
    decision: str
    reason: str
    alert: str
    realised: float | None
    estimated: float
    drifted: tuple[str, ...]
    quarantined: int
    refused: bool
    rows: int


@dataclass(frozen=True)
class Training:
    """One version that was trained."""

    version: int
    at: datetime
    digest: str
    value: float
    passed: bool
    why: str


@dataclass(frozen=True)
class Change:
    """One row of the ledger to be."""

    at: datetime
    action: str
    version: int
    traffic: dict[int, int]
    actor: str
    reason: str
    until: datetime | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """One model and its year."""

    model: str
    end: str
    owner: str
    tags: tuple[str, ...]
    description: str
    metric: str
    trains_on_schedule: bool
    weeks: tuple[Week, ...] = ()
    trainings: tuple[Training, ...] = ()
    changes: tuple[Change, ...] = ()


def tell_stories(count: int, *, now: datetime, seed: int = 7) -> Iterator[Story]:
    """Tell so many stories, one after the other."""
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        end = ENDS[index] if index < len(ENDS) else rng.choice(_WELL)
        subject, place = _SUBJECTS[index % len(_SUBJECTS)], _PLACES[index // len(_SUBJECTS) % len(_PLACES)]
        round_ = index // (len(_SUBJECTS) * len(_PLACES))
        question = _QUESTIONS[index % len(_QUESTIONS)].format(subject.replace("_", " "))
        story = Story(
            model=f"{subject}_{place}{f'_{round_}' if round_ else ''}",
            end=end,
            owner=rng.choice(_TEAMS),
            tags=tuple(sorted(rng.sample(_TAGS, k=rng.choice((0, 1, 1, 2, 3))))),
            description=HOSTILE if end == "hostile" else question,
            metric=rng.choice(("roc_auc", "average_precision", "neg_log_loss", "balanced_accuracy")),
            trains_on_schedule=rng.random() < 0.3,
        )
        yield story if end in ("config_error", "never_trained") else _Year(story, rng, now).tell()


class _Year:
    """Tells the year of one model week by week."""

    def __init__(self, story: Story, rng: random.Random, now: datetime) -> None:
        self._story, self._rng, self._now = story, rng, now
        self._weeks: list[Week] = []
        self._trainings: list[Training] = []
        self._changes: list[Change] = []
        self._base = -rng.uniform(0.2, 0.5) if story.metric == "neg_log_loss" else rng.uniform(0.7, 0.93)
        self._serving: int | None = None
        self._since = 0

    def tell(self) -> Story:
        # Airflow's weeks begin on Sunday
        sunday = (self._now - timedelta(days=self._now.isoweekday() % 7)).replace(hour=0, minute=0, second=0, microsecond=0)
        first = sunday - timedelta(weeks=WEEKS)
        for number in range(WEEKS):
            start = first + timedelta(weeks=number)
            self._tell_week(number, Window(start, start + timedelta(weeks=1)))
        self._tell_end()
        return Story(
            **{
                name: getattr(self._story, name)
                for name in ("model", "end", "owner", "tags", "description", "metric", "trains_on_schedule")
            },
            weeks=tuple(self._weeks),
            trainings=tuple(self._trainings),
            changes=tuple(self._changes),
        )

    def _tell_week(self, number: int, window: Window) -> None:
        rng, last = self._rng, number == WEEKS - 1
        age = number - self._since
        value = round(self._base - 0.004 * age + rng.gauss(0, 0.006), 4)
        decision = "ok" if rng.random() < 0.9 else rng.choice(("ignore", "wait", "fix_data"))
        if number == 4 or (age > 6 and value < self._base - 0.035):
            decision = "retrain"
        if self._story.end == "not_serving":
            decision = "retrain" if number in (4, 24, 44) else "wait"
        elif last:
            decision = self._story.end if self._story.end in ("retrain", "fix_data") else "ok"
        drifted = tuple(rng.sample(_COLUMNS, k=rng.randint(1, 3))) if decision in ("retrain", "ignore") else ()
        if self._story.end == "hostile" and number % 10 == 0:
            drifted = (*drifted, HOSTILE[:60])
        reasons = {
            "ok": "nothing left the reference, and the metric is as it was",
            "ignore": f"{', '.join(drifted)} moved, but the metric does not suffer",
            "wait": "212 rows, at least 500 are needed to tell",
            "fix_data": "61 % of `amount` are missing, 0.4 % were in the training",
            "retrain": f"{self._story.metric} fell to {value:.3f} beyond noise; a refit since the change gains 0.02",
        }
        self._weeks.append(
            Week(
                window=window,
                version=self._serving,
                decision=decision,
                reason=HOSTILE if self._story.end == "hostile" and last else reasons[decision],
                alert=f"{self._story.model}: {reasons[decision]}" if decision in ("retrain", "fix_data") else "",
                realised=value if number < WEEKS - 2 else None,
                estimated=round(value + rng.gauss(0, 0.004), 4),
                drifted=drifted,
                quarantined=rng.choice((0, 0, 0, 3, 17)) if decision != "fix_data" else 400,
                refused=decision == "fix_data" and rng.random() < 0.2,
                rows=rng.randint(4_000, 9_000),
            )
        )
        if number == 0:
            self._train(window.end, passed=True)
            self._deploy(1)
        elif decision == "retrain" and not last:
            self._train(window.end, passed=rng.random() < 0.75)
            if self._trainings[-1].passed and self._story.end != "not_serving":
                self._deploy(number + 1)

    def _train(self, at: datetime, *, passed: bool) -> None:
        version = len(self._trainings) + 1
        why = "better by 0.012 (0.004 to 0.021)" if passed else "slices: origin=JFK: 0.61 against 0.68 of the champion, at most 0.05 worse"
        digest = sha256(f"{self._story.model}/{version}".encode()).hexdigest()
        moment = at + timedelta(hours=2, minutes=self._rng.randint(0, 50))
        self._trainings.append(Training(version, moment, digest, round(self._base + self._rng.gauss(0, 0.01), 4), passed, why))

    def _deploy(self, week: int) -> None:
        if self._story.end == "not_serving":
            return
        made = self._trainings[-1]
        actor, at = f"{self._story.model}__deploy/asset_triggered__v{made.version}", made.at + timedelta(minutes=20)
        plan = {"plan": f"{self._story.model}/{made.version}"}
        before = self._serving
        for share in (10, 50, 100) if before else (100,):
            traffic = {made.version: share} | ({before: 100 - share} if before and share < 100 else {})
            self._add(at, "shift", made.version, traffic, actor, made.why, until=at + timedelta(minutes=10), evidence=plan)
            at += timedelta(minutes=6)
            if before and share == 10 and self._rng.random() < 0.12:
                self._add(at, "revert", made.version, {before: 100}, actor, _LATE, evidence=plan | _JUDGED)
                return
        self._add(at, "promote", made.version, {made.version: 100}, actor, made.why, evidence=plan)
        self._serving, self._since = made.version, week
        self._base = made.value

    def _tell_end(self) -> None:
        end, now, serving = self._story.end, self._now, self._serving
        deploy = f"{self._story.model}__deploy"
        if end in ("waiting_for_approval", "rolling_out", "revert") or (end == "rollback" and len(self._trainings) < 2):
            self._train(now - timedelta(hours=5), passed=True)
        if serving is None:
            return
        newest = self._trainings[-1].version
        old, new = {serving: 100}, {serving: 90, newest: 10}
        ago = now - timedelta(minutes=3)
        if end == "rolling_out":
            self._add(ago, "shift", newest, new, f"{deploy}/asset_triggered__v{newest}", "better by 0.012", until=now + timedelta(hours=6))
        elif end == "revert":
            at = now - timedelta(hours=2)
            self._add(at, "shift", newest, new, f"{deploy}/manual__1", "better by 0.012", until=at + timedelta(minutes=10))
            self._add(at + timedelta(minutes=4), "revert", newest, old, f"{deploy}/manual__1", _LATE, evidence=_JUDGED)
        elif end == "rollback" and serving > 1:
            back = next(c.version for c in self._changes if c.action == "promote")
            self._add(ago, "rollback", back, {back: 100}, f"{deploy}/manual__2", "rollback to version 1", evidence={"user": "editor"})
        elif end == "frozen":
            self._add(ago, "freeze", serving, old, "airflow/editor", "sale week: nothing changes until Monday")

    def _add(self, at: datetime, action: str, version: int, traffic: dict[int, int], actor: str, reason: str, **more: Any) -> None:
        self._changes.append(Change(at.astimezone(UTC), action, version, dict(sorted(traffic.items())), actor, reason, **more))


_LATE = "version at 10 %: latency: p99 is 181 ms, at most 40 ms (champion 22 ms)"
_JUDGED = {
    "retryable": False,
    "judgement": {
        "verdict": "revert",
        "reason": "latency: p99 is 181 ms",
        "checks": [
            {"name": "errors", "verdict": "advance", "reason": "0 of 412 requests failed"},
            {"name": "latency", "verdict": "revert", "reason": "p99 is 181 ms, at most 40 ms (champion 22 ms)"},
        ],
    },
}
