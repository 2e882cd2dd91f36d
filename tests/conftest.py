"""What every test starts from: no environment of the person who runs them, and a tiny bank whose numbers are
known.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from mlops_assets.resources.config_sections import Ingest, Model, Retraining, Time, Verdicts
from mlops_assets.resources.environments import Settings

ROOT = Path(__file__).parents[1]
HANDBOOK = ROOT.parent / "shared" / "data" / "handbook"

# The folders whose files take longest, in the order in which they start. The last one to start keeps
# everybody waiting.
LONGEST_FIRST = ("loop", "cli", "graph", "assets", "serving")

# The same examples for the same commit, however busy the machine is. `--hypothesis-profile=default` looks for
# new ones.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="also what is too long for every run: tests marked `long`, and more moments of a crash",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").parts[0], len(order)))
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="too long for every run: --all"))


@pytest.fixture
def in_full(request: pytest.FixtureRequest) -> bool:
    """Whether `--all` asks for everything."""
    return bool(request.config.getoption("--all"))


@pytest.fixture
def moments(request: pytest.FixtureRequest, in_full: bool) -> list[float]:
    """When to kill what a test starts, as shares of the time that it takes: the same for the same test."""
    numbers = random.Random(request.node.name)
    return [numbers.random() for _ in range(10 if in_full else 2)]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """State goes to a folder of the test; nothing calls home."""
    for name in ("MLOPS_CONFIG", "MLOPS_CONFIG_BASE", "MLOPS_LAKE", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # so that what a command of the test sets is gone after it
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("FEAST_USAGE", "False")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two months of a small bank, with the short maturity and holdout of the demo."""
    return Settings(
        home=tmp_path / "home",
        time=Time(date(2025, 3, 1), date(2025, 4, 30)),
        source={"kind": "simulator", "start": date(2025, 3, 1), "customers": 60, "merchants": 40, "seed": 5},
        ingest=Ingest(),
        verdicts=Verdicts(maturity_days=2),
        model=Model(holdout_days=3, train_days=30),
        retraining=Retraining(cooldown_days=3),
    )


@pytest.fixture
def with_source(settings: Settings) -> Callable[..., Settings]:
    """The same settings over another source."""
    return lambda **source: replace(settings, source=source)


@pytest.fixture(scope="session")
def handbook() -> Path:
    """The published data, which is not part of the project."""
    if not HANDBOOK.is_dir():
        pytest.skip("the handbook data is not here (../shared/data/handbook)")
    return HANDBOOK


def rows(table: Any) -> list[dict[str, Any]]:
    """A table as plain rows, for asserting."""
    return list(table.to_pylist())
