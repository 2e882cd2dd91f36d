"""The history of decisions as assets and sensors receive it."""

from dagster import ConfigurableResource

from mlops_assets.resources.decision_history import History


class HistoryResource(ConfigurableResource[History]):
    """The history of decisions in the file `path`."""

    path: str

    def open(self) -> History:
        """The history. The first decision makes its file."""
        return History(self.path)
