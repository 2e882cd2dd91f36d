"""MLflow's database asked without MLflow: the answers are those of MLflow's own client."""

from pathlib import Path

import pytest
from lifecycle_kit import Shelf

from mlops_assets.resources.environments import Settings
from mlops_assets.resources.registry_records import RegistryError, champion_on_record, head_on_record


def test_the_answers_are_those_of_mlflow(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "home")
    settings = Settings(home=shelf.home)
    shelf.registry.client()
    assert (champion_on_record(settings), head_on_record(settings)) == (None, None)
    shelf.candidate()
    assert champion_on_record(settings) is None
    shelf.gate(shelf.candidate())
    assert champion_on_record(settings) == shelf.registry.champion()
    model = shelf.registry.client().get_registered_model(shelf.registry.name)
    assert head_on_record(settings) == model.tags["history"] == shelf.lifecycle.history.head().to_json()


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    database = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    database.parent.mkdir()
    (tmp_path / "home.json").write_text('{"format": 2}')
    database.write_bytes(b"not a database" * 100)
    with pytest.raises(RegistryError, match=r"mlflow\.db cannot be used \(file is not a database\)"):
        champion_on_record(settings)
