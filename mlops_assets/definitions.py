"""The code location: use cases × environment → `defs`."""

from mlops_assets.core.use_case import UseCase
from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.environments import ConfigError, load_settings
from mlops_assets.use_cases.fraud.case import FRAUD

USE_CASES: dict[str, UseCase] = {FRAUD.name: FRAUD}

settings = load_settings()
if settings.use_case not in USE_CASES:
    raise ConfigError(f"use_case {settings.use_case!r} is not known; there are {', '.join(USE_CASES)}")
defs = build_pipeline(USE_CASES[settings.use_case], settings)
