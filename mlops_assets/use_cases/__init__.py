"""The use cases that there are, by name."""

from mlops_assets.core.use_case import UseCase
from mlops_assets.use_cases.fraud.case import FRAUD

USE_CASES: dict[str, UseCase] = {FRAUD.name: FRAUD}
