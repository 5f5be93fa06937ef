"""The assimilation kernel of AutoNVIS, compiled from Rust.

Calls run without the interpreter's lock. Those that may take long let Python handle signals meanwhile: what a handler
raises, as `KeyboardInterrupt` at Ctrl-C, ends the call within its next block of work.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Analysis",
    "Climatology",
    "CovarianceTerm",
    "MainField",
    "__version__",
    "ceilings",
    "density",
    "electron_content",
    "f107_to_ig12",
    "group_delays",
    "ig12_to_r12",
    "layers",
    "screen_observations",
    "subsolar_point",
]

__version__: str

@final
class CovarianceTerm:
    """One separable term of the background covariance, between places in quasi-dipole coordinates.

    Between quantity p at one place and time and q at another: `a a' B[p, q] k_space k_time`, B = diag(sd) correlation
    diag(sd), with the amplitudes a at both ends where `is_modulated`, 1 elsewhere.

    Args:
        spatial: `matern32`, `matern52`, `gaussian` (all with `zonal_km` >= `meridional_km`), or `station`
            (the same station only; not part of the mapped field).
        temporal: `ou`, `matern32`, `gaussian`, or `diurnal` (period 24 h with exponential memory
            `time_scale_h` and a daily peak `phase_scale_h` wide).
        sd: (Q,) prior standard deviation of every quantity in the unit of its innovations.
        correlation: (Q, Q) between the quantities, may be singular; None: none of them is correlated.
        is_modulated: whether amplitudes scale the term.

    Raises:
        ValueError: an argument is unknown, missing or outside its range, or the correlation is not positive
            semidefinite.
    """

    def __new__(
        cls,
        spatial: str,
        temporal: str,
        *,
        sd: Sequence[float],
        correlation: NDArray[np.float64] | None = None,
        is_modulated: bool = False,
        time_scale_h: float,
        zonal_km: float | None = None,
        meridional_km: float | None = None,
        phase_scale_h: float | None = None,
    ) -> CovarianceTerm: ...
    def correlation(
        self,
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        other_latitude_deg: NDArray[np.float64],
        other_longitude_deg: NDArray[np.float64],
        lag_h: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Correlation in space and time between pairs of quasi-dipole points (n,) that lie `lag_h` (n,) apart; 0 of a
        `station` term. Raises ValueError for lengths that differ."""

