"""docs/configuration.md has every key that a configuration may have, with its default, and no other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from payment_feeds import FilesConfig, LabelsConfig

from mlops_assets.resources.config_sections import SECTIONS
from mlops_assets.sources.files_config import TextConfig
from mlops_assets.use_cases.fraud.case import FRAUD
from mlops_assets.use_cases.fraud.simulator import FraudConfig, Scenario, SimulatorConfig
from serving.contract.bounds import MAX

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def section(name: str) -> str:
    found = re.search(rf"^## `\[{name}\]`\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"there is no section [{name}]"
    return found[1]


def keys(part: str) -> dict[str, str]:
    """Each key in the tables of a part of the page, with the text of its default.

    Several keys of one row have as many defaults, or one.
    """
    told: dict[str, str] = {}
    for cell, default in re.findall(r"^\| (`[^|]*`) \| (.*?) \|", part, re.MULTILINE):
        names = re.findall(r"`([^`]+)`", cell)
        each = default.split(", ")
        told |= dict(zip(names, each if len(each) == len(names) else [default] * len(names), strict=True))
    return told


def shown(default: object) -> str:
    if isinstance(default, bool | None):
        return {True: "true", False: "false", None: "none"}[default]
    if isinstance(default, str):
        return f'`"{default}"`' if default else "empty"
    return str(default)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_of_a_section_is_on_the_page_with_its_default(name: str) -> None:
    defaults = {one.name: one.default for one in fields(SECTIONS[name])}
    if name == "bounds":  # The page tells those of the fraud case.
        defaults |= {f"{MAX}{column}": FRAUD.event.number(column).high for column in FRAUD.event.believable}
    told = keys(section(name))
    assert set(told) == set(defaults)
    for key, default in defaults.items():
        number = isinstance(default, int | float) and not isinstance(default, bool)
        assert float(told[key].replace(",", "")) == default if number else told[key] == shown(default), key


def test_every_section_of_the_page_exists() -> None:
    assert set(re.findall(r"^## `\[(\w+)\]`", PAGE, re.MULTILINE)) == {"source", *SECTIONS}


def test_every_key_of_the_sources_is_on_the_page() -> None:
    files, simulator = map(keys, section("source").split('`kind = "simulator"`:'))
    labels = {
        f"labels.{name}"
        for name in {field.alias or name for name, field in LabelsConfig.model_fields.items()}
        - {"missing", "flags", *TextConfig.model_fields}
        | {"encoding"}
    }
    plain = {*FilesConfig.model_fields} - {"kind", "columns", "labels", "flags"}
    assert set(files) == {
        *plain,
        "flags.true",
        "flags.false",
        "[source.columns]",
        "[source.labels]",
        *labels,
        "labels.missing",
        "labels.flags",
    }
    assert set(simulator) == {*SimulatorConfig.model_fields} - {"kind", "fraud", "scenarios"} | {
        "[source.fraud]",
        "[[source.scenarios]]",
    }
    for name in (
        *FraudConfig.model_fields,
        *(one.alias or name for name, one in Scenario.model_fields.items()),
    ):
        assert f"`{name}`" in section("source"), name
