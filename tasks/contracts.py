"""The data contracts of `data_contracts/`: loaded, checked and compiled.

One YAML file per dataset in the Open Data Contract Standard v3.2 is the only place where a column, its unit, its range
or a rule is written. From it come, all in this file, the pyarrow schema, the list of rules that `tasks.validation` hands
to Great Expectations, the JSON Schema of a submission and the data dictionary. `python -m tasks.contracts --write`
renews the generated files; `--check` (and a test) fails when they are stale or when a change breaks readers;
`--against COMMIT` compares with the contracts of another commit.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contract_versions import version_problems

if TYPE_CHECKING:
    import pyarrow as pa

CONTRACT_FOLDER = Path(__file__).resolve().parents[1] / "data_contracts"
DICTIONARY_PATH = CONTRACT_FOLDER.parent / "docs" / "data-dictionary.md"
RELEASED_PATH = CONTRACT_FOLDER / "released.json"
SCHEMA_FOLDER = CONTRACT_FOLDER / "schema"

SUBMITTED_DATASETS: tuple[str, ...] = ("measurements", "ionograms", "indices")
DATASETS: tuple[str, ...] = (
    *SUBMITTED_DATASETS,
    "analysis",
    "feedback",
    "verification",
    "sounders",
    "echoes",
    "network",
    "quarantine",
)

TIMESTAMP = "timestamp[us, UTC]"
PHYSICAL_TYPES: tuple[str, ...] = ("string", "double", "int32", "int64", "boolean", "binary", TIMESTAMP)

# Great Expectations types a contract may use, and whether a failure names rows or refuses the batch. Only these have been
# tried with their null handling, index lists and parameters; anything else stops the load.
ROW_EXPECTATIONS = frozenset(
    {
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_not_be_null",
        "expect_column_value_lengths_to_be_between",
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_compound_columns_to_be_unique",
    }
)
BATCH_EXPECTATIONS = frozenset({"expect_column_max_to_be_between", "expect_table_row_count_to_be_between"})
PARAMETERS = frozenset({"latest", "oldest"})  # known only when a batch is judged

TIME_PATTERN = "^[0-9][-0-9T:., ]*(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})$"
"""What a submitted time looks like; whether it is one, a calendar must say."""

SENT_AT = "sent_at"
"""Field of an item, or of the envelope around many, that no dataset keeps: the sender's clock when it sent."""

_COLUMN_PROPERTIES = frozenset({"unit", "filledBy", "nestedPath", "normalization", "default"})
_DATASET_PROPERTIES = frozenset({"meaningKey", "isSubmitted"})
_REASON_CODE = re.compile(r"[a-z][a-z0-9_]*\Z")
_UNSAFE_CLASSES = re.compile(r"\\[dDwWsSbBZz]")


class ContractError(ValueError):
    """A contract is malformed, incomplete or uses a rule nobody has tried; the message names file and place."""


@dataclass(frozen=True)
class Column:
    """One column of a dataset."""

    name: str
    physical_type: str  # one of PHYSICAL_TYPES
    unit: str
    description: str
    nullable: bool
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None  # ECMA style, anchored with ^ and $
    max_length: int | None = None
    enum: tuple[str, ...] = ()
    enum_descriptions: tuple[str, ...] = ()
    is_key: bool = False
    filled_by: str = "sender"  # sender, sender_or_landing, landing
    nested_path: tuple[str, ...] = ()
    is_longitude: bool = False  # 0..360 is turned into -180..180 before the rules
    default: int | None = None  # what a value that is not given means, and is stored as


@dataclass(frozen=True)
class Rule:
    """One rule of a dataset: a Great Expectations expectation under a stable reason code."""

    code: str
    expectation: str
    kwargs: Mapping[str, Any]
    columns: tuple[str, ...]
    description: str
    is_batch: bool = False


