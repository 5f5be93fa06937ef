//! Background covariance: a sum of separable terms, each a spatial times a temporal correlation.
//!
//! Places are quasi-dipole latitude and longitude. A term embeds the sphere in four dimensions,
//! `(x / Lz, y / Lz, z / Lz, R phi sqrt(1/Lm^2 - 1/Lz^2))` with the chord coordinates x, y, z of a sphere of
//! radius R: near any point the distance is then the zonal one over `Lz` and the meridional one over `Lm`.
//! Matern and Gaussian functions of a Euclidean distance are positive definite in any dimension, hence so
//! is every term on the whole sphere.

use std::f64::consts::PI;

use crate::error::{KernelError, Result};

/// Mean Earth radius (IUGG R1), km.
pub const EARTH_RADIUS_KM: f64 = 6371.0088;
const HOURS_PER_DAY: f64 = 24.0;

/// Correlation in space. Rasmussen and Williams (2006), section 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spatial {
    Matern32,
    Matern52,
    Gaussian,
    /// One at the same station, zero elsewhere: what a station adds to the truth.
    Station,
}

/// Correlation in time. Rasmussen and Williams (2006), sections 4.2 and 5.4.3 (diurnal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporal {
    Ou,
    Matern32,
    Gaussian,
    /// Period of 24 h, fading with an exponential memory of the time scale.
    Diurnal,
}

/// One separable term of the covariance.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    spatial: Spatial,
    temporal: Temporal,
    variance: f64,
    zonal_km: f64,
    /// Stretch of the latitude that shortens the zonal length to the meridional one, 1/km.
    latitude_stretch_per_km: f64,
    time_scale_h: f64,
    phase_scale_h: f64,
}

/// A place in the metric of one term, in units of its length scale.
pub type Embedded = [f64; 4];

fn positive(name: &str, value: Option<f64>) -> Result<f64> {
    match value {
        Some(number) if number > 0.0 && !number.is_nan() => Ok(number),
        Some(number) => Err(KernelError::InvalidArgument(format!(
            "{name} must be positive, got {number}"
        ))),
        None => Err(KernelError::InvalidArgument(format!(
            "{name} is needed for this kind of term"
        ))),
    }
}

impl Term {
    /// A term of standard deviation `sd` (unit of the innovations).
    ///
    /// `spatial`: matern32, matern52, gaussian (with `zonal_km` >= `meridional_km`) or station.
    /// `temporal`: ou, matern32, gaussian, or diurnal (with `phase_scale_h`, the width of the daily peak).
    pub fn new(
        spatial: &str,
        temporal: &str,
        sd: f64,
        time_scale_h: f64,
        zonal_km: Option<f64>,
        meridional_km: Option<f64>,
        phase_scale_h: Option<f64>,
    ) -> Result<Self> {
        let spatial = match spatial {
            "matern32" => Spatial::Matern32,
            "matern52" => Spatial::Matern52,
            "gaussian" => Spatial::Gaussian,
            "station" => Spatial::Station,
            other => {
                return Err(KernelError::InvalidArgument(format!(
                    "spatial must be matern32, matern52, gaussian or station, got {other:?}"
                )));
            }
        };
        let temporal = match temporal {
            "ou" => Temporal::Ou,
            "matern32" => Temporal::Matern32,
            "gaussian" => Temporal::Gaussian,
            "diurnal" => Temporal::Diurnal,
            other => {
                return Err(KernelError::InvalidArgument(format!(
                    "temporal must be ou, matern32, gaussian or diurnal, got {other:?}"
                )));
            }
        };
        if !(sd >= 0.0 && sd.is_finite()) {
            return Err(KernelError::InvalidArgument(format!(
                "sd must be zero or more, got {sd}"
            )));
        }
        let (zonal_km, latitude_stretch_per_km) = if spatial == Spatial::Station {
            (f64::INFINITY, 0.0)
        } else {
            let zonal = positive("zonal_km", zonal_km)?;
            let meridional = positive("meridional_km", meridional_km)?;
            if meridional > zonal {
                return Err(KernelError::InvalidArgument(format!(
                    "meridional_km must not exceed zonal_km = {zonal}, got {meridional}"
                )));
            }
            let stretch = (meridional.powi(-2) - zonal.powi(-2)).max(0.0).sqrt();
            (zonal, stretch)
        };
        Ok(Self {
            spatial,
            temporal,
            variance: sd * sd,
            zonal_km,
            latitude_stretch_per_km,
            time_scale_h: positive("time_scale_h", Some(time_scale_h))?,
            phase_scale_h: if temporal == Temporal::Diurnal {
                positive("phase_scale_h", phase_scale_h)?
            } else {
                f64::INFINITY
            },
        })
    }

    /// Prior variance of the term.
    pub fn variance(&self) -> f64 {
        self.variance
    }

    /// Whether the term is a field, known away from stations too.
    pub fn is_mapped(&self) -> bool {
        self.spatial != Spatial::Station
    }

    /// The place in the metric of this term.
    pub fn embed(&self, latitude_deg: f64, longitude_deg: f64) -> Embedded {
        let (sin_latitude, cos_latitude) = latitude_deg.to_radians().sin_cos();
        let (sin_longitude, cos_longitude) = longitude_deg.to_radians().sin_cos();
        let radius = EARTH_RADIUS_KM / self.zonal_km;
        [
            radius * cos_latitude * cos_longitude,
            radius * cos_latitude * sin_longitude,
            radius * sin_latitude,
            EARTH_RADIUS_KM * latitude_deg.to_radians() * self.latitude_stretch_per_km,
        ]
    }

    /// Correlation of a field term between two embedded places; a station term has none between places.
    pub fn spatial_correlation(&self, a: &Embedded, b: &Embedded) -> f64 {
        let squared: f64 = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
        match self.spatial {
            Spatial::Matern32 => {
                let scaled = (3.0 * squared).sqrt();
                (1.0 + scaled) * (-scaled).exp()
            }
            Spatial::Matern52 => {
                let scaled = (5.0 * squared).sqrt();
                (1.0 + scaled + scaled * scaled / 3.0) * (-scaled).exp()
            }
            Spatial::Gaussian => (-0.5 * squared).exp(),
            Spatial::Station => 0.0,
        }
    }

    /// Correlation at a time difference in hours.
    pub fn temporal_correlation(&self, difference_h: f64) -> f64 {
        let scaled = difference_h.abs() / self.time_scale_h;
        match self.temporal {
            Temporal::Ou => (-scaled).exp(),
            Temporal::Matern32 => {
                let root = 3.0_f64.sqrt() * scaled;
                (1.0 + root) * (-root).exp()
            }
            Temporal::Gaussian => (-0.5 * scaled * scaled).exp(),
            Temporal::Diurnal => {
                // The phase scale is the Gaussian width of the peak in hours of local time.
                let sine = (PI * difference_h / HOURS_PER_DAY).sin();
                let width = 2.0 * PI * self.phase_scale_h / HOURS_PER_DAY;
                (-2.0 * (sine / width).powi(2) - scaled).exp()
            }
        }
    }
}
