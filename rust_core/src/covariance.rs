//! Background covariance: a sum of separable terms over space, time and quantities.
//!
//! Between quantity p at one place and time and quantity q at another, a term is `a a' B[p,q] k_space k_time`:
//! `B = diag(sd) Corr diag(sd)` says how its quantities go together (coregionalisation; Alvarez, Rosasco and
//! Lawrence 2012, section 4.2), and `a` is an amplitude factor at each end, 1 unless the term is modulated. A
//! product of positive semidefinite functions, hence one itself, whatever the amplitudes are.
//!
//! Places are quasi-dipole latitude and longitude. A term embeds the sphere in four dimensions,
//! `(x / Lz, y / Lz, z / Lz, R phi sqrt(1/Lm^2 - 1/Lz^2))` with the chord coordinates x, y, z of a sphere of
//! radius R: near any point the distance is then the zonal one over `Lz` and the meridional one over `Lm`.
//! Matern and Gaussian functions of a Euclidean distance are positive definite in any dimension, hence so
//! is every term on the whole sphere.

use std::f64::consts::PI;

use crate::error::{KernelError, Result};
use crate::exponential::exp_all;
use crate::linalg::Matrix;

/// Mean Earth radius (IUGG R1), km.
pub const EARTH_RADIUS_KM: f64 = 6371.0088;
const HOURS_PER_DAY: f64 = 24.0;
/// How far below zero rounding may put an eigenvalue of a correlation matrix that has none below zero.
const EIGENVALUE_TOLERANCE: f64 = 1e-10;

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

/// The correlation of a term in space and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    spatial: Spatial,
    temporal: Temporal,
    zonal_km: f64,
    meridional_km: f64,
    /// Stretch of the latitude that shortens the zonal length to the meridional one, 1/km.
    latitude_stretch_per_km: f64,
    time_scale_h: f64,
    phase_scale_h: f64,
}

/// A place in the metric of one term, in units of its length scale.
pub type Embedded = [f64; 4];

fn invalid(message: String) -> KernelError {
    KernelError::InvalidArgument(message)
}

fn positive(name: &str, value: Option<f64>) -> Result<f64> {
    match value {
        Some(number) if number > 0.0 && !number.is_nan() => Ok(number),
        Some(number) => Err(invalid(format!("{name} must be positive, got {number}"))),
        None => Err(invalid(format!("{name} is needed for this kind of term"))),
    }
}

/// Correlations that are computed together: they fit into the nearest cache.
const BATCH: usize = 64;