@dataclass(frozen=True)
class Contract:
    """A loaded contract: everything the rest of the system knows about one dataset."""

    dataset: str
    version: str
    purpose: str
    usage: str
    limitations: str
    description: str
    owner: str
    retention_d: int
    service_levels: tuple[str, ...]
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    meaning_key: tuple[str, ...] = ()
    is_submitted: bool = False
    _by_name: Mapping[str, Column] = field(default_factory=dict, repr=False, compare=False)

    def column(self, name: str) -> Column:
        """The column called `name`.

        Raises:
            KeyError: the dataset has no such column.
        """
        return self._by_name[name]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def major_version(self) -> int:
        return int(self.version.split(".")[0])


@lru_cache(maxsize=len(DATASETS))
def load_contract(dataset: str) -> Contract:
    """The contract of `dataset`, read once per process.

    Raises:
        ValueError: there is no such dataset.
        ContractError: its file is not a valid contract.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset: {dataset!r} is unknown; known are {', '.join(DATASETS)}")
    return parse_contract((CONTRACT_FOLDER / f"{dataset}.yaml").read_text(encoding="utf-8"), dataset)


def parse_contract(text: str, dataset: str) -> Contract:
    """Read the contract of `dataset` from YAML text.

    Raises:
        ContractError: the text is not ODCS, lacks something we need, or has a key, type or rule we do not know.
    """
    import jsonschema_rs
    import yaml
    from open_data_contract_standard.model import OpenDataContractStandard

    where = f"data_contracts/{dataset}.yaml"
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f"{where}: not YAML: {error}") from error
    # The package's model drops unknown keys below the top level; its JSON Schema does not.
    problems = [
        f"{'.'.join(str(part) for part in error.instance_path) or 'document'}: {error.message}"
        for error in jsonschema_rs.validator_for(_odcs_schema()).iter_errors(document)
    ]
    if problems:
        raise ContractError(f"{where}: not a valid ODCS v3 contract: {'; '.join(problems[:5])}")
    contract = OpenDataContractStandard(**document)
    if contract.name != dataset or not contract.schema_ or len(contract.schema_) != 1:
        raise ContractError(f"{where}: needs name {dataset!r} and exactly one schema of that name")
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", contract.version or ""):
        raise ContractError(f"{where}: version {contract.version!r} is not major.minor.patch")
    table = contract.schema_[0]
    properties = _custom_properties(table.customProperties, _DATASET_PROPERTIES, f"{where}: schema")
    columns = tuple(_column(item, f"{where}: {item.name}") for item in table.properties or [])
    by_name = {column.name: column for column in columns}
    if not columns or len(by_name) != len(columns):
        raise ContractError(f"{where}: has no columns, or one name twice")
    rules = [_schema_rule(columns)]
    for column in columns:
        rules += _column_rules(column)
    rules += [_quality_rule(item, by_name, f"{where}: quality {item.name}") for item in table.quality or []]
    codes = [rule.code for rule in rules]
    if repeated := sorted({code for code in codes if codes.count(code) > 1}):
        raise ContractError(f"{where}: reason code used twice: {', '.join(repeated)}")
    meaning_key = tuple(properties.get("meaningKey", ()))
    if unknown := [name for name in meaning_key if name not in by_name]:
        raise ContractError(f"{where}: meaningKey names unknown columns {unknown}")
    levels = {item.property: item for item in contract.slaProperties or []}
    if "retention" not in levels or levels["retention"].unit != "d":
        raise ContractError(f"{where}: slaProperties needs a retention in d")
    if contract.description is None or contract.team is None:
        raise ContractError(f"{where}: needs a description and a team (owner)")
    return Contract(
        dataset=dataset,
        version=str(contract.version),
        purpose=contract.description.purpose or "",
        usage=contract.description.usage or "",
        limitations=contract.description.limitations or "",
        description=table.description or "",
        owner=getattr(contract.team, "name", None) or "",
        retention_d=int(str(levels["retention"].value)),
        service_levels=tuple(
            f"{name} {item.value} {item.unit}: {item.description}"
            for name, item in sorted(levels.items(), key=str)
        ),
        columns=columns,
        rules=tuple(rules),
        meaning_key=meaning_key,
        is_submitted=bool(properties.get("isSubmitted", False)),
        _by_name=by_name,
    )


@lru_cache(maxsize=1)
def _odcs_schema() -> dict[str, Any]:
    text = resources.files("open_data_contract_standard").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _custom_properties(items: Any, known: frozenset[str], where: str) -> dict[str, Any]:
    properties = {item.property: item.value for item in items or []}
    if unknown := sorted(str(name) for name in properties if name not in known):
        raise ContractError(
            f"{where}: unknown customProperties {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    return properties


def _column(item: Any, where: str) -> Column:
    properties = _custom_properties(item.customProperties, _COLUMN_PROPERTIES, where)
    options = item.logicalTypeOptions or {}
    pattern = options.get("pattern")
    if item.physicalType not in PHYSICAL_TYPES:
        raise ContractError(
            f"{where}: physicalType {item.physicalType!r} is unknown; known are {', '.join(PHYSICAL_TYPES)}"
        )
    if not item.description or "unit" not in properties or item.required is None:
        raise ContractError(f"{where}: needs description, required and the custom property unit")
    if pattern is not None and not (pattern.startswith("^") and pattern.endswith("$")):
        raise ContractError(f"{where}: pattern {pattern!r} must begin with ^ and end with $")
    if pattern is not None and _UNSAFE_CLASSES.search(pattern):
        raise ContractError(
            f"{where}: pattern {pattern!r}: write the ASCII characters out, \\d and the like match others too"
        )
    if unread := sorted(set(options) - {"minimum", "maximum", "pattern", "maxLength", "timezone"}):
        raise ContractError(f"{where}: logicalTypeOptions {', '.join(unread)} would not be enforced")
    if item.quality or item.unique:
        raise ContractError(f"{where}: write quality rules at the schema, not at the column")
    if properties.get("normalization") not in (None, "longitude"):
        raise ContractError(
            f"{where}: normalization {properties['normalization']!r} is unknown; known is longitude"
        )
    if "default" in properties and (not item.physicalType.startswith("int") or item.required):
        raise ContractError(f"{where}: only an integer that need not be given can have a default")
    filled_by = properties.get("filledBy", "sender")
    if filled_by not in ("sender", "sender_or_landing", "landing"):
        raise ContractError(f"{where}: filledBy {filled_by!r} is unknown")
    return Column(
        name=item.name,
        physical_type=item.physicalType,
        unit=str(properties["unit"]),
        description=item.description,
        nullable=not item.required,
        minimum=options.get("minimum"),
        maximum=options.get("maximum"),
        pattern=pattern,
        max_length=options.get("maxLength"),
        enum=tuple(str(entry.value) for entry in item.enum or []),
        enum_descriptions=tuple(entry.description or "" for entry in item.enum or []),
        is_key=bool(item.primaryKey),
        filled_by=filled_by,
        nested_path=tuple(properties["nestedPath"].split(".")) if "nestedPath" in properties else (),
        is_longitude="normalization" in properties,
        default=properties.get("default"),
    )


def _schema_rule(columns: tuple[Column, ...]) -> Rule:
    names = tuple(column.name for column in columns)
    return Rule(
        code="batch_schema",
        expectation="expect_table_columns_to_match_set",
        kwargs={"column_set": list(names), "exact_match": True},
        columns=names,
        description="The batch has exactly the columns of the contract.",
        is_batch=True,
    )


def _column_rules(column: Column) -> list[Rule]:
    """Rules that follow from what the contract says about one column."""
    name, unit = column.name, "" if column.unit in ("1", "UTC") else f" {column.unit}"
    rules = []

    def add(suffix: str, expectation: str, description: str, **kwargs: Any) -> None:
        rules.append(Rule(f"{name}_{suffix}", expectation, {"column": name, **kwargs}, (name,), description))

    if not column.nullable:
        add("missing", "expect_column_values_to_not_be_null", "is required and not given")
    if column.minimum is not None or column.maximum is not None:
        low = "" if column.minimum is None else f"{column.minimum:g}"
        high = "" if column.maximum is None else f"{column.maximum:g}"
        add(
            "range",
            "expect_column_values_to_be_between",
            f"is outside {low}..{high}{unit}",
            min_value=column.minimum,
            max_value=column.maximum,
        )
    if column.enum:
        add(
            "enum",
            "expect_column_values_to_be_in_set",
            f"is not one of {', '.join(column.enum)}",
            value_set=list(column.enum),
        )
    if column.pattern is not None:
        # `$` of Python's regex also matches before a trailing newline.
        add(
            "pattern",
            "expect_column_values_to_match_regex",
            f"does not match {column.pattern}",
            regex=column.pattern[:-1] + r"\Z",
        )
    if column.max_length is not None:
        add(
            "length",
            "expect_column_value_lengths_to_be_between",
            f"is longer than {column.max_length} characters",
            max_value=column.max_length,
        )
    return rules


def _quality_rule(item: Any, columns: Mapping[str, Column], where: str) -> Rule:
    if not item.name or not _REASON_CODE.match(item.name):
        raise ContractError(f"{where}: name must be a reason code of lower-case letters, digits and _")
    description = item.description or item.name
    if item.type == "library":
        if item.metric != "rowCount" or item.mustBeBetween is None:
            raise ContractError(f"{where}: of the library metrics only rowCount with mustBeBetween is known")
        low, high = item.mustBeBetween
        kwargs: dict[str, Any] = {"min_value": int(low), "max_value": int(high)}
        return Rule(item.name, "expect_table_row_count_to_be_between", kwargs, (), description, is_batch=True)
    if (
        item.type != "custom"
        or item.engine != "greatExpectations"
        or not isinstance(item.implementation, dict)
    ):
        raise ContractError(
            f"{where}: must be type custom of engine greatExpectations, or the library metric rowCount"
        )
    if unread := sorted(set(item.implementation) - {"type", "kwargs"}):
        raise ContractError(f"{where}: implementation has unknown keys {', '.join(unread)}")
    expectation, kwargs = item.implementation.get("type"), dict(item.implementation.get("kwargs") or {})
    if expectation not in ROW_EXPECTATIONS | BATCH_EXPECTATIONS:
        raise ContractError(
            f"{where}: rule {expectation!r} is unknown; known are {sorted(ROW_EXPECTATIONS | BATCH_EXPECTATIONS)}"
        )
    for name, value in kwargs.items():
        if name == "row_condition" or not isinstance(value, dict):
            continue
        if set(value) != {"$PARAMETER"} or value["$PARAMETER"] not in PARAMETERS:
            raise ContractError(
                f"{where}: {name}: parameter {value} is unknown; known are {sorted(PARAMETERS)}"
            )
    if expectation == "expect_column_pair_values_a_to_be_greater_than_b" and (
        kwargs.get("ignore_row_if") != "either_value_is_missing"
    ):
        raise ContractError(
            f"{where}: a pair rule needs ignore_row_if either_value_is_missing, or nulls fail it"
        )
    names = [
        kwargs.get("column"),
        kwargs.get("column_A"),
        kwargs.get("column_B"),
        *kwargs.get("column_list", []),
    ]
    used = tuple(name for name in names if name is not None)
    if unknown := [name for name in used if name not in columns]:
        raise ContractError(f"{where}: unknown column {', '.join(unknown)}")
    if "row_condition" in kwargs:
        condition_columns = _condition_columns(kwargs["row_condition"], columns, where)
        used += tuple(name for name in condition_columns if name not in used)
    return Rule(item.name, expectation, kwargs, used, description, is_batch=expectation in BATCH_EXPECTATIONS)


def _condition_columns(condition: Any, columns: Mapping[str, Column], where: str) -> tuple[str, ...]:
    """Columns of a row condition in Great Expectations' own dictionary form.

    Checked here because the library quietly drops keys of a condition that it does not know.
    """
    match condition:
        case {"type": "and", "conditions": [_, *_] as parts, **rest} if not rest:
            return tuple(name for part in parts for name in _condition_columns(part, columns, where))
        case {"type": "nullity", "column": {"name": str(name)}, "is_null": bool(), **rest} if not rest:
            pass
        case {
            "type": "comparison",
            "column": {"name": str(name)},
            "operator": "==",
            "parameter": str(),
            **rest,
        } if not rest:
            pass
        case _:
            raise ContractError(
                f"{where}: row_condition {condition} is not an `and` of nullity and == comparisons"
            )
    if name not in columns:
        raise ContractError(f"{where}: row_condition names the unknown column {name}")
    return (name,)


def arrow_schema(dataset: str) -> pa.Schema:
    """The pyarrow schema of `dataset`: unit and description in each field's metadata, contract and version in its own."""
    import pyarrow as pa  # 40 MB that the gateway, which reads contracts too, need not carry

    contract = load_contract(dataset)
    types = {name: pa.type_for_alias(name) for name in PHYSICAL_TYPES if name != TIMESTAMP}
    types[TIMESTAMP] = pa.timestamp("us", "UTC")
    return pa.schema(
        [
            pa.field(
                column.name,
                types[column.physical_type],
                nullable=column.nullable,
                metadata={"unit": column.unit, "description": column.description},
            )
            for column in contract.columns
        ],
        metadata={"contract": contract.dataset, "contract_version": contract.version},
    )


