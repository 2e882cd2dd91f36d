import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.judging.measuring.measures import (
    UndefinedMetric,
    average_precision,
    calibration_bins,
    expected_calibration_error,
    precision_at_k,
    recall_at_fpr,
    relative_calibration_error,
    roc_auc,
    value_saved,
)

# A few distinct scores only, so that ties are common.
rows = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
    lambda r: len({f for f, _ in r}) == 2
)


@given(rows)
def test_average_precision_is_the_naive_sum_over_thresholds(pairs: list[tuple[bool, int]]) -> None:
    total, recall, expected = sum(f for f, _ in pairs), 0.0, 0.0
    for threshold in sorted({s for _, s in pairs}, reverse=True):
        caught = sum(f for f, s in pairs if s >= threshold)
        alarms = sum(s >= threshold for _, s in pairs)
        expected += (caught / total - recall) * caught / alarms
        recall = caught / total
    assert average_precision(*zip(*pairs, strict=True)) == pytest.approx(expected)


@given(rows)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[bool, int]]) -> None:
    frauds, others = [s for f, s in pairs if f], [s for f, s in pairs if not f]
    right = sum((a > b) + 0.5 * (a == b) for a in frauds for b in others)
    assert roc_auc(*zip(*pairs, strict=True)) == pytest.approx(right / len(frauds) / len(others))


@given(rows, st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]))
def test_recall_at_fpr_is_the_best_allowed_threshold(pairs: list[tuple[bool, int]], limit: float) -> None:
    frauds, others = [s for f, s in pairs if f], [s for f, s in pairs if not f]
    recalls = [
        sum(s >= t for s in frauds) / len(frauds)
        for t in range(8)
        if sum(s >= t for s in others) / len(others) <= limit
    ]
    flags, scores = zip(*pairs, strict=True)
    assert recall_at_fpr(flags, scores, limit) == pytest.approx(max(recalls))


def book_card_precision(table: list[tuple[int, str, bool, int]], k: int) -> float:
    """The book's loops, with its open question of ties answered by the card's name."""
    found: set[str] = set()
    precisions = []
    for day in sorted({row[0] for row in table}):
        cards = sorted({c for d, c, _, _ in table if d == day} - found)
        score = {c: max(s for d, card, _, s in table if (d, card) == (day, c)) for c in cards}
        bad = {c for d, c, f, _ in table if d == day and f}
        top = sorted(cards, key=lambda c: (-score[c], c))[:k]
        hits = [c for c in top if c in bad]
        precisions.append(len(hits) / k)
        found |= set(hits)
    return sum(precisions) / len(precisions)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("abcdef"), st.booleans(), st.integers(0, 5)),
        min_size=2,
        max_size=40,
    ).filter(lambda table: len({row[2] for row in table}) == 2),
    st.integers(1, 4),
)
def test_card_precision_is_the_book_s(table: list[tuple[int, str, bool, int]], k: int) -> None:
    days, cards, fraud, scores = zip(*table, strict=True)
    assert precision_at_k(days, cards, fraud, scores, k) == pytest.approx(book_card_precision(table, k))


def test_a_card_found_compromised_is_not_found_again() -> None:
    days, cards, fraud = [1, 1, 2, 2], ["a", "b", "a", "b"], [True, False, True, False]
    assert precision_at_k(days, cards, fraud, [0.9, 0.1, 0.9, 0.1], k=1) == 0.5


def test_fewer_cards_than_k_still_divide_by_k() -> None:
    assert precision_at_k([1, 1], ["a", "b"], [True, False], [0.9, 0.1], k=4) == 0.25


def test_calibration_error_of_honest_probabilities_is_small_and_of_inflated_ones_is_the_inflation() -> None:
    random = np.random.default_rng(0)
    chance = random.uniform(0, 0.2, 50_000)
    fraud = random.uniform(size=50_000) < chance
    assert expected_calibration_error(fraud, chance) < 0.005
    assert expected_calibration_error(fraud, chance + 0.5) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("flipped", [False, True])
