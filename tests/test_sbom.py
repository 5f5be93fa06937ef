"""What the product is made of, as it says itself: by CycloneDX's schema, and against Cargo and pip."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BUILD_TOOLS = {"maturin", "setuptools", "pip"}
"""Removed from the image when it is built."""

validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")


def checked(document: str) -> dict[str, Any]:
    from cyclonedx.schema import SchemaVersion

    fault = validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(document)
    assert fault is None, fault
    found: dict[str, Any] = json.loads(document)
    refs = {one["bom-ref"] for one in [found["metadata"]["component"], *found["components"]]}
    named = {one["ref"] for one in found["dependencies"]} | {
        ref for one in found["dependencies"] for ref in one.get("dependsOn", ())
    }
    assert named <= refs
    return found


def versions(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["name"], one["version"]) for one in found["components"]}


@pytest.mark.skipif(shutil.which("cargo") is None, reason="cargo is not installed")
def test_the_bill_of_rust_core_has_what_is_compiled_in() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "infra" / "rust_sbom.py"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = checked(done.stdout)
    ours = found["metadata"]["component"]
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    assert versions(found) < {(one["name"], one["version"]) for one in lock}
    names = {one["name"] for one in found["components"]}
    manifest = tomllib.loads((ROOT / "rust_core" / "Cargo.toml").read_text())
    assert set(manifest["dependencies"]) <= names
    assert "half" not in names  # `cargo metadata` has it, and nothing compiles it
    assert all(one["hashes"] and one["licenses"] and one["purl"] for one in found["components"])
    (root,) = [one for one in found["dependencies"] if one["ref"] == ours["bom-ref"]]
    assert any(ref.startswith("pyo3@") for ref in root["dependsOn"])


@pytest.mark.slow
def test_the_bills_are_made_by_one_command() -> None:
    done = subprocess.run(["make", "sbom"], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = ROOT / "build" / "sbom"
    checked((folder / "rust.cdx.json").read_text())
    found = checked((folder / "python.cdx.json").read_text())
    lines = re.findall(r"^([A-Za-z0-9].*?) *\\$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pinned = [Requirement(line) for line in lines]
    wanted = {
        (one.name, str(one.specifier).removeprefix("=="))
        for one in pinned
        if one.marker is None or one.marker.evaluate()
    }
    names = {(name.lower().replace("_", "-").replace(".", "-"), version) for name, version in versions(found)}
    assert {one for one in names if one[0] not in BUILD_TOOLS} == {
        one for one in wanted if one[0] not in BUILD_TOOLS
    }
