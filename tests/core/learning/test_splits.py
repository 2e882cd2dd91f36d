from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.learning.splits import BadSplit, NothingToLearn, Split, utc_days


@st.composite
def splits(draw: st.DrawFn) -> Split:
    holdout = draw(st.integers(1, 14))
    return Split(
        draw(st.dates(date(2018, 1, 1), date(2030, 1, 1))),
        draw(st.integers(0, 60)),
        holdout,
        holdout + draw(st.integers(1, 60)),
    )


def test_the_days_of_the_handbook_protocol() -> None:
    split = Split(date(2018, 8, 8), maturity_days=7, holdout_days=7, train_days=21)
    assert split.last_mature_day == date(2018, 7, 31)
    assert (split.holdout_first, split.holdout_last) == (date(2018, 7, 25), date(2018, 7, 31))
    assert (split.train_first, split.evaluation_last) == (date(2018, 7, 11), date(2018, 7, 24))


@given(splits())
def test_the_folds_are_disjoint_adjacent_and_mature(split: Split) -> None:
    days = [split.as_of - timedelta(days=n) for n in range(-3, split.maturity_days + split.train_days + 5)]
    fold = pd.Series(days).pipe(split.label)
    train = [day for day, name in zip(days, fold, strict=True) if name == "train"]
    holdout = [day for day, name in zip(days, fold, strict=True) if name == "holdout"]
    assert len(holdout) == split.holdout_days
    assert len(train) + len(holdout) == split.train_days
    assert max(train) + timedelta(days=1) == min(holdout)
    assert (min(train), max(train)) == (split.train_first, split.evaluation_last)
    assert (min(holdout), max(holdout)) == (split.holdout_first, split.holdout_last)
    # The verdict of the last instant of the last day is known before the first instant of the as-of day.
    end = datetime.combine(max(holdout), datetime.max.time(), UTC) + timedelta(days=split.maturity_days)
    assert end < datetime.combine(split.as_of, datetime.min.time(), UTC)


def test_a_timestamp_belongs_to_its_utc_day() -> None:
    split = Split(date(2024, 3, 12), 1, 1, 3)  # M is 10 March, when New York changes to summer time
    times = pd.to_datetime(["2024-03-09 23:30:00-05:00", "2024-03-10 20:30:00-04:00"], utc=True).tz_convert(
        "America/New_York"
    )
    assert split.label(pd.Series(times)).tolist() == ["holdout", None]


def test_days_may_be_dates_strings_or_timestamps() -> None:
    want = [pd.Timestamp("2024-03-09")]
    for given_as in (
        date(2024, 3, 9),
        "2024-03-09",
        pd.Timestamp("2024-03-09 12:00"),
        pd.Timestamp("2024-03-09 23:59:59.999999", tz="UTC"),
    ):
        assert utc_days(pd.Series([given_as])).tolist() == want


def test_labels_keep_the_index() -> None:
    assert Split(date(2024, 3, 12), 1, 1, 3).label(pd.Series(["2024-03-10"], index=[41])).to_dict() == {
        41: "holdout"
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((date(2024, 1, 1), 7, 0, 30), "a holdout of 0 days"),
        ((date(2024, 1, 1), -1, 7, 30), "a maturity of -1 days"),
        (
            (date(2024, 1, 1), 7, 7, 7),
            "a training period of 7 days leaves nothing before a holdout of 7 days",
        ),
        ((datetime(2024, 1, 1), 7, 7, 30), "a date is needed"),
        (("2024-01-01", 7, 7, 30), "as of '2024-01-01'"),
    ],
)
def test_a_split_that_cannot_be_meant_names_the_value(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(BadSplit, match=message):
        Split(*values)  # type: ignore[arg-type]


def test_days_before_the_first_usable_one_belong_to_no_fold() -> None:
    split = Split(
        date(2024, 2, 1), maturity_days=7, holdout_days=4, train_days=14, not_before=date(2024, 1, 15)
    )
    assert split.train_first == date(2024, 1, 15)
    assert split.label(pd.Series([date(2024, 1, 14), date(2024, 1, 15)])).tolist() == [None, "train"]
    assert (
        replace(split, not_before=date(2024, 1, 2)).train_first
        == replace(split, not_before=None).train_first
        == date(2024, 1, 11)
    )


START = date(2026, 1, 1)


def platform_split(as_of: date, maturity: int = 7, holdout: int = 7, warm_up: int = 14) -> Split:
    return Split(as_of, maturity, holdout, 90, START + timedelta(days=warm_up))


@pytest.mark.parametrize("maturity", [0, 2, 7])
@pytest.mark.parametrize("holdout", [1, 7])
@pytest.mark.parametrize("warm_up", [0, 14])
def test_the_first_as_of_day_that_is_told_is_the_first_with_a_training_day(
    maturity: int, holdout: int, warm_up: int
) -> None:
    told = str(
        NothingToLearn(platform_split(START + timedelta(days=1), maturity, holdout, warm_up), START, [])
    )
    first = date.fromisoformat(told[-10:])
    assert platform_split(first, maturity, holdout, warm_up).has_training_days
    assert not platform_split(first - timedelta(days=1), maturity, holdout, warm_up).has_training_days


def test_that_nothing_can_be_learnt_is_told_with_what_each_day_is_kept_for() -> None:
    split = platform_split(date(2026, 1, 5))
    assert (
        str(NothingToLearn(split, START, ["2026-01-01", "2026-01-04"]))
        == "as of 2026-01-05: nothing to learn from; the lake has arrival days 2026-01-01 to 2026-01-04. Of"
        " the days from 2026-01-01 on, the first 14 are warm-up ([model] warm_up_days), the last 7 are"
        " without mature labels ([verdicts] maturity_days), the 7 before those are held out ([model]"
        " holdout_days). The first as-of day with a training day is 2026-01-30"
    )
    assert "the lake has no arrival day yet" in str(NothingToLearn(split, START, []))
    assert "warm-up" not in str(NothingToLearn(platform_split(date(2026, 1, 5), warm_up=0), START, []))


def test_a_first_as_of_day_after_the_end_says_what_to_lower() -> None:
    ended = NothingToLearn(platform_split(date(2026, 1, 5)), START, [], date(2026, 1, 28))
    assert str(ended).endswith("is 2026-01-30. That is after [time] end = 2026-01-28: lower one of the three")
    assert str(NothingToLearn(platform_split(date(2026, 1, 5)), START, [], date(2026, 1, 29))).endswith(
        "is 2026-01-30"
    )
