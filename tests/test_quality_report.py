"""The report on sounders: tiers and why, what changed, dropouts, clocks and refusals; pages that open anywhere."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks import lake
from tasks.contracts import arrow_schema
from tasks.kernel_config import load_kernel_config
from tasks.lake import to_frame
from tasks.quality_pages import address, write_report
from tasks.quality_report import Day, ReportError, dropouts, gather, mix, plan_day, summarize
from tasks.settings import Settings
from tasks.sounder_error import SounderError, prior_error
from tasks.sounder_quality import SounderQuality
from tasks.sounder_record import Known
from tasks.sounder_rows import sounder_rows

KERNEL = load_kernel_config()
DAY = date(2026, 3, 20)
START = datetime(2026, 3, 20, tzinfo=UTC)
END = pd.Timestamp(START + timedelta(days=1))
QUALITY = SounderQuality(0.5, 0.2, 1.0, 1.0, 0.25, 0.6)
NAMES = ("GOOD", "BIASED", "NEW")


def known(sd: float, *, bias: float = 0.0, tier: str, previous: str | None) -> Known:
    prior = prior_error(sd, KERNEL.tiers.delay, KERNEL.tiers)
    covariance = tuple(tuple(1e-4 * (i == j) for j in range(5)) for i in range(5))
    error = SounderError(20.0, sd**2 * 19.0, (bias, 0.0, 0.0, 0.0, 0.0), covariance, 40.0, START)
    signal = prior_error(8.0, KERNEL.tiers.signal, KERNEL.tiers)
    return Known(
        quality=QUALITY,
        errors={"delay": error if previous is not None else prior, "signal": signal},
        tiers={"delay": tier, "signal": "SILVER"},
        previous_tier=previous,
        n_good=90.0,
        n_bad=10.0,
        has_delays=True,
        latitude_deg=48.0,
        longitude_deg=11.0,
    )


def sounders_at(at: datetime, every: dict[str, Known]) -> pd.DataFrame:
    no_echoes = pd.DataFrame({"sounder_id": pd.Series(dtype=object), "n_combined": pd.Series(dtype=int)})
    return sounder_rows(no_echoes, every, KERNEL).assign(cycle_id=f"c{at:%H%M}", valid_time=pd.Timestamp(at))


def rows(of: str, n: int, /, **columns: Any) -> pd.DataFrame:
    frame = to_frame(arrow_schema(of).empty_table()).reindex(range(n))
    return frame.assign(**columns)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A lake with a day of three sounders: one good, one off by 1 ms whose clock is ahead, one new and silent since noon."""
    settings = Settings(home=tmp_path)
    before = {
        "GOOD": known(0.15, tier="GOLD", previous="GOLD"),
        "BIASED": known(0.5, tier="GOLD", previous="GOLD"),
    }
    noon = {
        "GOOD": known(0.12, tier="PLATINUM", previous="GOLD"),
        "BIASED": known(0.5, bias=1.0, tier="GOLD", previous="GOLD"),
        "NEW": known(3.9, tier="BRONZE", previous=None),
    }
    for at, every in ((START - timedelta(hours=1), before), (START + timedelta(hours=23.75), noon)):
        lake.publish("sounders", sounders_at(at, every), f"sounders-{at:%Y%m%dT%H%MZ}", settings=settings)
    times = {name: pd.date_range(START, periods=288 if name != "NEW" else 144, freq="5min") for name in NAMES}
    measured = pd.concat(
        rows(
            "measurements",
            len(times[name]),
            observation_id=[f"{name}{k}" for k in range(len(times[name]))],
            sounder_id=name,
            observed_at=times[name],
            received_at=times[name] + pd.Timedelta(seconds=-7 if name == "BIASED" else 3),
            available_at=times[name] + pd.Timedelta(seconds=3),
            **dict.fromkeys(("tx_latitude_deg", "rx_latitude_deg"), 48.0),
            **dict.fromkeys(("tx_longitude_deg", "rx_longitude_deg"), 11.0),
            frequency_mhz=5.0,
            group_delay_ms=2.0,
            revision=0.0,
            source="simulated",
            batch_id="b",
        )
        for name in NAMES
    )
    lake.publish("measurements", measured, "b", settings=settings)
    echoes = pd.concat(
        rows(
            "echoes",
            100,
            cycle_id="c",
            valid_time=pd.Timestamp(START + timedelta(hours=12)),
            sounder_id=name,
            observation_id=[f"{name}{k}" for k in range(100)],
            observed_at=times[name][:100],
            latitude_deg=48.0,
            longitude_deg=11.0,
            distance_km=0.0,
            frequency_mhz=np.linspace(2, 7, 100),
            mode="O",
            mode_used="O",
            n_combined=1,
            outcome=["outlier" if k % 10 == 0 else "used" for k in range(100)],
            group_delay_ms=2.1,
            expected_delay_ms=2.0,
            expected_delay_sd_ms=0.1,
            delay_innovation_ms=0.1,
        )
        for name in NAMES
    )
    lake.publish("echoes", echoes, "echoes-20260320T1200Z", settings=settings)
    worth = filled(
        "network",
        rows(
            "network",
            2,
            valid_time=pd.Timestamp(START + timedelta(hours=23.75)),
            sounder_id=["GOOD", "BIASED"],
            information_gain_nats=[3.0, 1.0],
            variance_bought_mhz2=[0.05, 0.01],
            variance_bought_share=[0.8, 0.2],
            advice=["Keep it up.", "Look at the cable."],
        ),
    )
    lake.publish("network", worth, "network-20260320T2345Z", settings=settings)
    return settings


