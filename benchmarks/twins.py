"""Twin experiments: whole cycles on a simulated network whose truth is known everywhere, beside IRI and KC2G's kernel.

    python benchmarks/twins.py [--truth own|aida] [--stations 20 60 200 2000] [--gross-errors 0 0.05 0.15] [--cycles N ...]

Each cycle is a twin of its own: truth, station places, instrument errors and hour are drawn anew, and every share of gross
errors sees the same. Scored are the stations held out, by the cycle's own verification and without the readings that were
spoiled, and the map of a coarse grid against the truth without noise. Prints a Markdown table and, last, JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.amplitude import amplitudes
from tasks.background import Background, f107_to_ig12
from tasks.cycle import Cycle, run_cycle
from tasks.grid import Grid
from tasks.kernel_config import QUANTITIES, KernelConfig, load_kernel_config
from tasks.magnetic_field import gyrofrequency_mhz, magnetic_field
from tasks.prediction import Z_75, Z_95
from tasks.references import Kc2gKernel
from tasks.series import UNREACHED_SD
from tasks.twin_network import Soundings, ionograms, place_uniformly, sounding_ages_h, station_number
from tasks.twin_truth import IncrementField, draw_field, draw_station_bias

Array = NDArray[np.float64]

QUANTITY = "fof2_mhz"
PLACE = ("latitude_deg", "longitude_deg")
AIDA = Path(__file__).resolve().parents[2] / "shared" / "data" / "aida_states"
GLOBE = (-90.0, -180.0, 90.0, 180.0)
GLOBE_STEP_DEG = 15.0
STEPS_OF_A_BOX = 16
TRUE_F107_SFU = (80.0, 180.0)  # drawn for each twin; the truth has its IG12, which the analysis has to find
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAYS_APART, HOURS_APART = 37, 7  # twins pass through seasons and hours
CYCLE_MINUTES = 15.0
FLAGS_OF_USE = ("accepted", "thinned")


@dataclass(frozen=True)
class Setting:
    """What all twins of a run share."""

    kernel: KernelConfig
    background: Background
    increments: IncrementField | None
    """None: the truth is drawn from the kernel's own covariance."""
    edges: tuple[float, float, float, float]
    threads: int

    @property
    def grid(self) -> Grid:
        if self.edges == GLOBE:
            return Grid.globe(GLOBE_STEP_DEG)
        south, west, north, east = self.edges
        return Grid.box(*self.edges, step_deg=max(north - south, east - west) / STEPS_OF_A_BOX)


@dataclass(frozen=True)
class Twin:
    """A truth and what a network reads of it; stations S, times T from the newest, points G of the map's check."""

    valid_at: pd.Timestamp
    times: pd.DatetimeIndex
    latitude_deg: Array
    longitude_deg: Array
    soundings: Soundings
    gyrofrequency_mhz: Array
    f107_sfu: float
    map_truth: Array
    """foF2 in MHz at the points of the grid at `valid_at`."""


