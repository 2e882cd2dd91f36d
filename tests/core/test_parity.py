import pandas as pd
import pytest

from mlops_assets.core.parity import compare

FEATURES = ["amount_avg", "declines"]


def frame(**vectors: tuple[float | None, float | None]) -> pd.DataFrame:
    return pd.DataFrame([(name, *values) for name, values in vectors.items()], columns=["transaction_id", *FEATURES])


def test_equal_vectors_are_clean_in_any_order_and_null_equals_null() -> None:
    parity = compare(frame(a=(1.5, 0), b=(None, 2)), frame(b=(None, 2), a=(1.5, 0), never_served=(9, 9)), FEATURES, set())
    assert (parity.compared, parity.mismatches, parity.explained_late, parity.missing, parity.examples) == (2, 0, 0, 0, ())
    assert parity.clean


@pytest.mark.parametrize(
    ("logged", "recomputed"), [(None, 0.0), (0.0, None), (1.0, 1.00001), (float("inf"), 1.0), (0.0, 1e-12), (float("inf"), float("-inf"))]
)
def test_a_difference_is_a_mismatch_with_its_values(logged: float | None, recomputed: float | None) -> None:
    parity = compare(frame(a=(logged, 1)), frame(a=(recomputed, 1)), FEATURES, set())
    assert parity.mismatches == 1
    assert parity.examples == (("a", "amount_avg", logged, recomputed),)
    assert not parity.clean


def test_another_order_of_a_float_sum_is_no_mismatch() -> None:
    assert compare(frame(a=(1e6 * (1 + 5e-10), 1)), frame(a=(1e6, 1)), FEATURES, set()).clean


def test_a_late_event_explains_a_difference_and_only_its_own() -> None:
    parity = compare(frame(a=(1, 1), b=(1, 1)), frame(a=(2, 3), b=(5, 1)), FEATURES, {"a"})
    assert (parity.mismatches, parity.explained_late) == (1, 2)
    assert parity.examples[0][0] == "b"


def test_a_vector_that_cannot_be_recomputed_is_unproven() -> None:
    parity = compare(frame(a=(1, 1), b=(1, 1)), frame(a=(1, 1)), FEATURES, {"b"})
    assert (parity.compared, parity.missing) == (1, 1)
    assert not parity.clean


def test_nothing_served_is_nothing_to_compare() -> None:
    assert compare(frame(), frame(a=(1, 1)), FEATURES, set()).compared == 0


def test_an_id_that_occurs_twice_is_refused() -> None:
    twice = pd.concat([frame(a=(1, 1)), frame(a=(1, 1))])
    with pytest.raises(ValueError, match="recomputed: transaction a occurs more than once"):
        compare(frame(a=(1, 1)), twice, FEATURES, set())
