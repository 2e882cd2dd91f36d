"""Nothing is lost: every raw row is accepted, a duplicate, or quarantined with its reasons."""

from __future__ import annotations

import json
from datetime import date

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payment_feeds import (
    LABEL_KEY,
    LABEL_ORDER,
    TRANSACTION_KEY,
    TRANSACTION_ORDER,
    TRANSACTION_PREFER,
    labels_schema,
    transactions_schema,
)

from mlops_assets.core.data.base import Malformed
from mlops_assets.core.data.validation import CountsDoNotReconcile, Validation, validate
from mlops_assets.core.data.values.column_values import Unread, UnreadableType, read_column
from mlops_assets.core.data.values.value_rules import USUAL, Rules
from serving.contract.bounds import Bounds

TOO_MUCH = "above 1000000, the highest believable amount ([bounds] max_amount)"
DAY = date(2026, 3, 2)
NUMBERS = [
    "1",
    "2.5",
    "+.5",
    "5.",
    "1e3",
    "1e400",
    "inf",
    "1,5",
    "1.234,5",
    "-0.0",
    "5.0",
    "007.0",
    "9007199254740992.0",
    "4.1E+15",
]
TIMES = [
    "2026-03-02",
    "2026-03-02 10",
    "2026-03-02 10:00",
    "2026-03-02T10:00:00Z",
    "2026-03-02T10:00:00.5+02:00",
    "2026-03-02 10:00:00.1234567",
]
TIMES += [
    "2026-02-30",
    "9999-12-31",
    "2026-10-25 02:30:00",
    "2026-03-29 02:30:00",
    "2026-03-02 10:00 UTC",
    "1772445600000",
    "2026-03-02 24:00",
]
TEXTS = [*NUMBERS, *TIMES, "x", "", "true", "0", "0.0", " 7 ", "NULL", "-", "é"]


def transaction(**changes: object) -> dict[str, object]:
    row = {
        "transaction_id": "a",
        "event_timestamp": "2026-03-02T10:00:00Z",
        "created_timestamp": "2026-03-02T10:00:05Z",
    }
    return {**row, "customer_id": "c", "merchant_id": "m", "amount": 12.5, "is_declined": False, **changes}


def label(**changes: object) -> dict[str, object]:
    return {"transaction_id": "a", "is_fraud": True, "label_timestamp": "2026-03-02T12:00:00Z", **changes}


def transactions(*rows: dict[str, object], known: set[str] | None = None) -> Validation:
    frame = pd.DataFrame(list(rows))
    return validate(
        frame,
        transactions_schema(DAY),
        key=TRANSACTION_KEY,
        order=TRANSACTION_ORDER,
        prefer=TRANSACTION_PREFER,
        known=known,
    )


