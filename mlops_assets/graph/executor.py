"""Dagster's in-process executor, which first tags the run with its process."""

from collections.abc import Iterator
from typing import Any, cast

from dagster import (
    DagsterEvent,
    Executor,
    ExecutorDefinition,
    InitExecutorContext,
    in_process_executor,
)
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.executor.in_process import InProcessExecutor

from mlops_assets.resources.processes import process_tags


class _MarkingExecutor(InProcessExecutor):
    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        plan_context.instance.add_run_tags(plan_context.run_id, process_tags(plan_context.run_id))
        yield from super().execute(plan_context, execution_plan)


def _marking(context: InitExecutorContext) -> Executor:
    usual: Any = cast(Any, in_process_executor.executor_creation_fn)(context)
    return _MarkingExecutor(usual.retries, usual.step_dependency_config)


# Every run gets the tags, whoever launched it. A process for each step would import the heavy libraries
# again.
marking_executor = ExecutorDefinition(
    name=in_process_executor.name,
    config_schema=cast(Any, in_process_executor.config_schema),
    requirements=in_process_executor._requirements_fn,
    executor_creation_fn=_marking,
)
