"""Which process executes a run: a live one, one that is gone, and another one under the same id."""

import os
import subprocess
import sys

import psutil
import pytest

from mlops_assets.resources.processes import HOST, PID, PROCESS, is_gone, process_tags

RUN = "11111111-1111-4111-8111-111111111111"


def tags_of(pid: int) -> dict[str, str]:
    """The tags of a run that another process of this machine executes."""
    began = psutil.Process(pid).create_time() - psutil.boot_time()
    mark = round(began * os.sysconf("SC_CLK_TCK"))
    return process_tags(RUN) | {PID: str(pid), PROCESS: f"{RUN}:{mark}"}


def test_this_process_is_there() -> None:
    assert is_gone(RUN, process_tags(RUN)) is False


def test_another_process_under_the_same_id_is_not_the_one_of_the_run() -> None:
    assert is_gone(RUN, process_tags(RUN) | {PROCESS: f"{RUN}:1"}) is True


def test_a_process_that_has_ended_is_gone_also_while_it_is_a_zombie() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tags = tags_of(child.pid)
        assert is_gone(RUN, tags) is not psutil.LINUX
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(RUN, tags) is True, "a zombie"
    assert is_gone(RUN, tags) is True


@pytest.mark.parametrize("tags", [{}, {HOST: "elsewhere"}, {PROCESS: "another run:1"}])
def test_nothing_is_said_of_another_host_or_another_run(tags: dict[str, str]) -> None:
    mine = process_tags(RUN) if tags else {}
    assert is_gone(RUN, {**mine, **tags}) is None


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux has /proc")
def test_the_mark_is_the_one_that_earlier_versions_read_from_proc() -> None:
    with open("/proc/self/stat") as stat:
        ticks = stat.read().rpartition(")")[2].split()[19]
    assert process_tags(RUN)[PROCESS] == f"{RUN}:{ticks}"
