"""The reader of requests takes nothing that the models refuse, and reads every value as the models do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parcel_kit import PARCEL, PARCELS
from pydantic import ValidationError
from serving_kit import payment

from serving.contract.before_subjects import BEFORE
from serving.messages import ReadyVector, ScoredEvent
from serving.protocols.native.request_reader import RequestReader
from serving.protocols.native.wire import Wire

FRAUD, PARCELS_WIRE = Wire(BEFORE), Wire(PARCELS)
READERS = {wire: RequestReader(wire.subject.event) for wire in (FRAUD, PARCELS_WIRE)}

# Parts of a body as text, so that numbers and escapes come in every form.
NUMBERS = st.one_of(
    st.floats(-1e12, 1e12).map(repr),
    st.integers(-(10**25), 10**25).map(str),
    st.sampled_from(["0", "-0", "-0.0", "0.1e1", "1E5", "1e-400", "1e999", "NaN", "Infinity", "-Infinity"]),
    st.sampled_from(["00", "1.", ".5", "+1", "0x1", "1e10", "10000000000.1"]),
    st.text("0123456789", min_size=15, max_size=40),
    st.builds("{}.{}e{}".format, st.integers(0, 10**19), st.integers(0, 10**19), st.integers(-320, 20)),
)
TEXTS = st.one_of(
    st.text(max_size=4).map(json.dumps),
    st.text(max_size=4).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        ["c", " c", "c ", "", "c\x85", "\u200b", "a\u00a0b", "x" * 200, "x" * 201, "é" * 200]
    ).map(json.dumps),
    st.sampled_from(['"\\ud800"', '"\\ud83d\\ude00"', '"a\x01"', '"\\u0000"', '"a\\tb"', '"\\x41"']),
)
TIMES = st.one_of(
    st.builds(
        '"{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}{}"'.format,
        st.sampled_from([0, 1, 1999, 2000, 2018, 2024, 9999]),
        st.sampled_from([0, 1, 2, 4, 12, 13]),
        st.sampled_from([0, 1, 28, 29, 30, 31]),
        st.sampled_from(["T", "t", " ", "_"]),
        st.sampled_from([0, 9, 23, 24]),
        st.sampled_from([0, 59, 60]),
        st.sampled_from([0, 59, 60]),
        st.sampled_from(["", ".1", ".123456", ".1234567", ".9999999", ",5", "."]),
        st.sampled_from(
            ["Z", "z", "", "+00:00", "-00:00", "+0100", "+01:00", "-23:59", "+24:00", "+01:60", "+01"]
        ),
    ),
    st.sampled_from(
        ['"2018-04-01"', '"20180401T100000Z"', '"1522540800"', "1522540800", '"2018-W13-7T10:00:00Z"']
    ),
)
VALUES = st.one_of(NUMBERS, TEXTS, TIMES, st.sampled_from(["null", "true", "false", "[]", "{}", "[1]"]))


def of_kind(name: str, value: object) -> st.SearchStrategy[str]:
    """A value for a field: often as it is, else of its own kind, else anything."""
    own = TIMES if name.endswith("_timestamp") else TEXTS if isinstance(value, str) else NUMBERS
    return st.one_of(st.just(json.dumps(value)), own, VALUES)


def members(example: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[str]:
    """Objects like the example, with fields that are wrong, missing, unknown or twice there."""
    whole = {**example, **optional}
    fields = st.tuples(*(of_kind(name, value) for name, value in whole.items()))
    kept = st.lists(st.sampled_from([*whole, *whole, "unknown"]), max_size=2)

    def written(values: tuple[str, ...], odd: list[str]) -> str:
        parts = [
            f'"{name}": {value}'
            for name, value in zip(whole, values, strict=True)
            if not (name in odd and name in optional)
        ]
        return "{" + ", ".join([*parts, *(f'"{name}": 1' for name in odd if name not in optional)]) + "}"

    def one_change(values: tuple[str, ...], position: int, odd: list[str]) -> str:
        only = [json.dumps(value) for value in whole.values()]
        only[position % len(only)] = values[position % len(only)]
        return written(tuple(only), odd)

    return st.one_of(
        st.builds(one_change, fields, st.integers(0, 20), st.just([])),
        st.builds(one_change, fields, st.integers(0, 20), kept),
        st.builds(written, fields, kept),
    )


def bodies(noun: str, example: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[str]:
    vector = st.builds('{{"a": {}, "b": {}}}'.format, st.one_of(NUMBERS, VALUES), NUMBERS)
    return st.one_of(
        st.builds(('{{"' + noun + '": {}}}').format, members(example, optional)),
        st.builds('{{"features": {}}}'.format, vector),
        st.builds('{{"features": {}, "prediction_id": {}}}'.format, vector, st.one_of(TEXTS, VALUES)),
        st.builds(('{{"features": {}, "' + noun + '": {}}}').format, vector, members(example, optional)),
        VALUES,
    )


FRAUD_BODIES = bodies(
    "transaction", payment(1), {"is_declined": False, "created_timestamp": "2018-04-01T10:00:00Z"}
)
PARCEL_BODIES = bodies(
    "parcel",
    PARCEL,
    {"vehicle_id": "v1", "service_level": "standard", "created_timestamp": "2018-04-01T10:00:00Z"},
)


def by_the_models(wire: Wire, body: bytes) -> ScoredEvent | ReadyVector | None:
    try:
        return wire.asked_of(wire.request.model_validate_json(body))
    except ValidationError:
        return None


def agree(wire: Wire, body: bytes) -> bool:
    """Whether the reader takes a body; the models then have to read the same, to the last sign of a zero."""
    read = READERS[wire].read(body)
    if read is not None:
        assert repr(read) == repr(by_the_models(wire, body)), body
    return read is not None


@settings(max_examples=300, deadline=None)
@given(body=FRAUD_BODIES)
def test_what_the_reader_takes_of_payments_the_models_read_alike(body: str) -> None:
    agree(FRAUD, body.encode())


@settings(max_examples=300, deadline=None)
@given(body=PARCEL_BODIES)
def test_what_the_reader_takes_of_parcels_the_models_read_alike(body: str) -> None:
    agree(PARCELS_WIRE, body.encode())


@pytest.mark.parametrize(
    ("wire", "asked"),
    [
        (FRAUD, {"transaction": payment(1)}),
        (FRAUD, {"transaction": payment(1, amount=12, is_declined=True)}),
        (FRAUD, {"transaction": payment(1, created_timestamp="2018-04-01T10:00:00.123456+02:00")}),
        (FRAUD, {"transaction": payment(1, customer_id="Zoë 1")}),
        (FRAUD, {"features": {"a": 1, "b": -0.5, "c": None}}),
        (FRAUD, {"features": {}, "prediction_id": "v1"}),
        (PARCELS_WIRE, {"parcel": PARCEL}),
        (PARCELS_WIRE, {"parcel": {**PARCEL, "vehicle_id": None, "service_level": "express"}}),
    ],
)
def test_the_reader_takes_what_clients_usually_send(wire: Wire, asked: dict[str, Any]) -> None:
    assert agree(wire, json.dumps(asked).encode())


@pytest.mark.parametrize(
    ("spoil", "taken"),
    [
        (lambda text: text.replace("17.5", "1e999"), False),
        (lambda text: text.replace("17.5", "NaN"), False),
        (lambda text: text.replace("17.5", '"17.5"'), False),
        (lambda text: text.replace("17.5", "true"), False),
        (lambda text: text.replace("17.5", "10000000000.5"), False),
        (lambda text: text.replace('"c1"', '"\udc80"'), False),
        (lambda text: text.replace('"c1"', '"\\ud83d\\ude00"'), True),
        (lambda text: "[" * 100_000, False),
        (lambda text: '{"features": ' * 50_000, False),
        (lambda text: text + " x", False),
    ],
)
def test_the_reader_leaves_to_the_models_what_is_wrong(spoil: Callable[[str], str], taken: bool) -> None:
    text = spoil(json.dumps({"transaction": payment(1, amount=17.5)}))
    assert agree(FRAUD, text.encode(errors="surrogateescape")) is taken