@final
class Analysis:
    """Exact Gaussian-process analysis of Q quantities from m observations at S stations (4-D optimal interpolation).

    Solves S = HBH' + R once; results are bit-identical for any number of threads (0 takes all cores). Quantities that
    no term correlates are factorised apart.

    Args:
        terms: the background covariance, a sum of separable terms.
        station_latitude_deg, station_longitude_deg: (S,) quasi-dipole coordinates in degrees; with `place_station` those of
            (P,) places.
        station, quantity: (m,) index of each observation's station and quantity.
        time_h: (m,) hours on any common clock.
        innovation: (m,) observation minus background.
        obs_error: (m,) one standard deviation.
        amplitude: (m,) factor on the standard deviation of modulated terms; None: 1.
        error_pair: (K, 2) observations of one station whose errors go together, as those of the parameters of one
            sounding; None: no errors do.
        error_correlation: (K,) of the errors of each pair.
        place_station: (P,) station that each place is part of: such a station observes the mean of the fields over its
            places, and of a bias of its own at each of them. None: every place is a station.
        max_jitter: share of its variance by which every observation's error variance may be raised where S is not
            positive definite.

    Raises:
        ValueError: an argument is at fault, or S is not positive definite (the message names the pair of
            observations).
    """

    def __new__(
        cls,
        terms: Sequence[CovarianceTerm],
        *,
        station_latitude_deg: NDArray[np.float64],
        station_longitude_deg: NDArray[np.float64],
        station: NDArray[np.int64],
        quantity: NDArray[np.int64],
        time_h: NDArray[np.float64],
        innovation: NDArray[np.float64],
        obs_error: NDArray[np.float64],
        amplitude: NDArray[np.float64] | None = None,
        error_pair: NDArray[np.int64] | None = None,
        error_correlation: NDArray[np.float64] | None = None,
        place_station: NDArray[np.int64] | None = None,
        max_jitter: float = 0.0,
        n_threads: int = 0,
    ) -> Analysis: ...
    @property
    def n_obs(self) -> int:
        """Number of observations m."""
    @property
    def chi2(self) -> float:
        """d' S^-1 d / m: 1 when the covariances are right; NaN without observations."""
    @property
    def log_evidence(self) -> float:
        """ln p(d) (Rasmussen and Williams 2006, equation 2.30)."""
    @property
    def jitter(self) -> float:
        """Share of its variance that was added to every observation's error variance; 0 unless S needed it."""
    def alpha(self) -> NDArray[np.float64]:
        """S^-1 d, shape (m,)."""
    def residual(self) -> NDArray[np.float64]:
        """Observation minus analysis at every observation, shape (m,)."""
    def predict(
        self,
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        time_h: float,
        *,
        amplitude: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Increment and its sd of the mapped fields at quasi-dipole points (G,) and one time, shapes (Q, G).

        A time after the observations is a forecast: the prior takes over as the correlation in time fades. Each further
        time costs the pass over the points, the factorisation is kept. `amplitude` (Q, G), None: 1.
        """
    def predict_pairs(
        self,
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        time_h: float,
        pairs: Sequence[tuple[int, int]],
        *,
        amplitude: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """As `predict`, and the posterior covariance of each pair of quantities at each point, shape (pairs, G)."""
    def predict_sites(
        self,
        station: NDArray[np.int64],
        quantity: NDArray[np.int64],
        time_h: NDArray[np.float64],
        *,
        amplitude: NDArray[np.float64] | None = None,
        latitude_deg: NDArray[np.float64] | None = None,
        longitude_deg: NDArray[np.float64] | None = None,
        is_held_out: bool = False,
        innovation: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Increment and its sd of what stations report without error, all terms, of quantities at times (n,).

        `is_held_out` leaves each station's own observations out of its prediction; `innovation` (m,) replaces the
        innovations, as when the background is made without some stations too. With `latitude_deg`, `longitude_deg` (n,),
        quasi-dipole degrees, it is what another instrument there would report, of whose bias nothing is known; `station`
        says whose observations `is_held_out` leaves out.
        """
    def leave_one_out(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Leave-one-out residual and its variance, observation error included, shapes (m,)."""
    def leave_station_out(
        self, station: int, innovation: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """The station's rows of all quantities (n,), their residual against the other stations (n,), its covariance
        (n, n).

        The covariance includes the observation errors; `innovation` (m,) replaces the innovations.
        """
    def spread_evidence(
        self,
        stations: NDArray[np.int64],
        *,
        error: NDArray[np.float64],
        recency: NDArray[np.float64],
        largest_z2: float,
        mean_z2: float,
        excluded: int | None = None,
        innovation: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What each of the stations (n,) says of the factor f on the field's variance by its rows against the others:
        f - 1 and how many independent new rows that is worth, shapes (n, Q); 0 and 0 without rows.

        `V = f P + R` is the variance of a residual r, p the share of P in it at f = 1, k `recency` (m,; 0 for what is not asked), rho
        the correlations of the residuals: `f - 1 = sum k p (z2 - mean_z2) / sum k p^2` with z2 = r^2 / V up to `largest_z2`,
        whose expectation is `mean_z2`; rows `(sum k p^2)^2 / sum_ij k_i p_i rho_ij^2 k_j p_j`, times their mean recency
        `sum k^2 p^2 / sum k p^2`. R is `error` (m,) squared, without what robust weights added. The rows of `excluded`
        take no part, nor in the predictions; `innovation` (m,) replaces the innovations.
        """
    def evidence_gradient(self) -> list[tuple[str, float]]:
        """Derivatives of `log_evidence` by name: `terms[0].sd[1]`, `.zonal_km`, `.meridional_km`, `.time_scale_h`,
        `.phase_scale_h` and `obs_error`, a factor common to all errors, with respect to the logarithm, and
        `terms[0].correlation[0,1]` with respect to the correlation (Rasmussen and Williams 2006, equation 5.9).
        """
    def variance_bought(
        self,
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        time_h: float,
        *,
        weight: NDArray[np.float64],
        amplitude: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """By how much the variance at targets (G,), weighted and summed, would rise without each station: (S, Q)."""
    def variance_bought_alone(
        self,
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        time_h: float,
        *,
        weight: NDArray[np.float64],
        amplitude: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """By how much the prior variance there would fall with each station alone, no other observing: (S, Q)."""
    def upgrade_gain(
        self,
        error_factor: NDArray[np.float64],
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        time_h: float,
        *,
        weight: NDArray[np.float64],
        amplitude: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """By how much it would fall with one station's observation errors multiplied by its `error_factor` (S,): (S, Q)."""
    def candidate_gain(
        self,
        candidate_latitude_deg: NDArray[np.float64],
        candidate_longitude_deg: NDArray[np.float64],
        candidate_time_h: NDArray[np.float64],
        noise: NDArray[np.float64],
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        time_h: float,
        *,
        weight: NDArray[np.float64],
        candidate_amplitude: NDArray[np.float64] | None = None,
        amplitude: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """By how much it would fall with a new station at each of K places that sounds at times (J,): (K, Q).

        `noise` (J, Q, K) is the error of each value, infinite for what is not observed; station terms count as an error
        that the soundings share. `candidate_amplitude` (J, Q, K).
        """
    def station_information(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Degrees of freedom for signal and information gain in nats of every station, shapes (S,)."""

def screen_observations(
    terms: Sequence[CovarianceTerm],
    *,
    station_latitude_deg: NDArray[np.float64],
    station_longitude_deg: NDArray[np.float64],
    station: NDArray[np.int64],
    quantity: NDArray[np.int64],
    time_h: NDArray[np.float64],
    value: NDArray[np.float64],
    innovation: NDArray[np.float64],
    obs_error: NDArray[np.float64],
    minimum: Sequence[float],
    maximum: Sequence[float],
    background_sd: float,
    buddy_sd: float,
    full_weight_sd: float,
    amplitude: NDArray[np.float64] | None = None,
    error_pair: NDArray[np.int64] | None = None,
    error_correlation: NDArray[np.float64] | None = None,
    place_station: NDArray[np.int64] | None = None,
    max_jitter: float = 0.0,
    n_threads: int = 0,
) -> tuple[list[str], NDArray[np.float64]]:
    """Flag and weight of every observation, shapes (m,); arguments as of `Analysis`, limits (Q,).

    Flags, in the order of the checks: `physical_limits` (`value` outside `minimum`..`maximum`),
    `background_check` (innovation beyond `background_sd` standard deviations), `buddy_check` (leave-one-out
    score beyond `buddy_sd`, worst first), else `accepted`. Weights are 0 for stopped observations, 1 up to
    a leave-one-out score of `full_weight_sd`, and fall as its inverse beyond (Huber 1964).
    """

@final
class Climatology:
    """IRI's monthly maps as spherical harmonics; tasks.background is its user-facing side.

    Maps: shape (2 solar levels, 12 months, 11 Fourier terms, 900 harmonics). Apex fits: shape (years, 441), consecutive
    years from first_year. Raises ValueError that names the array of another shape.
    """

    def __new__(
        cls,
        *,
        fof2: NDArray[np.float64],
        hmf2: NDArray[np.float64],
        m3000f2: NDArray[np.float64],
        b0: NDArray[np.float64],
        b1: NDArray[np.float64],
        first_year: int,
        qd_latitude: NDArray[np.float64],
        qd_longitude_cos: NDArray[np.float64],
        qd_longitude_sin: NDArray[np.float64],
    ) -> Climatology: ...
    def evaluate(
        self,
        time_us: NDArray[np.int64],
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        ig12: NDArray[np.float64],
        *,
        n_threads: int,
    ) -> tuple[
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
    ]:
        """At n points: foF2 (MHz), hmF2 (km), M(3000)F2, B0 (km), B1, foE (MHz), solar zenith angle (deg), each (n,).

        Contiguous arrays of shape (n,); time_us are microseconds since 1970 UTC. Raises ValueError out of range.
        """

    def levels(
        self,
        time_us: NDArray[np.int64],
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        *,
        n_threads: int,
    ) -> NDArray[np.float64]:
        """The mapped parameters at solar index 0 and 100: shape (5, 2, n), without floors."""

    def quasi_dipole(
        self,
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        year: int,
        *,
        n_threads: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quasi-dipole latitude and longitude (-180..180), degrees, of n geographic points."""

    def magnetic_local_time(
        self,
        time_us: NDArray[np.int64],
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        *,
        n_threads: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Quasi-dipole latitude and longitude (-180..180), degrees, and magnetic local time, hours, each (n,)."""

    @property
    def floors(self) -> tuple[float, float, float, float, float]:
        """Smallest foF2 (MHz), hmF2 (km), M(3000)F2, B0 (km), B1 that evaluate returns."""

@final
class MainField:
    """IGRF of degree 13; tasks.magnetic_field is its user-facing side.

    epochs: (n,) rising years; coefficients: (n, 195) nT in the order of the published files. Raises ValueError otherwise.
    """

    def __new__(cls, epochs: NDArray[np.float64], coefficients: NDArray[np.float64]) -> MainField: ...
    def evaluate(
        self,
        time_us: NDArray[np.int64],
        latitude_deg: NDArray[np.float64],
        longitude_deg: NDArray[np.float64],
        height_km: NDArray[np.float64],
        *,
        n_threads: int,
    ) -> tuple[
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
    ]:
        """North, east, down, intensity (nT), dip, declination, modip, dip latitude (deg), fH (MHz) at n points, each (n,)."""

def layers(
    columns_of_peaks: Sequence[NDArray[np.float64]],
) -> tuple[
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
]:
    """foF1 (MHz), hmF1 (km), F1 probability, F1 thickness, F2 thickness above and below the peak (km), each (n,).

    columns_of_peaks: eight arrays (n,): foF2 (MHz), hmF2 (km), M(3000)F2, B0 (km), B1, foE (MHz), solar zenith angle (deg), R12.
    Raises ValueError that names the value out of range.
    """

def density(
    columns_of_peaks: Sequence[NDArray[np.float64]], heights_km: NDArray[np.float64], *, n_threads: int
) -> NDArray[np.float64]:
    """Electron density in m^-3, shape (heights, n); columns as in `layers`, heights 0..50,000 km."""

def electron_content(
    columns_of_peaks: Sequence[NDArray[np.float64]], *, low_km: float, high_km: float, n_threads: int
) -> NDArray[np.float64]:
    """Vertical electron content in TECU between two heights, shape (n,); columns as in `layers`."""

def group_delays(
    columns_of_peaks: Sequence[NDArray[np.float64]],
    profile: NDArray[np.int64],
    is_extraordinary: NDArray[np.bool_],
    columns_of_paths: Sequence[NDArray[np.float64]],
    frequency_mhz: NDArray[np.float64],
    *,
    with_derivatives: bool,
    n_threads: int,
) -> tuple[
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    tuple[NDArray[np.float64], NDArray[np.float64]] | None,
]:
    """Group delay (ms), virtual height (km) and equivalent vertical frequency (MHz) of n echoes, each (n,); NaN where nothing returns
    the wave. With derivatives, those of the delay and of the height by ln foF2, hmF2 (km) and ln B0, each (n, 3).

    columns_of_peaks as in `layers`; profile (n,) is the index into them; columns_of_paths: gyrofrequency (MHz), dip (deg) and
    ground distance (km), each (n,). Raises ValueError that names the value out of range.
    """

def ceilings(
    columns_of_peaks: Sequence[NDArray[np.float64]],
    profile: NDArray[np.int64],
    is_extraordinary: NDArray[np.bool_],
    columns_of_paths: Sequence[NDArray[np.float64]],
    *,
    n_threads: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Highest frequency (MHz) that comes back, (n,), and its derivatives by ln foF2, hmF2 (km) and ln B0, (n, 3); arguments as
    of `group_delays`."""

def f107_to_ig12(f107_sfu: float) -> float:
    """IG12 for an F10.7 in sfu, within -20..200. Raises ValueError unless positive and finite."""

def ig12_to_r12(ig12: float) -> float:
    """Sunspot number R12 for an IG12; 247.3 above IG12 = 178.0."""

def subsolar_point(time_us: int) -> tuple[float, float]:
    """Latitude and longitude (-180..180), degrees, under the sun at UTC microseconds since 1970; good to 0.01 degree."""
