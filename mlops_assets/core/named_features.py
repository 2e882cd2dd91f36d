"""Whether the views and features that a use case names are declared in Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlops_assets.core.config_tables import nearest
from serving.contract.subject import BadSubject


def check_named(
    named: Mapping[str, Sequence[str]], package: str, views: Sequence[str], features: Sequence[str]
) -> None:
    """Raise `BadSubject` where a use case names a view or a feature that its package does not declare.

    `named` holds views under "views", and features under any other place of the use case. A declared view
    without a FeatureView would have no asset, so it is refused as well.
    """
    for place, names in named.items():
        what, there = ("view", views) if place == "views" else ("feature", features)
        for name in names:
            if name not in there:
                raise BadSubject(
                    f"{place}: {name!r} is no {what} of the feature service{nearest(name, there)}; {package}"
                    f" declares {', '.join(there)}"
                )
    if unnamed := [view for view in views if view not in named.get("views", views)]:
        raise BadSubject(f"views: {unnamed[0]!r} is declared in {package}; add a FeatureView for it")
