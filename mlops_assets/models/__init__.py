"""The model families by name."""

from mlops_assets.errors import PlatformError
from mlops_assets.models.base import ModelFamily

USUAL = "lightgbm"


class UnknownFamily(PlatformError, ValueError):
    """An unknown model family. The message names the known families."""


def model_family(name: str = USUAL) -> ModelFamily:
    """The family of that name. Its library is imported at the first fit. Raises `UnknownFamily`."""
    if name == USUAL:
        from mlops_assets.models.lightgbm import LIGHTGBM

        return LIGHTGBM
    raise UnknownFamily(f"there is no model family {name!r}; there is {USUAL}")
