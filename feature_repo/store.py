"""The feature store of a home, with the declarations of feature_repo/fraud applied: what notebooks, assets
and tests open.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from pathlib import Path
from typing import Any

from feast import FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, RepoConfig
from feast import __version__ as feast_version
from feast.data_source import DataSource
from feast.entity import Entity

from feature_repo.plugins.registry_store import DamagedRegistry, locked, set_aside

# Feast says so each time it reads a declaration; the versions that the project is tested with are pinned.
warnings.filterwarnings("ignore", message="(Stream|On demand) feature views are", category=RuntimeWarning)

REPO = Path(__file__).parent
DECLARATIONS = ("entities", "sources", "views", "services")


def open_store(home: Path, lake: str | None = None) -> FeatureStore:
    """The store whose state is under `home`; `lake` says where the lake is, if not there.

    Applies the declarations if they changed; two processes that open it at once apply them one after the
    other. A damaged registry is set aside, and the last good one takes its place.
    """
    home = Path(home).absolute()
    with locked(home / "feast"):
        try:
            store = _open(home, lake)
            registered = store.registry.list_feature_services(store.project)
        except DamagedRegistry as damage:
            set_aside(damage.path)
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
    views = (FeatureView, OnDemandFeatureView)  # a stream view is a FeatureView
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that stream and on-demand views are experimental
        modules = [importlib.import_module(f"feature_repo.fraud.{name}") for name in DECLARATIONS]
        kinds = (Entity, DataSource, *views, FeatureService)
        declared: list[Any] = list(
            {id(o): o for m in modules for o in vars(m).values() if isinstance(o, kinds)}.values()
        )
        kept = {
            (isinstance(o, FeatureService), o.name)
            for o in declared
            if isinstance(o, (*views, FeatureService))
        }
        registered: list[Any] = [*store.list_all_feature_views(), *store.list_feature_services()]
        gone = [o for o in registered if (isinstance(o, FeatureService), o.name) not in kept]
        store.apply(declared, objects_to_delete=gone, partial=False)


def _declarations_digest() -> str:
    content = [feast_version, *(p.read_text() for p in sorted((REPO / "fraud").glob("*.py")))]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()
