"""The configuration of the analysis, read from one TOML file; an unknown or missing key is named."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import rust_core

DEFAULT_FILE = Path(__file__).with_name("kernel.toml")
QUANTITIES = ("fof2_mhz", "hmf2_km", "m3000f2", "b0_km")
PERSISTENCE_H = 24.0  # the reference forecast: the same station, a day earlier
PERSISTENCE_TOLERANCE_H = 0.125  # half of the usual 15 minutes between ionograms
LONGEST_CYCLE_H = 1.0  # hours between cycles at most
MANUAL_CONFIDENCE = 999  # scaled by hand (GIRO)


class KernelConfigError(ValueError):
    """The kernel configuration cannot be used; the message names file, key and value."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Window(Section):
    """Which observations the analysis uses."""

    window_h: float = Field(gt=0)
    full_rate_h: float = Field(ge=0)
    thinned_minutes: float = Field(gt=0)


class EffectiveIndex(Section):
    """How the index that drives the background is found."""

    window_h: float = Field(gt=0)
    memory_h: float = Field(gt=0)
    minimum_stations: int = Field(ge=1)
    default_ig12: float = Field(ge=-20, le=200)


class Scale(Section):
    """From what size on an analysis takes observations together; see `tasks.superobservations`."""

    max_nodes: int = Field(ge=1)
    max_observations: int = Field(ge=1)
    """That one factorisation takes."""
    max_scored_stations: int = Field(ge=1)
    """Of one cycle; a larger network takes its turns."""


class PerQuantity(Section):
    """One number for every quantity, in the unit of its innovations (ln for logarithmic ones)."""

    fof2_mhz: float = Field(ge=0)
    hmf2_km: float = Field(ge=0)
    m3000f2: float = Field(ge=0)
    b0_km: float = Field(ge=0)

    def as_list(self) -> list[float]:
        return [getattr(self, name) for name in QUANTITIES]


class Quality(Section):
    """Thresholds of the quality control in standard deviations."""

    rate_sd: float = Field(gt=0)
    rate_floor: PerQuantity
    """Standard deviation that the rate check grants every station."""
    background_sd: float = Field(gt=0)
    buddy_sd: float = Field(gt=0)
    full_weight_sd: float = Field(gt=0)
    misreading_sd: float = Field(gt=0)
    """What a stopped value was instead must be as near as this to where it is expected."""
    foe_sd: float = Field(gt=0)
    """Of the climatology's ln foE."""
    fof1_sd: float = Field(gt=0)
    """Of its ln foF1."""


class Confidence(Section):
    """Where the classes of the confidence score begin."""

    high: float = Field(ge=0, le=100)
    medium: float = Field(ge=0, le=100)

    def class_of(self, confidence_score: NDArray[np.float64]) -> NDArray[np.str_]:
        """Class of each observation by its confidence score (0-100, 999 manual, -1 or NaN unknown)."""
        score = np.where(np.isnan(confidence_score), -1.0, confidence_score)
        return np.select(
            [score == MANUAL_CONFIDENCE, score < 0, score >= self.high, score >= self.medium],
            ["manual", "unknown", "high", "medium"],
            "low",
        )


class ObsError(Section):
    """Observation error (1 sd, unit of the quantity) by class of confidence."""

    manual: float = Field(gt=0)
    high: float = Field(gt=0)
    unknown: float = Field(gt=0)
    medium: float = Field(gt=0)
    low: float = Field(gt=0)

    def of(self, confidence_score: NDArray[np.float64], classes: Confidence) -> NDArray[np.float64]:
        """Error of each observation from its confidence score (0-100, 999 manual, -1 or NaN unknown)."""
        return np.array(
            [getattr(self, name) for name in classes.class_of(confidence_score)], dtype=np.float64
        )


