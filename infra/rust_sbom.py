"""The crates compiled into rust_core as a CycloneDX bill of materials (JSON): `python infra/rust_sbom.py > FILE`."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[1]
CRATE = "rust_core"

Crate = tuple[str, str]
"""Name and version."""


def said_by(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def compiled_in() -> dict[Crate, set[Crate]]:
    """Each crate and what it is made of, ours first: for this platform, without what only tests need.

    By `cargo tree`: the graph of `cargo metadata` has crates that are not compiled.
    """
    tree = said_by(
        *("cargo", "tree", "--locked", "--package", CRATE, "--edges", "normal,build"),
        *("--prefix", "depth", "--no-dedupe"),
    )
    needs: dict[Crate, set[Crate]] = {}
    above: list[Crate] = []
    for depth, name, version in re.findall(r"^(\d+)(\S+) v(\S+)", tree, re.MULTILINE):
        above[int(depth) :] = [(name, version)]
        needs.setdefault((name, version), set())
        if len(above) > 1:
            needs[above[-2]].add(above[-1])
    return needs


def bill_of_materials() -> Bom:
    needs = compiled_in()
    packages = {
        (one["name"], one["version"]): one
        for one in json.loads(said_by("cargo", "metadata", "--format-version=1", "--locked"))["packages"]
    }
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(one["name"], one["version"]): one.get("checksum") for one in lock}
    licences = LicenseFactory()

    def component(crate: Crate) -> Component:
        name, version = crate
        package, checksum = packages[crate], checksums[crate]
        licence = (package["license"] or "").replace("/", " OR ")  # crates.io's old way of writing it
        return Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            description=package["description"],
            bom_ref=f"{name}@{version}",
            purl=PackageURL("cargo", name=name, version=version),
            licenses=[licences.make_from_string(licence)] if licence else (),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)] if checksum else (),
        )

    components = {crate: component(crate) for crate in needs}
    ours, *others = components.values()
    bom = Bom(components=others)
    bom.metadata.component = ours
    for crate, made in components.items():
        bom.register_dependency(made, [components[need] for need in needs[crate]])
    return bom


if __name__ == "__main__":
    print(
        make_outputter(bill_of_materials(), OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    )
