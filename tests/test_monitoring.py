"""Prometheus rules fire when they should, every alert leads to its runbook entry, and no panel of the dashboard is empty."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from services.processes import free_port
from tasks import cycles
from tasks.curation import curate_batches, pending_batches
from tasks.landing.spool import collect
from tasks.metrics import names
from tasks.metrics.runs import measure_cycle, measure_landing, measure_run
from tasks.products import publish_products
from tasks.simulation import simulate_network
from tasks.verification import read_verification, skill_table
from tests.landing.door_server import Server
from tests.stand_in import idle_process

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "infra" / "prometheus"
GRAFANA = ROOT / "infra" / "grafana"
RUNBOOK = ROOT / "docs" / "operations" / "runbook.md"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "autonvis.json").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDS = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "recording.yml").read_text())["groups"]
    for rule in group["rules"]
]
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
PANELS = (
    "Ingestion latency", "Throughput", "Tier distribution", "Information gain", "Memory", "CPU", "Cycle time",
    "Top contributors", "Queue depth", "Error rate", "Freshness", "Skill",
)  # fmt: skip


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: `make tools`)")
    return found


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=PROMETHEUS, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", ["prometheus", "docker", "kubernetes/base"])
def test_the_configuration_of_prometheus_and_its_rules_are_valid(folder: str, tmp_path: Path) -> None:
    """On one host, in compose and on Kubernetes, each with the same rules."""
    for file in (ROOT / "infra" / folder / "prometheus.yml", *PROMETHEUS.glob("*.yml")):
        if not (tmp_path / file.name).exists():
            shutil.copy(file, tmp_path)
    said = run(tool("promtool"), "check", "config", str(tmp_path / "prometheus.yml"))
    assert f"{len(ALERTS)} rules found" in said


def test_the_routing_of_alerts_is_valid() -> None:
    run(tool("amtool"), "check-config", "alertmanager.yml")
    for severity, receiver in (("critical", "pager"), ("warning", "operators")):
        said = run(
            tool("amtool"),
            "config",
            "routes",
            "test",
            "--config.file=alertmanager.yml",
            f"severity={severity}",
        )
        assert said.strip() == receiver


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    files = ("tests.yml", "tests_day.yml")
    cases = {
        case["name"] for file in files for case in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]
    }
    assert cases == {f"{rule['alert']} {does}" for rule in ALERTS for does in ("fires", "stays quiet")}
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", *files)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_leads_to_its_entry_in_the_runbook(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / path == RUNBOOK
    entries = re.split(r"^### ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    (entry,) = [entry for entry in entries if entry.splitlines()[0].lower() == anchor]
    assert len(entry.split()) > 20
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_rules_and_panels_ask_only_for_what_there_is() -> None:
    known = {value.name for value in vars(names).values() if isinstance(value, names.Metric)}
    known |= {rule["record"] for rule in RECORDS}
    asked = [rule["expr"] for rule in (*ALERTS, *RECORDS)] + [query.values[0] for query in QUERIES]
    for expression in map(str, asked):
        for name in re.findall(r"\bnvis[a-z_:]\w*(?::\w+)*", expression):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in known or name in known, (
                f"{name} in {expression}"
            )


def test_the_dashboard_has_its_panels_and_is_provisioned() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"]] == list(PANELS)
    assert DASHBOARD["refresh"] == "30s"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/autonvis.yml").read_text())["providers"]
    assert provider["type"] == "file"
    cells = set()
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["description"]
        place = panel["gridPos"]
        covered = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not covered & cells
        assert max(x for x, _ in covered) < 24
        cells |= covered
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(PANELS)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with our rules that has watched a system land and nowcast, every second; gives its address."""
    program = tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    server = Server(folder / "home", cluster="north", environment="test", grid_step_deg=10.0)
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    del configuration["alerting"]
    (job,) = [one for one in configuration["scrape_configs"] if one["job_name"] == "autonvis-gateway"]
    job["static_configs"][0]["targets"] = [server.url.removeprefix("http://")]
    configuration["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    for rules in configuration["rule_files"]:
        shutil.copy(PROMETHEUS / rules, folder)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: asks(url, 'count_over_time(up{job="autonvis-gateway"}[1m]) > 1'), folder / "log")
        with idle_process("gateway") as gateway:
            use(server, gateway)
            wait_until(
                lambda: asks(url, "count_over_time(nvis_cycle_state[5m]) > 2"),
                folder / "log",
            )
            wait_until(lambda: asks(url, "nvis:errors:rate5m"), folder / "log")
            yield url
    finally:
        process.terminate()
        process.wait(20)
        server.stop()


