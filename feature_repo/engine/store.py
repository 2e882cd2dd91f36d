"""The feature store of a home, with the declarations of feature_repo/fraud applied: what notebooks, assets and tests open."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feast import FeatureService, FeatureStore, OnDemandFeatureView, RepoConfig, StreamFeatureView
from feast import __version__ as feast_version
from feast.data_source import DataSource
from feast.entity import Entity

from feature_repo.engine.registry_store import DamagedRegistry

# Feast says so each time it reads a declaration; the versions that the project is tested with are pinned.
warnings.filterwarnings("ignore", message="(Stream|On demand) feature views are", category=RuntimeWarning)

REPO = Path(__file__).parents[1]
DECLARATIONS = ("entities", "sources", "views", "services")


def open_store(home: Path, lake: str | None = None) -> FeatureStore:
    """The store whose state is under `home`; `lake` says where the lake is, if not there. Applies the declarations if they changed; two
    processes that open it at once apply them one after the other."""
    home = Path(home).absolute()
    with _locked(home / "feast"):
        try:
            store = _open(home, lake)
            registered = store.registry.list_feature_services(store.project)
        except DamagedRegistry as damage:
            damage.path.rename(damage.path.with_suffix(".damaged"))
            store, registered = _open(home, lake), []
        mark = home / "feast" / "applied"
        digest = _declarations_digest()
        if not registered or not mark.exists() or mark.read_text() != digest:
            _apply(store)
            mark.write_text(digest)
    return store


def _open(home: Path, lake: str | None) -> FeatureStore:
    import yaml

    settings = yaml.safe_load((REPO / "feature_store.yaml").read_text())
    settings["registry"]["path"] = str(home / "feast" / "registry.db")
    settings["offline_store"] |= {"home": str(home), "lake": lake}
    settings["online_store"]["home"] = str(home)
    config = RepoConfig(**settings)
    config.repo_path = REPO
    return FeatureStore(config=config)


def _apply(store: FeatureStore) -> None:
    """Everything declared, and nothing that is declared no longer."""
    kinds = (Entity, DataSource, StreamFeatureView, OnDemandFeatureView, FeatureService)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that stream and on-demand views are experimental
        modules = [importlib.import_module(f"feature_repo.fraud.{name}") for name in DECLARATIONS]
        declared: list[Any] = list({id(o): o for m in modules for o in vars(m).values() if isinstance(o, kinds)}.values())
        views = {o.name for o in declared if isinstance(o, (StreamFeatureView, OnDemandFeatureView))}
        services = {o.name for o in declared if isinstance(o, FeatureService)}
        gone: list[Any] = [
            *(v for v in (*store.list_stream_feature_views(), *store.list_on_demand_feature_views()) if v.name not in views),
            *(s for s in store.list_feature_services() if s.name not in services),
        ]
        store.apply(declared, objects_to_delete=gone, partial=False)


def _declarations_digest() -> str:
    content = [feast_version, *(p.read_text() for p in sorted((REPO / "fraud").glob("*.py")))]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "apply.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