impl Shape {
    /// `spatial`: matern32, matern52, gaussian (with `zonal_km` >= `meridional_km`) or station.
    /// `temporal`: ou, matern32, gaussian, or diurnal (with `phase_scale_h`, the width of the daily peak).
    pub fn new(
        spatial: &str,
        temporal: &str,
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
                return Err(invalid(format!(
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
                return Err(invalid(format!(
                    "temporal must be ou, matern32, gaussian or diurnal, got {other:?}"
                )));
            }
        };
        let (zonal_km, meridional_km) = if spatial == Spatial::Station {
            (f64::INFINITY, f64::INFINITY)
        } else {
            let zonal = positive("zonal_km", zonal_km)?;
            let meridional = positive("meridional_km", meridional_km)?;
            if meridional > zonal {
                return Err(invalid(format!(
                    "meridional_km must not exceed zonal_km = {zonal}, got {meridional}"
                )));
            }
            (zonal, meridional)
        };
        Ok(Self {
            spatial,
            temporal,
            zonal_km,
            meridional_km,
            latitude_stretch_per_km: (meridional_km.powi(-2) - zonal_km.powi(-2)).max(0.0).sqrt(),
            time_scale_h: positive("time_scale_h", Some(time_scale_h))?,
            phase_scale_h: if temporal == Temporal::Diurnal {
                positive("phase_scale_h", phase_scale_h)?
            } else {
                f64::INFINITY
            },
        })
    }

    pub(crate) fn is_gaussian(&self) -> bool {
        self.spatial == Spatial::Gaussian
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
        let squared = squared_distance(a, b);
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

    /// Replaces squared distances by the correlations of a field term, as `spatial_correlation` has them to rounding, several
    /// at a time.
    pub(crate) fn spatial_correlations(&self, squared: &mut [f64]) {
        let mut scaled = [0.0; BATCH];
        for chunk in squared.chunks_mut(BATCH) {
            let factor = match self.spatial {
                Spatial::Matern32 => 3.0_f64,
                Spatial::Matern52 => 5.0,
                Spatial::Gaussian | Spatial::Station => 0.0,
            };
            for (scaled, value) in scaled.iter_mut().zip(chunk.iter_mut()) {
                *scaled = (factor * *value).sqrt();
                *value = -*scaled - if factor == 0.0 { 0.5 * *value } else { 0.0 };
            }
            exp_all(chunk);
            match self.spatial {
                Spatial::Matern32 => {
                    for (value, scaled) in chunk.iter_mut().zip(&scaled) {
                        *value *= 1.0 + scaled;
                    }
                }
                Spatial::Matern52 => {
                    for (value, scaled) in chunk.iter_mut().zip(&scaled) {
                        *value *= 1.0 + scaled + scaled * scaled / 3.0;
                    }
                }
                Spatial::Gaussian => {}
                Spatial::Station => chunk.fill(0.0),
            }
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
                let phase = self.phase(difference_h);
                (-2.0 * phase * phase - scaled).exp()
            }
        }
    }

    /// Sine of the phase over the width of the daily peak; the phase scale is its Gaussian width in hours.
    fn phase(&self, difference_h: f64) -> f64 {
        let width = 2.0 * PI * self.phase_scale_h / HOURS_PER_DAY;
        (PI * difference_h / HOURS_PER_DAY).sin() / width
    }

    /// Derivatives of the spatial correlation with respect to ln `zonal_km` and ln `meridional_km`.
    pub(crate) fn spatial_derivatives(&self, a: &Embedded, b: &Embedded) -> [f64; 2] {
        let squared = squared_distance(a, b);
        // Derivative with respect to the squared distance.
        let slope = match self.spatial {
            Spatial::Matern32 => -1.5 * (-(3.0 * squared).sqrt()).exp(),
            Spatial::Matern52 => {
                let scaled = (5.0 * squared).sqrt();
                -5.0 / 6.0 * (1.0 + scaled) * (-scaled).exp()
            }
            Spatial::Gaussian => -0.5 * (-0.5 * squared).exp(),
            Spatial::Station => return [0.0, 0.0],
        };
        // The fourth coordinate has the difference of latitude times sqrt(1/Lm^2 - 1/Lz^2); isotropic terms have
        // lost it there, so the latitude comes from the chord's z and its length.
        let latitude =
            |place: &Embedded| place[2].atan2((place[0].powi(2) + place[1].powi(2)).sqrt());
        let arc = EARTH_RADIUS_KM * (latitude(a) - latitude(b));
        let chord: f64 = squared - (a[3] - b[3]).powi(2);
        [
            slope * 2.0 * ((arc / self.zonal_km).powi(2) - chord),
            slope * -2.0 * (arc / self.meridional_km).powi(2),
        ]
    }

    /// Derivatives of the temporal correlation with respect to ln `time_scale_h` and ln `phase_scale_h`.
    pub(crate) fn temporal_derivatives(&self, difference_h: f64) -> [f64; 2] {
        let scaled = difference_h.abs() / self.time_scale_h;
        match self.temporal {
            Temporal::Ou => [scaled * (-scaled).exp(), 0.0],
            Temporal::Matern32 => {
                let root = 3.0_f64.sqrt() * scaled;
                [root * root * (-root).exp(), 0.0]
            }
            Temporal::Gaussian => [scaled * scaled * (-0.5 * scaled * scaled).exp(), 0.0],
            Temporal::Diurnal => {
                let value = self.temporal_correlation(difference_h);
                [
                    scaled * value,
                    4.0 * self.phase(difference_h).powi(2) * value,
                ]
            }
        }
    }
}

fn squared_distance(a: &Embedded, b: &Embedded) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// One separable term of the covariance.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    shape: Shape,
    sd: Vec<f64>,
    /// Covariance between quantities at one place and time with amplitude 1, shape (Q, Q).
    between_quantities: Matrix,
    is_modulated: bool,
}