def submission_schema(dataset: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of one submitted item of `dataset`: what a sender fills, flat or (measurements) nested.

    It describes the same limits as the contract's column rules, for senders to check themselves and for a gateway to
    refuse nonsense early. Fields it does not name are allowed: a newer sender may know more than we do.

    Raises:
        ValueError: the dataset is not one that is submitted.
    """
    contract = load_contract(dataset)
    if not contract.is_submitted:
        raise ValueError(
            f"dataset: {dataset!r} is not submitted; submitted are {', '.join(SUBMITTED_DATASETS)}"
        )
    filled = [column for column in contract.columns if column.filled_by != "landing"]
    required = [column.name for column in filled if column.filled_by == "sender" and not column.nullable]
    flat = {column.name: _value_schema(column) for column in filled}
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:autonvis:{dataset}:{contract.major_version}",
        "title": f"{dataset} {contract.version}: one submitted item",
        "description": f"{contract.description} {contract.limitations}",
        "type": "object",
        "properties": {**flat, SENT_AT: _SENT_AT_SCHEMA},
    }
    nested = [column for column in filled if column.nested_path]
    if not nested:
        return {**schema, "required": required}
    groups: dict[str, dict[str, Any]] = {}
    for column in nested:
        group, name = column.nested_path
        entry = groups.setdefault(group, {"type": "object", "properties": {}, "required": []})
        entry["properties"][name] = flat[column.name]
        if column.name in required:
            entry["required"].append(name)
    flat_required = [name for name in required if not contract.column(name).nested_path]
    return {
        **schema,
        "description": f"{schema['description']} Fields may be flat, or grouped in {', '.join(groups)}.",
        "properties": {**schema["properties"], **groups},
        "required": flat_required,
        "anyOf": [
            {"title": "flat", "required": [name for name in required if name not in flat_required]},
            {"title": "nested", "required": [group for group, entry in groups.items() if entry["required"]]},
        ],
    }


_SENT_AT_SCHEMA = {
    "type": ["string", "null"],
    "pattern": TIME_PATTERN,
    "description": "The sender's clock when it sent, for the clock offset in its receipt; not kept with the observation.",
}


def _value_schema(column: Column) -> dict[str, Any]:
    json_type = {
        "string": "string",
        "double": "number",
        "int32": "integer",
        "int64": "integer",
        "boolean": "boolean",
        "timestamp[us, UTC]": "string",
    }[column.physical_type]
    is_nullable = column.nullable or column.filled_by == "sender_or_landing"
    schema: dict[str, Any] = {
        "type": [json_type, "null"] if is_nullable else json_type,
        "description": f"{column.description} Unit: {column.unit}.",
    }
    if column.default is not None:
        schema["default"] = column.default
    if column.minimum is not None:
        schema["minimum"] = column.minimum
    if column.maximum is not None:
        schema["maximum"] = 360 if column.is_longitude else column.maximum
    if column.pattern is not None:
        schema["pattern"] = column.pattern
    if column.max_length is not None:
        schema["maxLength"] = column.max_length
    if column.enum:
        schema["enum"] = [*column.enum, None] if is_nullable else list(column.enum)
    if column.physical_type.startswith("timestamp"):
        schema["pattern"] = TIME_PATTERN
    return schema


def data_dictionary() -> str:
    """The page of all datasets, their columns and rules, as Markdown."""
    lines = [
        "# Data dictionary",
        "",
        "Generated from `data_contracts/` by `make contracts`; do not edit. Times are UTC with microseconds, missing is null.",
        "Reason codes are stable: they begin each text in the quarantine's `reasons`.",
    ]
    for dataset in DATASETS:
        contract = load_contract(dataset)
        lines += [
            "",
            f"## {dataset}",
            "",
            f"Version {contract.version}. {contract.description} {contract.purpose}",
            "",
            f"Use: {contract.usage} Limits: {contract.limitations} Owner: {contract.owner}.",
            "",
            *[f"* {level}" for level in contract.service_levels],
            "",
            "| column | type | unit | null | values | meaning |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| `{column.name}`{' (key)' if column.is_key else ''} | {column.physical_type} | {column.unit} | "
            f"{'yes' if column.nullable else 'no'} | {_values_text(column)} | {column.description} |"
            for column in contract.columns
        ]
        if contract.is_submitted and (
            nested := [column for column in contract.columns if column.nested_path]
        ):
            names = ", ".join(f"`{'.'.join(column.nested_path)}` = `{column.name}`" for column in nested)
            lines += ["", f"Nested form of a submission: {names}."]
        lines += ["", "| reason code | judges | rule |", "|---|---|---|"]
        lines += [
            f"| `{rule.code}` | {'batch' if rule.is_batch else 'row'} | "
            f"{'' if rule.is_batch or len(rule.columns) != 1 else f'`{rule.columns[0]}` '}{_escaped(rule.description)} |"
            for rule in contract.rules
        ]
    return "\n".join(lines) + "\n"


def _values_text(column: Column) -> str:
    if column.enum:
        return "; ".join(
            f"`{value}` {text}" for value, text in zip(column.enum, column.enum_descriptions, strict=True)
        )
    if column.minimum is not None or column.maximum is not None:
        low = "" if column.minimum is None else f"{column.minimum:g}"
        high = "" if column.maximum is None else f"{column.maximum:g}"
        return f"{low}..{high}"
    return f"`{_escaped(column.pattern)}`" if column.pattern else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def generated_files() -> dict[Path, str]:
    """Every file that is generated from the contracts, with the text it should have."""
    files = {DICTIONARY_PATH: data_dictionary()}
    for dataset in SUBMITTED_DATASETS:
        text = json.dumps(submission_schema(dataset), indent=2, ensure_ascii=False) + "\n"
        files[SCHEMA_FOLDER / f"{dataset}.schema.json"] = text
    return files


def stale_files() -> list[Path]:
    """The generated files that are missing or differ from what the contracts say now."""
    return [
        path
        for path, text in generated_files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def snapshot(contracts: Mapping[str, Contract] | None = None) -> dict[str, Any]:
    """What readers of the lake and senders rely on, per dataset: version, columns, meaning key and rules, as JSON can hold it."""
    contracts = (
        contracts if contracts is not None else {dataset: load_contract(dataset) for dataset in DATASETS}
    )
    return {
        dataset: {
            "version": contract.version,
            "columns": {
                column.name: {
                    "type": column.physical_type,
                    "unit": column.unit,
                    "nullable": column.nullable,
                    "is_demanded": contract.is_submitted
                    and not column.nullable
                    and column.filled_by == "sender",
                }
                for column in contract.columns
            },
            "meaning_key": list(contract.meaning_key),
            "rules": {
                rule.code: {
                    "expectation": rule.expectation,
                    "columns": list(rule.columns),
                    "kwargs": dict(rule.kwargs),
                }
                for rule in contract.rules
            },
        }
        for dataset, contract in contracts.items()
    }


def snapshot_text(snapshot: Mapping[str, Any]) -> str:
    """A snapshot as JSON with one line per column and rule, so that a change of one is a line of a diff."""

    def block(item: Any, depth: int) -> str:
        if depth == 3 or not isinstance(item, dict):
            return json.dumps(item)
        inside = ",\n".join(
            f"{' ' * (depth + 1)}{json.dumps(name)}: {block(value, depth + 1)}"
            for name, value in item.items()
        )
        return f"{{\n{inside}\n{' ' * depth}}}"

    return block(dict(snapshot), 0) + "\n"


def snapshot_at(commit: str) -> dict[str, Any]:
    """The snapshot of the contracts where the branch left `commit` (a branch, tag or id of this repository).

    Raises:
        ContractError: git knows no such commit, or a contract of then cannot be read.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(CONTRACT_FOLDER), *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ContractError(f"{commit}: {done.stderr.strip() or 'shares no commit with this branch'}")
        return done.stdout

    base = git("merge-base", commit, "HEAD").strip()
    names = [Path(name) for name in git("ls-tree", "--name-only", base, "./").splitlines()]
    texts = {name.stem: git("show", f"{base}:./{name}") for name in names if name.suffix == ".yaml"}
    return snapshot({dataset: parse_contract(text, dataset) for dataset, text in texts.items()})


def released_snapshot() -> dict[str, Any]:
    """The committed snapshot of the last released contracts; empty before the first release."""
    if not RELEASED_PATH.is_file():
        return {}
    released: dict[str, Any] = json.loads(RELEASED_PATH.read_text(encoding="utf-8"))
    return released


def main(arguments: list[str] | None = None) -> int:
    """`python -m tasks.contracts --write|--check|--against COMMIT`."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.contracts", description="Generate or check what contracts generate."
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--write", action="store_true", help="write dictionary, JSON Schemas and the released snapshot"
    )
    action.add_argument(
        "--check", action="store_true", help="fail when a generated file is stale or a change breaks readers"
    )
    action.add_argument(
        "--against",
        metavar="COMMIT",
        help="fail when a change since this branch left that commit breaks readers or senders",
    )
    options = parser.parse_args(arguments)
    try:
        released = snapshot_at(options.against) if options.against else released_snapshot()
        problems = version_problems(released, snapshot())
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    if options.check:
        problems += [
            f"{path.relative_to(CONTRACT_FOLDER.parent)} is stale: run `make contracts`"
            for path in stale_files()
        ]
        if not problems and released_snapshot() != snapshot():
            problems = [f"{RELEASED_PATH.relative_to(CONTRACT_FOLDER.parent)} is stale: run `make contracts`"]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    if options.write:
        files = {**generated_files(), RELEASED_PATH: snapshot_text(snapshot())}
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(CONTRACT_FOLDER.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
