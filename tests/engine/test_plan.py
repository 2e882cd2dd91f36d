"""A plan says which column of the scored event holds a view's key, and refuses what it cannot compute."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from feast import FeatureService
from feast.aggregation import Aggregation

from feature_repo.engine.from_feast import plan_from_feast, view_from_feast
from feature_repo.engine.plan import FeaturePlan, PlanError
from feature_repo.fraud.views import customer_stats, merchant_activity, merchant_stats, transaction_context

STREAMS = [customer_stats, merchant_stats, merchant_activity]


def plan_of(*features: Any, **joined_by: str) -> FeaturePlan:
    store = SimpleNamespace(
        get_feature_service=lambda name: FeatureService(name=name, features=list(features)),
        list_stream_feature_views=lambda: STREAMS,
        list_on_demand_feature_views=lambda: [transaction_context],
    )
    return plan_from_feast(store, "service", joined_by)


def asked(plan: FeaturePlan) -> dict[str, tuple[str, str]]:
    return {view.name: (view.entity, view.asked_by) for view in plan.views}


def test_a_view_is_asked_by_its_join_key() -> None:
    plan = plan_of(customer_stats, merchant_activity)
    assert asked(plan) == {
        "customer_stats": ("customer_id", "customer_id"),
        "merchant_activity": ("merchant_id", "merchant_id"),
    }
    assert plan.keys == ("customer_id", "merchant_id")


def test_a_use_case_may_say_which_column_holds_a_join_key_of_another_name() -> None:
    plan = plan_of(customer_stats, merchant_activity, merchant_id="payee")
    assert asked(plan)["merchant_activity"] == ("merchant_id", "payee")
    assert plan.keys == ("customer_id", "payee")
    assert FeaturePlan.from_dict(plan.to_dict()) == plan


def test_the_service_s_own_mapping_of_a_view_is_stronger() -> None:
    renamed = merchant_activity.with_join_key_map({"merchant_id": "payer"})
    plan = plan_of(renamed, merchant_stats, merchant_id="payee")
    assert asked(plan) == {
        "merchant_activity": ("merchant_id", "payer"),
        "merchant_stats": ("merchant_id", "payee"),
    }


def test_a_view_that_only_an_on_demand_view_needs_is_mapped_too() -> None:
    assert asked(plan_of(transaction_context, customer_id="holder"))["customer_stats"] == (
        "customer_id",
        "holder",
    )


def test_a_plan_without_a_mapping_has_the_digest_that_it_had_before_there_were_mappings() -> None:
    plan = plan_of(customer_stats)
    assert all("asked" not in view for view in plan.to_dict()["views"])
    mapped = replace(plan, views=tuple(replace(view, asked="holder") for view in plan.views))
    assert mapped.digest != plan.digest


def test_a_stream_that_does_not_say_what_an_event_is_is_named_with_the_remedy() -> None:
    source = SimpleNamespace(name="sightings", path="lake://sightings", tags={"keys": "who"})
    view = SimpleNamespace(
        name="seen", batch_source=source, aggregations=[Aggregation(column="x", function="count")]
    )
    with pytest.raises(PlanError, match=r"seen: its source sightings .* tag event_id"):
        view_from_feast(view)
