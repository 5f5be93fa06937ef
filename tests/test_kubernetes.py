"""The manifests of infra/kubernetes as a cluster would get them: built by kubectl, held against Kubernetes' schemas, and against what we run."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from starlette.routing import Mount, Route

from autonvis.environment import prefect_environment
from services import gateway, web
from tasks.metrics import names
from tasks.settings import PREFIX, Settings

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate, which has the schemas, is not installed"
)
ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = ROOT / "infra" / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
VERSIONS = ("1.30", "1.34")
"""Of Kubernetes: the oldest and the newest that the manifests are held against."""
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "docker" / "compose.yaml").read_text())["services"]
OURS = {"gateway", "web", "prefect", "deployments", "worker"}
HOME = "/var/lib/autonvis"

Manifest = dict[str, Any]


@functools.cache
def built(overlay: str) -> tuple[Manifest, ...]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: https://kubernetes.io/docs/tasks/tools")
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in built(overlay) if one["kind"] in kinds}


def workloads(overlay: str) -> dict[str, Manifest]:
    return of_kind(overlay, "Deployment", "StatefulSet", "Job")


def pod(workload: Manifest) -> Manifest:
    return cast(Manifest, workload["spec"]["template"]["spec"])


def container(workload: Manifest) -> Manifest:
    (only,) = pod(workload)["containers"]
    return cast(Manifest, only)


def labels(workload: Manifest) -> dict[str, str]:
    return cast(dict[str, str], workload["spec"]["template"]["metadata"]["labels"])


def settings_of(overlay: str, name: str) -> dict[str, str]:
    """Environment of a workload as far as it is no secret."""
    found: dict[str, str] = {}
    for source in container(workloads(overlay)[name]).get("envFrom", ()):
        if "configMapRef" in source:
            found |= of_kind(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return found | {
        one["name"]: one.get("value", "") for one in container(workloads(overlay)[name]).get("env", ())
    }


def selects(selector: Manifest, of: dict[str, str]) -> bool:
    return all(of.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        of.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ())
    )


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return cast(str, request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_follows_its_schema(overlay: str, version: str) -> None:
    for one in built(overlay):
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    broken = json.loads(json.dumps(workloads("production")["web"]))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_every_container_is_hardened_checked_and_bounded(overlay: str) -> None:
    assert set(workloads(overlay)) == {*OURS, "rabbitmq", "prometheus", "grafana"}
    for name, workload in workloads(overlay).items():
        spec, only = pod(workload), container(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert "hostNetwork" not in spec
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["runAsUser"] > 0
        assert name not in OURS or context["runAsUser"] == context["fsGroup"] == 1000
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for bound in ("requests", "limits"):
            assert set(only["resources"][bound]) == {"cpu", "memory"}, name
        if workload["kind"] != "Job":  # it ends
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(only)


def test_the_images_are_those_of_the_compose_file(overlay: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, workload in workloads(overlay).items():
        image = container(workload)["image"]
        if name in OURS:
            assert image.rpartition("/")[2] == f"autonvis:{version}"
        else:
            assert image == COMPOSE[name]["image"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_is_that_of_the_compose_file_and_is_one(name: str) -> None:
    command = container(workloads("production")[name])["args"]
    assert command == COMPOSE[name]["command"]
    for line in command[2].splitlines() if command[0] == "sh" else [" ".join(command)]:
        words = line.replace("--no-prompt ", "").split()
        program, *verbs = takewhile(lambda word: not word.startswith("--"), words)
        asked = [Path(sys.executable).with_name(program), *verbs, "--help"]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        missing = [word for word in words if word.startswith("--") and word not in done.stdout]
        assert not missing, f"{missing} of {line}"


def test_every_setting_exists_and_has_a_value_that_is_accepted(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in OURS:
        given = settings_of(overlay, name)
        assert {key for key in given if key.startswith(PREFIX)} <= known
        with monkeypatch.context() as environment:
            for key, value in given.items():
                environment.setenv(key, value)
            assert str(Settings().home) == HOME


def test_prefect_is_set_as_in_the_processes_that_we_start_ourselves(overlay: str) -> None:
    own = prefect_environment(Settings(home=Path(HOME), log_format="json"))
    given = settings_of(overlay, "prefect")
    of_the_image = {"PREFECT_HOME", "PREFECT_PROFILES_PATH"}
    assert {key: given.get(key) for key in own if key not in of_the_image} == {
        key: value for key, value in own.items() if key not in of_the_image
    }


def test_secrets_are_named_and_nowhere_written(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")
    example = list(yaml.safe_load_all((KUBERNETES / "secrets.example.yaml").read_text()))
    described = {one["metadata"]["name"]: set(one["stringData"]) for one in example}
    assert all("CHANGE" in value for one in example for value in one["stringData"].values())
    for one in example:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    wanted: dict[str, set[str]] = {}
    for workload in workloads(overlay).values():
        only = container(workload)
        for source in only.get("envFrom", ()):
            if "secretRef" in source:
                wanted.setdefault(source["secretRef"]["name"], set())
        for one in only.get("env", ()):
            if "valueFrom" in one:
                key = one["valueFrom"]["secretKeyRef"]
                wanted.setdefault(key["name"], set()).add(key["key"])
        for volume in pod(workload).get("volumes", ()):
            if "secret" in volume:
                keys = {item["key"] for item in volume["secret"]["items"]}
                wanted.setdefault(volume["secret"]["secretName"], set()).update(keys)
    for ingress in of_kind(overlay, "Ingress").values():
        wanted.setdefault(ingress["spec"]["tls"][0]["secretName"], set())
    assert set(described) == set(wanted)
    assert all(keys <= described[name] for name, keys in wanted.items())
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert {key for keys in described.values() for key in keys if key.startswith(PREFIX)} <= known


def test_every_volume_and_mount_belongs_to_something(overlay: str) -> None:
    claims, maps = of_kind(overlay, "PersistentVolumeClaim"), of_kind(overlay, "ConfigMap")
    for name, workload in workloads(overlay).items():
        volumes = {one["name"]: one for one in pod(workload).get("volumes", ())}
        volumes |= {one["metadata"]["name"]: {} for one in workload["spec"].get("volumeClaimTemplates", ())}
        mounted = {one["name"] for one in container(workload).get("volumeMounts", ())}
        assert mounted == set(volumes), name
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            for one in [volume, *volume.get("projected", {}).get("sources", ())]:
                if "configMap" in one:
                    assert one["configMap"]["name"] in maps
    (mode,) = claims["home"]["spec"]["accessModes"]
    shared = sum(
        {"claimName": "home"}
        in [one.get("persistentVolumeClaim") for one in pod(workload).get("volumes", ())]
        for workload in workloads(overlay).values()
    )
    assert shared == 3  # gateway, web and workers
    assert mode == ("ReadWriteOnce" if overlay == "single-node" else "ReadWriteMany")


def listening() -> dict[str, dict[int, str]]:
    """Ports by workload and name, as the services' own defaults and the broker's configuration have them."""
    defaults = Settings()
    broker = (ROOT / "infra" / "rabbitmq" / "containers.conf").read_text()
    ports = {name: int(re.search(rf"^{key} = (?:\S+:)?(\d+)$", broker, re.MULTILINE)[1])  # type: ignore[index]
             for name, key in (("mqtt", "mqtt.listeners.tcp.1"), ("mqtts", "mqtt.listeners.ssl.1"), ("metrics", "prometheus.tcp.port"))}  # fmt: skip
    return {
        "gateway": {defaults.gateway_port: "http", defaults.tcp_port: "lines"},
        "web": {defaults.web_port: "http"},
        "prefect": {defaults.prefect_port: "http"},
        "rabbitmq": {port: name for name, port in ports.items()},
    }


def test_services_lead_to_pods_by_ports_that_they_listen_on(overlay: str) -> None:
    for name, ports in listening().items():
        found = {one["containerPort"]: one["name"] for one in container(workloads(overlay)[name])["ports"]}
        assert found == ports
    for name, service in of_kind(overlay, "Service").items():
        (target,) = [
            one
            for one in workloads(overlay).values()
            if selects({"matchLabels": service["spec"]["selector"]}, labels(one))
        ]
        open_ports = {one["name"] for one in container(target)["ports"]}
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= open_ports, name
    public = {name for name, one in of_kind(overlay, "Service").items() if one["spec"].get("type")}
    assert public == {"gateway-lines", "rabbitmq-stations"}


def test_selectors_of_workloads_budgets_and_spreads_match_their_pods(overlay: str) -> None:
    of_pods = [labels(one) for one in workloads(overlay).values()]
    for workload in workloads(overlay).values():
        for spread in pod(workload).get("topologySpreadConstraints", ()):
            assert selects(spread["labelSelector"], labels(workload))
        if workload["kind"] != "Job":
            assert selects(workload["spec"]["selector"], labels(workload))
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert set(budgets) == {"gateway", "web", "worker"}
    for budget in budgets.values():
        assert sum(selects(budget["spec"]["selector"], one) for one in of_pods) == 1


def allowed(overlay: str, source: str, target: str, port: int) -> bool:
    """Whether the policies let `source` reach a port of `target`, both by name of their workload."""
    of_pods = {name: labels(one) for name, one in workloads(overlay).items()}
    policies = [one["spec"] for one in of_kind(overlay, "NetworkPolicy").values()]

    def lets(direction: str, here: str, there: str) -> bool:
        peers = "from" if direction == "ingress" else "to"
        return any(
            any(one["port"] == port for one in rule["ports"])
            and (
                peers not in rule
                or any(
                    "podSelector" in peer and selects(peer["podSelector"], of_pods[there])
                    for peer in rule[peers]
                )
            )
            for policy in policies
            if selects(policy["podSelector"], of_pods[here])
            for rule in policy.get(direction, ())
        )

    return lets("egress", source, target) and lets("ingress", target, source)


def test_the_network_is_closed_but_for_what_is_needed(overlay: str) -> None:
    nothing = of_kind(overlay, "NetworkPolicy")["nothing"]["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ports = {(name, port) for name, found in listening().items() for port in found}
    ports |= {("prometheus", 9090), ("grafana", 3000), ("worker", 8080)}
    found = {
        (source, target, port)
        for source in workloads(overlay)
        for target, port in ports
        if source != target and allowed(overlay, source, target, port)
    }
    assert found == {
        ("worker", "prefect", 4200),
        ("deployments", "prefect", 4200),
        ("worker", "rabbitmq", 1883),
        ("worker", "gateway", 8002),
        ("worker", "web", 8080),
        ("rabbitmq", "gateway", 8002),
        ("prometheus", "gateway", 8002),
        ("prometheus", "web", 8080),
        ("prometheus", "rabbitmq", 15692),
        ("grafana", "prometheus", 9090),
    }


def addresses(overlay: str) -> Iterator[tuple[str, str, int]]:
    """Who asks whom by which name and port, of all that is configured."""
    for name in OURS:
        for value in settings_of(overlay, name).values():
            yield from (
                (name, host, int(port)) for host, port in re.findall(r"http://([a-z-]+):(\d+)", value)
            )
    for value in settings_of(overlay, "grafana").values():
        yield from (
            ("grafana", host, int(port)) for host, port in re.findall(r"http://([a-z-]+):(\d+)", value)
        )
    broker = (ROOT / "infra" / "rabbitmq" / "containers.conf").read_text()
    yield from (("rabbitmq", host, int(port)) for host, port in re.findall(r"http://([a-z-]+):(\d+)", broker))
    scrapes = yaml.safe_load((KUBERNETES / "base" / "prometheus.yml").read_text())["scrape_configs"]
    for scrape in scrapes:
        for static in scrape.get("static_configs", ()):
            yield from (("prometheus", *one.split(":")) for one in static["targets"])  # type: ignore[misc]
        for discovery in scrape.get("dns_sd_configs", ()):
            yield from (("prometheus", name, discovery["port"]) for name in discovery["names"])


def test_every_address_that_is_configured_is_a_service_that_can_be_reached(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    asked = set(addresses(overlay))
    assert len(asked) > 8
    for source, host, port in asked:
        assert int(port) in {one["port"] for one in services[host]["spec"]["ports"]}, (source, host, port)
        if source in (
            "worker",
            "rabbitmq",
            "prometheus",
            "grafana",
        ):  # others have the settings and do not ask
            assert allowed(overlay, source, services[host]["spec"]["selector"]["app"], int(port))


def led_to(paths: list[Manifest], path: str) -> str | None:
    """The Service to which an Ingress leads a path, as Kubernetes defines Exact and Prefix."""
    exact = {one["path"]: one for one in paths if one["pathType"] == "Exact"}
    prefixes = [
        one
        for one in paths
        if one["pathType"] == "Prefix" and f"{path}/".startswith(one["path"].rstrip("/") + "/")
    ]
    found = exact.get(path) or max(prefixes, key=lambda one: len(one["path"]), default=None)
    return found["backend"]["service"]["name"] if found is not None else None


def test_the_public_sees_what_it_is_meant_to(overlay: str) -> None:
    services, ingresses = of_kind(overlay, "Service"), of_kind(overlay, "Ingress")
    for ingress in ingresses.values():
        (rule,) = ingress["spec"]["rules"]
        assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            assert backend["port"]["name"] in {
                one["name"] for one in services[backend["name"]]["spec"]["ports"]
            }
    apps = {
        "people": ("web", web.create_app(Settings())),
        "sounders": ("gateway", gateway.create_app(Settings())),
    }
    for name, (service, app) in apps.items():
        paths = ingresses[name]["spec"]["rules"][0]["http"]["paths"]
        routes = [route for route in app.routes if isinstance(route, Route | Mount)]
        asked = {
            re.sub(r"{[^}]+}", "X1", route.path) + ("/x" if isinstance(route, Mount) else "")
            for route in routes
        }
        assert len(asked) > 10
        private = {path for path in asked if path == "/metrics" or path.startswith("/broker/")}
        assert private
        assert {path for path in asked if led_to(paths, path) == service} == asked - private
        assert {led_to(paths, path) for path in private} == {None}
    assert led_to(ingresses["people"]["spec"]["rules"][0]["http"]["paths"], "/grafana/login") == "grafana"


def test_gateways_are_scaled_by_a_metric_that_there_is() -> None:
    scaler = of_kind("production", "HorizontalPodAutoscaler")["gateway"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 10)
    assert workloads("production")["gateway"]["spec"]["replicas"] == 3
    assert workloads("production")["web"]["spec"]["replicas"] == 2
    assert workloads("production")["worker"]["spec"]["replicas"] == 2
    target = scaler["scaleTargetRef"]
    assert workloads("production")[target["name"]]["kind"] == target["kind"]
    (metric,) = scaler["metrics"]
    (given,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert given["name"]["as"] == metric["external"]["metric"]["name"]
    recorded = given["seriesQuery"]
    rules = yaml.safe_load((ROOT / "infra" / "prometheus" / "recording.yml").read_text())["groups"][0][
        "rules"
    ]
    (rule,) = [one for one in rules if one["record"] == recorded]
    assert names.INGESTION_LATENCY.name in rule["expr"]


def test_the_standby_can_take_over() -> None:
    """One run at a time of each deployment, in whichever worker: and names that stay, by which a lost worker's runs are found."""
    worker = workloads("production")["worker"]
    assert worker["kind"] == "StatefulSet"
    assert "--with-healthcheck" in container(worker)["args"]
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (nowcast,) = [one for one in deployments if one["name"] == "nowcast"]
    assert nowcast["concurrency_limit"]["limit"] == 1
    # A worker that ends in order waits for its run.
    assert pod(worker)["terminationGracePeriodSeconds"] > 600
