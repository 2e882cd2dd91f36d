"""The service in this process, asked over ASGI: without a port, without a registry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from serving.app import create_app
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer
from serving.releases import Champion
from serving.settings import ServingSettings
from serving.store.opening import serving_log


class Door:
    """The application on event time, and a champion that has to be promoted before it serves."""

    def __init__(self, home: Path, release: Release) -> None:
        settings = ServingSettings(home, use_case=release.subject.name, clock="event")
        self.app = create_app(settings)
        self.service, self.log = self.app.service, serving_log(settings.database)
        scorer = Scorer(release.model_text, release.calibrator)
        self.champion = Champion("1", "d" * 64, release, scorer)

    def promote(self) -> None:
        self.service.follower.current = self.champion

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(asked())

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.ask("POST", path, json=body)

    def send(self, path: str, body: str | bytes) -> httpx.Response:
        """Post a body as it is, whether it is JSON or not."""
        return self.ask("POST", path, content=body, headers={"content-type": "application/json"})
