import pandas as pd
import pytest

from mlops_assets.core.watching.parity import Mismatch, Parity, compare, total

FEATURES = ["amount_avg", "declines"]


def frame(**vectors: tuple[float | None, float | None]) -> pd.DataFrame:
    return pd.DataFrame(
        [(name, *values) for name, values in vectors.items()], columns=["transaction_id", *FEATURES]
    )


def parity_of(
    logged: pd.DataFrame,
    recomputed: pd.DataFrame,
    overtaken: dict[str, float] | None = None,
    as_read: pd.DataFrame | None = None,
) -> Parity:
    """`as_read` has to hold every vector that is asked for."""
    given = frame() if as_read is None else as_read
    return compare(
        "transaction_id",
        logged,
        recomputed,
        FEATURES,
        overtaken or {},
        lambda ids: [given[given["transaction_id"].isin(ids)]],
    )


def test_equal_vectors_are_clean_in_any_order_and_null_equals_null() -> None:
    parity = parity_of(frame(a=(1.5, 0), b=(None, 2)), frame(b=(None, 2), a=(1.5, 0), never_served=(9, 9)))
    assert parity == Parity(compared=2, mismatches=0, explained_late=0, late_s=0.0, missing=0, examples=())
    assert parity.clean


@pytest.mark.parametrize(
    ("logged", "recomputed"),
    [
        (None, 0.0),
        (0.0, None),
        (1.0, 1.00001),
        (float("inf"), 1.0),
        (0.0, 1e-12),
        (float("inf"), float("-inf")),
    ],
)
def test_a_difference_is_a_mismatch_with_its_values(logged: float | None, recomputed: float | None) -> None:
    parity = parity_of(frame(a=(logged, 1)), frame(a=(recomputed, 1)))
    assert parity.mismatches == 1
    assert parity.examples == (Mismatch("a", "amount_avg", logged, recomputed, None),)
    assert not parity.clean


def test_another_order_of_a_float_sum_is_no_mismatch() -> None:
    assert parity_of(frame(a=(1e6 * (1 + 5e-10), 1)), frame(a=(1e6, 1))).clean


def test_what_was_committed_later_explains_exactly_the_values_that_it_explains() -> None:
    served, by_clocks, as_read = frame(a=(1, 1), b=(1, 1)), frame(a=(2, 3), b=(5, 1)), frame(a=(1, 9))
    parity = parity_of(served, by_clocks, {"a": 30.0}, as_read)
    assert (parity.mismatches, parity.explained_late, parity.late_s) == (2, 1, 30.0)
    assert parity.examples == (
        Mismatch("a", "declines", 1, 3, None),
        Mismatch("b", "amount_avg", 1, 5, None),
        Mismatch("a", "amount_avg", 1, 2, 30.0),
    )


def test_a_decision_that_was_overtaken_and_does_not_differ_is_not_recomputed() -> None:
    assert parity_of(frame(a=(1, 1)), frame(a=(1, 1)), {"a": 5.0}).clean


def test_a_vector_that_cannot_be_recomputed_is_unproven() -> None:
    parity = parity_of(frame(a=(1, 1), b=(1, 1)), frame(a=(1, 1)), {"b": 1.0})
    assert (parity.compared, parity.missing) == (1, 1)
    assert not parity.clean


def test_nothing_served_is_nothing_to_compare() -> None:
    assert parity_of(frame(), frame(a=(1, 1))).compared == 0


def test_an_id_that_occurs_twice_is_refused() -> None:
    twice = pd.concat([frame(a=(1, 1)), frame(a=(1, 1))])
    with pytest.raises(ValueError, match="recomputed: transaction_id a occurs more than once"):
        parity_of(frame(a=(1, 1)), twice)


def test_two_versions_of_a_day_are_one_parity() -> None:
    both = total([parity_of(frame(a=(1, 1)), frame(a=(2, 1))), parity_of(frame(b=(1, 1)), frame(b=(1, 1)))])
    assert (both.compared, both.mismatches, both.clean) == (2, 1, False)
