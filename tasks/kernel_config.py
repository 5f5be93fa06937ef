"""The configuration of the analysis, read from one TOML file; an unknown or missing key is named."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import rust_core

DEFAULT_FILE = Path(__file__).with_name("kernel.toml")
QUANTITIES = ("fof2_mhz", "hmf2_km", "m3000f2")
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


class Quality(Section):
    """Thresholds of the quality control in standard deviations."""

    background_sd: float = Field(gt=0)
    buddy_sd: float = Field(gt=0)
    full_weight_sd: float = Field(gt=0)


class Confidence(Section):
    """Where the classes of the confidence score begin."""

    high: float = Field(ge=0, le=100)
    medium: float = Field(ge=0, le=100)


class ObsError(Section):
    """Observation error (1 sd, unit of the quantity) by class of confidence."""

    manual: float = Field(gt=0)
    high: float = Field(gt=0)
    unknown: float = Field(gt=0)
    medium: float = Field(gt=0)
    low: float = Field(gt=0)

    def of(self, confidence_score: NDArray[np.float64], classes: Confidence) -> NDArray[np.float64]:
        """Error of each observation from its confidence score (0-100, 999 manual, -1 or NaN unknown)."""
        score = np.where(np.isnan(confidence_score), -1.0, confidence_score)
        return np.select(
            [score == MANUAL_CONFIDENCE, score < 0, score >= classes.high, score >= classes.medium],
            [self.manual, self.unknown, self.high, self.medium],
            self.low,
        )


class Term(Section):
    """One separable term of the covariance; see `rust_core.CovarianceTerm`."""

    spatial: Literal["matern32", "matern52", "gaussian", "station"]
    temporal: Literal["ou", "matern32", "gaussian", "diurnal"]
    sd: float = Field(ge=0)
    time_scale_h: float = Field(gt=0)
    zonal_km: float | None = None
    meridional_km: float | None = None
    phase_scale_h: float | None = None

    @model_validator(mode="after")
    def _is_accepted_by_the_kernel(self) -> Term:
        self.build()
        return self

    def build(self) -> rust_core.CovarianceTerm:
        return rust_core.CovarianceTerm(
            self.spatial,
            self.temporal,
            sd=self.sd,
            time_scale_h=self.time_scale_h,
            zonal_km=self.zonal_km,
            meridional_km=self.meridional_km,
            phase_scale_h=self.phase_scale_h,
        )


class Quantity(Section):
    """One estimated quantity: its transform, physical limits, observation errors and covariance."""

    is_logarithmic: bool
    minimum: float
    maximum: float
    obs_error: ObsError
    terms: tuple[Term, ...] = Field(min_length=1)

    def build_terms(self) -> list[rust_core.CovarianceTerm]:
        return [term.build() for term in self.terms]


class KernelConfig(Section):
    """Everything that decides an analysis beside its observations."""

    window: Window
    effective_index: EffectiveIndex
    quality: Quality
    confidence: Confidence
    fof2_mhz: Quantity
    hmf2_km: Quantity
    m3000f2: Quantity

    def quantity(self, name: str) -> Quantity:
        return {"fof2_mhz": self.fof2_mhz, "hmf2_km": self.hmf2_km, "m3000f2": self.m3000f2}[name]

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
