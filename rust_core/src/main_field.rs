//! The Earth's main magnetic field: the International Geomagnetic Reference Field, degree 13, linear between its epochs.
//!
//! Alken et al. (2021), doi:10.1186/s40623-020-01288-x. Coefficients are Schmidt semi-normalized; beyond the last epoch
//! the last two are drawn out by a line, as the published secular variation does. Places are geodetic (WGS-84).

use std::f64::consts::TAU;

use ndarray::{ArrayView1, ArrayView2};
use rayon::prelude::*;

use crate::arguments::{Points, check_length, check_range, thread_pool};
use crate::calendar::decimal_year;
use crate::error::{KernelError, Result};
use crate::interrupt::Interrupt;

/// Degree of the field.
pub const FIELD_DEGREE: usize = 13;
/// Coefficients of an epoch, in the order of the published files: by degree n, then g(n,0), g(n,1), h(n,1), ...
pub const COEFFICIENTS: usize = FIELD_DEGREE * (FIELD_DEGREE + 2);
/// Radius that the coefficients refer to, km.
const REFERENCE_RADIUS_KM: f64 = 6371.2;
/// WGS-84 equatorial radius, km, and flattening.
const EQUATORIAL_RADIUS_KM: f64 = 6378.137;
const POLAR_RADIUS_KM: f64 = EQUATORIAL_RADIUS_KM * (1.0 - 1.0 / 298.257_223_563);
/// From the deepest place on land to beyond geostationary orbits.
const HEIGHT_RANGE_KM: (f64, f64) = (-1.0, 50_000.0);
/// Electron charge / (2 pi electron mass) (CODATA 2018), MHz per nT.
const GYROFREQUENCY_MHZ_PER_NT: f64 = 1.602_176_634e-19 / (TAU * 9.109_383_701_5e-31) * 1e-15;
/// Points per parallel task.
const CHUNK: usize = 512;

/// The field at a place: components in the local geodetic frame, nT.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Field {
    pub north_nt: f64,
    pub east_nt: f64,
    pub down_nt: f64,
}

impl Field {
    pub fn intensity_nt(&self) -> f64 {
        self.horizontal_nt().hypot(self.down_nt)
    }

    fn horizontal_nt(&self) -> f64 {
        self.north_nt.hypot(self.east_nt)
    }

    /// Dip below the horizon, -90..90, positive where the field points down.
    pub fn inclination_deg(&self) -> f64 {
        self.down_nt.atan2(self.horizontal_nt()).to_degrees()
    }

    /// East of north, -180..180.
    pub fn declination_deg(&self) -> f64 {
        self.east_nt.atan2(self.north_nt).to_degrees()
    }

    /// Modified dip: tan(modip) = I / sqrt(cos(latitude)), I in radians (Rawer 1963).
    pub fn modip_deg(&self, latitude_deg: f64) -> f64 {
        let root = latitude_deg.to_radians().cos().max(0.0).sqrt();
        self.inclination_deg().to_radians().atan2(root).to_degrees()
    }

    /// The latitude at which a centred dipole has this dip: tan(I) = 2 tan(latitude).
    pub fn dip_latitude_deg(&self) -> f64 {
        self.down_nt.atan2(2.0 * self.horizontal_nt()).to_degrees()
    }

    /// The frequency at which electrons circle the field.
    pub fn gyrofrequency_mhz(&self) -> f64 {
        GYROFREQUENCY_MHZ_PER_NT * self.intensity_nt()
    }
}

pub struct MainField {
    /// Decimal years, rising.
    epochs: Vec<f64>,
    /// One row of [`COEFFICIENTS`] per epoch.
    by_epoch: Vec<Vec<f64>>,
    legendre: SchmidtLegendre,
}