def use(server: Server, gateway: dict[str, Any]) -> None:
    """Sounders submit, what they sent lands, a nowcast is published: what the flows do, without their orchestrator."""
    settings = server.settings
    (settings.home / "run").mkdir(exist_ok=True)
    (settings.home / "run" / "system.json").write_text(
        json.dumps(
            {
                "processes": [gateway],
                "environment": {},
            }
        )
    )
    valid_time = cycles.newest_valid_time(settings, datetime.now(UTC))
    items = simulate_network(valid_time - timedelta(hours=2), hours=2.1, seed=7)
    for first in range(0, len(items), 20):
        batch = {"dataset": "ionograms", "source": "simulated", "items": items[first : first + 20]}
        assert httpx.post(f"{server.url}/batch", json=batch, timeout=30).status_code == 202
    wait_until(lambda: any(server.settings.spool_root.rglob("*.seg")), None)
    collect(settings.spool_root, settings.lake_root)
    results = curate_batches(pending_batches(settings), settings=settings)
    measure_landing(settings, results, {"mqtt": 0, "pull": 0}, 0)
    measure_run(settings, "land", "completed", 1.0)
    plan = cycles.plan_cycle(settings, valid_time)
    observations = cycles.read_window(settings, [plan])
    cycle = cycles.assimilate(settings, plan, observations)
    cycles.store_cycle(settings, plan, cycle)
    publish_products(settings, cycle, observations)
    measure_cycle(settings, cycle, skill_table(read_verification(settings, until=plan.valid_time)))
    measure_run(settings, "nowcast", "completed", 3.0)


def wait_until(is_done: Callable[[], object], log: Path | None) -> None:
    deadline_s = time.monotonic() + 30
    while not is_done():
        assert time.monotonic() < deadline_s, log.read_text()[-3000:] if log else "nothing was sealed"
        time.sleep(0.2)


def asks(url: str, expression: str) -> list[dict[str, Any]]:
    try:
        response = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30)
    except httpx.HTTPError:  # it is starting
        return []
    if response.status_code == 503:  # it is starting still
        return []
    answer = response.json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


@pytest.mark.parametrize("expression", QUERIES)
def test_no_panel_is_empty_after_one_run(prometheus: str, expression: str) -> None:
    for variable in ("$cluster", "$environment"):
        assert variable in expression
        expression = expression.replace(variable, ".*")
    found = asks(prometheus, expression)
    assert found
    assert all(series["value"][1] not in ("NaN", "+Inf") for series in found)


def test_no_rule_fails_and_a_healthy_system_raises_no_alert(prometheus: str) -> None:
    groups = httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(ALERTS) + len(RECORDS)
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
    assert [rule["name"] for rule in rules if rule.get("state") in ("firing", "pending")] == []


def test_the_autoscaler_has_something_to_go_by(prometheus: str) -> None:
    (waiting,) = asks(prometheus, "nvis:waiting_deliveries:mean2m")
    assert float(waiting["value"][1]) > 0


def test_every_series_of_ours_says_cluster_and_environment(prometheus: str) -> None:
    assert asks(prometheus, '{__name__=~"nvis.*", cluster="", environment=""}') == []
    assert asks(prometheus, 'up{cluster="autonvis"}')
    assert asks(prometheus, 'nvis_disk_free_bytes{cluster="north", environment="test", folder="home"}')
