"""The feeds as `mlops doctor` sees them before the first backfill: what is found, what would be quarantined,
and all that is wrong at once.
"""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.cli.command_line import main
from mlops_assets.cli.feed_preview import Look, look_at_feeds, shown
from mlops_assets.resources.config_sections import Time
from mlops_assets.resources.environments import Settings
from mlops_assets.use_cases.fraud.case import FRAUD

COLUMNS = {
    "transaction_id": "id",
    "event_timestamp": "when",
    "customer_id": "cust",
    "merchant_id": "shop",
    "amount": "amt",
}

TODAY = date(2026, 11, 1)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """Two days of 30 payments, one of them without a readable amount, and labels of six of them."""
    (tmp_path / "feed").mkdir()
    amounts = ["abc" if number == 7 else f"{number}.50" for number in range(60)]
    lines = [
        f"{n:05d};2026-01-0{1 + n // 30} 10:00:00;c{n % 7};s{n % 3};{amount}"
        for n, amount in enumerate(amounts)
    ]
    (tmp_path / "feed" / "payments.csv").write_text("\n".join(["id;when;cust;shop;amt", *lines, ""]))
    write_labels(tmp_path, "{:05d}")
    return tmp_path


def write_labels(folder: Path, form: str) -> None:
    lines = [f"{form.format(number)},2026-01-05 00:00:00" for number in range(0, 60, 10)]
    (folder / "labels.csv").write_text("\n".join(["transaction_id,label_timestamp", *lines, ""]))


def looked(
    folder: Path, time: Time | None = None, columns: dict[str, str] = COLUMNS, **labels: Any
) -> dict[str, Look]:
    source = {"kind": "files", "path": "feed", "columns": columns, "labels": labels or {"path": "labels.csv"}}
    settings = Settings(home=folder / "home", source=source, config_base=folder, time=time or Time())
    found = {look.name: look for look in look_at_feeds(FRAUD, settings, TODAY)}
    assert sorted(path.name for path in folder.iterdir()) in (
        ["feed", "labels.csv"],
        ["feed"],
    ), "looking writes nothing"
    return found


def test_the_mapping_the_days_and_what_would_be_quarantined_are_shown_with_text_and_place(bank: Path) -> None:
    look = looked(bank)["transactions"]
    assert look.mapping["amount"] == ("amt", "0.5")
    assert look.mapping["event_timestamp"] == ("when", "2026-01-01 10:00:00")
    assert look.mapping["created_timestamp"][0] == "missing, event_timestamp"
    assert (look.files, look.first_day, look.last_day) == (1, date(2026, 1, 1), date(2026, 1, 2))
    assert (look.sampled, look.quarantined, look.problems) == (60, 1, [])
    assert look.reasons == [(1, 'amount: not a number ("abc" in payments.csv, line 9)')]
    told = shown(list(looked(bank).values()))
    assert (
        "transactions: 1 file, arrival days 2026-01-01 to 2026-01-02; 60 rows looked at, 1 would be"
        " quarantined\n" in told
    )
    assert "\n  transaction_id     id                        00000\n" in told
    assert '\n  1     amount: not a number ("abc" in payments.csv, line 9)\n' in told


def test_more_than_may_be_quarantined_is_a_problem(bank: Path) -> None:
    (problem,) = looked(bank, columns=COLUMNS | {"amount": "cust"})["transactions"].problems
    assert problem.startswith(
        "transactions: 100% of the rows looked at would be quarantined, more than [ingest]"
        " max_quarantined_share = 0.05: amount: "
    )
    assert '"c0" in payments.csv, line 2' in problem


def test_labels_of_transactions_of_the_days_before_them_are_counted(bank: Path) -> None:
    assert looked(bank)["labels"].notes == [
        "6 of 6 labels are of transactions that arrived from 2025-12-06 to 2026-01-05"
    ]


def test_labels_whose_ids_match_nothing_are_a_problem_that_shows_both_forms(bank: Path) -> None:
    write_labels(bank, "{:d}")
    (problem,) = looked(bank)["labels"].problems
    assert (
        problem == "labels: none of 6 belongs to a transaction; their ids look like '0', "
        "those of transactions that arrived from 2025-12-06 to 2026-01-05 like '00000'"
    )


