"""What Feast 0.67 lacks around stream views and its registry.

`close_gaps` adds it to Feast's FeatureStore, for every store that uses the provider of this repo.

- `push` and `write_to_online_store` look for finished feature columns in the pushed frame before they ask the
  provider, so raw events never reach it.
- `apply` takes no lock, so two at once lose parts of each other. In the wrong folder it would empty the
  registry. It also notes in the declarations what the home has materialized. The same process would then note
  it in a second home as well.
- `feast feature-views list` leaves out stream views, and fails on an on-demand view over a stream view.
  `feast teardown` leaves out stream views, too.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from feast import FeatureStore, FeatureView
from feast.base_feature_view import BaseFeatureView
from feast.data_source import PushMode
from feast.errors import FeatureViewNotFoundException
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo import roots
from feature_repo.errors import FeatureError
from feature_repo.plugins.registry_store import locked

log = logging.getLogger(__name__)

PROVIDER = "feature_repo.plugins.provider.LakeProvider"


class EmptyApply(FeatureError):
    """An apply that would remove every view. Nothing was changed."""


def close_gaps() -> None:
    """Replace the methods of FeatureStore that lack something.

    A second call changes nothing. Stores of another provider behave as before.
    """
    for replacement in (
        push,
        push_async,
        write_to_online_store,
        write_to_online_store_async,
        apply,
        teardown,
        list_batch_feature_views,
        get_feature_view,
    ):
        original = getattr(FeatureStore, replacement.__name__)
        if not hasattr(original, "__wrapped__"):
            setattr(FeatureStore, replacement.__name__, _for_our_provider(original, replacement))


def push(
    original: Any,
    store: Any,
    push_source_name: str,
    df: Any,
    allow_registry_cache: bool = True,
    to: PushMode = PushMode.ONLINE,
    **options: Any,
) -> None:
    """Push to all views of the source at once. A bad row then keeps the good rows from no view.

    Raises `RefusedPush`, `RefusedRows`, and `NotWritten` for a push to the offline store.
    """
    if to != PushMode.ONLINE:
        # The import loads Feast's offline stores, which most callers never need.
        from feature_repo.plugins.offline_store import NotWritten

        raise NotWritten(
            f"{push_source_name}: the lake is written by the platform's assets; push to the online store only"
        )
    from feature_repo.plugins.pushes import as_frame

    views = store._fvs_for_push_source_or_raise(push_source_name, allow_registry_cache)
    if len(frame := as_frame(push_source_name, df)):
        store._get_provider().ingest(views, frame)
    else:
        log.warning("%s: a push without rows; nothing was taken", push_source_name)


async def push_async(original: Any, store: Any, *arguments: Any, **options: Any) -> None:
    """`push`, for callers that await it."""
    push(original, store, *arguments, **options)


def write_to_online_store(
    original: Any, store: Any, feature_view_name: str, df: Any = None, inputs: Any = None, **options: Any
) -> None:
    """Hand the rows of one view to the provider. Raises `RefusedPush` and `RefusedRows`."""
    import pandas as pd

    from feature_repo.plugins.pushes import as_frame
    from feature_repo.plugins.refusals import RefusedPush

    view = store.registry.get_any_feature_view(feature_view_name, store.project)
    if isinstance(view, OnDemandFeatureView):
        raise RefusedPush(
            f"{feature_view_name}: its values are computed when they are asked for; write to the views that"
            " it is made of"
        )
    if len(
        rows := as_frame(feature_view_name, pd.DataFrame(inputs) if df is None and inputs is not None else df)
    ):
        store._get_provider().ingest_df(view, rows)
    else:
        log.warning("%s: a write without rows; nothing was taken", feature_view_name)


async def write_to_online_store_async(
    original: Any, store: Any, feature_view_name: str, df: Any = None, inputs: Any = None, **options: Any
) -> None:
    """`write_to_online_store`, for callers that await it."""
    write_to_online_store(original, store, feature_view_name, df, inputs)


def apply(
    original: Any,
    store: Any,
    objects: Any,
    objects_to_delete: Sequence[Any] | None = None,
    partial: bool = True,
    **options: Any,
) -> None:
    """Apply to the present registry, one apply at a time.

    A failure leaves nothing behind, neither in the registry nor in this process. Raises `EmptyApply`.
    """
    given = list(objects) if isinstance(objects, (list, tuple, set)) else [objects]
    with locked(roots.resolve(store.config.registry.path).parent):
        before: set[str] = set()
        with contextlib.suppress(FileNotFoundError):  # A person may have moved the file away to begin again.
            store.refresh_registry()
            before = {v.name for v in store.list_all_feature_views()}
        gone = (
            set() if partial else {o.name for o in objects_to_delete or [] if isinstance(o, BaseFeatureView)}
        )
        if before and not (before - gone) and not any(isinstance(o, BaseFeatureView) for o in given):
            raise EmptyApply(
                f"{store.config.registry.path}: this would remove every view ({', '.join(sorted(before))});"
                " is it the right folder?"
            )
        declared = [(o, list(o.materialization_intervals)) for o in given if isinstance(o, FeatureView)]
        try:
            original(store, given, objects_to_delete=objects_to_delete, partial=partial, **options)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                store.refresh_registry()
            raise
        finally:
            for view, intervals in declared:
                view.materialization_intervals = intervals


def teardown(original: Any, store: Any) -> None:
    """Feast's teardown, including stream views."""
    store._get_provider().online_store.teardown(store.config, store.list_stream_feature_views(), [])
    original(store)


def list_batch_feature_views(original: Any, store: Any, *arguments: Any, **options: Any) -> list[Any]:
    """Feast's list, including stream views."""
    return [*original(store, *arguments, **options), *store.list_stream_feature_views(*arguments, **options)]


def get_feature_view(original: Any, store: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """A view by its name, including stream views."""
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
