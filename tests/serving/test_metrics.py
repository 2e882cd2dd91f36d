"""The service's counters."""

import os
import subprocess
import sys
from pathlib import Path

TWO_SERVICES = """
from serving.metrics import Metrics

for _ in range(2):
    metrics = Metrics()
    metrics.know_routes(["/predict"])
    metrics.request("/predict", 405, 0.001)
print(metrics.exposition().decode())
"""


def test_each_service_counts_alone_and_in_memory_after_feast_was_imported(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}  # As Feast's import leaves it.
    done = subprocess.run(
        [sys.executable, "-c", TWO_SERVICES], env=environment, capture_output=True, text=True, check=True
    )
    assert 'serving_requests_total{route="/predict",status="4xx"} 1.0' in done.stdout
    assert list(tmp_path.iterdir()) == []