def test_labels_in_the_transactions_files_are_looked_at_too(bank: Path) -> None:
    assert looked(bank, is_fraud="shop", delay_days=2)["labels"].sampled == 60
    assert (
        looked(bank, is_fraud="fraud", delay_days=2)["labels"]
        .problems[0]
        .startswith(f"labels: {bank}/feed/payments.csv: column 'fraud' is missing")
    )


def test_a_feed_without_labels_says_so_and_shows_no_columns_of_them(bank: Path) -> None:
    source = {"kind": "files", "path": "feed", "columns": COLUMNS}
    labels = look_at_feeds(FRAUD, Settings(home=bank / "home", source=source, config_base=bank), TODAY)[1]
    told = "labels: arrival days 2026-01-01 to 2026-01-02; 0 rows looked at, 0 would be quarantined"
    assert (
        shown([labels])
        == f"\n{told}\n  there is no [source.labels]: no label comes from files, and without labels nothing"
        " is learnt\n"
    )


def test_days_beside_the_calendar_say_which_start_to_set(bank: Path) -> None:
    (problem,) = looked(bank, Time(date(2026, 3, 1)))["transactions"].problems
    assert (
        problem
        == "transactions: arrived from 2026-01-01 to 2026-01-02, and [time] start = 2026-03-01: no row would"
        " be read; set start = 2026-01-01"
    )
    assert looked(bank, Time(date(2026, 1, 2), date(2026, 3, 1)))["transactions"].problems == []


def test_rows_of_no_day_that_is_made_are_counted(bank: Path) -> None:
    with (bank / "feed" / "payments.csv").open("a") as file:
        file.write("later;2093-01-01 10:00:00;c1;s1;5\nnever;2010-01-01 00:00:00;c1;s1;5\n")
    assert looked(bank)["transactions"].notes == [
        "1 of the rows looked at arrive from 2010-01-01 to 2010-01-01, before [time] start = 2026-01-01",
        (
            "1 of the rows looked at arrive from 2093-01-01 to 2093-01-01, on days that have not come: mend"
            " their times"
        ),
    ]
    assert (
        "after [time] end = 2026-01-31"
        in looked(bank, Time(date(2026, 1, 1), date(2026, 1, 31)))["transactions"].notes[1]
    )


def test_labels_that_nobody_configured_are_said_to_be_missing(bank: Path) -> None:
    (bank / "labels.csv").unlink()
    source = {"kind": "files", "path": "feed", "columns": COLUMNS}
    _, labels = look_at_feeds(FRAUD, Settings(home=bank / "home", source=source, config_base=bank), TODAY)
    assert labels.notes == [
        "there is no [source.labels]: no label comes from files, and without labels nothing is learnt"
    ]


def test_what_a_simulated_bank_sends_first_is_shown(settings: Settings) -> None:
    transactions, labels = look_at_feeds(
        FRAUD,
        replace(settings, time=Time(date(2026, 1, 1)), source={"kind": "simulator", "customers": 900}),
        TODAY,
    )
    assert transactions.sampled == 1_000
    assert transactions.quarantined == 0
    assert labels.sampled > 50
    assert transactions.problems == labels.problems == []


@pytest.mark.slow
def test_all_that_is_wrong_with_the_feeds_is_told_and_exit_1(
    bank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = "\n".join(
        f'{name} = "{feed}"'
        for name, feed in (COLUMNS | {"amount": "amount_eur", "merchant_id": "shp"}).items()
    )
    labels = '[source.labels]\npath = "lables.csv"\n'
    (bank / "mlops.toml").write_text(
        f'[source]\nkind = "files"\npath = "feed"\n[source.columns]\n{columns}\n{labels}'
    )
    monkeypatch.setenv("MLOPS_HOME", str(bank / "home"))
    monkeypatch.setenv("MLOPS_CONFIG", str(bank / "mlops.toml"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "\ntransactions: cannot be read\n" in said.out
    first, one, two = said.err.removesuffix("\n").split("\n")
    assert first == "mlops: the feeds: 2 problems"
    assert one.startswith(
        f"  transactions: {bank}/feed/payments.csv: columns 'shp', 'amount_eur' are missing; there are id,"
        " when, cust, shop, amt;"
    )
    assert (
        two == f"  labels: {bank}/lables.csv: no such file or folder; {bank} holds feed/, home/, labels.csv,"
        " mlops.toml"
    )
