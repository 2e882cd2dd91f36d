"""The code location: use cases × environment → `defs`."""

from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.environments import load_settings
from mlops_assets.use_cases import USE_CASES

settings = load_settings(use_cases=USE_CASES)
defs = build_pipeline(USE_CASES[settings.use_case], settings)
