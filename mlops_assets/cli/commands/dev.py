"""`mlops dev`: Dagster and MLflow's UI on this platform, until they are stopped."""

from __future__ import annotations

import argparse

from mlops_assets.cli.arguments import Once
from mlops_assets.cli.platform import configured, prepare


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--port", type=int, default=3000, action=Once, help="of Dagster (3000)")
    parser.add_argument(
        "--mlflow-port", type=int, default=5000, action=Once, metavar="PORT", help="of MLflow (5000)"
    )


def run(options: argparse.Namespace) -> None:
    """Start Dagster and MLflow's UI, and wait until they end. Raises `DevError` where they cannot run."""
    from mlops_assets.cli.side_processes import check_ports, run_dev

    settings = configured()
    check_ports(options.port, options.mlflow_port)
    prepare(settings)
    run_dev(settings, options.port, options.mlflow_port)