def filled(of: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with something in the columns that may not be null and are not what the test is about."""
    for field in arrow_schema(of):
        if not field.nullable and frame[field.name].isna().any():
            kind = str(field.type)
            frame[field.name] = False if kind == "bool" else "x" if kind == "string" else 0
    return frame


@pytest.fixture
def day(settings: Settings) -> Day:
    return gather(settings, DAY)


def test_the_summary_says_what_happened(day: Day) -> None:
    summary = summarize(day).set_index("sounder_id")
    assert list(summary.index) == ["GOOD", "BIASED", "NEW"]  # best tier first
    assert summary.loc["GOOD", ["tier_before", "tier"]].tolist() == ["GOLD", "PLATINUM"]
    assert pd.isna(summary.loc["NEW", "tier_before"])
    assert summary["n_tier_changes"].tolist() == [1, 0, 0]
    assert summary["n_measurements"].tolist() == [288, 288, 144]
    assert (summary["outlier_share"] == 0.1).all()
    assert summary["is_delay_biased"].tolist() == [False, True, False]
    assert summary.loc["BIASED", "least_latency_s"] == -7.0
    assert summary["n_dropouts"].tolist() == [0, 0, 1]
    assert summary["variance_bought_share"].tolist()[:2] == [0.8, 0.2]
    assert pd.isna(summary.loc["NEW", "advice"])
    assert summary.loc["NEW", "dropout_h"] == pytest.approx(12.0, abs=0.1)


def test_the_mix_is_beside_that_of_a_healthy_network(day: Day) -> None:
    table = mix(summarize(day)).set_index("tier")
    assert table["n"].to_dict() == {"PLATINUM": 1, "GOLD": 1, "SILVER": 0, "BRONZE": 1}
    assert table["expected"].sum() == pytest.approx(1.0)


def test_pages_are_whole_alone_and_the_same_again(settings: Settings, day: Day) -> None:
    folder = write_report(settings, day, summarize(day), KERNEL)
    first = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert set(first) == {"index.html", "GOOD.html", "BIASED.html", "NEW.html", "sounders.parquet"}
    again = write_report(settings, day, summarize(day), KERNEL)
    assert {path.name: path.read_bytes() for path in again.rglob("*") if path.is_file()} == first
    assert sorted(path.name for path in folder.parent.iterdir()) == ["2026-03-20"]
    for name, page in first.items():
        if name.endswith(".html"):
            text = page.decode()
            assert not re.search(r"(src|href)=\"(https?:)?//", text)
            assert "<script" not in text
            assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    overview = first["index.html"].decode()
    assert "Off beyond doubt: BIASED" in overview
    assert 'href="sounders/GOOD.html"' in overview
    biased = first["BIASED.html"].decode()
    assert "clock is at least 7 s ahead" in biased
    assert "off by +1 " in biased
    assert "Look at the cable." in biased
    assert pq.read_table(folder / "sounders.parquet").num_rows == 3


def test_refused_rows_are_counted_by_reason(settings: Settings) -> None:
    refused = rows(
        "quarantine",
        3,
        dataset="measurements",
        sounder_id=["NEW", "NEW", None],
        received_at=pd.Timestamp(START + timedelta(hours=1)),
        reasons=json.dumps(["frequency_mhz_range: 99 is outside 0.1..60"]),
    )
    lake.publish("quarantine", filled("quarantine", refused), "q", settings=settings)
    summary = summarize(gather(settings, DAY)).set_index("sounder_id")
    assert summary["n_refused"].to_dict() == {"GOOD": 0, "BIASED": 0, "NEW": 2}


def test_a_day_without_sounders_or_that_has_not_begun_is_named(settings: Settings) -> None:
    with pytest.raises(ReportError, match="no cycle of 2026-01-01 knew a sounder"):
        summarize(gather(settings, date(2026, 1, 1)))
    now = datetime(2026, 3, 20, 1, tzinfo=UTC)
    with pytest.raises(ReportError, match="2026-03-21 has not begun"):
        plan_day(settings, date(2026, 3, 21), now=now)
    assert plan_day(settings, None, now=now) == date(2026, 3, 19)


def test_a_pause_is_a_dropout_by_what_is_usual_for_its_sounder() -> None:
    regular = pd.Series(pd.date_range(START, periods=48, freq="30min"))
    assert dropouts(regular, DAY, END) == []
    gap = regular[(regular < START + timedelta(hours=6)) | (regular > START + timedelta(hours=10))]
    ((since, hours),) = dropouts(gap, DAY, END)
    assert since == pd.Timestamp(START + timedelta(hours=5.5))
    assert hours == pytest.approx(5.0)
    assert dropouts(regular.iloc[:0], DAY, END) == [(pd.Timestamp(START), 24.0)]


def test_a_report_is_linked_where_people_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "products" / "reports" / "2026-03-20"
    assert address(Settings(home=tmp_path), folder) == (folder / "index.html").as_uri()
    for public_url in ("https://nvis.example.org/map", "https://nvis.example.org/map/"):
        public = Settings(home=tmp_path, public_url=public_url)
        assert address(public, folder) == "https://nvis.example.org/map/report/2026-03-20/"