impl Term {
    /// A term of standard deviation `sd` (Q,) in the units of the innovations of each quantity, with
    /// `correlation` (Q, Q) between them; it may be singular.
    pub fn new(
        shape: Shape,
        sd: Vec<f64>,
        correlation: &Matrix,
        is_modulated: bool,
    ) -> Result<Self> {
        let n = sd.len();
        if n == 0 {
            return Err(invalid(
                "sd must have one value per quantity, got none".to_string(),
            ));
        }
        if let Some(value) = sd
            .iter()
            .find(|value| !(**value >= 0.0 && value.is_finite()))
        {
            return Err(invalid(format!("sd must be zero or more, got {value}")));
        }
        check_correlation(correlation, n)?;
        let mut between_quantities = Matrix::zeros(n, n);
        for p in 0..n {
            for q in 0..n {
                between_quantities.set(p, q, sd[p] * correlation.get(p, q) * sd[q]);
            }
        }
        Ok(Self {
            shape,
            sd,
            between_quantities,
            is_modulated,
        })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn n_quantities(&self) -> usize {
        self.sd.len()
    }

    pub(crate) fn sd(&self) -> &[f64] {
        &self.sd
    }

    /// Covariance of two quantities at one place and time, before the amplitudes.
    pub fn between_quantities(&self, p: usize, q: usize) -> f64 {
        self.between_quantities.get(p, q)
    }

    /// The factor that an amplitude gives to this term.
    pub fn factor(&self, amplitude: f64) -> f64 {
        if self.is_modulated { amplitude } else { 1.0 }
    }

    /// Whether two terms differ in time and between quantities only.
    pub(crate) fn varies_in_space_as(&self, other: &Self) -> bool {
        let (a, b) = (self.shape(), other.shape());
        self.is_modulated == other.is_modulated
            && a.spatial == b.spatial
            && a.zonal_km == b.zonal_km
            && a.meridional_km == b.meridional_km
    }

    /// Whether the term is a field, known away from stations too.
    pub fn is_mapped(&self) -> bool {
        self.shape.spatial != Spatial::Station
    }

    pub(crate) fn is_diurnal(&self) -> bool {
        self.shape.temporal == Temporal::Diurnal
    }
}

fn check_correlation(correlation: &Matrix, n: usize) -> Result<()> {
    if correlation.n_rows() != n || correlation.n_columns() != n {
        return Err(invalid(format!(
            "correlation must have shape ({n}, {n}) as sd has {n} values, got ({}, {})",
            correlation.n_rows(),
            correlation.n_columns()
        )));
    }
    for p in 0..n {
        for q in 0..=p {
            let value = correlation.get(p, q);
            if !value.is_finite() || value != correlation.get(q, p) || (p == q && value != 1.0) {
                return Err(invalid(format!(
                    "correlation must be symmetric with ones on its diagonal, got {value} at ({p}, {q}) and {} at \
                     ({q}, {p})",
                    correlation.get(q, p)
                )));
            }
        }
    }
    let smallest = correlation.smallest_eigenvalue();
    if smallest.is_nan() || smallest < -EIGENVALUE_TOLERANCE {
        return Err(invalid(format!(
            "correlation must be positive semidefinite: no quantities can be correlated like this (smallest eigenvalue \
             {smallest:.3})"
        )));
    }
    Ok(())
}