def draw_twin(setting: Setting, n_stations: int, number: int, seed: int) -> Twin:
    random = np.random.default_rng([seed, n_stations, number])
    kernel, background = setting.kernel, setting.background
    if setting.increments is None:
        valid = FIRST_DAY + timedelta(days=DAYS_APART * number % 365)
    else:
        valid = setting.increments.valid_at.replace(hour=0, minute=0, second=0, microsecond=0)
    valid_at = pd.Timestamp(valid + timedelta(hours=HOURS_APART * number % 24)).as_unit("us")
    age_h = sounding_ages_h(kernel.longest_window_h)
    times = pd.DatetimeIndex(valid_at - pd.to_timedelta(np.round(age_h * 60.0), unit="min")).as_unit("us")
    station_latitude, station_longitude = place_uniformly(n_stations, setting.edges, random)
    grid_latitude, grid_longitude = setting.grid.points()
    latitude = np.concatenate([station_latitude, grid_latitude])
    longitude = np.concatenate([station_longitude, grid_longitude])
    shape = latitude.size, times.size
    moments = np.tile(times.to_numpy(), shape[0])
    places = np.repeat(latitude, shape[1]), np.repeat(longitude, shape[1])
    f107_sfu = random.uniform(*TRUE_F107_SFU)
    amplitude = amplitudes(kernel, moments, *places, f107_sfu)[QUANTITIES.index(QUANTITY)].reshape(shape)
    if setting.increments is None:
        magnetic = background.quasi_dipole(latitude, longitude, valid_at.year)
        departure = draw_field(kernel, QUANTITY, *magnetic, -age_h, amplitude, random)
    else:
        hours = np.asarray((times - setting.increments.valid_at) / pd.Timedelta(hours=1), dtype=np.float64)
        modip = magnetic_field(valid_at, latitude, longitude).modip_deg
        departure = setting.increments.at(
            np.repeat(modip, shape[1]), places[1], np.tile(hours, shape[0])
        ).reshape(shape)
    quiet = background.at(moments, *places, f107_to_ig12(f107_sfu)).fof2_mhz.reshape(shape)
    truth = quiet * np.exp(departure)
    bias = draw_station_bias(kernel, QUANTITY, -age_h, amplitude[:n_stations], random)
    return Twin(
        valid_at=valid_at,
        times=times,
        latitude_deg=station_latitude,
        longitude_deg=station_longitude,
        soundings=Soundings.of(truth[:n_stations] * np.exp(bias), kernel, random),
        gyrofrequency_mhz=gyrofrequency_mhz(valid_at, station_latitude, station_longitude),
        f107_sfu=f107_sfu,
        map_truth=truth[n_stations:, 0],
    )


def run_twin(twin: Twin, share: float, setting: Setting, plain: KernelConfig | None) -> dict[str, float]:
    """Scores of one cycle: means over its stations or points, so that cycles can be averaged and their spread told."""
    value, is_spoiled = twin.soundings.spoiled(share, twin.gyrofrequency_mhz)
    rows = ionograms(twin.soundings, value, twin.times, twin.latitude_deg, twin.longitude_deg)

    def cycle_of(kernel: KernelConfig) -> Cycle:
        return run_cycle(
            rows,
            valid_time=twin.valid_at.to_pydatetime(),
            available_until=twin.valid_at.to_pydatetime(),
            kernel=kernel,
            background=setting.background,
            grid=setting.grid,
            f107_sfu=twin.f107_sfu,
            cycle_minutes=CYCLE_MINUTES,
            threads=setting.threads,
        )

    begun = time.perf_counter()
    cycle = cycle_of(setting.kernel)
    elapsed_s = time.perf_counter() - begun
    scores = {
        "elapsed_s": elapsed_s,
        "chi2": float(cycle.metadata["chi2"][QUANTITY]),
        **station_scores(cycle, twin, is_spoiled),
        **map_scores(cycle, twin),
        **control_scores(cycle, twin, is_spoiled),
        "map_mse_kc2g": mean_square(kc2g_map(cycle, twin, rows, setting), twin.map_truth, cosine(cycle)),
    }
    if plain is not None:
        scores |= {f"plain_{name}": score for name, score in map_scores(cycle_of(plain), twin).items()}
    return scores


