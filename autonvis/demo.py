"""`make demo`: the main job once, end to end, on this machine alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from autonvis.environment import make_home, prefect_environment
from tasks.settings import PREFIX, Settings, load_settings

SIMULATED_START = datetime(2026, 3, 20, tzinfo=UTC)
SIMULATED_SEED = 20260320
ITEMS_PER_MESSAGE = 200
LOOKBACK_D = 1.25
"""Days before the first cycle that it still looks back on: its window and yesterday at this hour."""
LONGEST_D = 3_660
MARKER = ".autonvis-demo"
TOPIC_SYNTAX = set("/+#\0")
"""Characters that an MQTT topic level cannot hold."""

Item = dict[str, Any]


class DemoError(RuntimeError):
    """The demo cannot run; the message says why."""


def demo(
    data: Path | None, days: float, *, stations: Path | None = None, first_date: date | None = None
) -> None:
    """Submit observations through MQTT and HTTP, land, validate, run the cycles, publish, and print the skill.

    Args:
        data: file or folder of observations; None takes the simulated network.
        days: length of the end of the data to run, in days.
        stations: table with the coordinates of stations whose files have none.
        first_date: UTC date of the first row of files without dates.

    Raises:
        DemoError, ObservationFileError: the data cannot be used; the message names file and reason.
    """
    if not 0 < days <= LONGEST_D:
        raise DemoError(f"--days {days:g} must be above 0 and at most {LONGEST_D}")
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    settings = prepare_home()
    say(f"demo in {settings.home}")
    items, origin, is_simulated = gather(data, days, say, stations=stations, first_date=first_date)
    start, end = span(items, days, settings.cycle_minutes, is_simulated)

    from autonvis.system import prefect_server

    with prefect_server(settings):
        submit(settings, items, origin, say)
        run_flows(settings, start, end, say)
    report(settings, say, origin)


def prepare_home() -> Settings:
    """A fresh home of the demo's own; an earlier demo there is removed."""
    home = load_settings().home / "demo"
    if home.exists():
        if not (home / MARKER).is_file():
            raise DemoError(f"{home} exists and is not a demo's folder: move it away or set AUTONVIS_HOME")
        shutil.rmtree(home)
    make_home(load_settings().model_copy(update={"home": home}))
    (home / MARKER).touch()
    for name in ("LAKE", "DATABASE_URL", "MQTT_URL"):
        os.environ.pop(PREFIX + name, None)  # the demo never touches a live system's stores
    os.environ["AUTONVIS_HOME"] = str(home)
    load_settings.cache_clear()
    os.environ.pop("PREFECT_API_URL", None)  # its runs are its own
    os.environ.update(prefect_environment(load_settings()))
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")  # the demo tells its own story
    load_settings.cache_clear()
    return load_settings()


def gather(
    data: Path | None,
    days: float,
    say: Any,
    *,
    stations: Path | None = None,
    first_date: date | None = None,
) -> tuple[list[Item], str, bool]:
    """The observations to submit, where they come from, and whether they are simulated."""
    if data is None:
        from tasks.simulation import simulate_network

        items = simulate_network(SIMULATED_START, hours=48.0, seed=SIMULATED_SEED)
        origin = "simulated"
    else:
        from tasks.observation_files import read_observations

        items = read_observations(data, stations=stations, start=first_date)
        origin = "file"
    times = readable_times(items)
    is_old = times < times.max() - timedelta(days=days + LOOKBACK_D)
    kept = [item for item, is_left_out in zip(items, is_old, strict=True) if not is_left_out]
    n_stations = len({item.get("sounder_id") for item in kept})
    label = "SIMULATED observations" if data is None else f"observations from {data}"
    say(
        f"{len(kept)} {label}, {n_stations} station{'s' if n_stations != 1 else ''}"
        + (f" ({len(items) - len(kept)} older ones left out)" if len(kept) < len(items) else "")
    )
    return kept, origin, data is None


def readable_times(items: list[Item]) -> pd.Series[pd.Timestamp]:
    """When each item was observed; NaT for times to come or that cannot be read: those are the contract's to judge.

    Raises:
        DemoError: there is no other; the message shows what the first row says.
    """
    texts: pd.Series[Any] = pd.Series([item.get("observed_at") for item in items], dtype=object)
    times = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")
    times = times.where(times <= pd.Timestamp.now("UTC"))
    if times.isna().all():
        first = items[0].get("unreadable") or f"observed_at {items[0].get('observed_at')}"
        raise DemoError(
            f"no observation has a time that can be read and has passed: give ISO-8601 with a zone; the first row: {first}"
        )
    return times


def span(items: list[Item], days: float, cycle_minutes: int, is_simulated: bool) -> tuple[datetime, datetime]:
    """First and last valid time: the end of the data, on whole cycles."""
    times = readable_times(items)
    step = pd.Timedelta(minutes=cycle_minutes)
    last = times.max().ceil(step)
    first = max(times.min().ceil(step), last - pd.Timedelta(days=1.0 if is_simulated else days))
    return first.to_pydatetime(), last.to_pydatetime()


