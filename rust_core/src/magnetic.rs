//! Quasi-dipole coordinates by spherical-harmonic fits to the apex coordinates of each year.
//!
//! Richmond (1995), J. Geomag. Geoelectr. 47; Emmert et al. (2010), doi:10.1029/2010JA015326. The degree-20 coefficients
//! for 1900-2030 are those distributed with PyIRI; years outside take the nearest one.

use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::arguments::{Points, check_length, check_places, thread_pool};
use crate::calendar::date_and_hour;
use crate::error::{KernelError, Result};
use crate::legendre::{BLOCK, Directions, Lanes, Legendre};
use crate::sun::subsolar_point;

/// Degree of the apex fits.
pub const APEX_DEGREE: usize = 20;
const FIELDS: usize = 3;
/// Points per parallel task.
const CHUNK: usize = 64 * BLOCK;

pub struct QuasiDipole {
    legendre: Legendre,
    first_year: i32,
    /// By year, coefficients of latitude (deg), cosine and sine of longitude.
    by_year: Vec<Vec<f64>>,
}

impl QuasiDipole {
    /// `latitude`, `longitude_cos`, `longitude_sin`: (years, 441), consecutive years from `first_year`.
    pub fn new(
        first_year: i32,
        latitude: ArrayView2<f64>,
        longitude_cos: ArrayView2<f64>,
        longitude_sin: ArrayView2<f64>,
    ) -> Result<Self> {
        let legendre = Legendre::new(APEX_DEGREE);
        let n_terms = (APEX_DEGREE + 1) * (APEX_DEGREE + 1);
        let n_years = latitude.nrows();
        for (name, array) in [
            ("qd_latitude", &latitude),
            ("qd_longitude_cos", &longitude_cos),
            ("qd_longitude_sin", &longitude_sin),
        ] {
            if array.dim() != (n_years, n_terms) || n_years == 0 {
                return Err(KernelError::InvalidArgument(format!(
                    "{name} has shape {:?}: ({}, {n_terms}) is needed",
                    array.shape(),
                    n_years.max(1)
                )));
            }
            if let Some(value) = array.iter().find(|value| !value.is_finite()) {
                return Err(KernelError::InvalidArgument(format!(
                    "{name} holds the coefficient {value}"
                )));
            }
        }
        let by_year = (0..n_years)
            .map(|year| {
                let mut coefficients = vec![0.0; FIELDS * legendre.terms()];
                for (field, array) in [&latitude, &longitude_cos, &longitude_sin]
                    .into_iter()
                    .enumerate()
                {
                    legendre.scatter(
                        |index| array[(year, index)],
                        FIELDS,
                        field,
                        &mut coefficients,
                    );
                }
                coefficients
            })
            .collect();
        Ok(QuasiDipole {
            legendre,
            first_year,
            by_year,
        })
    }

    /// The year whose coefficients serve `year`.
    pub fn nearest_year(&self, year: i32) -> i32 {
        year.clamp(
            self.first_year,
            self.first_year + self.by_year.len() as i32 - 1,
        )
    }

    /// Quasi-dipole latitude and longitude (-180..180), degrees, of a block of geographic directions.
    pub fn of_block(&self, year: i32, at: &Directions) -> (Lanes, Lanes) {
        let coefficients = &self.by_year[(self.nearest_year(year) - self.first_year) as usize];
        let mut sums = [[0.0; BLOCK]; FIELDS];
        self.legendre.add_series(coefficients, at, &mut sums);
        let [latitude_deg, cosine, sine] = sums;
        let mut longitude_deg = [0.0; BLOCK];
        for lane in 0..BLOCK {
            longitude_deg[lane] = sine[lane].atan2(cosine[lane]).to_degrees();
        }
        (latitude_deg, longitude_deg)
    }