impl MainField {
    /// `epochs`: (n,) decimal years, at least two; `coefficients`: (n, 195), nT, in the order of the published files.
    pub fn new(epochs: ArrayView1<f64>, coefficients: ArrayView2<f64>) -> Result<Self> {
        let n_epochs = epochs.len();
        if n_epochs < 2 || coefficients.dim() != (n_epochs, COEFFICIENTS) {
            return Err(KernelError::InvalidArgument(format!(
                "coefficients has shape {:?}: ({}, {COEFFICIENTS}) is needed",
                coefficients.shape(),
                n_epochs.max(2)
            )));
        }
        if let Some(value) = coefficients.iter().find(|value| !value.is_finite()) {
            return Err(KernelError::InvalidArgument(format!(
                "coefficients holds {value}"
            )));
        }
        let epochs = epochs.to_vec();
        if let Some(pair) = epochs
            .windows(2)
            .find(|pair| pair[0].partial_cmp(&pair[1]) != Some(std::cmp::Ordering::Less))
        {
            return Err(KernelError::InvalidArgument(format!(
                "epochs must rise: {} follows {}",
                pair[1], pair[0]
            )));
        }
        Ok(MainField {
            epochs,
            by_epoch: coefficients
                .rows()
                .into_iter()
                .map(|row| row.to_vec())
                .collect(),
            legendre: SchmidtLegendre::new(),
        })
    }

    /// The field at each point, `height_km` above the ellipsoid; the bits do not depend on `n_threads`.
    pub fn evaluate(
        &self,
        points: Points,
        height_km: &[f64],
        n_threads: usize,
        interrupt: &Interrupt,
    ) -> Result<Vec<Field>> {
        points.validate()?;
        check_length("height_km", height_km.len(), "times", points.time_us.len())?;
        check_range("height_km", height_km, HEIGHT_RANGE_KM)?;
        let of_chunk = |(number, times): (usize, &[i64])| {
            let mut known: Option<(i64, Vec<f64>)> = None;
            let mut fields = Vec::with_capacity(times.len());
            for (offset, &time_us) in times.iter().enumerate() {
                if interrupt.check().is_err() {
                    break;
                }
                let index = number * CHUNK + offset;
                let coefficients = match known.take() {
                    Some((time, coefficients)) if time == time_us => coefficients,
                    _ => self.coefficients_at(time_us),
                };
                fields.push(self.legendre.field(
                    &coefficients,
                    points.latitude_deg[index],
                    points.longitude_deg[index],
                    height_km[index],
                ));
                known = Some((time_us, coefficients));
            }
            fields
        };
        let fields = thread_pool(n_threads)?.install(|| {
            points
                .time_us
                .par_chunks(CHUNK)
                .enumerate()
                .flat_map_iter(of_chunk)
                .collect()
        });
        interrupt.check()?;
        Ok(fields)
    }

    fn coefficients_at(&self, time_us: i64) -> Vec<f64> {
        let year = decimal_year(time_us);
        let after = self
            .epochs
            .partition_point(|&epoch| epoch <= year)
            .clamp(1, self.epochs.len() - 1);
        let (first, last) = (self.epochs[after - 1], self.epochs[after]);
        let weight = (year - first) / (last - first);
        self.by_epoch[after - 1]
            .iter()
            .zip(&self.by_epoch[after])
            .map(|(before, after)| before + weight * (after - before))
            .collect()
    }
}

/// Schmidt semi-normalized Legendre functions by recurrence in degree (Langel 1987, "The main field", eq. 27).
struct SchmidtLegendre {
    /// By order m: factor of P(m,m) / (sin(theta) P(m-1,m-1)).
    sectoral: [f64; FIELD_DEGREE + 1],
    /// `root[n][m]` = sqrt(n^2 - m^2).
    root: [[f64; FIELD_DEGREE + 1]; FIELD_DEGREE + 1],
    /// `steps[n][m]`: factors (a, b) of P(n,m) = a cos(theta) P(n-1,m) - b P(n-2,m).
    steps: [[(f64, f64); FIELD_DEGREE + 1]; FIELD_DEGREE + 1],
}

impl SchmidtLegendre {
    fn new() -> Self {
        let root = |n: usize, m: usize| ((n * n) as f64 - (m * m) as f64).max(0.0).sqrt();
        SchmidtLegendre {
            sectoral: std::array::from_fn(|m| match m {
                0 | 1 => 1.0,
                _ => ((2 * m - 1) as f64 / (2 * m) as f64).sqrt(),
            }),
            root: std::array::from_fn(|n| std::array::from_fn(|m| root(n, m))),
            steps: std::array::from_fn(|n| {
                std::array::from_fn(|m| {
                    if n > m {
                        ((2 * n - 1) as f64 / root(n, m), root(n - 1, m) / root(n, m))
                    } else {
                        (0.0, 0.0)
                    }
                })
            }),
        }
    }

