import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.judging.measuring.measures import UndefinedMetric
from mlops_assets.core.watching.drift import data_drift, prediction_drift
from mlops_assets.core.watching.drift_thresholds import DriftThresholds
from mlops_assets.core.watching.stability import psi

LIMITS = DriftThresholds()
COLUMNS = ["amount", "rate", "declines"]


def frame(rows: int = 1_500, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": random.lognormal(3 + shift, 1, rows),
            "rate": random.beta(1, 20, rows),
            "declines": random.poisson(0.1, rows).astype(float),
        }
    )


def test_a_day_like_the_reference_is_quiet_and_has_a_page() -> None:
    report = data_drift(frame(5_000), frame(seed=1), COLUMNS, LIMITS)
    assert report.quiet
    assert (report.share, report.moved, report.note) == (0.0, (), "")
    assert set(report.columns) == {"amount", "rate", "declines"}
    assert max(report.columns.values()) < 0.05
    assert "<html" in report.html
    assert "amount" in report.html


def test_a_column_that_moved_is_named_with_its_value_and_a_third_of_them_is_drift() -> None:
    report = data_drift(frame(5_000), frame(seed=1, shift=1), COLUMNS, LIMITS, page=False)
    assert report.drifted
    assert report.moved == ("amount",)
    assert report.columns["amount"] > 0.2
    assert report.share == pytest.approx(1 / 3)
    assert report.html == ""


def test_too_few_of_the_columns_is_no_drift() -> None:
    report = data_drift(
        frame(5_000), frame(seed=1, shift=1), COLUMNS, DriftThresholds(drift_share=0.5), page=False
    )
    assert not report.drifted
    assert report.moved == ("amount",)


def test_more_declines_are_seen_though_nine_in_ten_are_still_zero_in_the_reference() -> None:
    current = frame(seed=1).assign(declines=np.random.default_rng(2).poisson(0.8, 1_500).astype(float))
    assert data_drift(frame(5_000), current, ["declines"], LIMITS, page=False).drifted


@pytest.mark.parametrize(
    ("reference", "current", "side"),
    [(5_000, 199, "the current data has 199"), (10, 1_500, "the reference has 10")],
)
def test_too_few_rows_are_said_and_are_neither_drift_nor_quiet(
    reference: int, current: int, side: str
) -> None:
    report = data_drift(frame(reference), frame(current, shift=5), COLUMNS, LIMITS)
    assert (report.tested, report.drifted, report.quiet, report.share, report.html) == (
        False,
        False,
        False,
        None,
        "",
    )
    assert report.note == f"not tested: {side} rows, at least 200 are needed"


def test_a_day_without_any_rows_is_said() -> None:
    report = data_drift(frame(5_000), frame(0), ["amount"], LIMITS)
    assert (report.tested, report.note) == (
        False,
        "amount not tested: the current data has 0 rows, at least 200 are needed",
    )


@pytest.mark.parametrize("value", [np.nan, None, np.inf])
def test_a_column_without_values_is_not_tested_and_not_passed_over(value: float | None) -> None:
    report = data_drift(frame(5_000), frame(seed=1).assign(rate=value), COLUMNS, LIMITS)
    assert report.tested
    assert not report.quiet
    assert report.untested == {"rate": "it is null in all 1,500 rows of the current data"}
    assert "rate not tested" in report.note
    assert "rate" not in report.columns


def test_a_column_that_the_reference_never_had_is_not_tested() -> None:
    report = data_drift(frame(5_000)[["amount"]], frame(seed=1), ["amount", "rate"], LIMITS, page=False)
    assert report.untested == {"rate": "the reference has no such column"}


def test_a_column_that_is_known_in_a_few_rows_only_is_not_tested() -> None:
    current = frame(seed=1)
    current.loc[150:, "rate"] = np.nan
    report = data_drift(frame(5_000), current, ["rate"], LIMITS)
    assert (
        report.note == "rate not tested: it is known in 150 rows of the current data, at least 200 are needed"
    )


def test_a_column_that_goes_missing_is_drift_though_what_is_left_looks_the_same() -> None:
    current = frame(seed=1)
    current.loc[::2, "rate"] = np.nan
    report = data_drift(frame(5_000), current, ["rate"], LIMITS)
    assert report.drifted
    assert report.columns["rate"] < 0.1
    assert report.note == "the share of nulls in rate changed by +50%"


def test_no_columns_are_no_test() -> None:
    report = data_drift(frame(), frame(), [], LIMITS)
    assert (report.tested, report.note) == (False, "no columns were given")


def test_the_page_samples_what_is_large_and_says_so() -> None:
    report = data_drift(frame(20_000), frame(seed=1), ["amount"], LIMITS)
    assert report.reference_rows == 20_000
    assert "the page shows 5,000 rows of each side" in report.note
    assert len(report.html) < 8_000_000


def test_scores_that_moved_are_drift() -> None:
    random = np.random.default_rng(0)
    before, same, moved = (pd.Series(random.beta(a, 30, 2_000)) for a in (1, 1, 3))
    assert prediction_drift(before, same, LIMITS, page=False).quiet
    assert prediction_drift(before, moved, LIMITS).drifted


def test_decisions_that_moved_are_drift_though_scores_did_not() -> None:
    scores = pd.Series(np.random.default_rng(0).uniform(size=1_000))
    before = pd.Series(["ALLOW"] * 980 + ["REVIEW"] * 20)
    now = pd.Series(["ALLOW"] * 700 + ["REVIEW"] * 200 + ["BLOCK"] * 100)
    report = prediction_drift(scores, scores, LIMITS, before, now)
    assert report.moved == ("decision",)
    assert report.drifted
    assert prediction_drift(scores, scores, LIMITS, before, before, page=False).quiet


def test_scores_of_a_day_with_nothing_served_are_not_tested() -> None:
    report = prediction_drift(pd.Series(np.linspace(0, 1, 500)), pd.Series([], dtype="float64"), LIMITS)
    assert (report.tested, report.drifted) == (False, False)


samples = st.lists(st.integers(0, 8).map(float), min_size=1, max_size=60)


@given(samples, samples)
def test_the_index_is_never_negative_and_nothing_for_equal_samples(
    reference: list[float], current: list[float]
) -> None:
    assert psi(reference, current) >= 0
    assert psi(reference, reference) == pytest.approx(0)


flags = st.lists(st.booleans(), min_size=1, max_size=60)


@given(flags.filter(lambda values: 0.1 < np.mean(values) < 0.9), flags)
def test_a_flag_gives_the_same_index_as_number_and_as_category_and_by_hand(
    reference: list[bool], current: list[bool]
) -> None:
    q, p = (
        (np.bincount(side, minlength=2) + 0.5) / (len(side) + 1)
        for side in (np.array(reference, int), np.array(current, int))
    )
    by_hand = pytest.approx(float(np.sum((p - q) * np.log(p / q))))
    assert psi([float(v) for v in reference], [float(v) for v in current]) == by_hand
    assert psi([str(v) for v in reference], [str(v) for v in current]) == by_hand


@pytest.mark.parametrize("seed", range(5))
def test_chance_alone_is_no_drift_at_the_fewest_rows(seed: int) -> None:
    random = np.random.default_rng(seed)
    assert psi(random.normal(size=5_000), random.normal(size=LIMITS.min_rows)) < LIMITS.psi / 2


def test_the_index_of_nothing_is_undefined() -> None:
    with pytest.raises(UndefinedMetric, match="the current data has no known values"):
        psi([1.0], [float("nan")])
