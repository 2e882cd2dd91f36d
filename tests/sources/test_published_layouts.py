"""Data sets that people have, in their form, described by the configuration in docs/data.md alone."""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest
from payment_feeds import (
    TRANSACTION_KEY,
    TRANSACTION_ORDER,
    TRANSACTION_PREFER,
    transactions_schema,
)

from mlops_assets.core.data.base import Source, SourceError, by_day
from mlops_assets.core.data.validation import Validation, validate
from mlops_assets.sources.source_kinds import open_source
from mlops_assets.use_cases.fraud.case import FRAUD

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
SPARKOV = (
    ",trans_date_trans_time,cc_num,merchant,category,amt,first,last,gender,street,city,state,zip,lat,long,city_pop,job,dob,"
    "trans_num,unix_time,merch_lat,merch_long,is_fraud"
)
PAYSIM = (
    "step,type,amount,nameOrig,oldbalanceOrg,newbalanceOrig,nameDest,oldbalanceDest,newbalanceDest,isFraud,"
    "isFlaggedFraud"
)
PCA = ",".join(["Time", *(f"V{i}" for i in range(1, 29)), "Amount", "Class"])


def documented(name: str, base: Path) -> Source:
    """The source that the first TOML block after the layout's name in the docs describes."""
    block = re.search(rf"\*\*{name}\*\*.*?```toml\n(.*?)```", DOCUMENTED, re.DOTALL)
    assert block is not None
    return open_source(FRAUD, tomllib.loads(block[1])["source"], base)


def write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def accepted(source: Source, day: date) -> Validation:
    frame = by_day(source.rows("transactions", day, day), day, day)[day.isoformat()].to_pandas()
    return validate(
        frame,
        transactions_schema(day),
        key=TRANSACTION_KEY,
        order=TRANSACTION_ORDER,
        prefer=TRANSACTION_PREFER,
    )


def sparkov(number: int, minute: int, amount: float, fraud: int) -> list[object]:
    person = [
        "Ann",
        "Lee",
        "F",
        "1 Main St, Apt 2",
        "Here",
        "NC",
        "01234",
        36.07,
        -81.17,
        3495,
        "Psychologist, child",
        "1988-03-09",
    ]
    payment = [
        number,
        f"2019-01-01 00:{minute:02d}:18",
        2703186189652095,
        'fraud_Doe, Roe and "Sons"',
        "misc_net",
        amount,
    ]
    return [
        *payment,
        *person,
        f"0b242abb623afc578575680df30655b{number}",
        1325376018 + 60 * minute,
        36.01,
        -82.04,
        fraud,
    ]


def test_sparkov_works_from_its_configuration(tmp_path: Path) -> None:
    write(
        tmp_path / "sparkov" / "fraudTrain.csv",
        SPARKOV,
        [sparkov(i, i, 4.97 + i, int(i == 2)) for i in range(4)],
    )
    source = documented("Sparkov", tmp_path)
    outcome = accepted(source, date(2019, 1, 1))
    assert outcome.counts == {"received": 4, "accepted": 4, "duplicate": 0, "quarantined": 0}
    first = outcome.accepted.iloc[0]
    assert (first["transaction_id"], first["customer_id"]) == (
        "0b242abb623afc578575680df30655b0",
        "2703186189652095",
    )
    assert (first["merchant_id"], first["amount"]) == ('fraud_Doe, Roe and "Sons"', 4.97)
    assert first["event_timestamp"].isoformat() == "2019-01-01T00:00:18+00:00"
    labels = source.rows("labels", date(2019, 1, 1), date(2019, 1, 31)).to_pylist()
    assert [(label["transaction_id"][-1], label["label_timestamp"].isoformat()) for label in labels] == [
        ("2", "2019-01-08T00:02:18+00:00")
    ]


def test_paysim_works_from_its_configuration(tmp_path: Path) -> None:
    rows = [
        [1, "PAYMENT", 9839.64, "C1231006815", 170136.0, 160296.36, "M1979787155", 0.0, 0.0, 0, 0],
        [1, "TRANSFER", 181.0, "C1305486145", 181.0, 0.0, "C553264065", 0.0, 0.0, 1, 0],
        [1, "TRANSFER", 181.0, "C1305486145", 181.0, 0.0, "C553264065", 0.0, 0.0, 1, 0],
        [25, "CASH_OUT", 181.0, "C840083671", 181.0, 0.0, "C38997010", 21182.0, 0.0, 1, 0],
    ]
    write(tmp_path / "paysim" / "PS_log.csv", PAYSIM, rows)
    source = documented("PaySim", tmp_path)
    first, second = accepted(source, date(2026, 1, 1)), accepted(source, date(2026, 1, 2))
    assert first.counts == {"received": 3, "accepted": 2, "duplicate": 1, "quarantined": 0}
    assert first.accepted["transaction_id"].tolist() == [
        "1-PAYMENT-C1231006815-M1979787155-9839.64",
        "1-TRANSFER-C1305486145-C553264065-181",
    ]
    assert first.accepted["amount"].tolist() == [9839.64, 181.0]
    assert second.accepted["event_timestamp"].iloc[0].isoformat() == "2026-01-02T01:00:00+00:00"
    labels = source.rows("labels", date(2026, 1, 8), date(2026, 1, 9))
    assert labels["transaction_id"].to_pylist() == [
        "1-TRANSFER-C1305486145-C553264065-181",
        "1-TRANSFER-C1305486145-C553264065-181",
        "25-CASH_OUT-C840083671-C38997010-181",
    ]


def test_the_credit_card_pca_set_is_refused_with_what_is_missing_and_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "pca" / "creditcard.csv", PCA, [[0, *[0.1] * 28, 149.62, 0]])
    columns = {
        "transaction_id": {"columns": ["Time", "V1", "V2", "Amount"]},
        "event_timestamp": {"column": "Time", "unit": "seconds", "since": date(2013, 9, 1)},
        "amount": "Amount",
    }
    source = open_source(
        FRAUD,
        {
            "kind": "files",
            "path": "pca",
            "columns": columns,
            "labels": {"is_fraud": "Class", "delay_days": 7},
        },
        tmp_path,
    )
    with pytest.raises(SourceError) as refused:
        source.rows("transactions", date(2013, 9, 1), date(2013, 9, 1))
    said = str(refused.value)
    assert said.startswith(
        f"{tmp_path / 'pca' / 'creditcard.csv'}: columns 'customer_id', 'merchant_id' are missing; there are"
        " Time, V1, "
    )
    assert (
        "Amount, Class; without customer_id no windowed feature of a customer can be computed; without"
        " merchant_id no windowed feature" in said
    )
    assert "\n" not in said
