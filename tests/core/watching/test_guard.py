"""The guard's judgement: what is chance, what its predecessor showed as well, and which champion is watched
at all.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.watching.guard import (
    BEYOND_CHANCE,
    BadGuard,
    Guard,
    Judgement,
    Reference,
    Watched,
    beyond_factor,
    by_chance,
    judge,
    watched,
)
from mlops_assets.resources.config_file import ConfigError
from mlops_assets.resources.environments import load_settings
from serving.store.version_counts import SLOW_MS, Measured

GUARD = Guard()
USUAL = Reference(5_000, 100)  # 2 %
NOTHING = Measured()
PROMOTED_AT = datetime(2026, 5, 4, 12, tzinfo=UTC)
LATER = PROMOTED_AT + timedelta(hours=2)


def exactly(hits: int, trials: int, share: Fraction) -> Fraction:
    """The probability of at least so many hits."""
    return sum(
        (comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(hits, trials + 1)),
        Fraction(0),
    )


def measured(scored: int, alarms: int = 0, errors: int = 0, slow: int = 0, beyond_ms: int = 100) -> Measured:
    return Measured(scored, alarms, errors, {ms: slow if ms <= beyond_ms else 0 for ms in SLOW_MS})


def judged(
    served: Measured, before: Measured = NOTHING, reference: Reference = USUAL, **limits: Any
) -> Judgement:
    return judge(served, before, reference, replace(GUARD, **limits), "ALLOW")


# Chance


@given(st.integers(1, 60), st.data(), st.fractions(0, 1, max_denominator=50))
def test_what_is_called_chance_is_never_less_than_its_exact_probability(
    trials: int, data: st.DataObject, share: Fraction
) -> None:
    hits = data.draw(st.integers(0, trials))
    assert by_chance(hits, trials, float(share)) >= float(exactly(hits, trials, share)) * (1 - 1e-9)


@given(st.integers(1, 10_000), st.floats(0.001, 0.999))
def test_more_hits_are_never_more_probable_and_as_many_as_expected_are_no_wonder(
    trials: int, share: float
) -> None:
    found = [by_chance(hits, trials, share) for hits in range(0, trials + 1, max(1, trials // 20))]
    assert found == sorted(found, reverse=True)
    assert by_chance(int(trials * share), trials, share) == 1.0


@given(st.integers(0, 10**7), st.integers(0, 1_000), st.integers(1, 5_000), st.floats(1.1, 20))
def test_a_share_that_is_not_more_than_the_factor_is_never_beyond_it(
    trials: int, other_hits: int, other_trials: int, factor: float
) -> None:
    most = int(factor * other_hits / other_trials * trials * (1 - 1e-9))
    assert not beyond_factor(min(most, trials), trials, other_hits, other_trials, factor)


def test_a_bank_that_alarms_as_its_reference_is_left_alone_through_a_week_of_looks() -> None:
    import numpy as np

    random = np.random.default_rng(3)
    for usual in (0.002, 0.02, 0.05):
        alarms = np.cumsum(random.random(20_000) < usual)
        reference = Reference(3_000, int(random.binomial(3_000, usual)))
        for looked_at in range(500, 20_000, 50):
            assert judged(measured(looked_at, int(alarms[looked_at - 1])), reference=reference).breaches == ()


# The limits


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (
            measured(600, alarms=360),
            (
                "360 of 600 decisions are not ALLOW, 60.00%, where its reference has 2.00%: more than 5 times"
                " as many"
            ),
        ),
        (
            measured(5_000, alarms=0),
            "0 of 5,000 decisions are not ALLOW, 0.00%, where its reference has 2.00%: fewer than 1 in 5",
        ),
        (
            measured(600, 12, errors=60),
            "60 of 660 requests failed while it scored, 9.09%: at most 1.00% is allowed",
        ),
        (
            measured(0, errors=10),
            "10 of 10 requests failed while it scored, 100.00%: at most 1.00% is allowed",
        ),
        (
            measured(600, 12, slow=60),
            "60 of 600 scores took more than 10 ms of the processor, 10.00%: its p99 may be 10 ms",
        ),
    ],
)
def test_each_limit_is_kept_and_the_reason_has_the_figures(served: Measured, said: str) -> None:
    assert judged(served).breaches == (said,)


@pytest.mark.parametrize(
    "served",
    [
        measured(600, alarms=12),
        measured(10_000, alarms=1_000),  # five times as many, and not more
        measured(10_000, alarms=40),  # a fifth, and not less
        measured(600, alarms=60),  # five times as many is chance
        measured(10_000, 200, errors=100),
        measured(10_000, 200, slow=100),
        measured(10_000, 200, slow=5_000, beyond_ms=5),  # slow, and not as slow as that
        measured(0, errors=9),  # one payment that is sent again and again
        measured(499, alarms=499),
        measured(499, slow=499),
    ],
)
def test_what_is_within_the_limits_or_may_be_chance_or_too_few_is_left_alone(served: Measured) -> None:
    assert judged(served) == Judgement((), (), judged(served).note)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert len(judged(measured(1_000, alarms=900, errors=500, slow=800)).breaches) == 3


def test_a_limit_between_two_that_are_counted_is_the_upper_one() -> None:
    assert judged(measured(600, 12, slow=60, beyond_ms=100), max_p99_ms=60).breaches
    assert not judged(measured(600, 12, slow=60, beyond_ms=50), max_p99_ms=60).breaches


def test_a_reference_without_any_alarm_needs_more_than_a_few() -> None:
    none = Reference(5_000, 0)
    assert not judged(measured(500, alarms=5), reference=none).breaches
    assert judged(measured(500, alarms=50), reference=none).breaches


# The predecessor


@pytest.mark.parametrize(
    ("served", "before"),
    [
        (measured(600, alarms=360), measured(4_000, alarms=800)),
        (measured(5_000, alarms=0), measured(4_000, alarms=0)),
        (measured(600, 12, errors=60), measured(4_000, 80, errors=90)),
        (measured(600, 12, slow=60), measured(4_000, 80, slow=50)),
    ],
)
def test_what_its_predecessor_showed_as_well_is_not_its_doing(served: Measured, before: Measured) -> None:
    judgement = judged(served, before)
    assert (judgement.breaches, len(judgement.shared)) == ((), 1)
    sound = measured(4_000, alarms=80)
    assert len(judged(served, sound).breaches) == 1
    few = replace(before, scored=400, alarms=before.alarms // 10, errors=0)
    assert len(judged(served, few).breaches) == 1, "few requests excuse nothing"


# Who is watched


def line(what: str, version: str, by: str = "gate", **more: Any) -> dict[str, Any]:
    at = more.pop("at", PROMOTED_AT)
    return {
        "kind": what,
        "version": version,
        "champion": None,
        "by": by,
        "at": at.isoformat(),
        "as_of": "2026-05-04",
        "reasons": ["r"],
        **more,
    }


ONE, TWO = line("promoted", "1", at=PROMOTED_AT - timedelta(days=90)), line("promoted", "2", champion="1")
BACK = line("rolled_back", "2", "guard", to="1")


def test_a_new_champion_with_a_predecessor_is_watched_since_its_promotion() -> None:
    rows = [ONE, TWO, line("refused", "3"), line("awaiting", "4")]
    assert watched(rows, LATER, GUARD) == Watched("2", "2026-05-04", PROMOTED_AT, "1")
    assert isinstance(watched([ONE, line("promoted", "2", "anna", champion="1")], LATER, GUARD), Watched), (
        "a person's promotion too"
    )


@pytest.mark.parametrize(
    ("rows", "now", "why"),
    [
        ([], LATER, "there is no champion"),
        ([line("refused", "1")], LATER, "there is no champion"),
        ([line("promoted", "1")], LATER, "version 1 has no predecessor"),
        ([ONE, TWO], PROMOTED_AT + timedelta(days=7, seconds=1), "more than 7 days ago"),
        (
            [ONE, TWO, line("promoted", "3", champion="2"), {**BACK, "version": "3", "to": "2"}],
            LATER,
            "version 2 serves after a rollback",
        ),
        (
            [ONE, TWO, BACK, line("promoted", "2", "anna", champion="1")],
            LATER,
            "rolled back by the guard before, and anna has promoted it again",
        ),
        (
            [{"verdict": "promoted", "version": "1", "champion": None, "reasons": []}],
            LATER,
            "is not on record",
        ),
    ],
)
def test_no_other_champion_is_and_it_is_said_why(rows: list[dict[str, Any]], now: datetime, why: str) -> None:
    told = watched(rows, now, GUARD)
    assert isinstance(told, str)
    assert why in told


# Its configuration


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "watch_days = 24",
            "watch_days has to be from 1 to 23, for as long as measurements are kept, not 24",
        ),
        ("min_requests = 0", "min_requests has to be at least 1, not 0"),
        ("min_errors = -1", "min_errors has to be at least 1, not -1"),
        ("max_p99_ms = 2000", "max_p99_ms has to be from 1 to 1000, not 2000"),
        ("max_alarm_factor = 1.0", r"max_alarm_factor has to be more than 1, not 1\.0"),
        ("max_error_share = 1.0", r"max_error_share has to be from 0 to below 1, not 1\.0"),
        ("max_errors = 3", "unknown key 'max_errors'"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "it.toml").write_text(f"[guard]\n{text}\n")
    with pytest.raises(ConfigError, match=rf"\[guard\].*{named}"):
        load_settings(tmp_path / "it.toml")


def test_the_limits_are_read(tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text("[guard]\nenabled = false\nmin_requests = 50\nmax_error_share = 0.0\n")
    assert load_settings(tmp_path / "it.toml").guard == Guard(
        enabled=False, min_requests=50, max_error_share=0.0
    )
    assert judged(measured(1_000, 20, errors=10), max_error_share=0.0).breaches
    assert BEYOND_CHANCE < 1 / 20_000
    assert issubclass(BadGuard, ValueError)