def labels(*rows: dict[str, object]) -> Validation:
    return validate(pd.DataFrame(list(rows)), labels_schema(DAY), key=LABEL_KEY, order=LABEL_ORDER)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transaction_id": None}, "transaction_id: missing"),
        ({"transaction_id": " "}, "transaction_id: missing"),
        ({"customer_id": None}, "customer_id: missing"),
        ({"amount": "12,50"}, "amount: not a number"),
        ({"amount": "1e400"}, "amount: not a number"),
        ({"amount": float("nan")}, "amount: missing"),
        ({"amount": float("inf")}, f"amount: {TOO_MUCH}"),
        ({"amount": -0.01}, "amount: below 0"),
        ({"amount": 1_000_000.01}, f"amount: {TOO_MUCH}"),
        ({"is_declined": "perhaps"}, "is_declined: not true or false"),
        ({"is_declined": 2}, "is_declined: not true or false"),
        ({"event_timestamp": "2026-02-30T10:00:00Z"}, "event_timestamp: not a time"),
        ({"event_timestamp": "2026-03-02T10:00:06Z"}, "created_timestamp: before event_timestamp"),
        ({"event_timestamp": "1970-01-01T00:00:00Z"}, "event_timestamp: before 2000-01-01"),
        ({"created_timestamp": "2026-03-03T00:00:00Z"}, "created_timestamp: after its day of arrival"),
        (
            {"amount": -1, "created_timestamp": "2026-03-02T09:00:00Z"},
            "amount: below 0; created_timestamp: before event_timestamp",
        ),
        ({"amount": "x", "is_declined": "perhaps"}, "amount: not a number; is_declined: not true or false"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reasons_and_the_good_one_is_accepted(
    changes: dict[str, object], reason: str
) -> None:
    outcome = transactions(transaction(transaction_id="good"), transaction(**changes))
    assert outcome.accepted["transaction_id"].tolist() == ["good"]
    assert outcome.reasons == dict.fromkeys(reason.split("; "), 1)


def test_the_highest_believable_amount_is_configured_and_the_row_keeps_the_refused_amount() -> None:
    schema = transactions_schema(DAY, Bounds(highest={"amount": 92_445_516.64}))
    rows = pd.DataFrame(
        [transaction(amount=92_445_516.64), transaction(transaction_id="more", amount=92_445_517)]
    )
    outcome = validate(rows, schema, key=TRANSACTION_KEY, order=TRANSACTION_ORDER)
    assert outcome.accepted["amount"].tolist() == [92_445_516.64]
    refused = outcome.quarantined.loc[0, ["transaction_id", "amount", "reason"]].tolist()
    reason = 'amount: above 92445516.64, the highest believable amount ([bounds] max_amount) ("92445517.0")'
    assert refused == ["more", "92445517", reason]


@pytest.mark.parametrize("amount", [0, 0.0, "0", 1_000_000, "12.50", 3])
def test_amounts_from_nothing_to_the_limit_are_accepted_however_they_are_written(amount: object) -> None:
    outcome = transactions(transaction(amount=amount))
    assert outcome.accepted["amount"].tolist() == [float(str(amount))]


def test_accepted_rows_have_their_types_whatever_came_in() -> None:
    for outcome in (
        transactions(transaction(amount="1", is_declined="true")),
        transactions(transaction(amount="x")),
    ):
        assert {name: str(kind) for name, kind in outcome.accepted.dtypes.items()} == {
            "transaction_id": "object",
            "event_timestamp": "datetime64[us, UTC]",
            "created_timestamp": "datetime64[us, UTC]",
            "customer_id": "object",
            "merchant_id": "object",
            "amount": "float64",
            "is_declined": "bool",
        }


def test_quarantined_values_are_text_as_they_came() -> None:
    bad = transactions(transaction(amount=-5, event_timestamp="yesterday", customer_id=17)).quarantined.iloc[
        0
    ]
    assert bad[["amount", "event_timestamp", "customer_id", "is_declined"]].tolist() == [
        "-5",
        "yesterday",
        "17",
        "false",
    ]


def test_what_the_source_could_not_read_keeps_its_text_in_quarantine_with_its_place_and_what_to_do() -> None:
    malformed = Malformed(
        {"amount": Unread("12,50", "not a number; set decimal")}, "tx.csv, line 14"
    ).encode()
    outcome = transactions(
        transaction(amount=None, malformed=malformed), transaction(transaction_id="b", malformed=None)
    )
    reason = 'amount: not a number ("12,50" in tx.csv, line 14; set decimal)'
    assert outcome.quarantined[["amount", "reason"]].to_numpy().tolist() == [["12,50", reason]]
    assert outcome.accepted["transaction_id"].tolist() == ["b"]
    assert outcome.reasons == {"amount: not a number": 1}
    assert outcome.examples == {"amount: not a number": reason}


@pytest.mark.parametrize("column", ["amount", "format", "place", "columns"])
def test_homes_of_before_hold_unread_text_without_a_reason_or_a_place(column: str) -> None:
    assert Malformed.decode(json.dumps({column: "12,50"})) == Malformed({column: Unread("12,50", "")})
    now = Malformed({column: Unread("12,50 é", "not a number"), "b": Unread("", "")}, "tx.csv, line 14")
    assert Malformed.decode(now.encode()) == now


def test_a_raw_day_of_a_home_of_before_is_sorted_with_the_text_that_it_holds() -> None:
    outcome = transactions(transaction(amount=None, malformed='{"amount": "12,50"}'))
    assert outcome.quarantined[["amount", "reason"]].to_numpy().tolist() == [
        ["12,50", 'amount: not a number ("12,50")']
    ]


def test_reasons_are_counted_together_whatever_stood_there() -> None:
    outcome = transactions(
        *(transaction(transaction_id=f"t{i}", amount=f"{i} apples") for i in range(5)),
        transaction(amount=-1.0),
    )
    assert outcome.reasons == {"amount: not a number": 5, "amount: below 0": 1}
    assert outcome.examples["amount: below 0"] == 'amount: below 0 ("-1.0")'
    assert outcome.quarantined["reason"].nunique() == 6


def test_a_reason_quotes_the_beginning_of_a_long_text_and_its_column_holds_the_whole() -> None:
    text = "x" * 10_000
    bad = transactions(transaction(amount=text)).quarantined.iloc[0]
    assert bad["amount"] == text
    assert len(bad["reason"]) < 200


def test_a_reason_is_one_line_whatever_stood_there() -> None:
    for text in ("1\n2", "1\r\n2", "1\u20282", "\ta\x00"):
        bad = transactions(transaction(amount=text)).quarantined.iloc[0]
        assert bad["amount"] == text
        assert len(bad["reason"].splitlines()) == 1
        assert bad["reason"].isprintable()
    assert (
        'amount: not a number ("1\\n2"'
        in transactions(transaction(amount="1\n2")).quarantined.iloc[0]["reason"]
    )


def test_an_exact_repeat_is_a_duplicate_and_counted() -> None:
    outcome = transactions(transaction(), transaction(amount="12.5"), transaction(amount="12.50"))
    assert outcome.counts == {"received": 3, "accepted": 1, "duplicate": 2, "quarantined": 0}


def test_of_contradicting_rows_the_first_created_is_kept_in_whatever_order_they_come() -> None:
    early, late = transaction(amount=9.0), transaction(amount=1.0, created_timestamp="2026-03-02T11:00:00Z")
    tied = transaction(amount=10.0)
    for rows in ([early, late, tied], [late, tied, early], [tied, early, late]):
        outcome = transactions(*rows)
        assert outcome.accepted["amount"].tolist() == [9.0]
        assert outcome.quarantined["reason"].tolist() == ["conflicting duplicate"] * 2


def test_a_bad_row_never_displaces_a_good_one_of_the_same_id() -> None:
    outcome = transactions(transaction(amount=-1, created_timestamp="2026-03-02T10:00:00Z"), transaction())
    assert outcome.accepted["amount"].tolist() == [12.5]


def test_an_id_that_was_accepted_on_another_day_is_quarantined() -> None:
    outcome = transactions(transaction(), transaction(transaction_id="b"), known={"a"})
    assert outcome.accepted["transaction_id"].tolist() == ["b"]
    assert outcome.reasons == {"transaction_id: accepted on another day": 1}


def test_labels_that_agree_or_contradict_later_are_history_and_only_a_repeat_is_a_duplicate() -> None:
    later, contrary = (
        label(label_timestamp="2026-03-02T15:00:00Z"),
        label(is_fraud=False, label_timestamp="2026-03-02T13:00:00Z"),
    )
    outcome = labels(later, label(), contrary, label())
    assert outcome.counts == {"received": 4, "accepted": 3, "duplicate": 1, "quarantined": 0}
    assert outcome.accepted["is_fraud"].tolist() == [True, False, True]


def test_a_clock_a_day_ahead_does_not_bring_a_label_of_tomorrow() -> None:
    assert labels(label(label_timestamp="2026-03-03T00:00:00Z")).reasons == {
        "label_timestamp: after its day of arrival": 1
    }


def test_accepted_rows_come_in_the_order_of_their_time_and_id() -> None:
    rows = [
        transaction(transaction_id=i, event_timestamp=f"2026-03-02T0{h}:00:00Z")
        for i, h in (("c", 2), ("b", 1), ("a", 2))
    ]
    assert transactions(*rows).accepted["transaction_id"].tolist() == ["b", "a", "c"]


def test_no_rows_at_all_reconcile_with_the_right_types() -> None:
    outcome = validate(
        pd.DataFrame([transaction()]).head(0),
        transactions_schema(DAY),
        key=TRANSACTION_KEY,
        order=TRANSACTION_ORDER,
    )
    assert outcome.counts == {"received": 0, "accepted": 0, "duplicate": 0, "quarantined": 0}
    assert str(outcome.accepted["event_timestamp"].dtype) == "datetime64[us, UTC]"
    assert outcome.quarantined.columns.tolist()[-1] == "reason"
    assert outcome.reasons == {}


def test_counts_that_do_not_add_up_are_an_error_with_the_counts() -> None:
    with pytest.raises(CountsDoNotReconcile, match="'received': 5"):
        Validation(pd.DataFrame({"a": [1]}), pd.DataFrame({"reason": ["x"]}), duplicates=2, received=5)


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "transaction_id": st.sampled_from(["a", "b", "c", None, ""]),
                "amount": st.sampled_from([1.0, 2.0, "3", "x", -1, None, float("inf")]),
                "created_timestamp": st.sampled_from(
                    ["2026-03-02T10:00:00Z", "2026-03-02T11:00:00+01:00", "2026-03-02T09:00:00", "soon"]
                ),
                "is_declined": st.sampled_from([True, False, "true", 0, "no"]),
            }
        ),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_counts_reconcile_and_the_order_of_arrival_changes_nothing(
    changes: list[dict[str, object]], random: object
) -> None:
    rows = [transaction(**change) for change in changes]
    once = transactions(*rows)
    random.shuffle(rows)  # type: ignore[attr-defined]
    again = transactions(*rows)
    assert once.counts == again.counts
    assert once.accepted.equals(again.accepted)
    assert once.accepted["transaction_id"].is_unique
    assert sorted(once.quarantined["reason"]) == sorted(again.quarantined["reason"])


@settings(max_examples=60)
@given(
    st.sampled_from(["number", "time", "flag", "id"]),
    st.sampled_from(
        [
            USUAL,
            Rules(
                decimal=",", thousands=".", timezone="Europe/Berlin", epoch="ms", missing=("0",), true=("x",)
            ),
        ]
    ),
    st.lists(st.sampled_from(TEXTS)),
)
def test_whether_a_value_can_be_read_does_not_depend_on_its_neighbours(
    kind: str, rules: Rules, texts: list[str]
) -> None:
    together, bad = read_column(pa.array(texts, pa.string()), kind, "c", rules)  # type: ignore[arg-type]
    alone = [read_column(pa.array([text]), kind, "c", rules) for text in texts]  # type: ignore[arg-type]
    assert together.to_pylist() == [value[0].as_py() for value, _ in alone]
    assert bad == {row: unread[0] for row, (_, unread) in enumerate(alone) if unread}


def test_a_type_that_could_hold_no_value_of_the_kind_is_an_error_of_the_column() -> None:
    with pytest.raises(
        UnreadableType, match=r"column 'when' is of type int64, which cannot be read as a time"
    ):
        read_column(pa.array([1, 2]), "time", "when")
