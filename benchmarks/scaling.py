"""How the analysis grows with observations, stations and points: CSV and plot, and one JSON line.

    python benchmarks/scaling.py [DIRECTORY]

One of the three is varied, the others stay at the standard case of `analysis.py`. Seconds are the fastest of a few runs, the
peak memory is of a process that does nothing else, and the peer is the machine's own matrix product, measured in the same
run: a share of 1 would be all arithmetic at the speed of dgemm. Bars: 5,000 observations under 15 s, memory under 1 GB.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from analysis import N_QUANTITIES, Problem, timed

STANDARD = {"n_obs": 1_000, "n_stations": 100, "n_points": 65_160}
VARIED = {
    "n_obs": [100, 200, 500, 1_000, 2_000, 5_000],
    "n_stations": [10, 20, 50, 100, 200, 500, 1_000],
    "n_points": [1_000, 5_000, 20_000, 65_160, 250_000, 1_000_000],
}
CORRELATION = 0.3
N_TERMS = 2
#: A case is repeated until it has taken this long.
ENOUGH_S, MOST_REPEATS = 3.0, 7
GEMM_SIZE, GEMM_REPEATS = 2_000, 5
FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

Case = dict[str, int]
Row = dict[str, Any]


def gemm_gflops(kind: str) -> float:
    """NumPy's matrix product on all cores, the best of a few."""
    a = np.random.default_rng(1).normal(size=(GEMM_SIZE, GEMM_SIZE)).astype(kind)
    seconds = min(timed(lambda: a @ a)[1] for _ in range(GEMM_REPEATS))
    return 2e-9 * GEMM_SIZE**3 / seconds


def gflop(case: Case) -> dict[str, float]:
    """What the formulas need, without the covariance functions.

    S and its inverse: m^3. Map: every quantity whitens its nodes, reduces them and takes a quadratic form at each point.
    Two nodes a station: where many stations let the kernel take fewer for the Gaussian term, its share exceeds what it does.
    """
    m, g = case["n_obs"], case["n_points"]
    nodes = N_TERMS * min(case["n_stations"], m)
    return {
        "factorization": 1e-9 * m**3,
        "prediction": 1e-9 * N_QUANTITIES * (m**2 * nodes + m * nodes**2 + g * nodes**2),
    }


def run(problem: Problem) -> dict[str, float]:
    begun_cpu_s = time.process_time()
    analysis, factorization_s = timed(problem.factorized)
    _, stations_s = timed(lambda: problem.stations_judged(analysis))
    _, prediction_s = timed(lambda: analysis.predict(problem.latitude_deg, problem.longitude_deg, 0.0))
    return {
        "seconds": factorization_s + stations_s + prediction_s,
        "cpu_s": time.process_time() - begun_cpu_s,
        "factorization_s": factorization_s,
        "stations_s": stations_s,
        "prediction_s": prediction_s,
    }


def measure(case: Case) -> Row:
    problem = Problem.random(**case, correlation=CORRELATION)
    begun, runs = time.perf_counter(), []
    while len(runs) < MOST_REPEATS and (not runs or time.perf_counter() - begun < ENOUGH_S):
        runs.append(run(problem))
    fastest = min(runs, key=lambda parts: parts["seconds"])
    peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {**case, **fastest, "peak_memory_mb": peak_memory_mb}


def plot(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(3, len(VARIED), figsize=(11, 9), sharex="col", sharey="row")
    titles = {"n_obs": "observations m", "n_stations": "stations S", "n_points": "points G"}
    parts = {"seconds": "all", "factorization_s": "S, factor, inverse", "stations_s": "held-out stations, information",
             "prediction_s": "map: mean and sd"}  # fmt: skip
    for column, (varied, title) in enumerate(titles.items()):
        own = [row for row in rows if row["varied"] == varied]
        x = [row[varied] for row in own]
        seconds, memory, share = panels[:, column]
        for part, label in parts.items():
            width = 2.5 if part == "seconds" else 1.2
            seconds.plot(x, [row[part] for row in own], "o-", markersize=3, linewidth=width, label=label)
        memory.plot(x, [row["peak_memory_mb"] for row in own], "o-", color="black", markersize=3)
        memory.axhline(1_024, color="grey", linestyle=":")
        for part, colour in (("factorization", "C1"), ("prediction", "C3")):
            values = [100 * row[f"{part}_share"] for row in own]
            share.plot(x, values, "o-", color=colour, markersize=3)
        others = ", ".join(
            f"{titles[name].split()[1]} = {STANDARD[name]:,}" for name in titles if name != varied
        )
        seconds.set(title=others, xscale="log", yscale="log")
        memory.set(yscale="log", yticks=[100, 200, 500, 1_000], yticklabels=["100", "200", "500", "1,000"])
        share.set(xlabel=title)
        for panel in (seconds, memory, share):
            panel.grid(alpha=0.3)
    for panel, label in zip(panels[:, 0], ("s", "peak memory, MB", "share of dgemm, %"), strict=True):
        panel.set_ylabel(label)
    panels[2, 0].set_ylim(bottom=0)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="upper center", ncols=len(parts))
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, default=FIGURES, help="of scaling.csv and scaling.png"
    )
    directory = parser.parse_args().directory
    rows: list[Row] = []
    # A new process for each case, the matrix product too: a process inherits the peak of the one that started it.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as alone:
        dgemm, sgemm = alone.map(gemm_gflops, ["float64", "float32"])
        print(f"dgemm {dgemm:.1f} GFLOP/s, sgemm {sgemm:.1f} GFLOP/s", file=sys.stderr)
        cases = [(varied, {**STANDARD, varied: value}) for varied in VARIED for value in VARIED[varied]]
        for (varied, case), row in zip(cases, alone.map(measure, [case for _, case in cases]), strict=True):
            for part, needed in gflop(case).items():
                row[f"{part}_share"] = needed / row[f"{part}_s"] / dgemm
            rows.append({"varied": varied, **row})
            print(
                f"{len(rows)} of {len(cases)}: {case} {row['seconds']:.3f} s, {row['peak_memory_mb']} MB",
                file=sys.stderr,
            )
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "scaling.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    plot(rows, directory / "scaling.png")
    largest = next(row for row in rows if row["n_obs"] == max(VARIED["n_obs"]))
    standard = next(row for row in rows if all(row[name] == value for name, value in STANDARD.items()))
    print(
        json.dumps(
            {
                "name": "scaling",
                "ours_s": round(largest["seconds"], 3),
                "ours_cpu_s": round(largest["cpu_s"], 3),
                "n_obs": largest["n_obs"],
                "peer": f"dgemm of NumPy at {dgemm:.1f} GFLOP/s (sgemm {sgemm:.1f}) for the same arithmetic",
                "peer_s": round(sum(gflop(largest).values()) / dgemm, 3),
                "ratio": round(sum(gflop(largest).values()) / dgemm / largest["seconds"], 2),
                "standard_s": round(standard["seconds"], 3),
                "peak_memory_mb": max(row["peak_memory_mb"] for row in rows),
            }
        )
    )


if __name__ == "__main__":
    main()
