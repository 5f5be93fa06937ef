"""When a version must rise: what breaks readers or senders is major, what else can be seen is minor; also against another commit."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import contracts
from tasks.contract_versions import version_problems
from tasks.contracts import snapshot

RELEASED = {"ionograms": {**snapshot()["ionograms"], "version": "1.0.0"}}
BOUNDS = st.none() | st.floats(-1e3, 1e3)


def problems(version: str, change: Any) -> list[str]:
    current = copy.deepcopy(RELEASED)
    current["ionograms"]["version"] = version
    change(current["ionograms"])
    return version_problems(RELEASED, current)


def column(name: str, **changes: Any) -> Any:
    return lambda contract: contract["columns"][name].update(changes)


def rule(code: str, **changes: Any) -> Any:
    return lambda contract: contract["rules"][code]["kwargs"].update(changes)


def add_column(contract: Any, name: str = "new_mhz", is_demanded: bool = False) -> None:
    contract["columns"][name] = {**contract["columns"]["fof2_mhz"], "is_demanded": is_demanded}
    contract["rules"]["new_mhz_range"] = {**contract["rules"]["fof2_mhz_range"], "columns": [name]}


def rename_column(contract: Any) -> None:
    contract["columns"]["f2_mhz"] = contract["columns"].pop("fof2_mhz")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["columns"].pop("fof2_mhz"), "column fof2_mhz was removed"),
        (rename_column, "column fof2_mhz was removed"),
        (column("fof2_mhz", type="float"), "fof2_mhz changed type from double to float"),
        (column("fof2_mhz", unit="kHz"), "fof2_mhz changed unit from MHz to kHz"),
        (column("sounder_id", nullable=True), "sounder_id may now be null"),
        (lambda c: c.update(meaning_key=["sounder_id"]), "the meaning key changed"),
        (lambda c: add_column(c, is_demanded=True), "senders must now give new_mhz"),
        (rule("fof2_mhz_range", max_value=20.0), "rule fof2_mhz_range narrowed max_value from 30 to 20.0"),
        (rule("fof2_mhz_range", column="fof1_mhz"), "rule fof2_mhz_range changed"),
        (rule("sounder_id_pattern", regex="^A$"), "rule sounder_id_pattern changed"),
        (lambda c: c["rules"].update(other=c["rules"]["fof2_mhz_range"]), "rule other is new"),
    ],
)
def test_what_breaks_readers_or_senders_needs_a_major_version(change: Any, problem: str) -> None:
    (said,) = problems("1.1.0", change)
    assert said.startswith(f"ionograms 1.1.0: {problem}")
    assert said.endswith("needs version 2.0.0")
    assert problems("2.0.0", change) == []


@pytest.mark.parametrize(
    "change",
    [
        add_column,
        column("fof2_mhz", nullable=False),
        rule("fof2_mhz_range", max_value=40.0),
        lambda c: c["rules"].pop("fof2_mhz_range"),
    ],
)
def test_what_else_can_be_seen_needs_a_minor_version(change: Any) -> None:
    assert problems("1.1.0", change) == []
    assert problems("1.0.1", change) == [
        "ionograms 1.0.1: columns or rules changed: needs a new minor version"
    ]


def test_a_version_never_goes_back() -> None:
    assert "is older than the released 1.0.0" in problems("0.9.0", lambda c: None)[0]
    assert problems("1.0.1", lambda c: None) == []


def test_dropped_dataset_breaks_readers() -> None:
    assert "the dataset is gone" in version_problems(snapshot(), {})[0]


@pytest.mark.parametrize(("removed", "added"), [("xray_wm2", None), (None, "dst_nt")])
def test_fewer_values_are_narrower_and_more_are_not(removed: str | None, added: str | None) -> None:
    before = {"indices": {**snapshot()["indices"], "version": "1.0.0"}}
    current = copy.deepcopy(before)
    current["indices"]["version"] = "1.1.0"
    values = current["indices"]["rules"]["index_name_enum"]["kwargs"]["value_set"]
    if removed:
        values.remove(removed)
    if added:
        values.append(added)
    said = version_problems(before, current)
    assert [removed for one in said if f"no longer accepts {removed}" in one] == (
        [removed] if removed else []
    )


@given(old=st.tuples(BOUNDS, BOUNDS), new=st.tuples(BOUNDS, BOUNDS), value=st.floats(-1e3, 1e3))
def test_a_value_that_was_accepted_is_refused_only_by_a_major_version(
    old: tuple[float | None, float | None], new: tuple[float | None, float | None], value: float
) -> None:
    def accepts(bounds: tuple[float | None, float | None]) -> bool:
        low, high = bounds
        return (-math.inf if low is None else low) <= value <= (math.inf if high is None else high)

    def with_bounds(bounds: tuple[float | None, float | None]) -> dict[str, Any]:
        contract = copy.deepcopy(RELEASED["ionograms"])
        contract["rules"]["fof2_mhz_range"]["kwargs"].update(min_value=bounds[0], max_value=bounds[1])
        return {"ionograms": contract}

    current = with_bounds(new)
    current["ionograms"]["version"] = "1.1.0"
    if accepts(old) and not accepts(new):
        assert "needs version 2.0.0" in version_problems(with_bounds(old), current)[0]


def test_against_another_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A branch narrows a range; the branch that it left has gone on meanwhile and does not count."""
    folder = tmp_path / "data_contracts"
    shutil.copytree(contracts.CONTRACT_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(contracts, "CONTRACT_FOLDER", folder)
    monkeypatch.setattr(contracts, "RELEASED_PATH", folder / "released.json")
    for variable in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):  # set where a hook runs the tests
        monkeypatch.delenv(variable, raising=False)

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    def edit(old: str, new: str, message: str) -> None:
        path = folder / "ionograms.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        git("commit", "--all", "--message", message)

    def check(commit: str) -> tuple[int, str]:
        contracts.load_contract.cache_clear()
        code = contracts.main(["--against", commit])
        return code, capsys.readouterr().err

    try:
        git("init", "--initial-branch", "main")
        git("add", ".")
        git("commit", "--message", "base")
        git("switch", "--create", "branch")
        assert check("main") == (0, "")
        edit("minimum: 0.5, maximum: 30", "minimum: 0.5, maximum: 25", "narrow")
        git("switch", "main")
        edit("status: active", "status: draft", "go on")
        git("switch", "branch")
        code, said = check("main")
        assert code == 1
        assert "fof2_mhz_range narrowed max_value from 30 to 25: needs version" in said
        # The committed snapshot does not help: a branch renews it.
        (folder / "released.json").write_text(json.dumps(snapshot()), encoding="utf-8")
        assert check("main")[0] == 1
        code, said = check("nowhere")
        assert code == 1
        assert said.startswith("nowhere: ")
    finally:
        contracts.load_contract.cache_clear()
