"""What the service put on record, as assets and sensors read it."""

from pathlib import Path

from dagster import ConfigurableResource

from serving.store.base import ServingLog
from serving.store.opening import serving_log


class ServingLogResource(ConfigurableResource[ServingLog]):
    """The log of the service in the file `path`."""

    path: str

    def open(self) -> ServingLog:
        """The log; nothing is read yet."""
        return serving_log(Path(self.path))
