"""Products: whole or absent, the same bytes for the same cycle, readable by a stranger."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks import products
from tasks.map import grid_of
from tasks.products import (
    BULLETIN_BYTES,
    ProductError,
    bulletin,
    contours_geojson,
    describe_sources,
    describe_stations,
    publish_products,
    render_products,
)
from tasks.settings import Settings
from tests.product_cycles import VALID_TIME, make_analysis, make_cycle

FILES = {"map.png", "stations.geojson", "fof2_contours.geojson", "bulletin.txt", "cycle.json"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def plain_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of publishing do not need a drawn picture: one byte string per title does."""

    def draw(analysis, stations, *, title_note, path, **_):
        path.write(b"\x89PNG" + title_note.encode() * 500)

    monkeypatch.setattr(products, "draw_map", draw)


def assert_whole(folder: Path) -> dict:
    """The folder holds exactly what its description lists, with those digests."""
    description = json.loads((folder / "cycle.json").read_bytes())
    listed = {entry["name"]: entry for entry in description["files"]}
    assert set(listed) | {"cycle.json"} == {path.name for path in folder.iterdir()}
    for name, entry in listed.items():
        content = (folder / name).read_bytes()
        assert len(content) == entry["n_bytes"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    return description


def test_publishes_everything_and_points_to_it(settings: Settings) -> None:
    cycle, observations = make_cycle()
    folder = publish_products(settings, cycle, observations)
    root = settings.products_root
    assert {path.name for path in folder.iterdir()} == FILES
    for link in (root / "current", root / "20221025T1000Z"):
        assert link.is_symlink()
        assert not os.path.isabs(os.readlink(link)), "the tree must survive a move"
        assert link.resolve() == folder.resolve()
    description = assert_whole(root / "current")
    assert description["valid_time"] == "2022-10-25T10:00:00Z"
    assert cycle.metadata.items() <= description.items()
    assert description["n_stations_on_map"] == description["n_stations_on_map_accepted"] == 4
    assert description["is_simulated"] is False
    skill = description["skill"]["fof2_mhz"]
    assert (skill["n"], skill["rmse_holdout"], skill["rmse_iri_index"]) == (4, 0.2, 0.8)
    assert (skill["coverage50"], skill["coverage90"]) == (1.0, 1.0)
    assert skill["rmse_persistence"] is None
    (source,) = description["sources"]
    assert source["newest_observed_at"] == "2022-10-25T09:55:00Z"
    assert source["newest_age_min"] == 5.0
    assert source["n_sounders"] == 4
    assert "GIRO" in source["acknowledgement"]
    assert {path.name for path in root.iterdir()} == {"current", "20221025T1000Z", "versions", ".lock"}


def test_rerun_gives_the_same_bytes_and_writes_nothing(settings: Settings, tmp_path: Path) -> None:
    cycle, observations = make_cycle()
    folder = publish_products(settings, cycle, observations)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert publish_products(settings, cycle, observations) == folder
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    elsewhere = publish_products(
        Settings(home=tmp_path / "other"), cycle, observations.sample(frac=1, random_state=1)
    )
    assert elsewhere.name == folder.name
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == {
        path.name: content for path, (_, content) in before.items()
    }


@pytest.mark.usefixtures("plain_map")
def test_changed_rerun_replaces_the_cycle_and_keeps_what_readers_hold(settings: Settings) -> None:
    first = publish_products(settings, *make_cycle())
    second = publish_products(settings, *make_cycle(bias_mhz=0.4))
    assert first != second
    assert (settings.products_root / "20221025T1000Z").resolve() == second.resolve()
    assert (settings.products_root / "current").resolve() == second.resolve()
    assert_whole(first)
    assert_whole(second)


@pytest.mark.usefixtures("plain_map")
def test_backfill_does_not_take_the_live_map_away(settings: Settings) -> None:
    live = publish_products(settings, *make_cycle())
    past = publish_products(settings, *make_cycle(valid_time=VALID_TIME - timedelta(days=300)))
    assert past.is_dir()
    assert (settings.products_root / "current").resolve() == live.resolve()
    newer = publish_products(settings, *make_cycle(valid_time=VALID_TIME + timedelta(minutes=15)))
    assert (settings.products_root / "current").resolve() == newer.resolve()


@pytest.mark.usefixtures("plain_map")
def test_reader_never_sees_a_partial_product(settings: Settings) -> None:
    """While 50 cycles are published, a reader that polls `current` sees whole products only, in order of time."""
    cycles = [make_cycle(valid_time=VALID_TIME + timedelta(minutes=15 * number)) for number in range(51)]
    publish_products(settings, *cycles[0])
    current = settings.products_root / "current"
    seen: list[str] = []
    problems: list[str] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            try:
                seen.append(assert_whole(current.resolve(strict=True))["valid_time"])
                for name in FILES:  # and through the link itself, file by file
                    if not (current / name).read_bytes():
                        problems.append(f"{name} is empty")
            except (AssertionError, OSError, ValueError) as error:
                problems.append(repr(error))

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for cycle in cycles[1:]:
            publish_products(settings, *cycle)
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert seen == sorted(seen)
    assert len(set(seen)) > 5, "the reader hardly ran: this proves nothing"


@pytest.mark.usefixtures("plain_map")
def test_two_publishers_leave_the_newest_current(settings: Settings) -> None:
    cycles = [make_cycle(valid_time=VALID_TIME + timedelta(minutes=15 * number)) for number in range(20)]
    failures: list[BaseException] = []

    def publish(share: list) -> None:
        try:
            for cycle in share:
                publish_products(settings, *cycle)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(cycles[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    shown = assert_whole(settings.products_root / "current")
    assert shown["cycle_id"] == cycles[-1][0].metadata["cycle_id"]
    assert len(list((settings.products_root / "versions").iterdir())) == 20


@pytest.mark.usefixtures("plain_map")
@pytest.mark.parametrize("call", ["fsync", "rename", "symlink", "replace"])
def test_full_disk_leaves_the_old_products(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    old = publish_products(settings, *make_cycle())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        owner = os if call == "fsync" else Path
        patch.setattr(owner, "symlink_to" if call == "symlink" else call, refuse)
        with pytest.raises(ProductError, match=r"cycle 20221025T1015Z .*No space left on device.*unchanged"):
            publish_products(settings, *make_cycle(valid_time=VALID_TIME + timedelta(minutes=15)))
    assert (settings.products_root / "current").resolve() == old.resolve()
    assert_whole(settings.products_root / "current")
    assert not list(settings.products_root.glob(".staged-*"))
    newer = publish_products(settings, *make_cycle(valid_time=VALID_TIME + timedelta(minutes=15)))
    assert (settings.products_root / "current").resolve() == newer.resolve()


@pytest.mark.usefixtures("plain_map")
def test_really_full_disk(tmp_path: Path) -> None:
    """The kernel's own refusal: a file system of 512 kB that some cycle does not fit into."""
    home = tmp_path / "small"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(home)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        small = Settings(home=home)
        published: list[Path] = []

        def fill() -> None:
            for number in range(40):
                cycle = make_cycle(valid_time=VALID_TIME + timedelta(minutes=15 * number))
                published.append(publish_products(small, *cycle))

        with pytest.raises(ProductError, match="No space left on device"):
            fill()
        assert len(published) >= 2
        assert (small.products_root / "current").resolve() == published[-1].resolve()
        assert_whole(small.products_root / "current")
        assert not list(small.products_root.glob(".staged-*"))
        for version in (small.products_root / "versions").iterdir():
            assert_whole(version)
    finally:
        subprocess.run(["umount", str(home)], check=True)


@pytest.mark.usefixtures("plain_map")
def test_killed_publisher_leaves_whole_products(settings: Settings) -> None:
    """Kill -9 at random moments: what `current` shows is whole, and the next publisher goes on."""
    root = settings.products_root
    publish_products(settings, *make_cycle())
    generator = random.Random(60)
    for number in range(12):
        cycles = [
            make_cycle(valid_time=VALID_TIME + timedelta(days=number, minutes=15 * step))
            for step in range(1, 20)
        ]
        n_before = len(list((root / "versions").iterdir()))
        child = os.fork()
        if child == 0:  # never returns into pytest
            for cycle in cycles:
                publish_products(settings, *cycle)
            signal.pause()
        deadline = time.monotonic() + 30
        while len(list((root / "versions").iterdir())) == n_before and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for version in (root / "versions").iterdir():
            assert_whole(version)
        assert_whole(root / "current")
        assert len(list((root / "versions").iterdir())) > n_before, (
            "the child wrote nothing: this proves nothing"
        )
    folder = publish_products(settings, *make_cycle(valid_time=VALID_TIME + timedelta(days=20)))
    assert (settings.products_root / "current").resolve() == folder.resolve()
    assert_whole(settings.products_root / "current")
    assert not list(settings.products_root.glob(".staged-*"))


@pytest.mark.usefixtures("plain_map")
def test_leftovers_of_a_killed_publisher_are_removed(settings: Settings) -> None:
    leftover = settings.products_root / ".staged-killed"
    leftover.mkdir(parents=True)
    (leftover / "map.png").write_bytes(b"half")
    (settings.products_root / ".current.fresh").symlink_to("nowhere")
    publish_products(settings, *make_cycle())
    assert {path.name for path in settings.products_root.iterdir()} == {
        "current", "20221025T1000Z", "versions", ".lock",
    }  # fmt: skip


@pytest.mark.parametrize("cycle_id", ["", "../escape", "a/b", "current", "versions", ".hidden", "a b"])
def test_cycle_id_must_be_a_folder_name(settings: Settings, cycle_id: str) -> None:
    cycle, observations = make_cycle()
    cycle.metadata["cycle_id"] = cycle_id
    with pytest.raises(ProductError, match="cannot be a folder name"):
        publish_products(settings, cycle, observations)


def test_cycle_without_grid_is_refused(settings: Settings) -> None:
    cycle, observations = make_cycle()
    cycle.analysis = None
    with pytest.raises(ProductError, match="no gridded analysis"):
        publish_products(settings, cycle, observations)


def test_cycle_without_observations_says_climatology() -> None:
    cycle, observations = make_cycle(stations={})
    files = render_products(cycle, observations)
    text = files["bulletin.txt"].decode()
    assert "STATIONS 0" in text
    assert "P01" in text
    assert json.loads(files["stations.geojson"])["features"] == []
    description = json.loads(files["cycle.json"])
    assert description["sources"] == []
    assert description["skill"] == {}


def test_simulated_observations_are_said_so_everywhere() -> None:
    files = render_products(*make_cycle(source="simulated", licence=None))
    assert json.loads(files["cycle.json"])["is_simulated"] is True
    assert "SIMULATED" in files["bulletin.txt"].decode()


def test_sources_name_their_licences() -> None:
    cycle, observations = make_cycle()
    observations.loc[:1, ["source", "licence"]] = ["giro", None]
    observations.loc[2:3, ["source", "licence"]] = ["mqtt", None]
    observations.loc[4:5, ["source", "licence"]] = ["http", "CC BY 4.0"]
    unused = observations.iloc[:1].assign(observation_id="never used", source="secret")
    found = describe_sources(pd.concat([observations, unused]), cycle.feedback, VALID_TIME)
    texts = {source["source"]: source["acknowledgement"] for source in found}
    assert set(texts) == {"file", "giro", "mqtt", "http"}
    assert "CC BY-NC-SA 4.0" in texts["giro"]
    assert texts["giro"] == texts["file"]
    assert texts["mqtt"] == "mqtt: licence not stated"
    assert texts["http"] == "http: CC BY 4.0"


def test_thinned_observations_are_neither_shown_nor_rejected() -> None:
    cycle, observations = make_cycle()
    is_newest = cycle.feedback["observation_id"].str.endswith("-5")
    cycle.feedback.loc[is_newest & (cycle.feedback["sounder_id"] == "AT138"), "qc_flag"] = "thinned"
    cycle.feedback.loc[cycle.feedback["sounder_id"] == "RO041", "qc_flag"] = "thinned"
    stations = describe_stations(cycle.feedback, VALID_TIME).set_index("sounder_id")
    assert stations["is_accepted"].all()
    assert stations.loc["AT138", "age_min"] == 20.0
    assert "RO041" not in stations.index
    features = json.loads(render_products(cycle, observations)["stations.geojson"])["features"]
    assert {feature["id"] for feature in features} == {"AT138", "VT139", "FF051"}


def test_stations_geojson_has_newest_values_at_the_right_places() -> None:
    cycle, observations = make_cycle(rejected="RO041")
    collection = json.loads(render_products(cycle, observations)["stations.geojson"])
    assert collection["type"] == "FeatureCollection"
    by_code = {feature["id"]: feature for feature in collection["features"]}
    assert set(by_code) == {"AT138", "RO041", "VT139", "FF051"}
    assert by_code["FF051"]["geometry"] == {"type": "Point", "coordinates": [-1.5, 51.7]}
    rome = by_code["RO041"]["properties"]
    assert rome["fof2_mhz"]["qc_flag"] == "background_check"
    assert rome["fof2_mhz"]["obs_value"] == 17.4
    assert rome["fof2_mhz"]["age_min"] == 5.0
    assert rome["hmf2_km"]["qc_flag"] == "accepted"


@pytest.mark.parametrize("west", [-15.0, 150.0, -180.0])
def test_contours_are_valid_geojson(west: float) -> None:
    step = 5.0
    longitude = np.arange(-180.0, 180.0, step) if west == -180.0 else np.arange(west, west + 61.0, step)
    grid = grid_of(make_analysis(np.arange(-60.0, 61.0, step), longitude, VALID_TIME), ["fof2_mhz"])
    collection = json.loads(json.dumps(contours_geojson(grid, "fof2_mhz")))
    levels = [feature["properties"]["fof2_mhz"] for feature in collection["features"]]
    assert levels == sorted(levels)
    assert len(levels) >= 3
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "MultiLineString"
        for line in feature["geometry"]["coordinates"]:
            points = np.array(line)
            assert points.shape[0] >= 2
            assert points.shape[1] == 2
            assert np.abs(points[:, 0]).max() <= 180.0
            assert np.abs(np.diff(points[:, 0])).max() < 180.0, "a line crosses the antimeridian"
            values = grid.at("fof2_mhz", points[:, 1], points[:, 0])
            np.testing.assert_allclose(values, feature["properties"]["fof2_mhz"], atol=0.03)
    if west == 150.0:
        longitudes = np.concatenate(
            [np.array(line)[:, 0] for f in collection["features"] for line in f["geometry"]["coordinates"]]
        )
        assert (longitudes == 180.0).any()
        assert (longitudes == -180.0).any()


def test_bulletin_says_what_the_analysis_says() -> None:
    cycle, observations = make_cycle()
    text = render_products(cycle, observations)["bulletin.txt"].decode("ascii")
    assert "VALID 2022-10-25 10:00 UTC" in text
    assert "IG12 118" in text
    assert "GIRO" in text
    line = next(line for line in text.splitlines() if line.startswith("FF051"))
    _, latitude, longitude, fof2, sd, muf, _, hmf2, hmf2_sd = line.split()
    grid = grid_of(cycle.analysis, ["fof2_mhz"])
    assert float(fof2) == pytest.approx(grid.at("fof2_mhz", float(latitude), float(longitude)), abs=0.006)
    assert float(muf) == pytest.approx(3 * float(fof2), abs=0.1)
    assert float(sd) == pytest.approx(0.2 + 0.067, abs=0.01)
    assert float(hmf2) == pytest.approx(280 + 51.7, abs=0.6)
    assert hmf2_sd == "12"


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 80), st.text(max_size=100), st.integers(0, 6))
def test_bulletin_fits_always(n_stations: int, name: str, n_sources: int) -> None:
    analysis = make_analysis(np.arange(-90.0, 91.0, 10.0), np.arange(-180.0, 180.0, 10.0), VALID_TIME)
    grid = grid_of(analysis, products.GRIDDED)
    generator = np.random.default_rng(n_stations)
    stations = pd.DataFrame(
        {
            "sounder_id": [f"{name}{i}" for i in range(n_stations)],
            "latitude_deg": generator.uniform(-80, 80, n_stations),
            "longitude_deg": generator.uniform(-180, 180, n_stations),
            "is_accepted": np.ones(n_stations, bool),
        }
    )
    acknowledgements = [f"{name} owner {i} " * 9 for i in range(n_sources)]
    text = bulletin(grid, stations, VALID_TIME, {"cycle_id": "c" * 80}, acknowledgements, True)
    assert len(text.encode("ascii")) <= BULLETIN_BYTES
    assert text.count("owner") >= n_sources
    if n_sources <= 2:
        n_rows = sum(len(line) == 52 for line in text.splitlines()) - 1
        assert n_rows >= (min(n_stations, 5) if n_stations else 5)


def test_crowded_network_is_thinned_to_places_far_apart() -> None:
    crowd = {f"EU{i:02d}": (45.0 + 0.1 * i, 10.0 + 0.1 * i) for i in range(40)}
    globe = {"latitude_deg": np.arange(-90.0, 91.0, 10.0), "longitude_deg": np.arange(-180.0, 180.0, 10.0)}
    cycle, observations = make_cycle(
        stations={**crowd, "GU513": (13.6, 144.9), "PRJ18": (18.5, -67.1)}, **globe
    )
    text = render_products(cycle, observations)["bulletin.txt"].decode()
    assert "GU513" in text
    assert "PRJ18" in text
    assert text.count("EU") == 10
