"""A series of cycles over files of observations: every station held out, now and ahead, with no lake and no orchestrator.

A cycle sees what had been observed by its own time. A forecast is made at its origin and waits there for the cycle that
scores it, so that each time is solved once however many leads there are.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from tasks import row_errors
from tasks.background import Background
from tasks.contracts import load_contract
from tasks.cycle import identity_frame
from tasks.estimate import estimate
from tasks.kernel_config import QUANTITIES, KernelConfig, load_kernel_config
from tasks.observation_files import read_frame
from tasks.revisions import known_at
from tasks.verification import Forecast, forecast_held_out, score, targets_of

LONGEST_SCORED_MINUTES = 15  # observations older than this at a cycle's time are no test of a nowcast
UNREACHED_SD = 1e9  # a threshold of quality control that nothing reaches
GROSS_FACTORS = (1.22, 2.0)  # a spoiled value is off by a factor between these, up or down
SPOILING_SEED = 5
FEWEST_CYCLES_PER_PROCESS = 100  # below, starting a process costs more than it saves
SAY_EVERY_S = 10.0


class SeriesError(ValueError):
    """Observations that cannot be verified; the message says what they lack."""


@dataclass(frozen=True)
class SeriesPlan:
    """What is verified: cycles from `start` to `end`, and forecasts for their times."""

    start: pd.Timestamp
    end: pd.Timestamp
    every_minutes: int
    leads_h: tuple[float, ...]
    """Leads in hours, ascending; 0 is the nowcast and always among them."""
    f107_sfu: float | None
    config: Path | None
    is_controlled: bool = True
    """False: no quality control beside the physical limits."""

    @property
    def times(self) -> pd.DatetimeIndex:
        return pd.date_range(self.start, self.end, freq=f"{self.every_minutes}min", unit="us")

    def kernel(self) -> KernelConfig:
        kernel = load_kernel_config(self.config)
        if self.is_controlled:
            return kernel
        loose = {name: UNREACHED_SD for name in ("rate_sd", "background_sd", "buddy_sd", "full_weight_sd")}
        return kernel.model_copy(update={"quality": kernel.quality.model_copy(update=loose)})


@dataclass(frozen=True)
class Series:
    """What the cycles say: rows of the contract `verification`, and what was not scored."""

    verification: pd.DataFrame
    rejected: pd.DataFrame
    """Newest observations that quality control stopped: `quantity sounder_id observed_at obs_value holdout_value`."""
    elapsed_s: float


def read_ionograms(paths: Sequence[Path], stations: Path | None = None) -> pd.DataFrame:
    """Observations of files as rows of the dataset `ionograms`, available when they were made, in order of time; of one
    that was corrected its newest revision.

    Values beyond the physical limits stay: quality control has to deal with them as in a cycle.

    Raises:
        tasks.observation_files.ObservationFileError: a file cannot be used.
        SeriesError: there is no foF2, no place, or no second station.
    """
    items = pd.concat([read_frame(path, stations=stations) for path in paths], ignore_index=True)
    named = ", ".join(str(path) for path in paths)
    frame = pd.DataFrame(index=items.index)
    for column in load_contract("ionograms").columns:
        frame[column.name] = items.get(column.name)
    own_errors = [name for name in row_errors.COLUMNS if name in frame]
    for name in (*QUANTITIES, *own_errors, "confidence_score", "latitude_deg", "longitude_deg"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    if frame["observed_at"].isna().all():
        raise SeriesError(f"{named}: no row has a time that can be read")
    frame = frame[frame["observed_at"].notna() & frame["sounder_id"].notna()]
    if frame[["latitude_deg", "longitude_deg"]].isna().any(axis=1).all():
        raise SeriesError(f"{named}: no row has latitude_deg and longitude_deg: give the stations' places")
    frame = frame.dropna(subset=["latitude_deg", "longitude_deg"])
    if frame["fof2_mhz"].isna().all():
        raise SeriesError(f"{named}: no row has fof2_mhz, without which nothing can be verified")
    codes = sorted(frame["sounder_id"].unique())
    if len(codes) < 2:
        raise SeriesError(
            f"{named}: {codes[0]} is the only station: to hold one out, at least one other is needed"
        )
    frame["revision"] = pd.to_numeric(frame["revision"], errors="coerce").fillna(0)
    frame["available_at"] = frame["observed_at"]
    moment = frame["observed_at"].astype("int64").astype(str)
    repeat = frame.groupby(["sounder_id", "observed_at", "revision"], sort=False).cumcount().astype(str)
    frame["observation_id"] = frame["sounder_id"] + "|" + moment + "|" + repeat
    frame = known_at(frame, frame["available_at"].max())
    return frame.sort_values(["observed_at", "sounder_id"], kind="stable").reset_index(drop=True)


Observed: TypeAlias = tuple[str, pd.Timestamp]
"""Sounder and time of an observation."""


def spoil(observations: pd.DataFrame, share: float) -> tuple[pd.DataFrame, frozenset[Observed]]:
    """The observations with gross errors in a share of foF2, and which these are; always the same ones."""
    random = np.random.default_rng(SPOILING_SEED)
    n = len(observations)
    is_spoiled = (random.uniform(size=n) < share) & observations["fof2_mhz"].notna().to_numpy()
    low, high = np.log(GROSS_FACTORS)
    factor = np.exp(random.choice([-1, 1], n) * random.uniform(low, high, n))
    spoiled = observations.assign(fof2_mhz=observations["fof2_mhz"] * np.where(is_spoiled, factor, 1.0))
    rows = observations[is_spoiled]
    return spoiled, frozenset(zip(rows["sounder_id"], rows["observed_at"], strict=True))


def without(rows: pd.DataFrame, spoiled: frozenset[Observed]) -> pd.DataFrame:
    """Rows whose observation was not spoiled."""
    keys = zip(rows["sounder_id"], rows["observed_at"], strict=True)
    return rows[np.array([key not in spoiled for key in keys], dtype=bool)].reset_index(drop=True)


def run_series(
    observations: pd.DataFrame,
    plan: SeriesPlan,
    *,
    jobs: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Series:
    """Run every cycle of a plan on rows of `read_ionograms`; the number of processes changes no bit.

    Raises:
        SeriesError: no cycle has an observation to be scored against.
    """
    times, begun = plan.times, time.monotonic()
    n_jobs = max(1, min(jobs, len(times) // FEWEST_CYCLES_PER_PROCESS))
    pieces = [times[part] for part in np.array_split(np.arange(len(times)), n_jobs)]
    n_all = sum(len(solved_times(plan, piece)) for piece in pieces)
    # A fresh interpreter each: the kernel's and Arrow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    n_done = context.Value("q", 0)

    def tell() -> None:
        elapsed_s = time.monotonic() - begun
        if n_done.value:
            left_s = elapsed_s / n_done.value * (n_all - n_done.value)
            say(f"{n_done.value:,} of {n_all:,} times done, about {left_s:.0f} s left")

    if n_jobs == 1:
        told = [begun]

        def count() -> None:
            n_done.value += 1
            if time.monotonic() - told[0] > SAY_EVERY_S:
                told[0] = time.monotonic()
                tell()

        ordered = [run_piece(observations, plan, times, count)]
    else:
        with ProcessPoolExecutor(n_jobs, context, initializer=_count_in, initargs=(n_done,)) as pool:
            running = [pool.submit(_run_counted, observations, plan, piece) for piece in pieces]
            try:
                while wait(running, timeout=SAY_EVERY_S, return_when=FIRST_EXCEPTION).not_done:
                    tell()
                    for one in running:
                        if one.done():
                            one.result()  # raise at once what ended one of them
                ordered = [one.result() for one in running]
            except BaseException:  # leaving the pool would wait for the rest of every piece
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
    verification = pd.concat([part for part, _ in ordered], ignore_index=True)
    if not (verification["lead_h"] == 0).any():
        raise SeriesError(
            f"no cycle from {plan.start.isoformat()} to {plan.end.isoformat()}, every {plan.every_minutes} minutes, has "
            f"an observation of the {scored_minutes(plan)} minutes before it to be scored against: choose another "
            "span or a smaller step"
        )
    rejected = pd.concat([part for _, part in ordered], ignore_index=True)
    return Series(verification, rejected, time.monotonic() - begun)


def scored_minutes(plan: SeriesPlan) -> int:
    """Age in minutes up to which observations are scored, so that none is scored twice."""
    return min(plan.every_minutes, LONGEST_SCORED_MINUTES)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


_n_done: Any = None  # the counter that the processes of a series share


def _count_in(n_done: Any) -> None:
    global _n_done
    _n_done = n_done


def _run_counted(
    observations: pd.DataFrame, plan: SeriesPlan, times: pd.DatetimeIndex
) -> tuple[pd.DataFrame, pd.DataFrame]:
    def count() -> None:
        with _n_done.get_lock():
            _n_done.value += 1

    return run_piece(observations, plan, times, count)


def solved_times(plan: SeriesPlan, times: pd.DatetimeIndex) -> list[pd.Timestamp]:
    """The times of cycles and of the origins of the forecasts that they score, ascending."""
    ahead = (pd.Timedelta(hours=lead_h) for lead_h in plan.leads_h)
    return sorted(set(times).union(*(set(times - lead) for lead in ahead)))


def run_piece(
    observations: pd.DataFrame,
    plan: SeriesPlan,
    times: pd.DatetimeIndex,
    count: Callable[[], None] = lambda: None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Verification and rejected rows of the cycles at `times`; `count` is called after each time solved."""
    kernel, background = plan.kernel(), Background(n_threads=1)
    scored_h = scored_minutes(plan) / 60.0
    ahead = {lead_h: pd.Timedelta(hours=lead_h) for lead_h in plan.leads_h if lead_h > 0}
    scored_at = set(times)
    observed_at = pd.DatetimeIndex(observations["observed_at"])
    waiting: dict[tuple[pd.Timestamp, float], dict[str, Forecast]] = {}
    verification, rejected = [], []

    def rows_between(first: pd.Timestamp, last: pd.Timestamp) -> pd.DataFrame:
        return observations.iloc[
            observed_at.searchsorted(first, side="right") : observed_at.searchsorted(last, side="right")
        ]

    for valid_at in solved_times(plan, times):
        known = rows_between(valid_at - pd.Timedelta(hours=kernel.lookback_h), valid_at)
        made = estimate(
            known,
            valid_at=valid_at,
            available_at=valid_at,
            kernel=kernel,
            background=background,
            f107_sfu=plan.f107_sfu,
            scored_h=scored_h,
            threads=1,
        )
        if valid_at in scored_at:
            identity = {"cycle_id": f"{valid_at:%Y%m%dT%H%MZ}", "valid_time": valid_at}
            targets = targets_of(made.known, valid_at, scored_h, kernel.scale.max_scored_stations)
            forecasts = {0.0: forecast_held_out(made, targets, valid_at, kernel, background)}
            forecasts |= {lead_h: waiting.pop((valid_at, lead_h)) for lead_h in ahead}
            verification += [
                identity_frame(score(made, forecast, lead_h), identity)
                for lead_h, forecast in forecasts.items()
            ]
            rejected += [
                part.feedback[is_rejected(part.feedback, valid_at, scored_h)] for part in made.solved.values()
            ]
        for lead_h, lead in ahead.items():
            then = valid_at + lead
            if then in scored_at:
                targets = rows_between(then - pd.Timedelta(hours=scored_h), then)
                waiting[then, lead_h] = forecast_held_out(made, targets, then, kernel, background)
        count()
    columns = ["quantity", "observation_id", "sounder_id", "observed_at", "obs_value", "holdout_value"]
    return pd.concat(verification, ignore_index=True), pd.concat(rejected, ignore_index=True)[columns]


def is_rejected(feedback: pd.DataFrame, valid_at: pd.Timestamp, scored_h: float) -> pd.Series[bool]:
    """Newest rows that quality control stopped though their values are possible."""
    is_newest = feedback["observed_at"] > valid_at - pd.Timedelta(hours=scored_h)
    return is_newest & ~feedback["qc_flag"].isin(["accepted", "thinned", "physical_limits"])