    fn field(
        &self,
        coefficients: &[f64],
        latitude_deg: f64,
        longitude_deg: f64,
        height_km: f64,
    ) -> Field {
        let (sin_lat, cos_lat) = latitude_deg.to_radians().sin_cos();
        let cos_lat = cos_lat.max(0.0);
        // Geodetic to geocentric (Langel 1987, eq. 51-53), by the distances from the axis and the equatorial plane.
        let (a2, b2) = (EQUATORIAL_RADIUS_KM.powi(2), POLAR_RADIUS_KM.powi(2));
        let rho = (a2 * cos_lat * cos_lat + b2 * sin_lat * sin_lat).sqrt();
        let from_axis = (height_km + a2 / rho) * cos_lat;
        let from_equator = (height_km + b2 / rho) * sin_lat;
        let radius = from_axis.hypot(from_equator);
        let (sine, cosine) = (from_axis / radius, from_equator / radius);
        let (sin_lon, cos_lon) = longitude_deg.to_radians().sin_cos();

        let ratio = REFERENCE_RADIUS_KM / radius;
        let mut power = [0.0; FIELD_DEGREE + 1];
        power[0] = ratio * ratio;
        for n in 1..=FIELD_DEGREE {
            power[n] = power[n - 1] * ratio;
        }

        // For m >= 1 the recurrence runs on P / sin(theta), so that nothing is divided by zero at the poles.
        let (mut up, mut south, mut east) = (0.0, 0.0, 0.0);
        let (mut sectoral, mut cos_m, mut sin_m) = (1.0, 1.0, 0.0);
        for m in 0..=FIELD_DEGREE {
            if m >= 1 {
                sectoral *= self.sectoral[m] * if m == 1 { 1.0 } else { sine };
                (cos_m, sin_m) = (
                    cos_m * cos_lon - sin_m * sin_lon,
                    sin_m * cos_lon + cos_m * sin_lon,
                );
            }
            let (mut before, mut last) = (0.0, sectoral);
            // n is the degree in every formula below, not a position in one table.
            #[allow(clippy::needless_range_loop)]
            for n in m..=FIELD_DEGREE {
                if n > m {
                    let (a, b) = self.steps[n][m];
                    let next = a * cosine * last - b * before;
                    (before, last) = (last, next);
                }
                if n == 0 {
                    continue;
                }
                let start = n * n - 1;
                if m == 0 {
                    up += (n + 1) as f64 * power[n] * coefficients[start] * last;
                    continue;
                }
                let g = coefficients[start + 2 * m - 1];
                let h = coefficients[start + 2 * m];
                let along = g * cos_m + h * sin_m;
                let derivative = n as f64 * cosine * last - self.root[n][m] * before;
                up += (n + 1) as f64 * power[n] * along * last * sine;
                south -= power[n] * along * derivative;
                east += m as f64 * power[n] * (g * sin_m - h * cos_m) * last;
                if m == 1 {
                    // dP(n,0)/d(theta) = -sqrt(n (n + 1) / 2) P(n,1)
                    let slope = -((n * (n + 1)) as f64 / 2.0).sqrt() * last * sine;
                    south -= power[n] * coefficients[start] * slope;
                }
            }
        }
        // From the geocentric frame to the geodetic one: a turn by the difference of the two latitudes.
        let sin_turn = sin_lat * sine - cos_lat * cosine;
        let cos_turn = cos_lat * sine + sin_lat * cosine;
        let (north, down) = (-south, -up);
        Field {
            north_nt: north * cos_turn + down * sin_turn,
            east_nt: east,
            down_nt: down * cos_turn - north * sin_turn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{Date, MICROSECONDS_PER_DAY, days_from_date};
    use ndarray::{Array2, arr1};

    /// An axial dipole of -30,000 nT that weakens by 100 nT a year.
    fn axial_dipole() -> Result<MainField> {
        let mut coefficients = Array2::<f64>::zeros((2, COEFFICIENTS));
        coefficients[(0, 0)] = -30_000.0;
        coefficients[(1, 0)] = -29_500.0;
        MainField::new(arr1(&[2000.0, 2005.0]).view(), coefficients.view())
    }

    fn new_year(year: i32) -> i64 {
        days_from_date(Date {
            year,
            month: 1,
            day: 1,
        }) * MICROSECONDS_PER_DAY
    }

    #[test]
    fn dipole_has_its_closed_form() -> Result<()> {
        let field = axial_dipole()?;
        for latitude_deg in [-90.0_f64, -60.0, -12.5, 0.0, 33.0, 90.0] {
            for height_km in [0.0, 300.0, 20_000.0] {
                let found = field
                    .legendre
                    .field(&field.by_epoch[0], latitude_deg, 77.0, height_km);
                let latitude = latitude_deg.to_radians();
                let rho =
                    (EQUATORIAL_RADIUS_KM * latitude.cos()).hypot(POLAR_RADIUS_KM * latitude.sin());
                let x = (EQUATORIAL_RADIUS_KM.powi(2) / rho + height_km) * latitude.cos();
                let z = (POLAR_RADIUS_KM.powi(2) / rho + height_km) * latitude.sin();
                let sin_geocentric = z / x.hypot(z);
                let expected_nt = 30_000.0
                    * (REFERENCE_RADIUS_KM / x.hypot(z)).powi(3)
                    * (1.0 + 3.0 * sin_geocentric * sin_geocentric).sqrt();
                assert!((found.intensity_nt() / expected_nt - 1.0).abs() < 1e-12);
                assert!(found.east_nt.abs() < 1e-9);
                // The dip of a dipole, tan I = 2 tan(latitude), from the sphere to the ellipsoid's horizon.
                let dip = 2.0_f64.atan2(x / z) - (latitude - z.atan2(x));
                if latitude_deg > 0.0 && latitude_deg < 90.0 {
                    assert!((found.inclination_deg() - dip.to_degrees()).abs() < 1e-9);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn coefficients_are_linear_between_epochs_and_beyond() -> Result<()> {
        let field = axial_dipole()?;
        for (year, expected) in [
            (2000, -30_000.0),
            (2003, -29_700.0),
            (2005, -29_500.0),
            (2010, -29_000.0),
            (1990, -31_000.0),
        ] {
            assert!((field.coefficients_at(new_year(year))[0] - expected).abs() < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn derived_angles() {
        let field = Field {
            north_nt: 3.0,
            east_nt: -4.0,
            down_nt: 5.0,
        };
        assert!((field.inclination_deg() - 45.0).abs() < 1e-12);
        assert!((field.dip_latitude_deg() - 0.5_f64.atan().to_degrees()).abs() < 1e-12);
        assert!((field.declination_deg() + 4.0_f64.atan2(3.0).to_degrees()).abs() < 1e-12);
        assert!((field.modip_deg(90.0) - 90.0).abs() < 1e-5);
        assert!(
            (field.modip_deg(0.0) - std::f64::consts::FRAC_PI_4.atan().to_degrees()).abs() < 1e-12
        );
        // 50,000 nT: 1.3996 MHz.
        let strong = Field {
            north_nt: 50_000.0,
            ..Field::default()
        };
        assert!((strong.gyrofrequency_mhz() - 1.399_624_5).abs() < 1e-6);
    }

    #[test]
    fn wrong_coefficients_are_named() {
        let good = Array2::<f64>::zeros((2, COEFFICIENTS));
        let message = |epochs: &[f64], array: &Array2<f64>| {
            MainField::new(arr1(epochs).view(), array.view())
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(
            message(&[2005.0, 2000.0], &good).as_deref(),
            Some("epochs must rise: 2000 follows 2005")
        );
        assert_eq!(
            message(&[2000.0], &good).as_deref(),
            Some("coefficients has shape [2, 195]: (2, 195) is needed")
        );
    }
}
