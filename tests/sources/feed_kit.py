"""A feed of three rows, to be written in every shape that a file may have, and its ids as they are read."""

from __future__ import annotations

import io
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from payment_feeds import FilesConfig

from mlops_assets.sources.file_source import FileSource

DAY = date(2026, 3, 1)
COLUMNS = {
    "transaction_id": "ID",
    "event_timestamp": "WHEN",
    "customer_id": "CARD",
    "merchant_id": "SHOP",
    "amount": "AMOUNT",
}
HEADER = "ID,WHEN,CARD,SHOP,AMOUNT,NOTE\n"


def line(number: int, note: str = "n") -> str:
    return f"{number},2026-03-01 10:00:00,c{number},s{number},{number}.25,{note}\n"


FEED = HEADER + "".join(map(line, (1, 2, 3)))


def ids(path: Path, **settings: object) -> list[str]:
    """The ids that are read; every row has to be whole."""
    rows = FileSource(FilesConfig(path=str(path), columns=COLUMNS, **settings)).rows("transactions", DAY, DAY)
    for row in rows.to_pylist():
        number = row["transaction_id"]
        assert (row["customer_id"], row["merchant_id"], row["amount"], row["malformed"]) == (
            f"c{number}",
            f"s{number}",
            float(number) + 0.25,
            None,
        )
    return rows["transaction_id"].to_pylist()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def parquet(**columns: object) -> bytes:
    values = {
        "ID": ["1", "2", "3"],
        "WHEN": [datetime(2026, 3, 1, 10)] * 3,
        "CARD": ["c1", "c2", "c3"],
        "SHOP": ["s1", "s2", "s3"],
    }
    sink = io.BytesIO()
    pq.write_table(pa.table({**values, "AMOUNT": [1.25, 2.25, 3.25], **columns}), sink)
    return sink.getvalue()
