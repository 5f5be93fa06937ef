"""The contracts themselves: what is refused at load, what is compiled, and when a version must rise."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pyarrow as pa
import pytest
import yaml

from tasks import contracts
from tasks.contracts import (
    DATASETS,
    SUBMITTED_DATASETS,
    ContractError,
    arrow_schema,
    load_contract,
    parse_contract,
    snapshot,
    submission_schema,
)

IONOGRAMS = (contracts.CONTRACT_FOLDER / "ionograms.yaml").read_text(encoding="utf-8")


def edited(change: Any) -> str:
    """The contract of ionograms as YAML after `change(document, table, columns)`."""
    document = yaml.safe_load(IONOGRAMS)
    table = document["schema"][0]
    change(document, table, {column["name"]: column for column in table["properties"]})
    return yaml.safe_dump(document)


def set_rule(key: str, value: Any) -> Any:
    def change(document: Any, table: Any, columns: Any) -> None:
        rule = next(item for item in table["quality"] if item["name"] == "fof1_above_fof2")
        rule["implementation"][key] = value

    return change


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_column_says_what_it_is(dataset: str) -> None:
    contract = load_contract(dataset)
    assert contract.owner
    assert contract.retention_d > 0
    assert contract.service_levels
    for column in contract.columns:
        assert column.unit, column.name
        assert len(column.description) > 10, column.name
        for suffix in ("mhz", "km", "deg", "ms", "dbm", "db", "w", "dbi", "khz", "m"):
            if column.name.endswith(f"_{suffix}") and column.unit != "by index_name":
                assert column.unit.lower() == ("db" if suffix == "db" else suffix).lower()


@pytest.mark.parametrize("dataset", DATASETS)
def test_arrow_schema_carries_units_and_version(dataset: str) -> None:
    schema, contract = arrow_schema(dataset), load_contract(dataset)
    assert schema.metadata == {b"contract": dataset.encode(), b"contract_version": contract.version.encode()}
    for column in contract.columns:
        field = schema.field(column.name)
        assert field.metadata[b"unit"].decode() == column.unit
        assert field.metadata[b"description"].decode() == column.description
        assert field.nullable == column.nullable
        assert not pa.types.is_timestamp(field.type) or field.type == pa.timestamp("us", "UTC")


def test_unknown_dataset_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"dataset: 'ionogram' is unknown; known are measurements, ionograms"
    ):
        load_contract("ionogram")


def test_unchanged_text_is_accepted() -> None:
    assert parse_contract(edited(lambda *_: None), "ionograms") == load_contract("ionograms")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t, c: c["fof2_mhz"].update(units="MHz"), "units"),
        (lambda d, t, c: d.update(extra=1), "extra"),
        (lambda d, t, c: d.pop("apiVersion"), "apiVersion"),
        (lambda d, t, c: d.update(version="1.0"), "version '1.0' is not major.minor.patch"),
        (lambda d, t, c: c["fof2_mhz"].update(physicalType="DECIMAL"), "physicalType 'DECIMAL' is unknown"),
        (lambda d, t, c: c["fof2_mhz"].update(customProperties=[]), "custom property unit"),
        (lambda d, t, c: c["fof2_mhz"].pop("description"), "needs description"),
        (lambda d, t, c: c["fof2_mhz"].pop("required"), "needs description, required"),
        (
            lambda d, t, c: c["fof2_mhz"]["customProperties"].append({"property": "colour", "value": "red"}),
            "unknown customProperties colour",
        ),
        (lambda d, t, c: c["sounder_id"]["logicalTypeOptions"].update(pattern="^\\d+$"), "ASCII characters"),
        (lambda d, t, c: c["sounder_id"]["logicalTypeOptions"].update(pattern="[a-z]+"), "begin with"),
        (lambda d, t, c: c["fof2_mhz"]["logicalTypeOptions"].update(multipleOf=2), "would not be enforced"),
        (lambda d, t, c: c["fof2_mhz"].update(unique=True), "quality rules at the schema"),
        (lambda d, t, c: t["properties"].append(copy.deepcopy(c["b1"])), "one name twice"),
        (
            set_rule("type", "expect_column_values_to_be_nice"),
            "rule 'expect_column_values_to_be_nice' is unknown",
        ),
        (set_rule("mostly", 0.9), "unknown keys mostly"),
        (
            set_rule("kwargs", {"column_A": "fof2_mhz", "column_B": "fof1_mhz", "or_equal": True}),
            "ignore_row_if either_value_is_missing",
        ),
        (
            set_rule(
                "kwargs",
                {"column_A": "fof2_mhz", "column_B": "fof9_mhz", "ignore_row_if": "either_value_is_missing"},
            ),
            "unknown column fof9_mhz",
        ),
        (
            lambda d, t, c: t["quality"][1]["implementation"]["kwargs"].update(
                max_value={"$PARAMETER": "soon"}
            ),
            "parameter .* is unknown",
        ),
        (
            set_rule(
                "kwargs",
                {
                    "column_A": "fof2_mhz",
                    "column_B": "b1",
                    "ignore_row_if": "either_value_is_missing",
                    "row_condition": "b1 > 2",
                },
            ),
            "row_condition b1 > 2 is not",
        ),
        (
            set_rule(
                "kwargs",
                {
                    "column_A": "fof2_mhz",
                    "column_B": "b1",
                    "ignore_row_if": "either_value_is_missing",
                    "row_condition": {"type": "nullity", "column": {"name": "b9"}, "is_null": True},
                },
            ),
            "row_condition names the unknown column b9",
        ),
        (lambda d, t, c: t["quality"][1].update(engine="soda"), "engine greatExpectations"),
        (lambda d, t, c: t["quality"][1].update(name="Future!"), "reason code"),
        (lambda d, t, c: t["quality"].append(copy.deepcopy(t["quality"][1])), "reason code used twice"),
        (lambda d, t, c: t["quality"][0].update(metric="duplicateValues"), "only rowCount"),
        (
            lambda d, t, c: t["customProperties"][0].update(value=["sounder"]),
            "meaningKey names unknown columns",
        ),
        (lambda d, t, c: d.pop("slaProperties"), "retention"),
        (lambda d, t, c: d.update(name="ionogram"), "needs name 'ionograms'"),
    ],
)
def test_what_is_not_understood_stops_the_load(change: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        parse_contract(edited(change), "ionograms")
    assert str(caught.value).startswith("data_contracts/ionograms.yaml")


def test_rule_with_unknown_argument_cannot_be_judged() -> None:
    """Great Expectations itself refuses arguments it does not know, for every rule of every contract."""
    from great_expectations.expectations.registry import get_expectation_impl

    for dataset in DATASETS:
        for rule in load_contract(dataset).rules:
            implementation = get_expectation_impl(rule.expectation)
            assert set(rule.kwargs) <= set(implementation.__fields__), rule.code


def test_text_that_is_not_yaml() -> None:
    with pytest.raises(ContractError, match="not YAML"):
        parse_contract("a: [1", "ionograms")


def test_generated_files_are_fresh() -> None:
    assert contracts.stale_files() == [], "run `make contracts` and commit the result"


def test_the_released_snapshot_is_fresh() -> None:
    assert contracts.released_snapshot() == snapshot(), "run `make contracts` and commit the result"


def test_stale_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contracts, "DICTIONARY_PATH", tmp_path / "docs" / "dictionary.md")
    monkeypatch.setattr(contracts, "SCHEMA_FOLDER", tmp_path / "schema")
    monkeypatch.setattr(contracts, "RELEASED_PATH", tmp_path / "released.json")
    monkeypatch.setattr(contracts, "CONTRACT_FOLDER", tmp_path / "contracts")
    assert contracts.main(["--check"]) == 1
    assert contracts.main(["--write"]) == 0
    assert contracts.main(["--check"]) == 0
    (tmp_path / "docs" / "dictionary.md").write_text("old", encoding="utf-8")
    capsys.readouterr()
    assert contracts.main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/dictionary.md is stale: run `make contracts`\n"


def test_dictionary_names_everything() -> None:
    page = contracts.data_dictionary()
    for dataset in DATASETS:
        contract = load_contract(dataset)
        assert f"\n## {dataset}\n" in page
        for column in contract.columns:
            assert f"| `{column.name}`" in page
        for rule in contract.rules:
            assert f"| `{rule.code}` |" in page


@pytest.mark.parametrize("dataset", SUBMITTED_DATASETS)
def test_submission_schema_is_a_schema(dataset: str) -> None:
    schema = submission_schema(dataset)
    jsonschema_rs.meta.validate(schema)
    assert not {"received_at", "available_at", "batch_id", "source"} & schema["properties"].keys()
    json.dumps(schema, allow_nan=False)


def test_only_submitted_datasets_have_a_submission_schema() -> None:
    with pytest.raises(ValueError, match="'analysis' is not submitted"):
        submission_schema("analysis")
