"""Cycles by hand for the tests of map, products and artifacts: smooth fields with the contract's columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

VALID_TIME = datetime(2022, 10, 25, 10, 0, tzinfo=UTC)
EUROPE = {"AT138": (38.0, 23.5), "RO041": (41.9, 12.5), "VT139": (40.6, 17.8), "FF051": (51.7, -1.5)}


@dataclass
class HandmadeCycle:
    """The attributes of `tasks.cycle.Cycle` that products read."""

    analysis: Any
    feedback: Any
    verification: Any
    metadata: dict[str, Any]


def smooth_fof2(latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> np.ndarray:
    return 7.0 + 3.0 * np.cos(np.radians(latitude_deg)) * np.cos(np.radians(longitude_deg - 20.0))


def make_analysis(latitude_deg: np.ndarray, longitude_deg: np.ndarray, valid_time: datetime) -> pd.DataFrame:
    longitude, latitude = (axis.ravel() for axis in np.meshgrid(longitude_deg, latitude_deg))
    fof2 = smooth_fof2(latitude, longitude)
    return pd.DataFrame(
        {
            "cycle_id": f"{valid_time:%Y%m%dT%H%MZ}",
            "valid_time": pd.Timestamp(valid_time),
            "lead_h": 0.0,
            "latitude_deg": latitude,
            "longitude_deg": (longitude + 180.0) % 360.0 - 180.0,
            "fof2_mhz": fof2,
            "fof2_mhz_sd": 0.2 + 0.01 * np.abs(latitude - 45.0),
            "hmf2_km": 280.0 + latitude,
            "hmf2_km_sd": 12.0 + 0.0 * latitude,
            "m3000f2": 3.0 + 0.0 * latitude,
            "m3000f2_sd": 0.1 + 0.0 * latitude,
            "b0_km": 90.0 + 0.0 * latitude,
            "b0_km_sd": 15.0 + 0.0 * latitude,
            "muf3000_mhz": 3.0 * fof2,
            "muf3000_mhz_sd": 0.9 + 0.0 * latitude,
            "fxf2_mhz": fof2 + 0.65,
            "fxf2_mhz_sd": 0.2 + 0.01 * np.abs(latitude - 45.0),
            "foe_mhz": 3.1 + 0.0 * latitude,
            "fof2_background_mhz": fof2 - 0.3 * np.sin(np.radians(3 * latitude)),
            "hmf2_background_km": 275.0 + latitude,
            "m3000f2_background": 3.0 + 0.0 * latitude,
            "b0_background_km": 95.0 + 0.0 * latitude,
        }
    )


def make_cycle(
    *,
    valid_time: datetime = VALID_TIME,
    stations: dict[str, tuple[float, float]] | None = None,
    latitude_deg: np.ndarray | None = None,
    longitude_deg: np.ndarray | None = None,
    source: str = "file",
    licence: str | None = "GIRO, CC BY-NC-SA 4.0",
    rejected: str | None = None,
    bias_mhz: float = 0.1,
) -> tuple[HandmadeCycle, pd.DataFrame]:
    """A cycle over Europe unless told otherwise, and the observations it used."""
    stations = EUROPE if stations is None else stations
    latitude_deg = np.arange(30.0, 66.0, 2.0) if latitude_deg is None else latitude_deg
    longitude_deg = np.arange(-15.0, 41.0, 2.0) if longitude_deg is None else longitude_deg
    analysis = make_analysis(latitude_deg, longitude_deg, valid_time)
    cycle_id = str(analysis["cycle_id"].iloc[0])
    rows = []
    for code, (latitude, longitude) in stations.items():
        for age_min in (5, 20):
            truth = float(smooth_fof2(np.array(latitude), np.array(longitude)))
            for quantity, value in (("fof2_mhz", truth + bias_mhz), ("hmf2_km", 285.0 + latitude)):
                is_bad = code == rejected and quantity == "fof2_mhz"
                rows.append(
                    {
                        "cycle_id": cycle_id,
                        "valid_time": pd.Timestamp(valid_time),
                        "observation_id": f"{code}-{age_min}",
                        "sounder_id": code,
                        "observed_at": pd.Timestamp(valid_time - timedelta(minutes=age_min)),
                        "latitude_deg": latitude,
                        "longitude_deg": longitude,
                        "quantity": quantity,
                        "obs_value": 17.4 if is_bad else value,
                        "obs_error": 0.15 if quantity == "fof2_mhz" else 15.0,
                        "effective_error": 0.15 if quantity == "fof2_mhz" else 15.0,
                        "hofx": value - 0.3,
                        "omb": 0.3,
                        "oma": 0.05,
                        "qc_flag": "background_check" if is_bad else "accepted",
                        "weight": 0.0 if is_bad else 1.0,
                        "holdout_value": value - 0.2,
                        "holdout_sd": 0.3,
                    }
                )
    feedback = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*make_cycle()[0].feedback.columns])
    verification = feedback[feedback["observation_id"].astype(str).str.endswith("-5")].assign(
        lead_h=0.0,
        iri_index_value=lambda frame: frame["obs_value"] - 0.8,
        iri_f107_value=np.nan,
        persistence_24h_value=np.nan,
        kc2g_kernel_value=lambda frame: frame["obs_value"] - 0.5,
        crps=0.15,
        is_within_50=True,
        is_within_90=True,
    )
    observations = feedback.drop_duplicates("observation_id")[
        ["observation_id", "sounder_id", "observed_at"]
    ].assign(source=source, licence=licence)
    metadata = {
        "cycle_id": cycle_id,
        "effective_index": 118.3,
        "index_source": "stations",
        "n_observations": len(observations),
        "n_stations": len(stations),
        "config_hash": "0" * 16,
        "inputs_hash": "1" * 16,
    }
    return HandmadeCycle(analysis, feedback, verification, metadata), observations
