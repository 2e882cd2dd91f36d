"""A feature service as the engine's plan."""

from pathlib import Path

import pytest
from feast import FeatureService
from feast_kit import Bank, make_bank, make_profiles, profile

from feature_repo.engine.from_feast import plan_from_feast
from feature_repo.engine.plan import FeaturePlan, PlanError
from feature_repo.store import open_store


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make_bank(tmp_path_factory.mktemp("home"))


def test_the_vector_is_the_service_in_its_order(bank: Bank) -> None:
    projections = bank.store.get_feature_service("fraud_v1").feature_view_projections
    assert [p.name for p in projections] == [
        "customer_stats",
        "merchant_stats",
        "merchant_activity",
        "transaction_context",
    ]
    assert bank.plan.features == tuple(f.name for p in projections for f in p.features)
    assert bank.plan.features[:2] == ("avg_txn_amount_7d", "avg_txn_amount_30d")
    assert bank.plan.features[-1] == "is_night"
    assert {"avg_txn_amount_30d", "num_declines_7d", "fraud_rate_90d"} <= set(bank.plan.features)
    assert bank.plan.request_fields == ("amount", "event_time_us")
    assert bank.plan.keys == ("customer_id", "merchant_id")


def test_a_plan_survives_its_way_through_a_release(bank: Bank) -> None:
    assert FeaturePlan.from_dict(bank.plan.to_dict()) == bank.plan
    assert FeaturePlan.from_dict(bank.plan.to_dict()).digest == bank.plan.digest
    assert bank.plan.event_id("verdicts", {"transaction_id": "t1"}, 7) == "t1:7"
    assert bank.plan.event_id("transactions", {"transaction_id": "t1"}, 7) == "t1"
    with pytest.raises(PlanError, match="nowhere"):
        bank.plan.event_id("nowhere", {}, 7)


def test_the_order_in_which_feast_lists_sources_does_not_change_the_plan(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from a protobuf map, and differs from process to process."""
    (view,) = bank.store.list_on_demand_feature_views()
    view.source_feature_view_projections = dict(reversed(view.source_feature_view_projections.items()))
    monkeypatch.setattr(bank.store, "list_on_demand_feature_views", lambda: [view])
    assert plan_from_feast(bank.store, "fraud_v1").digest == bank.plan.digest


def test_a_service_with_a_plain_view_has_no_vector_of_its_own(tmp_path: Path) -> None:
    """Its values are finished: Feast serves them, there is nothing to compute from events."""
    bank = make_bank(tmp_path)
    make_profiles(bank)
    bank.store.apply(
        [
            FeatureService(
                name="with_profile", features=[bank.store.get_stream_feature_view("customer_stats"), profile]
            )
        ]
    )
    with pytest.raises(PlanError, match="with_profile: profile"):
        plan_from_feast(open_store(tmp_path, "feature_repo.fraud"), "with_profile")