class Term(Section):
    """One separable term of the covariance of all quantities; see `rust_core.CovarianceTerm`."""

    spatial: Literal["matern32", "matern52", "gaussian", "station"]
    temporal: Literal["ou", "matern32", "gaussian", "diurnal"]
    sd: PerQuantity
    correlation: dict[str, float] = Field(default_factory=dict)
    """By the names of two quantities, "fof2_mhz hmf2_km"; pairs that are not named are uncorrelated."""
    is_modulated: bool = False
    """Whether the term follows the variability by place and time; see `tasks.amplitude`."""
    time_scale_h: float = Field(gt=0)
    zonal_km: float | None = None
    meridional_km: float | None = None
    phase_scale_h: float | None = None

    @field_validator("correlation")
    @classmethod
    def _names_two_quantities(cls, correlation: dict[str, float]) -> dict[str, float]:
        for pair, value in correlation.items():
            if len(set(pair.split()) & {*QUANTITIES}) != 2 or len(pair.split()) != 2:
                raise ValueError(f"{pair!r} does not name two of {', '.join(QUANTITIES)}")
            if " ".join(reversed(pair.split())) in correlation:
                raise ValueError(f"{pair!r} is given in both orders")
            if not -1.0 <= value <= 1.0:
                raise ValueError(f"{pair!r}: {value} is outside -1..1")
        return correlation

    @model_validator(mode="after")
    def _is_accepted_by_the_kernel(self) -> Term:
        self.build()
        return self

    def build(self) -> rust_core.CovarianceTerm:
        matrix = np.eye(len(QUANTITIES))
        for pair, value in self.correlation.items():
            p, q = (QUANTITIES.index(name) for name in pair.split())
            matrix[p, q] = matrix[q, p] = value
        return rust_core.CovarianceTerm(
            self.spatial,
            self.temporal,
            sd=self.sd.as_list(),
            correlation=matrix,
            is_modulated=self.is_modulated,
            time_scale_h=self.time_scale_h,
            zonal_km=self.zonal_km,
            meridional_km=self.meridional_km,
            phase_scale_h=self.phase_scale_h,
        )


class Amplitude(Section):
    """How the sd of modulated terms follows the variability of foF2 by place and time."""

    reference_sd: float = Field(gt=0)
    """The variability (sd of ln foF2) at which a term has its own sd."""


class Adaptation(Section):
    """How the variance of the field follows what the stations say of each other now; see `tasks.adaptation`."""

    memory_h: float = Field(gt=0)
    """e-folding of the weight of an observation with age, and of the factor with the time ahead."""
    agreement_h: float = Field(gt=0)
    """e-folding of a factor below 1 with the time ahead, besides."""
    range_km: float = Field(gt=0)
    """Of the weight by distance, exp(-d^2 / 2 range^2)."""
    prior_rows: dict[str, float]
    """By quantity, the weight of 1 in the mean, as a number of independent new observations; the variance of quantities that
    are not named stays as it is."""
    usual: float = Field(gt=0, le=1)
    """What a station's word is on average in a world just as learned: it was fitted by the index and passed control before it speaks."""
    largest_z: float = Field(gt=0)
    """A larger departure in standard deviations counts as this."""
    smallest: float = Field(gt=0, le=1)
    largest: float = Field(ge=1)
    """Bounds of the factor on the variance."""

    @field_validator("prior_rows")
    @classmethod
    def _names_quantities(cls, prior_rows: dict[str, float]) -> dict[str, float]:
        for name, rows in prior_rows.items():
            if name not in QUANTITIES:
                raise ValueError(f"{name!r} is none of {', '.join(QUANTITIES)}")
            if not rows > 0:
                raise ValueError(f"{name}: {rows} is not positive")
        return prior_rows


class RetrievedSpread(Section):
    """One number for each quantity that a retrieval finds: ln foF2, hmF2 in km, ln B0."""

    fof2_mhz: float = Field(gt=0)
    hmf2_km: float = Field(gt=0)
    b0_km: float = Field(gt=0)

    def as_array(self) -> NDArray[np.float64]:
        return np.array([self.fof2_mhz, self.hmf2_km, self.b0_km])


class PerTier(Section):
    """One number for each tier, best first."""

    PLATINUM: float = Field(gt=0)
    GOLD: float = Field(gt=0)
    SILVER: float = Field(gt=0)
    BRONZE: float = Field(gt=0)

    def as_list(self) -> list[float]:
        return [self.PLATINUM, self.GOLD, self.SILVER, self.BRONZE]


