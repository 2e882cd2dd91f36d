"""A configuration that cannot be used: all that is wrong with it in one go, each with its place and a way
out.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_assets.cli.command_line import main
from mlops_assets.cli.platform import configured
from mlops_assets.resources.config_file import ConfigError
from mlops_assets.resources.environments import load_settings

Refused = Callable[..., list[str]]
GOOD = """
[time]
start = 2025-03-01
end = 2025-04-30

[source]
kind = "simulator"
start = 2025-03-01
"""
BAD = """
colour = "red"
maturity_days = 3

[time]
start = "yesterday"
end = 2025-04-30

[model]
train_dayz = 3
train_days = "many"
warm_up_days = -1
min_positives = 3

[costs]
review_cost = -1
insult_cost = -2
reviews_per_day = true

[guard]
watch_days = 99
max_p99_ms = 0

[source]
kind = "files"
path = "feed"

[source.columns]
event_tme = "TX_TIME"
colour = "TX_COLOUR"

[source.labels]
is_frd = "TX_FRAUD"
delay_days = -1
"""


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def ask(text: str, *words: str) -> list[str]:
        Path("bad.toml").write_text(text)
        monkeypatch.setenv("MLOPS_CONFIG", "bad.toml")
        assert main(words or ["status"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert not (tmp_path / "home").exists()
        return said.err.removesuffix("\n").split("\n")

    return ask


def test_all_problems_of_all_sections_are_told_at_once_a_line_each(refused: Refused) -> None:
    first, *problems = refused(BAD)
    assert first == f"mlops: bad.toml: {len(problems)} problems"
    begins = [
        "  unknown key 'colour'; known are bounds, business, costs,",
        "  unknown key 'maturity_days'; it belongs to [verdicts]",
        "  [time] start: ",
        "  [model] unknown key 'train_dayz'; is it train_days?; known are holdout_days, train_days,",
        "  [model] unknown key 'min_positives'; it belongs to [gate]",
        "  [model] train_days: has to be a valid integer, unable to parse string as an integer, not 'many'",
        "  [model] warm_up_days: has to be greater than or equal to 0, not -1",
        "  [costs] reviews_per_day: has to be a number, not true",
        "  [costs] review_cost of -1.0: a number from 0 up is needed",
        "  [costs] insult_cost of -2.0: a number from 0 up is needed",
        "  [guard] watch_days has to be from 1 to 23, for as long as measurements are kept, not 99",
        "  [guard] max_p99_ms has to be from 1 to 1000, not 0",
        "  [source] labels: unknown key 'is_frd'; is it is_fraud?; known are ",
        "  [source] labels.delay_days: has to be greater than or equal to 0, not -1",
        (
            "  [source] unknown column 'colour'; unknown column 'event_tme'; is it event_timestamp?; there"
            " are transaction_id, event_timestamp,"
        ),
    ]
    assert all(line.startswith(begin) for line, begin in zip(problems, begins, strict=True)), problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            GOOD + "[model]\nholdout_days = 90\n",
            "[model] train_days of 90 leaves nothing to learn from before a holdout_days of 90",
        ),
        (
            GOOD.replace("end = 2025-04-30", "end = 2025-02-28"),
            "[time] end = 2025-02-28 is before start = 2025-03-01",
        ),
        (GOOD + "[gate]\nconfidence = 95\n", "[gate] confidence: has to be less than 1, not 95"),
        (
            GOOD + "[drift]\ndrift_share = 20\n",
            "[drift] drift_share: has to be less than or equal to 1, not 20",
        ),
        (
            GOOD + "[recipe]\nfeature_fraction = 0\nlegitimate_share = 0\n",
            "[recipe] legitimate_share of 0.0: a share above 0, up to 1, is needed",
        ),
        (GOOD.replace("[time]", "[tme]"), "unknown key 'tme'; is it time?; known are"),
        (
            GOOD.replace('"simulator"', '"simulatr"'),
            "[source] kind 'simulatr' is not known; is it simulator?; there are simulator, files.",
        ),
        (GOOD.replace('kind = "simulator"', ""), "[source] kind: is missing; there are simulator, files"),
        (
            GOOD.replace('"simulator"', '"kafka"'),
            "such as a database or a queue, export files and read these",
        ),
        ("use_case = 'frauds'\n" + GOOD, "use_case 'frauds' is not known; is it fraud?; there is fraud"),
        ("use_case = 3\n" + GOOD, "use_case has to be a name, not 3"),
        (
            GOOD + "[[source.scenarios]]\nkind = 'cents_for_euros'\nfrom = 2025-04-01\ntill = 2025-04-02\n",
            "scenarios.0: unknown key 'till'",
        ),
        ("model = 3\n" + GOOD, "[model] has to be a table, not 3"),
        (GOOD + "[model\n", "is no TOML: "),
        (
            '[source]\nkind = "files"\npath = "x"\n[source.labels]\npath = "y"\ndelay_days = 3\n',
            (
                "[source] labels: labels with a `path` have times of their own: `delay_days` is for labels in"
                " the transactions' files"
            ),
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(refused: Refused, text: str, told: str) -> None:
    assert told in "\n".join(refused(text))


def test_one_problem_is_one_line(refused: Refused) -> None:
    assert refused(GOOD + "[model]\nholdout_days = 0\n") == [
        "mlops: bad.toml: [model] holdout_days: has to be greater than or equal to 1, not 0"
    ]


def test_a_byte_that_is_no_utf_8_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin.toml").write_bytes(GOOD.encode() + "# Zürich\n".encode("latin-1"))
    monkeypatch.setenv("MLOPS_CONFIG", str(tmp_path / "latin.toml"))
    assert main(["status"]) == 1
    assert (
        "latin.toml: line 9 holds the byte 0xfc, which is not UTF-8; save it as UTF-8"
        in capsys.readouterr().err
    )


def test_a_configuration_file_that_is_not_there_names_those_that_are(
    refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "platform.toml").write_text(GOOD)
    (line,) = refused(GOOD, "--config", "platfrm.toml", "status")
    assert (
        line == f"mlops: {tmp_path}/platfrm.toml: no such configuration file; {tmp_path} holds bad.toml,"
        " platform.toml"
    )
    (line,) = refused(GOOD, "--config", str(tmp_path), "status")
    assert (
        line == f"mlops: {tmp_path}: is a folder; name the TOML file in it: {tmp_path} holds bad.toml,"
        " platform.toml"
    )


def test_what_is_good_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.toml").write_text(GOOD + "[costs]\nreview_cost = 4\n")
    monkeypatch.setenv("MLOPS_CONFIG", str(tmp_path / "good.toml"))
    assert configured().costs.review_cost == 4.0
    (tmp_path / "good.toml").write_text(GOOD + "[costs]\nreview_cost = 5\n", encoding="utf-8-sig")
    assert configured().costs.review_cost == 5.0


@pytest.mark.parametrize(("name", "named"), [("a?b", "?"), ("my%20home", "%20")])
def test_a_home_whose_path_would_name_another_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, named: str
) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / name))
    assert main(["rebuild-online"]) == 1
    assert capsys.readouterr().err.startswith(
        f"mlops: {tmp_path / name}: a home cannot have '{named}' in its path"
    )
    assert list(tmp_path.iterdir()) == []


FORMER = "[costs]\nmissed_fraud_share = 0.5\n[model]\ncard_k = 7\n[gate]\nmax_amount_factor = 3.0\n"


def test_keys_that_had_another_name_before_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text(GOOD + FORMER)
    settings = load_settings(tmp_path / "old.toml")
    assert (settings.costs.missed_share, settings.model.precision_k) == (0.5, 7)
    assert settings.gate.max_value_factor == 3.0


def test_a_command_names_each_key_that_has_another_name_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.toml").write_text(GOOD + FORMER)
    monkeypatch.setenv("MLOPS_CONFIG", str(tmp_path / "old.toml"))
    configured()
    assert capsys.readouterr().err.splitlines() == [
        f"mlops: {tmp_path / 'old.toml'}: [{section}] {old}: is read as {new}; rename it"
        for section, old, new in (
            ("costs", "missed_fraud_share", "missed_share"),
            ("gate", "max_amount_factor", "max_value_factor"),
            ("model", "card_k", "precision_k"),
        )
    ]


def test_a_key_under_both_of_its_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "both.toml").write_text(GOOD + "[model]\ncard_k = 7\nprecision_k = 8\n")
    with pytest.raises(ConfigError, match=r"\[model\].*card_k"):
        load_settings(tmp_path / "both.toml")