def is_right(rows: pd.DataFrame, twin: Twin, is_spoiled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a row of the contracts is of a reading that was not spoiled."""
    return np.asarray(
        ~is_spoiled[station_number(rows["sounder_id"]), twin.times.get_indexer(rows["observed_at"])]
    )


def station_scores(cycle: Cycle, twin: Twin, is_spoiled: NDArray[np.bool_]) -> dict[str, float]:
    """Of the stations held out, where what they read is right: the spoiled readings say nothing about the map."""
    rows = cycle.verification.to_pandas()
    rows = rows[(rows["quantity"] == QUANTITY) & (rows["lead_h"] == 0)]
    rows = rows[is_right(rows, twin, is_spoiled)]
    observed = rows["obs_value"].to_numpy()
    scores = {"n": float(len(rows))}
    for name, column in (
        ("ours", "holdout_value"),
        ("iri", "iri_index_value"),
        ("kc2g", "kc2g_kernel_value"),
    ):
        predicted = rows[column].to_numpy(dtype=np.float64)
        scores[f"mse_{name}"] = float(np.mean((predicted - observed) ** 2))
        scores[f"log_mse_{name}"] = float(np.mean(np.log(predicted / observed) ** 2))
    scores["coverage50"] = float(rows["is_within_50"].astype(float).mean())
    scores["coverage90"] = float(rows["is_within_90"].astype(float).mean())
    return scores


def control_scores(cycle: Cycle, twin: Twin, is_spoiled: NDArray[np.bool_]) -> dict[str, float]:
    """Shares of the spoiled and of the right readings that quality control stopped."""
    rows = cycle.feedback.to_pandas()
    rows = rows[rows["quantity"] == QUANTITY]
    is_stopped, right = ~rows["qc_flag"].isin(FLAGS_OF_USE).to_numpy(), is_right(rows, twin, is_spoiled)
    stopped = {"right": is_stopped[right], "gross": is_stopped[~right]}
    return {f"stopped_{name}": float(part.mean()) for name, part in stopped.items() if part.size}


def map_scores(cycle: Cycle, twin: Twin) -> dict[str, float]:
    """Of ln foF2 over the grid, by area: the field without noise against its own distribution."""
    assert cycle.analysis is not None
    frame = cycle.analysis.to_pandas()
    weight = cosine(cycle)
    median = frame["fof2_mhz"].to_numpy()
    # The table has the sd in MHz, of a log-normal: sd^2 / median^2 = e^(s^2) (e^(s^2) - 1).
    relative = (frame["fof2_mhz_sd"].to_numpy() / median) ** 2
    spread = np.sqrt(np.log((1.0 + np.sqrt(1.0 + 4.0 * relative)) / 2.0))
    score = np.abs(np.log(twin.map_truth / median)) / spread
    return {
        "map_mse_ours": mean_square(median, twin.map_truth, weight),
        "map_mse_iri": mean_square(frame["fof2_background_mhz"].to_numpy(), twin.map_truth, weight),
        "map_variance": float(np.average(spread**2, weights=weight)),
        "map_z2": float(np.average(score**2, weights=weight)),
        "map_coverage50": float(np.average(score <= Z_75, weights=weight)),
        "map_coverage90": float(np.average(score <= Z_95, weights=weight)),
    }


def mean_square(predicted: Array, truth: Array, weight: Array) -> float:
    return float(np.average(np.log(predicted / truth) ** 2, weights=weight))


def cosine(cycle: Cycle) -> Array:
    """Area of each point; a pole's, which every longitude repeats, is none."""
    assert cycle.analysis is not None
    return np.maximum(np.cos(np.radians(cycle.analysis["latitude_deg"].to_numpy())), 0.0)


def kc2g_map(cycle: Cycle, twin: Twin, rows: pd.DataFrame, setting: Setting) -> Array:
    """foF2 in MHz of KC2G's method at the points of the map, from all readings, on the cycle's background and index."""
    assert cycle.analysis is not None
    kernel, background = setting.kernel, setting.background
    ig12 = cycle.metadata["effective_index"]
    analysis = cycle.analysis.to_pandas()
    limits = kernel.fof2_mhz
    rows = rows[rows[QUANTITY].between(limits.minimum, limits.maximum)]
    places = twin.latitude_deg, twin.longitude_deg
    value = rows[QUANTITY].to_numpy()
    quiet = background.at(rows["observed_at"], *(rows[name].to_numpy() for name in PLACE), ig12)
    error = limits.obs_error.of(rows["confidence_score"].to_numpy(), kernel.confidence)
    peer = Kc2gKernel(
        station_number(rows["sounder_id"]),
        np.asarray((rows["observed_at"] - twin.valid_at).dt.total_seconds(), dtype=np.float64) / 3600.0,
        error / value,
        *(
            np.concatenate([of_stations, analysis[name]])
            for of_stations, name in zip(places, PLACE, strict=True)
        ),
    )
    departure = np.log(value / quiet.fof2_mhz)
    points = range(places[0].size, places[0].size + len(analysis))
    predicted = np.array([peer.predict(point, departure)[0] for point in points])
    return np.asarray(analysis["fof2_background_mhz"].to_numpy() * np.exp(predicted))


def summarised(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over cycles with their standard errors; of mean squares the roots."""
    frame = pd.DataFrame(scores)
    result: dict[str, float] = {"cycles": len(frame), "n": float(frame["n"].sum())}
    for name in frame.columns.drop("n"):
        mean = float(frame[name].mean())
        error = float(frame[name].std(ddof=1) / np.sqrt(len(frame))) if len(frame) > 1 else np.nan
        if "mse" in name:
            root = float(np.sqrt(mean))
            name, mean, error = name.replace("mse", "rmse"), root, error / (2.0 * root)
        result |= {name: mean, f"{name}_se": error}
    return result


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Markdown: stations in MHz, the map in per cent of foF2, standard errors over cycles behind +-."""

    def percent(case: dict[str, Any], name: str) -> str:
        return f"{100 * case[name]:.1f} ± {100 * case[f'{name}_se']:.1f}" if name in case else ""

    columns = {
        "stations": lambda case: f"{case['stations']:,}",
        "gross errors": lambda case: f"{case['gross_errors']:.0%}",
        "cycles": lambda case: str(case["cycles"]),
        "held out n": lambda case: f"{case['n']:,.0f}",
        "RMSE, MHz": lambda case: f"**{case['rmse_ours']:.3f}** ± {case['rmse_ours_se']:.3f}",
        "KC2G": lambda case: f"{case['rmse_kc2g']:.3f}",
        "IRI": lambda case: f"{case['rmse_iri']:.3f}",
        "in 50 %": lambda case: f"{case['coverage50']:.2f}",
        "in 90 %": lambda case: f"{case['coverage90']:.3f} ± {case['coverage90_se']:.3f}",
        "map RMSE, %": lambda case: (
            f"**{100 * case['map_rmse_ours']:.1f}** ± {100 * case['map_rmse_ours_se']:.1f}"
        ),
        "plain": lambda case: percent(case, "plain_map_rmse_ours"),
        "KC2G, %": lambda case: f"{100 * case['map_rmse_kc2g']:.1f}",
        "IRI, %": lambda case: f"{100 * case['map_rmse_iri']:.1f}",
        "map in 50 %": lambda case: f"{case['map_coverage50']:.2f}",
        "map in 90 %": lambda case: f"{case['map_coverage90']:.3f} ± {case['map_coverage90_se']:.3f}",
        "stopped gross, right": lambda case: (
            (f"{case['stopped_gross']:.0%}, " if "stopped_gross" in case else "-, ")
            + f"{case['stopped_right']:.2%}"
        ),
    }
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(case) for cell in columns.values()) + " |" for case in cases]
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress goes to the error stream, so that the output is the table and JSON."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", choices=("own", "aida"), default="own")
    parser.add_argument("--stations", type=int, nargs="+", default=[20, 60], metavar="S")
    parser.add_argument("--gross-errors", type=float, nargs="+", default=[0.0, 0.15], metavar="SHARE")
    parser.add_argument(
        "--cycles", type=int, nargs="+", default=[4], metavar="N", help="one number, or one per --stations"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--area",
        type=float,
        nargs=4,
        default=GLOBE,
        metavar=("SOUTH", "WEST", "NORTH", "EAST"),
        help="where stations stand and the map is checked; default the globe",
    )
    parser.add_argument(
        "--plain", action="store_true", help="also map without quality control and robust weights"
    )
    parser.add_argument(
        "--known-index",
        action="store_true",
        help="the analysis knows the truth's solar index: to tell its part in an error",
    )
    parser.add_argument("--increments", type=Path, help="AIDA output file of --truth aida")
    parser.add_argument("--config", type=Path, help="kernel configuration; default the one shipped")
    parser.add_argument("--threads", type=int, default=0, help="threads of the kernel, 0 takes all cores")
    arguments = parser.parse_args()
    if len(arguments.cycles) not in (1, len(arguments.stations)):
        parser.error(
            f"--cycles has {len(arguments.cycles)} numbers where --stations has {len(arguments.stations)}"
        )
    if not all(0 <= share < 1 for share in arguments.gross_errors):
        parser.error("--gross-errors: a share lies in 0..1")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    increments = None
    if arguments.truth == "aida":
        files = [arguments.increments] if arguments.increments else sorted(AIDA.glob("*.h5"))
        if not files:
            print(
                json.dumps(
                    {"name": "twins", "skipped": "no --increments and no shared/data beside the checkout"}
                )
            )
            return
        increments = IncrementField.read(files[0])
    kernel = load_kernel_config(arguments.config)
    if arguments.known_index:  # from the solar flux, as with too few stations
        index = kernel.effective_index.model_copy(update={"minimum_stations": max(arguments.stations) + 1})
        kernel = kernel.model_copy(update={"effective_index": index})
    setting = Setting(
        kernel=kernel,
        background=Background(arguments.threads or None),
        increments=increments,
        edges=tuple(arguments.area),
        threads=arguments.threads,
    )
    loose = dict.fromkeys(("rate_sd", "background_sd", "buddy_sd", "full_weight_sd"), UNREACHED_SD)
    plain = kernel.model_copy(update={"quality": kernel.quality.model_copy(update=loose)})
    begun = time.perf_counter()
    cycles = arguments.cycles * (len(arguments.stations) if len(arguments.cycles) == 1 else 1)
    cases: list[dict[str, Any]] = []
    for n_stations, n_cycles in zip(arguments.stations, cycles, strict=True):
        scores: dict[float, list[dict[str, float]]] = {share: [] for share in arguments.gross_errors}
        for number in range(n_cycles):
            twin = draw_twin(setting, n_stations, number, arguments.seed)
            for share, of_share in scores.items():
                of_share.append(run_twin(twin, share, setting, plain if arguments.plain else None))
                say(
                    f"{time.perf_counter() - begun:.0f} s: {n_stations} stations, twin {number + 1} of {n_cycles}, "
                    f"{share:.0%} gross errors: a cycle of {of_share[-1]['elapsed_s']:.1f} s"
                )
        for share, of_share in scores.items():
            case = {"truth": arguments.truth, "stations": n_stations, "gross_errors": share}
            cases.append({**case, **summarised(of_share)})
            say(
                f"{n_stations} stations, {share:.0%} gross errors, {n_cycles} cycles: map {100 * cases[-1]['map_rmse_ours']:.1f} %, "
                f"in 90 % {cases[-1]['map_coverage90']:.3f}, held out {cases[-1]['coverage90']:.3f}"
            )
    print(table(cases))
    result = {
        "name": "twins",
        "quantity": QUANTITY,
        "truth": arguments.truth,
        "area": list(setting.edges),
        "seed": arguments.seed,
        "known_index": arguments.known_index,
        "kernel": setting.kernel.config_hash,
        "ratio": cases[-1]["map_rmse_kc2g"] / cases[-1]["map_rmse_ours"],
        "cases": [
            {key: round(value, 5) if isinstance(value, float) else value for key, value in case.items()}
            for case in cases
        ],
        "elapsed_s": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(result).replace("NaN", "null"))


if __name__ == "__main__":
    main()
