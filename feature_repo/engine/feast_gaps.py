"""What Feast 0.67 lacks around stream views, added to its FeatureStore for stores that use our provider, however they were opened.

- `push` looks for finished feature columns in the pushed frame before it asks the provider: raw events never get there.
- `feast feature-views list` leaves out stream views, and fails on an on-demand view that builds on one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException

PROVIDER = "feature_repo.engine.provider.LakeProvider"


def close_gaps() -> None:
    """Idempotent; stores of another provider behave as before."""
    for replacement in (write_to_online_store, write_to_online_store_async, list_batch_feature_views, get_feature_view):
        original = getattr(FeatureStore, replacement.__name__)
        if not hasattr(original, "__wrapped__"):
            setattr(FeatureStore, replacement.__name__, _for_our_provider(original, replacement))


def write_to_online_store(original: Any, store: Any, feature_view_name: str, df: Any = None, inputs: Any = None, **options: Any) -> None:
    import pandas as pd

    events = df if df is not None else pd.DataFrame(inputs)
    if len(events):
        view = store.registry.get_any_feature_view(feature_view_name, store.project)
        store._get_provider().ingest_df(view, events)


async def write_to_online_store_async(original: Any, store: Any, feature_view_name: str, df: Any = None, inputs: Any = None, **options: Any) -> None:
    write_to_online_store(original, store, feature_view_name, df, inputs)


def list_batch_feature_views(original: Any, store: Any, *arguments: Any, **options: Any) -> list[Any]:
    return [*original(store, *arguments, **options), *store.list_stream_feature_views(*arguments, **options)]


def get_feature_view(original: Any, store: Any, name: str, *arguments: Any, **options: Any) -> Any:
    try:
        return original(store, name, *arguments, **options)
    except FeatureViewNotFoundException:
        return store.get_stream_feature_view(name, *arguments, **options)


def _for_our_provider(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.config.provider != PROVIDER:
            return original(self, *arguments, **options)
        return replacement(original, self, *arguments, **options)

    return method
