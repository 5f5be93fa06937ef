"""Skill at held-out stations over whole files of observations: one JSON line per quantity, with the ratio to KC2G's kernel.

    python benchmarks/skill.py [FILE...]

The nowcast only, a cycle every 30 minutes; `autonvis verify` has leads, tables and plots.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.series import SeriesPlan, read_ionograms, run_series, usable_cores
from tasks.skill_report import printable, skill_lines

EUROPE = Path(__file__).resolve().parents[2] / "shared" / "data" / "europe_2022"
EVERY_MINUTES = 30


def main() -> None:
    files = [Path(argument) for argument in sys.argv[1:]] or [EUROPE]
    if files == [EUROPE] and not EUROPE.is_dir():
        print(
            json.dumps({"name": "skill", "skipped": "no files given and no shared/data beside the checkout"})
        )
        return
    observations = read_ionograms(files)
    observed = observations["observed_at"]
    plan = SeriesPlan(
        start=observed.min().ceil(f"{EVERY_MINUTES}min"),
        end=observed.max(),
        every_minutes=EVERY_MINUTES,
        leads_h=(0.0,),
        f107_sfu=None,
        config=None,
    )
    series = run_series(observations, plan, jobs=usable_cores())
    for line in skill_lines(series.verification, series.rejected):
        ratio = line["rmse"] / line["rmse_kc2g_kernel"]
        line = {"name": "skill", **line, "elapsed_s": series.elapsed_s, "ratio_to_kc2g_kernel": ratio}
        print(json.dumps(printable(line)))


if __name__ == "__main__":
    main()
