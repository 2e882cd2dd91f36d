"""The guard itself: what it finds, and what it leaves alone."""

import pytest
from vocabulary import FILES, ROOT, findings_in


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def scored(transaction_id): ...", ["transaction"]),
        ("class CustomerState: ...", ["customer"]),
        ("amounts = 1", ["amount"]),
        ('"""Each merchant\'s rate of fraud."""', ["fraud", "merchant"]),
        ("# what a payment costs", ["payment"]),
        ('x = f"the {noun} of a card"', ["card"]),
        ('if decision == "BLOCK": ...', ["BLOCK"]),
        ("flags = row.is_declined", ["is_declined"]),
        ('import sqlite3\nkind = "transaction"', ["transaction"]),
        ('import sqlite3\nquery = "SELECT transaction_id FROM decisions"', ["transaction"]),
    ],
)
def test_a_word_of_a_use_case_is_found_wherever_it_stands(source: str, words: list[str]) -> None:
    assert sorted(one.word for one in findings_in(source, "core/x.py")) == words


@pytest.mark.parametrize(
    "source",
    [
        "def scored(event_id): ...",
        '"""The model card of a version."""',
        "k = settings.model.card_k",
        "blocked = allow(review)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, ())",
        "# All in one transaction",
        'FORMER = {"card": "key"}  # guard: ok',
        '"""A SQLite transaction."""',
        "import sqlite3\nwith transaction(connection): ...",
        "import sqlite3\n# A writer calls it at the beginning of each transaction",
    ],
)
def test_neutral_words_and_the_terms_of_a_database_are_left_alone(source: str) -> None:
    assert list(findings_in(source, "core/x.py")) == []


def test_a_finding_names_its_line() -> None:
    (found,) = findings_in('x = 1\n"""\nOf a bank.\n"""\n', "core/x.py")
    assert (found.path, found.line, found.text) == ("core/x.py", 3, "Of a bank.")


def test_no_exception_is_left_over_from_a_module_that_is_gone() -> None:
    assert [path for path in FILES if not (ROOT / path).exists()] == []
