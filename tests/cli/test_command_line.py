"""Names and helps of all commands, and what is imported before a command does anything."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mlops_assets.cli import commands
from mlops_assets.cli.command_line import COMMANDS, MODULES, main

HEAVY = {"dagster", "mlflow", "feast", "lightgbm", "sklearn", "pandera", "fastapi"}
# The modules that a command has imported when it ends.
IMPORTED = """
import sys
from mlops_assets.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""


def imported_by(*words: str, home: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words],
        capture_output=True,
        text=True,
        env={"MLOPS_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


def test_each_command_is_a_module_and_each_module_a_command() -> None:
    named = {MODULES.get(name, name) for name in COMMANDS}
    there = {file.stem for file in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert named == there
    for name in named:
        module = import_module(f"mlops_assets.cli.commands.{name}")
        assert callable(module.arguments)
        assert callable(module.run)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert " ".join(COMMANDS[name].split()) in " ".join(capsys.readouterr().out.split())


def test_the_help_of_all_commands_imports_none_of_them(tmp_path: Path) -> None:
    modules = imported_by("--help", home=tmp_path)
    assert not {name for name in modules if name.startswith("mlops_assets.cli.commands")}
    assert not modules & {*HEAVY, "pyarrow", "pandas", "numpy"}


def test_status_imports_no_library_that_takes_long(tmp_path: Path) -> None:
    config = tmp_path / "platform.toml"
    sections = ("bounds", "recipe", "tuning", "costs", "gate", "guard", "drift")
    config.write_text('[source]\nkind = "files"\npath = "tx"\n' + "".join(f"[{one}]\n" for one in sections))
    modules = imported_by("--config", str(config), "status", home=tmp_path)
    assert "mlops_assets.cli.commands.status" in modules
    assert not modules & {*HEAVY, "pandas", "duckdb", "scipy"}
