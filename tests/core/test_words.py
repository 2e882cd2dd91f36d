"""The words of a use case, in reports and in stored columns."""

from dataclasses import replace

import pytest

from mlops_assets.core.words import Words, as_column, plural, several_of_key
from mlops_assets.use_cases.fraud.case import FRAUD


def test_fraud_reads_as_it_always_did() -> None:
    words = Words.of(FRAUD)
    assert (words.events, words.positives, words.negative) == ("transactions", "frauds", "legitimate")
    assert (words.worth, words.value, words.values) == ("money", "amount", "amounts")
    assert (words.precision_at_k, words.saved) == ("card_precision_at_k", "money_saved")
    assert [words.of_positives(what) for what in ("", "caught")] == ["fraud_money", "caught_money"]


def test_without_a_value_there_are_cases() -> None:
    words = Words.of(replace(FRAUD, decisions=replace(FRAUD.decisions, value=None)))
    assert (words.worth, words.values, words.saved) == ("cases", "cases", "cases_saved")
    assert words.of_positives("missed") == "missed_cases"


def test_several_positives_without_a_word_of_their_own_are_the_word_and_the_noun() -> None:
    labels = replace(FRAUD.labels, positive="late", positives="")
    words = Words.of(replace(FRAUD, labels=labels))
    assert (words.positives, as_column(words.positives)) == ("late transactions", "late_transactions")


@pytest.mark.parametrize(
    ("noun", "several"),
    [("parcel", "parcels"), ("delivery", "deliveries"), ("box", "boxes"), ("day", "days"), ("bus", "buses")],
)
def test_plurals_follow_the_spelling(noun: str, several: str) -> None:
    assert plural(noun) == several


@pytest.mark.parametrize(
    ("key", "several"),
    [("customer_id", "customers"), ("route", "routes"), ("pick_up_point", "pick up points")],
)
def test_a_key_is_named_without_its_id(key: str, several: str) -> None:
    assert several_of_key(key) == several
