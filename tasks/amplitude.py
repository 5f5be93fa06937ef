"""How much the modulated terms of the covariance count at a place and time: the variability that ITU-R P.1239 tabulates.

foF2 varies from day to day by 7 % at noon in the subtropics and by 30 % on a polar winter night. The sd of a modulated
term holds where the table has `kernel.amplitude.reference_sd`, and elsewhere in proportion; the other quantities follow
foF2. Multiplying a covariance by a factor at each end keeps it positive definite.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.background import Times, f107_to_ig12, ig12_to_r12, universal_times
from tasks.kernel_config import QUANTITIES, KernelConfig
from tasks.variability import sd_ln_fof2

Array = NDArray[np.float64]

DEGREES_PER_HOUR = 15.0


def amplitudes(
    kernel: KernelConfig, times: Times, latitude_deg: Array, longitude_deg: Array, f107_sfu: float | None
) -> Array:
    """The factor of every quantity at n geographic points, shape (Q, n), each at its own UTC time or all at one.

    The table's class of solar activity is that of the solar flux, or of the mean index where it is not known: never of
    the effective index, through which a station held out would speak.
    """
    shape = (len(QUANTITIES), latitude_deg.size)
    if not any(term.is_modulated for term in kernel.terms):
        return np.ones(shape)
    ig12 = kernel.effective_index.default_ig12 if f107_sfu is None else f107_to_ig12(f107_sfu)
    index = universal_times(times)
    hour = np.asarray((index - index.normalize()) / pd.Timedelta(hours=1), dtype=np.float64)
    sd = sd_ln_fof2(
        latitude_deg,
        hour + longitude_deg / DEGREES_PER_HOUR,
        np.asarray(index.day_of_year, dtype=np.float64),
        ig12_to_r12(ig12),
    )
    return np.tile(sd / kernel.amplitude.reference_sd, (len(QUANTITIES), 1))
