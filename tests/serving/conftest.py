"""A tiny champion, and the service around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_kit import Door
from serving_kit import ALLOW_ALL, Bench, Running, TinyRegistry, fraud_service_plan, start, tiny_release

from feature_repo.engine.plan import FeaturePlan
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer
from serving.releases import Champion


@pytest.fixture(scope="session")
def plan() -> FeaturePlan:
    """The fraud service's plan, made once."""
    return fraud_service_plan()


@pytest.fixture(scope="module")
def champion(plan: FeaturePlan) -> Champion:
    release = tiny_release(plan, policy=ALLOW_ALL)
    return Champion("1", "d" * 64, release, Scorer(release.model_text, release.calibrator))


@pytest.fixture(scope="module")
def release(plan: FeaturePlan) -> Release:
    """What `door` serves. A module may have another one."""
    return tiny_release(plan)


@pytest.fixture
def door(tmp_path: Path, release: Release) -> Iterator[Door]:
    """The service in this process, without a server."""
    made = Door(tmp_path, release)
    made.promote()
    yield made
    made.service.plane.close()


@pytest.fixture
def bench(tmp_path: Path, champion: Champion) -> Iterator[Bench]:
    made = Bench(tmp_path, champion)
    yield made
    made.plane.close()


@pytest.fixture
def launch() -> Iterator[Callable[..., Running]]:
    """Starts services, and stops them all at the end."""
    running: list[Running] = []

    def launched(home: Path, *arguments: str, **options: Any) -> Running:
        running.append(start(home, *arguments, **options))
        return running[-1]

    yield launched
    for service in running:
        service.stop()


@pytest.fixture(scope="module")
def served(plan: FeaturePlan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service on event time with version 1, shared by the tests of a module."""
    home = tmp_path_factory.mktemp("home")
    registry = TinyRegistry(home)
    registry.promote(registry.register(tiny_release(plan), tmp_path_factory.mktemp("scratch")))
    service = start(home, "--clock", "event")
    service.wait()
    yield service
    service.stop()
