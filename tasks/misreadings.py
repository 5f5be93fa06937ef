"""Names for what went wrong with a stopped foF2: the known misreadings of an ionogram.

A name is evidence for whoever looks after the sounder. The value stays stopped: a corrected one would be our guess, and
it would be no longer an observation.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.analysis import STOPPED, JointlySolved
from tasks.background import Background
from tasks.kernel_config import Quality
from tasks.magnetic_field import gyrofrequency_mhz, ordinary_mhz
from tasks.profile import Peaks

Array = NDArray[np.float64]

LIKELY = 0.5
"""Probability (Scotto et al. 1997) above which an F1 layer is thought of."""


def named(joint: JointlySolved, ig12: float, background: Background, quality: Quality) -> JointlySolved:
    """The same analysis, with the flag of a stopped foF2 that is a known misreading replaced by that one's name.

    The judge is the analysis at the station, which has not seen the stopped value. Beyond `misreading_sd` of it the value is

    * `x_trace` when the ordinary frequency of an extraordinary trace that ends at the value is within them;
    * else `e_layer` or `f1_layer`, whichever is nearer, when the climatology's foE, or its foF1 where an F1 layer is likely, is
      within them of the value.

    What is `stuck` has its name: wherever it stands still it is no reading.
    """
    part = joint.of_quantity["fof2_mhz"]
    stopped = np.flatnonzero(part.feedback["qc_flag"].isin(set(STOPPED) - {"stuck"}))
    if not stopped.size:
        return joint
    rows, expected = part.feedback.iloc[stopped], part.analysed.take(stopped)
    value = rows["obs_value"].to_numpy()
    at = (rows["observed_at"], rows["latitude_deg"].to_numpy(), rows["longitude_deg"].to_numpy())

    def is_expected(fof2_mhz: Array) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore"):  # the ordinary frequency may be 0
            score = np.abs(np.log(fof2_mhz) - expected.center) / expected.spread
        return np.asarray(score <= quality.misreading_sd)

    state = background.at(*at, ig12)
    layers = Peaks.of_background(state, ig12).layers()
    from_foe, from_fof1 = (
        np.abs(np.log(value / critical)) / sd
        for critical, sd in ((state.foe_mhz, quality.foe_sd), (layers.fof1_mhz, quality.fof1_sd))
    )
    from_fof1 = np.where(layers.f1_probability > LIKELY, from_fof1, np.inf)
    is_layer = np.minimum(from_foe, from_fof1) <= quality.misreading_sd
    is_x_trace = is_expected(ordinary_mhz(value, gyrofrequency_mhz(*at)))
    flag = part.feedback["qc_flag"].to_numpy(dtype=object, copy=True)
    flag[stopped] = np.select(
        [is_expected(value), is_x_trace, is_layer & (from_foe <= from_fof1), is_layer],
        [flag[stopped], "x_trace", "e_layer", "f1_layer"],
        flag[stopped],
    )
    named_part = replace(part, feedback=part.feedback.assign(qc_flag=flag))
    return replace(joint, of_quantity=joint.of_quantity | {"fof2_mhz": named_part})
