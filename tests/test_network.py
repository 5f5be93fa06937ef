"""Network analysis: what sounders are worth in MHz^2, against refits; shares, redundancy, tiers, words, and empty networks."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rust_core
from tasks.artifacts import network_markdown
from tasks.contracts import arrow_schema
from tasks.cycle import run_cycle
from tasks.estimate import Estimate
from tasks.gain_map import draw_gain_map, gain_rows, placement_geojson
from tasks.grid import Grid
from tasks.kernel_config import load_kernel_config
from tasks.masks import box_mask, everywhere
from tasks.network import COLUMNS, NetworkReport, advise, analyse_network, nearest_sounder, percent
from tasks.placement import NewSounder, gain_at, place, what_if
from tasks.posterior import FOF2, Posterior
from tasks.settings import TIERS
from tasks.target_area import Area, area_of, with_demand
from tasks.tier_errors import ASSUMED, FEWEST_ROWS, MIX, measured, nearest_tier
from tasks.validation import validate_batch

ROOT = Path(__file__).resolve().parents[1]
NOON = datetime(2022, 10, 25, 12, tzinfo=UTC)
PLACES = {
    "AAA01": (52.0, 0.0, "ionosonde"),
    "BBB02": (41.9, 12.5, "GOLD"),
    "CCC03": (55.0, 20.0, "ionosonde"),
    "CCC04": (55.2, 20.3, "GOLD"),
}


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_importable() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@cache
def world() -> Any:
    return importlib.import_module("placement").World.of(1, threads=1)


@cache
def soundings(name: str) -> pd.DataFrame:
    rows: pd.DataFrame = world().soundings(name, *PLACES[name], len(name) + int(name[-1]))
    return rows


@cache
def known(*names: str) -> Estimate:
    result: Estimate = world().known([*(soundings(name) for name in names), soundings("AAA01").iloc[:0]])
    return result


def box() -> Area:
    return area_of(lambda step: Grid.box(35.0, -10.0, 65.0, 30.0, step), 80)


def report(now: Estimate, **options: Any) -> NetworkReport:
    arguments: dict[str, Any] = {"where": everywhere, "threads": 1, **options}
    area = arguments.pop("area", box())
    return analyse_network(now, load_kernel_config(), world().background, area, **arguments)


@cache
def whole() -> NetworkReport:
    return report(known(*PLACES))


def test_what_a_sounder_buys_is_what_a_refit_without_it_loses() -> None:
    now, found = known(*PLACES), whole()
    posterior = Posterior.of(now, load_kernel_config(), world().background, 1)
    targets = posterior.over(box())
    assert found.variance_mhz2 == pytest.approx(targets.variance_mhz2)
    for row in found.sounders.to_dict("records"):
        number = now.stations.sounder_id.index(row["sounder_id"])

        def variance(kept: Any, targets: Any = targets) -> float:
            rows = now.joint.entered.take(np.flatnonzero(kept))
            analysis = rust_core.Analysis(
                load_kernel_config().build_terms(),
                station_latitude_deg=now.nodes.latitude_deg,
                station_longitude_deg=now.nodes.longitude_deg,
                station=rows.station,
                quantity=rows.quantity,
                time_h=rows.time_h,
                innovation=rows.innovation,
                obs_error=rows.error,
                amplitude=rows.amplitude,
                n_threads=1,
            )
            return float(targets.weight @ replace(posterior, analysis=analysis).ln_variance(targets))

        is_own = now.joint.entered.station == number
        without = variance(~is_own) - targets.variance_mhz2
        assert row["variance_bought_mhz2"] == pytest.approx(without, rel=1e-6)
        alone = targets.prior_variance_mhz2 - variance(is_own)
        assert row["variance_bought_alone_mhz2"] == pytest.approx(alone, rel=1e-6)
        assert row["redundancy"] == pytest.approx(1.0 - without / alone, rel=1e-6)


def test_shares_and_ranks() -> None:
    table = whole().sounders
    assert list(table.columns) == list(COLUMNS)
    assert table["variance_bought_share"].sum() == pytest.approx(1.0)
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert table["variance_bought_mhz2"].is_monotonic_decreasing
    assert (table["variance_bought_mhz2"] > 0).all()
    assert sum(one.variance_bought_share for one in whole().tiers) == pytest.approx(1.0)
    assert sum(one.share_of_sounders for one in whole().tiers) == pytest.approx(1.0)
    assert sum(one.n_obs for one in whole().tiers) == table["n_obs"].sum()
    information = known(*PLACES).joint.information
    for row in table.to_dict("records"):
        for key in ("information_gain_nats", "degrees_of_freedom"):
            assert row[key] == information[row["sounder_id"]][key]


def test_the_order_of_the_sounders_changes_nothing() -> None:
    again = report(known(*reversed(PLACES)))
    pd.testing.assert_frame_equal(again.sounders, whole().sounders, rtol=1e-12)
    assert json.dumps(again.summary()) == json.dumps(whole().summary())


def test_a_better_neighbour_makes_a_sounder_redundant() -> None:
    table = whole().sounders.set_index("sounder_id")
    poor = table.loc["CCC04"]
    assert poor["is_redundant"]
    assert table["is_redundant"].sum() == 1
    assert (poor["nearest_sounder_id"], poor["nearest_km"]) == ("CCC03", pytest.approx(29.2, abs=0.5))
    assert "CCC03, 29 km away, says the same" in poor["advice"]
    assert table.loc["CCC03", "variance_bought_mhz2"] > 2 * poor["variance_bought_mhz2"]


def test_upgrades_gain_more_the_better_they_are() -> None:
    table = whole().sounders.set_index("sounder_id")
    assert table["tier_source"].eq("error").all()
    assert table["tier"].to_dict() == {
        name: "PLATINUM" if grade == "ionosonde" else grade for name, (*_, grade) in PLACES.items()
    }
    poor = table[table["tier"] == "GOLD"]
    assert (poor["upgrade_tier"] == "PLATINUM").all()
    np.testing.assert_allclose(poor["platinum_gain_mhz2"], poor["upgrade_gain_mhz2"])
    assert (poor["upgrade_gain_mhz2"] > 0).all()
    best = table[table["tier"] == "PLATINUM"]
    assert best["upgrade_tier"].isna().all()
    assert (best[["upgrade_gain_mhz2", "platinum_gain_mhz2"]] == 0.0).all(axis=None)


def test_demand_decides_who_counts() -> None:
    north = with_demand(box(), lambda latitude, _: (latitude > 50.0).astype(float))
    south = with_demand(box(), lambda latitude, _: (latitude < 45.0).astype(float))
    by_area = {
        name: report(known(*PLACES), area=area).sounders.set_index("sounder_id")["variance_bought_share"]
        for name, area in (("north", north), ("south", south))
    }
    assert by_area["south"].idxmax() == "BBB02"
    assert by_area["north"]["BBB02"] < 0.3 * by_area["south"]["BBB02"]


def test_without_any_observation_the_result_is_clear() -> None:
    found = report(known())
    assert found.sounders.empty
    assert list(found.sounders.columns) == list(COLUMNS)
    assert found.variance_mhz2 == pytest.approx(found.prior_variance_mhz2)
    assert [gap.demand_share for gap in found.gaps] == [pytest.approx(1.0)]
    assert found.next_place is not None
    assert found.next_place.gain_percent > 20.0
    text = network_markdown(found)
    assert "**No sounder has reported**" in text
    assert "100%" in text
    json.dumps(found.summary(), allow_nan=False)
    assert report(known(), where=box_mask(-10, 0, -5, 5)).next_place is None


def test_one_station_is_not_redundant() -> None:
    found = report(known("AAA01"))
    (row,) = found.sounders.to_dict("records")
    assert row["variance_bought_mhz2"] == pytest.approx(row["variance_bought_alone_mhz2"])
    assert row["variance_bought_mhz2"] == pytest.approx(found.prior_variance_mhz2 - found.variance_mhz2)
    assert (row["redundancy"], row["variance_bought_share"]) == (pytest.approx(0.0, abs=1e-9), 1.0)
    assert (row["nearest_sounder_id"], row["is_redundant"]) == (None, False)
    assert np.isnan(row["nearest_km"])


def test_a_sounder_whose_values_are_refused_has_words() -> None:
    wrong = soundings("CCC03").assign(fof2_mhz=40.0, hmf2_km=np.nan, m3000f2=np.nan)
    found = report(world().known([soundings("AAA01"), wrong]))
    row = found.sounders.set_index("sounder_id").loc["CCC03"]
    assert (row["n_obs"], row["variance_bought_mhz2"], row["tier"]) == (0, 0.0, "BRONZE")
    # As SILVER it would begin to tell foF2, as PLATINUM more so.
    assert 0.0 < row["upgrade_gain_mhz2"] < row["platinum_gain_mhz2"]
    assert np.isnan(row["redundancy"])
    assert "None of its observations was used" in row["advice"]
    assert not row["is_redundant"]


def test_a_large_network_shares_what_its_nodes_are_worth() -> None:
    now = known(*PLACES)
    kernel = load_kernel_config()
    small = kernel.model_copy(update={"scale": kernel.scale.model_copy(update={"max_nodes": 3})})
    crowd = replace(world(), kernel=small).known([soundings(name) for name in PLACES])
    assert len(crowd.nodes) == 3
    found = report(crowd)
    table = found.sounders.set_index("sounder_id")
    assert table["variance_bought_share"].sum() == pytest.approx(1.0)
    assert table.loc["CCC03", "variance_bought_mhz2"] > table.loc["CCC04", "variance_bought_mhz2"] > 0
    posterior = Posterior.of(crowd, small, world().background, 1)
    targets, sounder = posterior.over(box()), NewSounder.of_tier("GOLD")
    at = np.array([60.0]), np.array([-5.0])
    tried = what_if(posterior, targets, sounder, 60.0, -5.0)
    assert tried.gain_mhz2 == pytest.approx(gain_at(posterior, targets, sounder, *at)[0], rel=1e-6)
    # Another mean and another factor on the variance, told by three nodes instead of four, but the same network.
    assert found.variance_mhz2 == pytest.approx(report(now).variance_mhz2, rel=0.4)


def test_estimated_tiers_and_the_errors_that_they_show() -> None:
    now = known(*PLACES)
    estimated = {"BBB02": "SILVER", "CCC04": "SILVER"}
    sounded = replace(
        now,
        soundings=SimpleNamespace(
            known={name: SimpleNamespace(tier=tier) for name, tier in estimated.items()}
        ),  # type: ignore[arg-type]
    )
    found = report(sounded)
    table = found.sounders.set_index("sounder_id")
    assert table["tier_source"].to_dict() == {
        name: "innovations" if name in estimated else "error" for name in PLACES
    }
    assert table.loc["BBB02", ["tier", "upgrade_tier"]].tolist() == ["SILVER", "GOLD"]
    assert table.loc["BBB02", "fof2_error_share"] == pytest.approx(ASSUMED["GOLD"].fof2_share)
    assert found.errors["SILVER"].fof2_share == pytest.approx(ASSUMED["GOLD"].fof2_share)
    assert found.errors["SILVER"].n_rows > FEWEST_ROWS
    assert found.errors["GOLD"] == found.next_sounder.error == ASSUMED["GOLD"]
    # As good as GOLD already, so that only PLATINUM is an upgrade.
    assert table.loc["BBB02", "upgrade_gain_mhz2"] == pytest.approx(0.0, abs=1e-12)
    assert table.loc["BBB02", "platinum_gain_mhz2"] > 0


def test_errors_are_measured_on_what_was_used() -> None:
    feedback = pd.DataFrame(
        {
            "sounder_id": ["A"] * 6 + ["B"] * 3,
            "quantity": ["fof2_mhz"] * 5 + ["hmf2_km"] + ["fof2_mhz"] * 3,
            "qc_flag": ["accepted"] * 4 + ["buddy_check"] + ["accepted"] * 4,
            "obs_value": [2.0] * 9,
            "observed_at": [
                pd.Timestamp(NOON) - pd.Timedelta(hours=age) for age in (0, 1, 3, 5, 0, 0, 0, 0, 0)
            ],
            "obs_error": [0.1, 0.2, 0.3, 0.4, 9.0, 5.0, 1.0, 1.0, 1.0],
        }
    )
    table = measured(feedback, {"A": "SILVER", "B": "BRONZE", "C": "SILVER"}, pd.Timestamp(NOON), 2.0)
    precision = np.mean([0.05**-2, 0.1**-2, 0.15**-2, 0.2**-2])
    assert table["SILVER"].fof2_share == pytest.approx(precision**-0.5)
    # Two in two hours, of two sounders.
    assert (table["SILVER"].per_h, table["SILVER"].n_rows) == (0.5, 4)
    assert table["SILVER"].hmf2_km == ASSUMED["SILVER"].hmf2_km
    assert table["BRONZE"] == ASSUMED["BRONZE"]
    assert [nearest_tier(share, ASSUMED) for share in (0.01, 0.05, 0.4)] == ["PLATINUM", "GOLD", "BRONZE"]
    spread = {tier: replace(ASSUMED[tier], fof2_share=0.1 * 2**number) for number, tier in enumerate(TIERS)}
    assert [nearest_tier(spread[tier].fof2_share, spread) for tier in TIERS] == list(TIERS)


def test_the_mix_is_that_of_the_design_and_the_nominal_weight_exact() -> None:
    assert list(MIX.values()) == [0.05, 0.14, 0.27, 0.54]
    nominal = {one.tier: one.nominal_weight for one in whole().tiers}
    assert nominal["PLATINUM"] == 56.25
    assert nominal["BRONZE"] == 1.0
    measured_weight = {one.tier: one.freedom_per_obs for one in whole().tiers}
    assert measured_weight["BRONZE"] is None
    assert measured_weight["PLATINUM"] > measured_weight["GOLD"] > 0  # type: ignore[operator]


def test_nearest_sounders_over_the_date_line_and_at_one_place() -> None:
    latitude, longitude = np.array([0.0, 0.0, 50.0, 50.0]), np.array([179.5, -179.5, 10.0, 10.0])
    other, distance_km = nearest_sounder(latitude, longitude)
    assert other.tolist() == [1, 0, 3, 2]
    np.testing.assert_allclose(distance_km, [111.2, 111.2, 0.0, 0.0], atol=0.1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "As GOLD it would take 5.0 % more off: worth an upgrade."),
        ({"upgrade_gain_mhz2": 0.0001}, "As GOLD it would take off only less than 0.1 % more."),
        ({"upgrade_tier": None}, "Without it the variance over the area would rise by 12 %."),
        ({"upgrade_tier": float("nan")}, "Without it the variance over the area would rise by 12 %."),
        ({"is_redundant": True}, "BBB02, 80 km away, says the same. It would be worth more elsewhere."),
        ({"is_redundant": True, "nearest_km": 501.0}, "; the others together say the same. It would"),
        ({"n_obs": 0}, "None of its observations was used"),
    ],
)
def test_advice(changes: dict[str, Any], expected: str) -> None:
    row = {
        "n_obs": 10, "variance_rise_percent": 12.3, "is_redundant": False, "nearest_sounder_id": "BBB02",
        "nearest_km": 80.4, "upgrade_tier": "GOLD", "upgrade_gain_mhz2": 0.01,
    }  # fmt: skip
    said = advise({**row, **changes}, 0.2)
    assert expected in said
    assert "As nan" not in said
    assert [percent(value) for value in (124.5, 9.96, 9.94, 0.05, 0.04)] == [
        *("124 %", "10 %", "9.9 %", "0.1 %", "less than 0.1 %")
    ]


def test_the_table_keeps_its_contract() -> None:
    rows = whole().sounders.assign(
        cycle_id="20221025T1200Z-0123456789ab", valid_time=pd.Timestamp(2022, 10, 25, 12, tz=UTC)
    )
    schema = arrow_schema("network")
    table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
    assert validate_batch("network", table.to_pandas(), now=datetime(2022, 10, 26, tzinfo=UTC)).reasons == {}


def test_the_report_in_words() -> None:
    text = network_markdown(whole())
    for expected in (
        "AAA01",
        "GOLD (by its error)",
        "**1 of 4 would hardly be missed**: CCC04",
        "#### Gaps",
        "56.2",
    ):
        assert expected in text
    assert "The next sounder** (GOLD) gains most at" in text


def test_the_map_and_the_geojson_of_a_placement(tmp_path: Path) -> None:
    posterior = Posterior.of(known(*PLACES), load_kernel_config(), world().background, 1)
    area = area_of(lambda _: Grid.box(40.0, 170.0, 60.0, -170.0, 5.0))
    targets = posterior.over(area)
    placed, found = place(
        posterior, targets, NewSounder.of_tier("GOLD"), 2, area, box_mask(45, 170, 60, -175)
    )
    rows = gain_rows(found)
    assert len(rows) == np.isfinite(found.gain_mhz2).sum() < len(area)
    np.testing.assert_allclose(rows["gain_percent"], 100.0 * rows["gain_mhz2"] / targets.variance_mhz2)
    document = placement_geojson(found, placed, whole().sounders, whole().gaps)
    text = json.dumps(document, allow_nan=False)
    kinds = pd.Series([one["properties"]["kind"] for one in json.loads(text)["features"]]).value_counts()
    assert kinds.to_dict() == {
        "gain": len(rows), "new": 2, "sounder": 4, **({"gap": len(whole().gaps)} if whole().gaps else {})
    }  # fmt: skip
    for number in range(2):
        draw_gain_map(found, placed, whole().sounders, title_note="a note", path=tmp_path / f"{number}.png")
    first, second = ((tmp_path / f"{number}.png").read_bytes() for number in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
    row = replace(found, area=area_of(lambda _: Grid.box(0.0, 0.0, 0.5, 20.0, 1.0)), gain_mhz2=np.ones(21))
    with pytest.raises(ValueError, match="a map needs two points each way, the grid has 1 x 21"):
        draw_gain_map(row, [], whole().sounders, title_note="", path=tmp_path / "none.png")


def test_variances_are_those_of_the_published_map() -> None:
    """In ln foF2, squared foF2 and the cycle's factor make the published sd to first order."""
    now = known(*PLACES)
    posterior = Posterior.of(now, load_kernel_config(), world().background, 1)
    targets = posterior.over(box())
    factor = now.joint.adaptation.at(targets.qd_latitude_deg, targets.qd_longitude_deg, 0.0)[FOF2]
    ln_sd = np.sqrt(factor * targets.ln_variance)
    published = targets.fof2_mhz * np.exp(ln_sd**2 / 2) * np.sqrt(np.expm1(ln_sd**2))
    np.testing.assert_allclose(targets.sd_mhz, published, rtol=0.06)
    assert targets.variance_mhz2 == pytest.approx(float(box().weight @ targets.sd_mhz**2))


def test_a_cycle_writes_what_its_sounders_are_worth() -> None:
    rows = pd.concat([soundings(name) for name in PLACES], ignore_index=True)
    made = run_cycle(
        rows,
        valid_time=NOON,
        available_until=NOON,
        kernel=load_kernel_config(),
        background=world().background,
        network_area=box(),
        threads=1,
    )
    assert made.network is not None
    assert made.network.schema.equals(arrow_schema("network"), check_metadata=False)
    table = made.network.to_pandas()
    assert set(table["cycle_id"]) == {made.metadata["cycle_id"]}
    assert table["sounder_id"].tolist() == whole().sounders["sounder_id"].tolist()
    np.testing.assert_allclose(table["variance_bought_share"], whole().sounders["variance_bought_share"])
    assert made.metadata["network"]["n_redundant"] == 1
    json.dumps(made.metadata, allow_nan=False)
    without = run_cycle(
        rows,
        valid_time=NOON,
        available_until=NOON,
        kernel=load_kernel_config(),
        background=world().background,
        threads=1,
    )
    assert (without.network, without.network_report) == (None, None)
    assert "network" not in without.metadata
