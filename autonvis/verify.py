"""The verb `verify`: a series of cycles over files of ionograms, its scores, its page and its plots."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def verify(
    paths: Sequence[Path],
    *,
    out: Path,
    every_minutes: int = 15,
    start: datetime | None = None,
    end: datetime | None = None,
    leads_h: tuple[float, ...] = (0.0,),
    config: Path | None = None,
    f107_sfu: float | None = None,
    gross_errors: float = 0.0,
    is_controlled: bool = True,
    stations: Path | None = None,
    kp: Path | None = None,
    jobs: int | None = None,
) -> None:
    """Verify over files, write `verification.parquet`, `summary.md` and plots to `out`, and print the scores as JSON.

    Raises:
        ValueError: an argument or the observations cannot be used; the message names them.
        OSError: `out` cannot be written.
    """
    from tasks.contracts import arrow_schema
    from tasks.geomagnetic import kp_at, read_kp
    from tasks.kernel_config import load_kernel_config
    from tasks.series import SeriesPlan, read_ionograms, run_series, spoil, usable_cores, without
    from tasks.skill_plots import draw_plots
    from tasks.skill_report import printable, skill_lines, summary

    if not 1 <= every_minutes <= 1440:
        raise ValueError(f"--every {every_minutes}: minutes between cycles lie between 1 and 1440")
    if not 0 <= gross_errors < 1:
        raise ValueError(f"--gross-errors {gross_errors}: a share lies in 0..1")
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: at least one process is needed")
    if f107_sfu is not None and not 0 < f107_sfu < 1000:
        raise ValueError(f"--f107 {f107_sfu}: a solar flux lies in 0..1000 sfu")
    kernel = load_kernel_config(config)
    out.mkdir(parents=True, exist_ok=True)
    observations = read_ionograms(paths, stations)
    disturbance = None if kp is None else read_kp(kp)
    observed, step = observations["observed_at"], f"{every_minutes}min"
    plan = SeriesPlan(
        start=pd.Timestamp(start)
        if start
        else observed.min().ceil(step if 1440 % every_minutes == 0 else "1min"),
        end=pd.Timestamp(end) if end else observed.max(),
        every_minutes=every_minutes,
        leads_h=leads_h,
        f107_sfu=f107_sfu,
        config=config,
        is_controlled=is_controlled,
    )
    n_stations = observations["sounder_id"].nunique()
    span = f"{observed.min():%Y-%m-%d %H:%M} to {observed.max():%Y-%m-%d %H:%M} UTC"
    say(f"{len(observations):,} ionograms of {n_stations} stations, {span}; {len(plan.times):,} cycles")
    if plan.times.empty:
        raise ValueError(
            f"no cycle lies between {plan.start.isoformat()} and {plan.end.isoformat()}: the observations span {span}"
        )
    used, spoiled = spoil(observations, gross_errors)
    series = run_series(used, plan, jobs=jobs or usable_cores(), say=say)
    verification, rejected = (without(rows, spoiled) for rows in (series.verification, series.rejected))
    verification["kp"] = np.nan if disturbance is None else kp_at(disturbance, verification["observed_at"])
    table = pa.Table.from_pandas(verification, schema=arrow_schema("verification"), preserve_index=False)
    staged = out / ".verification.partial"
    pq.write_table(table, staged, compression="zstd")
    os.replace(staged, out / "verification.parquet")
    plots = draw_plots(verification, out)
    facts = {
        "observations": f"{', '.join(path.name for path in paths)}: {len(observations):,} ionograms of {n_stations} stations",
        "cycles": f"{len(plan.times):,}, every {every_minutes} minutes, {plan.times[0]:%Y-%m-%d %H:%M} to "
        f"{plan.times[-1]:%Y-%m-%d %H:%M} UTC",
        "kernel": f"{config.name if config else 'shipped'}, {kernel.config_hash}"
        + ("" if is_controlled else "; without quality control"),
        "solar flux": "unknown" if f107_sfu is None else f"{f107_sfu:g} sfu",
        **({"gross errors injected into foF2": f"{gross_errors:.0%}"} if gross_errors else {}),
    }
    (out / "summary.md").write_text(summary(verification, rejected, facts, plots), encoding="utf-8")
    say(f"{series.elapsed_s:.0f} s; verification.parquet, summary.md and {len(plots)} plots in {out}")
    for line in skill_lines(verification, rejected):
        print(json.dumps(printable(line)), flush=True)


def say(text: str) -> None:
    """Progress goes to the error stream, so that the output is JSON only."""
    print(text, file=sys.stderr, flush=True)