def test_calibration_errors_of_a_score_that_most_rows_have_and_of_the_others_do_not_cancel(
    flipped: bool,
) -> None:
    """95 rows of 0 with one fraud among them, and five of 0.2 without: on the whole as many frauds as the
    scores say.
    """
    scores, fraud = np.repeat([0.0, 0.2], [95, 5]), np.arange(100) == 0
    if flipped:
        scores, fraud = 1 - scores, ~fraud
    assert expected_calibration_error(fraud, scores) == pytest.approx(0.02)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_bins_are_of_equal_size_but_for_equal_scores_which_share_one(values: list[int]) -> None:
    scores = np.array(values, dtype=float)
    bins = calibration_bins(scores)
    assert all(len(set(bins[scores == one])) == 1 for one in scores)
    assert (np.diff(bins[np.argsort(scores, kind="stable")]) >= 0).all()
    assert np.bincount(calibration_bins(np.arange(100.0))).tolist() == [10] * 10


@given(rows)
def test_calibration_error_of_one_score_for_all_is_its_distance_from_the_share(
    pairs: list[tuple[bool, int]],
) -> None:
    flags = [f for f, _ in pairs]
    assert expected_calibration_error(flags, [0.3] * len(flags)) == pytest.approx(
        abs(0.3 - sum(flags) / len(flags))
    )


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.5, 4.0])
def test_relative_calibration_error_is_by_how_much_scores_are_off_either_way(factor: float) -> None:
    random = np.random.default_rng(0)
    chance = random.uniform(0, 0.02, 200_000)
    fraud = random.uniform(size=200_000) < chance
    assert relative_calibration_error(fraud, factor * chance) == pytest.approx(
        max(factor, 1 / factor) - 1, rel=0.1
    )
    assert relative_calibration_error(fraud, chance) < 0.1


@pytest.mark.parametrize(("fraud", "scores"), [([False, False], [0.1, 0.2]), ([True, False], [0.0, 0.0])])
def test_relative_calibration_error_without_fraud_or_without_scores_is_undefined(
    fraud: list[bool], scores: list[float]
) -> None:
    with pytest.raises(UndefinedMetric, match="there is no positive row, or the mean score is not above 0"):
        relative_calibration_error(fraud, scores)


def test_the_value_saved_is_that_of_the_positives_that_were_caught() -> None:
    assert value_saved([10.0, 20.0, 40.0, 80.0], [True, True, True, False], [False, True, True, True]) == 60.0


@pytest.mark.parametrize("metric", [average_precision, roc_auc, recall_at_fpr])
@pytest.mark.parametrize(
    ("fraud", "scores", "why"),
    [
        ([], [], "there are no rows"),
        ([True, True], [0.1, 0.2], "2 of 2 rows are positive"),
        ([False], [0.1], "0 of 1 rows are positive"),
        ([True, False], [0.1, float("nan")], "1 of 2 scores are not numbers"),
        ([True, False], [0.1, float("inf")], "1 of 2 scores are not numbers"),
    ],
)
def test_what_is_undefined_is_an_error_and_no_number(
    metric: object, fraud: list[bool], scores: list[float], why: str
) -> None:
    with pytest.raises(UndefinedMetric, match=why):
        metric(fraud, scores)  # type: ignore[operator]


def test_no_number_of_keys_is_no_precision() -> None:
    with pytest.raises(UndefinedMetric, match="k is 0"):
        precision_at_k([1, 1], ["a", "b"], [True, False], [0.9, 0.1], k=0)


def test_money_of_an_amount_that_is_no_number_is_undefined() -> None:
    with pytest.raises(UndefinedMetric, match="1 values"):
        value_saved([float("nan")], [True], [True])


def test_labels_and_scores_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels and 1 scores"):
        roc_auc([True, False], [0.1])