def submit(settings: Settings, items: list[Item], origin: str, say: Any) -> None:
    """Send every station's observations through a landing zone: one half by MQTT, the other by HTTP."""
    from autonvis.system import start_gateway
    from services.broker import start_broker
    from services.processes import free_port
    from tasks.landing.mqtt import create_session, publish_many

    by_station: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_station[str(item.get("sounder_id"))].append(item)
    # A row without a name, or with one that cannot stand in a topic, is refused by the gateway with its reason.
    nameable = sorted(
        {
            item["sounder_id"]
            for item in items
            if item.get("sounder_id") and not TOPIC_SYNTAX & set(item["sounder_id"])
        }
        - {"None"}
    )
    by_mqtt = nameable[::2]
    by_http = [station for station in sorted(by_station) if station not in by_mqtt]

    broker = start_broker(settings.home)
    os.environ["AUTONVIS_MQTT_URL"] = broker.consumer_url
    load_settings.cache_clear()
    durable = "" if broker.is_durable else ", not durable"
    try:
        create_session(broker.consumer_url, settings.mqtt_client_id)
        n_sent = publish_many(
            broker.url,
            (
                (f"nvis/ionograms/{station}", json.dumps(message).encode())
                for station in by_mqtt
                for message in messages(by_station[station])
            ),
        )
        say(f"MQTT ({broker.kind}{durable}): {n_sent} messages acknowledged for {', '.join(by_mqtt)}")

        gateway, url = start_gateway(settings, free_port(), free_port())
        try:
            n_accepted = n_rejected = 0
            with httpx.Client(timeout=60) as client:
                for station in by_http:
                    for message in messages(by_station[station]):
                        answer = client.post(
                            f"{url}/batch", json={"dataset": "ionograms", "source": origin, "items": message}
                        )
                        answer.raise_for_status()
                        receipts = answer.json()["receipts"]
                        n_accepted += sum(receipt["status"] != "rejected" for receipt in receipts)
                        n_rejected += sum(receipt["status"] == "rejected" for receipt in receipts)
            if by_http:
                say(
                    f"HTTP: {n_accepted} observations accepted, {n_rejected} rejected for {', '.join(by_http)}"
                )
        finally:
            gateway.stop()
        run_land(say)
        report_quarantine(settings, say)
    finally:
        broker.stop()


def messages(items: list[Item]) -> Iterator[list[Item]]:
    for first in range(0, len(items), ITEMS_PER_MESSAGE):
        yield items[first : first + ITEMS_PER_MESSAGE]


def run_land(say: Any) -> None:
    """Run the flow `land` until nothing waits."""
    from flows.land import land
    from tasks.curation import pending_batches

    while True:
        state = land(return_state=True)
        if not state.is_completed():
            raise DemoError(f"flow land: {state.message}")
        say(f"flow land: {state.message}")
        if not pending_batches(load_settings()):
            return


def report_quarantine(settings: Settings, say: Any) -> None:
    """Say why rows were refused.

    Raises:
        DemoError: no row kept the contract.
    """
    from tasks import lake
    from tasks.item_check import reason_code

    refused = lake.read("quarantine", settings=settings, columns=["reasons"])["reasons"]
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reasons in map(json.loads, refused):
        counts.update({reason_code(reason) for reason in reasons})
        for reason in reasons:
            examples.setdefault(reason_code(reason), reason)
    told = "; ".join(f"{n} x {examples[code]}" for code, n in counts.most_common(5))
    if not lake.files("ionograms", settings=settings):
        raise DemoError(
            f"none of the {len(refused)} observations keeps the data contract (docs/data-dictionary.md): {told}; "
            f"they lie in {settings.lake_root / 'quarantine'}"
        )
    if told:
        say(f"quarantined: {told}")


def run_flows(settings: Settings, start: datetime, end: datetime, say: Any) -> None:
    from flows.backfill import backfill
    from flows.nowcast import nowcast

    n_cycles = backfill(start, end)
    say(f"flow backfill: {n_cycles} cycles from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")
    folder = nowcast(valid_time=end)
    say(f"flow nowcast: products in {folder}")


def report(settings: Settings, say: Any, origin: str) -> None:
    """The skill table, and where the map and the Parquet files are."""
    from tasks.artifacts import skill_text
    from tasks.verification import read_verification, skill_table

    say("done")
    title = "SIMULATED network, " if origin == "simulated" else ""
    print(f"\nfoF2 at stations held out ({title}MHz; coverage of the 90 % interval)\n")
    print(skill_text(skill_table(read_verification(settings))))
    lake = settings.lake_root
    print(f"\nmap      {settings.products_root / 'current' / 'map.png'}")
    for dataset in ("ionograms", "analysis", "feedback", "verification", "quarantine"):
        files = sorted((lake / dataset).rglob("*.parquet"))
        print(f"parquet  {lake / dataset} ({len(files)} file{'s' if len(files) != 1 else ''})")
    query = (
        f"SELECT sounder_id, count(*) AS n, round(sqrt(avg((holdout_value - obs_value)^2)), 3) AS rmse_mhz "
        f"FROM '{lake}/verification/**/*.parquet' WHERE quantity = 'fof2_mhz' AND lead_h = 0 GROUP BY 1 ORDER BY 1"
    )
    print(f'\nduckdb   .venv/bin/python -c "import duckdb; duckdb.sql(\\"{query}\\").show()"')
