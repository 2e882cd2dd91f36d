"""The code location: use cases × environment → `defs`."""

from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.environments import load_settings
from mlops_assets.use_cases import find_use_case

settings = load_settings(find_case=find_use_case)
defs = build_pipeline(find_use_case(settings.case_named, settings.base), settings)