class SounderConfig(Section):
    """How the echoes of NVIS sounders become observations; see `tasks.soundings`."""

    window_minutes: float = Field(gt=0, le=60)
    """Echoes of one window are fitted together."""
    longest_path_km: float = Field(gt=0)
    longest_delay_ms: float = Field(gt=0)
    fast_per_h: float = Field(gt=0)
    """Above this rate of observations, echoes of one frequency and mode are combined."""
    combined_s: float = Field(gt=0)
    correlated_share: float = Field(ge=0, le=1)
    """Of the error variance of one echo that others of the same minute share: combining does not reduce it."""
    limit: PerTier
    """Echoes per sounder and window."""
    prior_sd: RetrievedSpread
    least_error: RetrievedSpread
    """Error (1 sd) of a sounding that no number of echoes makes less: the profile's family, disturbances that are not mapped."""
    profile_error_ms: float = Field(ge=0)
    """What a profile of the family, fitted, leaves of a delay."""
    longest_error_ms: float = Field(gt=0)
    """Delays of a sounding that together know its height no better are not fitted: their frequencies were heard, no more."""
    least_information: float = Field(gt=0, lt=1)
    """A direction of which echoes say less than this beside the prior is left open."""


class ErrorScale(Section):
    """Error of an observable: what the tiers stand for and how the innovations are weighed."""

    sd: PerTier
    """Error (1 sd) that each tier stands for; between two tiers the boundary is their geometric mean."""
    bias_sd: float = Field(gt=0)
    """Prior sd of a sounder's bias, or the error that its quality suggests where that is less."""
    notable_bias: float = Field(gt=0)
    """A smaller bias is not worth a word."""
    field_error: float = Field(ge=0)
    """Error (1 sd) of what is expected beside the analysis' own, shared by the echoes of a window."""


class TierConfig(Section):
    """How a sounder's error is estimated; see `tasks.sounder_error` and `tasks.tiers`."""

    delay: ErrorScale
    """In ms."""
    signal: ErrorScale
    """In dB."""
    prior_observations: float = Field(gt=0)
    """Weight of the quality's error in the estimate, as a number of innovations."""
    memory_d: float = Field(gt=0)
    """e-folding of what innovations said."""
    field_memory_h: float = Field(gt=0)
    """e-folding of the error of what is expected: shorter runs of innovations do not tell it from a bias."""
    largest_z: float = Field(gt=1)
    """A larger innovation in standard deviations counts as this."""
    ceiling_share: float = Field(gt=0, lt=1)
    """Echoes above this share of the expected ceiling are not compared: there the delay hangs on it too much."""
    hysteresis: float = Field(ge=1)
    """By this factor the error must pass a boundary before the tier changes."""
    notable_sd: float = Field(gt=0)
    """A bias is recognized from this many of its own standard deviations."""


class Quantity(Section):
    """One estimated quantity: its transform, physical limits and observation errors."""

    is_logarithmic: bool
    minimum: float
    maximum: float
    obs_error: ObsError


class KernelConfig(Section):
    """Everything that decides an analysis beside its observations."""

    window: Window
    scale: Scale
    effective_index: EffectiveIndex
    quality: Quality
    confidence: Confidence
    fof2_mhz: Quantity
    hmf2_km: Quantity
    m3000f2: Quantity
    b0_km: Quantity
    terms: tuple[Term, ...] = Field(min_length=1)
    amplitude: Amplitude
    adaptation: Adaptation
    sounders: SounderConfig
    tiers: TierConfig

    def quantity(self, name: str) -> Quantity:
        quantity: Quantity = getattr(self, name)
        return quantity

    def build_terms(self) -> list[rust_core.CovarianceTerm]:
        return [term.build() for term in self.terms]

    @property
    def longest_window_h(self) -> float:
        """Hours of the longer window, the analysis' or the effective index's."""
        return max(self.window.window_h, self.effective_index.window_h)

    @property
    def lookback_h(self) -> float:
        """Hours before the valid time that a cycle reads: its windows, and yesterday at this hour."""
        return max(self.longest_window_h, PERSISTENCE_H + LONGEST_CYCLE_H + PERSISTENCE_TOLERANCE_H)

    @property
    def config_hash(self) -> str:
        """Hash of every value; comments and order in the file do not matter."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_kernel_config(path: Path | None = None) -> KernelConfig:
    """The configuration in a TOML file, by default the one shipped.

    Raises:
        KernelConfigError: the file is missing or no TOML, a key is unknown or missing, or a value is refused.
    """
    file = path or DEFAULT_FILE
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        return KernelConfig.model_validate(content)
    except OSError as error:
        raise KernelConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KernelConfigError(f"{file}: is not a TOML file: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
        )
        raise KernelConfigError(f"{file}: {problems}") from error