    /// Quasi-dipole latitudes and longitudes (-180..180), degrees, of geographic points.
    pub fn of_points(
        &self,
        year: i32,
        latitude_deg: &[f64],
        longitude_deg: &[f64],
        n_threads: usize,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        check_length(
            "longitude_deg",
            longitude_deg.len(),
            "latitude_deg",
            latitude_deg.len(),
        )?;
        check_places(latitude_deg, longitude_deg)?;
        Ok(thread_pool(n_threads)?.install(|| {
            latitude_deg
                .par_chunks(CHUNK)
                .zip(longitude_deg.par_chunks(CHUNK))
                .flat_map_iter(|(latitudes, longitudes)| {
                    latitudes
                        .chunks(BLOCK)
                        .zip(longitudes.chunks(BLOCK))
                        .flat_map(|(latitudes, longitudes)| {
                            let (latitude, longitude) = self
                                .of_block(year, &Directions::from_degrees(latitudes, longitudes));
                            latitude.into_iter().zip(longitude).take(latitudes.len())
                        })
                })
                .unzip()
        }))
    }

    /// Quasi-dipole latitude and longitude (-180..180), degrees, and magnetic local time, hours 0..24, of each point at
    /// its own time.
    pub fn with_local_time(&self, points: Points, n_threads: usize) -> Result<Vec<[f64; 3]>> {
        points.validate()?;
        let of_one_time = |range: std::ops::Range<usize>| {
            let time_us = points.time_us[range.start];
            let year = date_and_hour(time_us).0.year;
            let sun = subsolar_point(time_us);
            let (_, sun_longitude_deg) = self.of_point(year, sun.latitude_deg, sun.longitude_deg);
            let latitudes = points.latitude_deg[range.clone()].chunks(BLOCK);
            let longitudes = points.longitude_deg[range].chunks(BLOCK);
            latitudes
                .zip(longitudes)
                .flat_map(move |(latitudes, longitudes)| {
                    let directions = Directions::from_degrees(latitudes, longitudes);
                    let (latitude_deg, longitude_deg) = self.of_block(year, &directions);
                    (0..latitudes.len()).map(move |lane| {
                        let hours = magnetic_local_time_h(longitude_deg[lane], sun_longitude_deg);
                        [latitude_deg[lane], longitude_deg[lane], hours]
                    })
                })
        };
        Ok(thread_pool(n_threads)?.install(|| {
            points
                .time_us
                .par_chunks(CHUNK)
                .enumerate()
                .flat_map_iter(|(number, times)| {
                    let mut end = number * CHUNK;
                    times.chunk_by(|a, b| a == b).flat_map(move |run| {
                        let start = end;
                        end += run.len();
                        of_one_time(start..end)
                    })
                })
                .collect()
        }))
    }

    /// Quasi-dipole latitude and longitude, degrees, of one geographic point.
    pub fn of_point(&self, year: i32, latitude_deg: f64, longitude_deg: f64) -> (f64, f64) {
        let (latitude, longitude) = self.of_block(
            year,
            &Directions::from_degrees(&[latitude_deg], &[longitude_deg]),
        );
        (latitude[0], longitude[0])
    }
}

/// Magnetic local time, hours 0..24, of a quasi-dipole longitude when the sun stands over `subsolar_longitude_deg`.
pub fn magnetic_local_time_h(qd_longitude_deg: f64, subsolar_qd_longitude_deg: f64) -> f64 {
    ((qd_longitude_deg - subsolar_qd_longitude_deg + 180.0) / 15.0).rem_euclid(24.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sun_stands_at_magnetic_noon() {
        assert_eq!(magnetic_local_time_h(-73.0, -73.0), 12.0);
        assert_eq!(magnetic_local_time_h(107.0, -73.0), 0.0);
    }

    #[test]
    fn wrong_shapes_are_named() {
        let good = ndarray::Array2::<f64>::zeros((2, 441));
        let bad = ndarray::Array2::<f64>::zeros((2, 440));
        let error = QuasiDipole::new(2000, good.view(), bad.view(), good.view())
            .err()
            .map(|e| e.to_string());
        assert_eq!(
            error.as_deref(),
            Some("qd_longitude_cos has shape [2, 440]: (2, 441) is needed")
        );
    }
}
