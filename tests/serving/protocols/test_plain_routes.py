"""A plain route behaves at its edges as a route of the framework does."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from http_kit import Door
from serving_kit import payment

from feature_repo.engine.plan import FeaturePlan


def sent(door: Door, *received: dict[str, Any]) -> list[dict[str, Any]]:
    """What `/predict` sends to a client whose messages are these."""
    messages, answered = iter(received), []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        answered.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    asyncio.run(door.app(scope, receive, send))
    return answered


@pytest.mark.parametrize("route", ["/predict", "/predict/batch"])
def test_another_method_is_refused_and_counted_by_the_route(door: Door, route: str) -> None:
    answer = door.ask("GET", route)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["detail"][0]["type"] == "http_error"
    assert f'serving_requests_total{{route="{route}",status="4xx"}} 1.0' in door.ask("GET", "/metrics").text


def test_a_body_in_parts_is_put_together(door: Door) -> None:
    body = json.dumps({"transaction": payment(1)}).encode()
    parts = [{"type": "http.request", "body": body[:50], "more_body": True}]
    parts += [{"type": "http.request", "more_body": True}, {"type": "http.request", "body": body[50:]}]
    start, end = sent(door, *parts)
    assert (start["status"], json.loads(end["body"])["prediction_id"]) == (200, "t1")
    assert dict(start["headers"])[b"content-length"] == str(len(end["body"])).encode()


def test_a_client_that_hangs_up_in_its_body_gets_nothing(door: Door) -> None:
    assert (
        sent(door, {"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"})
        == []
    )
    assert 'serving_requests_total{route="/predict",status="499"} 1.0' in door.ask("GET", "/metrics").text


def test_a_fault_is_told_without_its_words_and_goes_on_to_the_server(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(rows: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(door.service.plane, "predict_many", fails)
    answer = door.post("/predict", transaction=payment(1))
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (500, "internal")
    assert "secret" not in answer.text
    body = json.dumps({"transaction": payment(1)}).encode()
    with pytest.raises(ZeroDivisionError):
        sent(door, {"type": "http.request", "body": body})


def test_a_scrape_shows_how_old_each_view_was_at_the_last_event(door: Door, plan: FeaturePlan) -> None:
    def ages() -> dict[str, float]:
        lines = door.ask("GET", "/metrics").text.splitlines()
        shown = [line for line in lines if line.startswith("serving_feature_age_seconds{")]
        return {line.split('"')[1]: float(line.split()[1]) for line in shown}

    assert ages() == {}
    door.post("/predict", transaction=payment(1))
    assert ages() == dict.fromkeys(["customer_stats", "merchant_stats", "merchant_activity"], math.inf)
    door.post("/predict", transaction=payment(3))
    door.post("/predict", features=dict.fromkeys(plan.features, 1.0))
    assert ages() == {"customer_stats": 120.0, "merchant_stats": math.inf, "merchant_activity": 120.0}
