"""The model families that there are, by name."""

from mlops_assets.errors import PlatformError
from mlops_assets.models.base import ModelFamily

USUAL = "lightgbm"


class UnknownFamily(PlatformError, ValueError):
    """A model family that is not there; the message names those that are."""


def model_family(name: str = USUAL) -> ModelFamily:
    """The family of that name; its library is imported when it fits. Raises `UnknownFamily`."""
    if name == USUAL:
        from mlops_assets.models.lightgbm import LIGHTGBM

        return LIGHTGBM
    raise UnknownFamily(f"there is no model family {name!r}; there is {USUAL}")
