//! The exact space-time Gaussian-process analysis of one quantity, solved in observation space.
//!
//! With innovations `d`, background covariance `B`, observation error variances `R` and the observation
//! operator `H` (the value at a station and time):
//! `S = H B H' + R = L L'`, `C = S^-1`, `alpha = C d`; mean `b(x)' alpha`, variance `B(x,x) - |L^-1 b(x)|^2`.
//! Rasmussen and Williams (2006), algorithm 2.1; leave-out formulas from their section 5.4.2, by blocks.

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::arguments::thread_pool;
use crate::covariance::{Embedded, Term};
use crate::error::{KernelError, Result};
use crate::linalg::{Cholesky, Matrix, dot};

/// Grid points that one thread works on at a time: fixed, because the blocking decides the rounding.
const BLOCK_POINTS: usize = 256;
/// A squared pivot below this fraction of its variance has lost all its digits to cancellation.
const RELATIVE_PIVOT_MINIMUM: f64 = 1e-13;

/// Stations and the covariance between them.
pub struct Network {
    terms: Vec<Term>,
    /// Per term, the stations in its metric.
    places: Vec<Vec<Embedded>>,
    /// Per term, variance times spatial correlation between stations, shape (S, S).
    between_stations: Vec<Matrix>,
    n_stations: usize,
}

fn check_finite(name: &str, values: &[f64]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(KernelError::InvalidArgument(format!(
            "{name} must be finite, got {} at index {index}",
            values[index]
        ))),
        None => Ok(()),
    }
}

fn check_length(name: &str, length: usize, expected: usize, of: &str) -> Result<()> {
    if length == expected {
        Ok(())
    } else {
        Err(KernelError::InvalidArgument(format!(
            "{name} must have the length of {of}, {expected}, got {length}"
        )))
    }
}

fn check_places(latitude_deg: &[f64], longitude_deg: &[f64], what: &str) -> Result<()> {
    let latitude_name = format!("{what}latitude_deg");
    let longitude_name = format!("{what}longitude_deg");
    check_length(
        &longitude_name,
        longitude_deg.len(),
        latitude_deg.len(),
        &latitude_name,
    )?;
    check_finite(&latitude_name, latitude_deg)?;
    check_finite(&longitude_name, longitude_deg)?;
    match latitude_deg.iter().find(|value| value.abs() > 90.0) {
        Some(value) => Err(KernelError::InvalidArgument(format!(
            "{latitude_name} must lie in -90..90, got {value}"
        ))),
        None => Ok(()),
    }
}

impl Network {
    /// Stations at magnetic (quasi-dipole) coordinates in degrees.
    pub fn new(terms: Vec<Term>, latitude_deg: &[f64], longitude_deg: &[f64]) -> Result<Self> {
        if terms.is_empty() {
            return Err(KernelError::InvalidArgument(
                "terms must hold at least one covariance term".to_string(),
            ));
        }
        check_places(latitude_deg, longitude_deg, "station_")?;
        let n_stations = latitude_deg.len();
        let places: Vec<Vec<Embedded>> = terms
            .iter()
            .map(|term| {
                latitude_deg
                    .iter()
                    .zip(longitude_deg)
                    .map(|(&latitude, &longitude)| term.embed(latitude, longitude))
                    .collect()
            })
            .collect();
        let between_stations = terms
            .iter()
            .zip(&places)
            .map(|(term, place)| {
                let mut matrix = Matrix::zeros(n_stations, n_stations);
                for i in 0..n_stations {
                    for j in 0..n_stations {
                        let correlation = if i == j {
                            1.0
                        } else {
                            term.spatial_correlation(&place[i], &place[j])
                        };
                        matrix.set(i, j, term.variance() * correlation);
                    }
                }
                matrix
            })
            .collect();
        Ok(Self {
            terms,
            places,
            between_stations,
            n_stations,
        })
    }

    /// Prior variance of an observation without its error: all terms.
    pub fn prior_variance(&self) -> f64 {
        self.terms.iter().map(Term::variance).sum()
    }

    /// Covariance of the values at two stations and times.
    fn between(&self, a: usize, time_a_h: f64, b: usize, time_b_h: f64) -> f64 {
        self.terms
            .iter()
            .zip(&self.between_stations)
            .map(|(term, matrix)| {
                let spatial = matrix.get(a, b);
                if spatial == 0.0 {
                    0.0
                } else {
                    spatial * term.temporal_correlation(time_a_h - time_b_h)
                }
            })
            .sum()
    }

    /// Covariance between rows and targets, shape (rows, targets).
    fn cross_covariance(&self, rows: &Rows, station: &[usize], time_h: &[f64]) -> Matrix {
        Matrix::from_columns(rows.len(), station.len(), |j, column| {
            for (i, element) in column.iter_mut().enumerate() {
                *element = self.between(rows.station[i], rows.time_h[i], station[j], time_h[j]);
            }
        })
    }
}

/// What was observed: one row per observation.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Index of the station in the network.
    pub station: Vec<usize>,
    pub time_h: Vec<f64>,
    /// Observation minus background.
    pub innovation: Vec<f64>,
    /// One standard deviation.
    pub obs_error: Vec<f64>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.station.len()
    }

    pub fn is_empty(&self) -> bool {
        self.station.is_empty()
    }

    pub fn check(&self, network: &Network) -> Result<()> {
        let m = self.len();
        check_length("time_h", self.time_h.len(), m, "station")?;
        check_length("innovation", self.innovation.len(), m, "station")?;
        check_length("obs_error", self.obs_error.len(), m, "station")?;
        check_finite("time_h", &self.time_h)?;
        check_finite("innovation", &self.innovation)?;
        check_finite("obs_error", &self.obs_error)?;
        if let Some(value) = self.obs_error.iter().find(|value| **value < 0.0) {
            return Err(KernelError::InvalidArgument(format!(
                "obs_error must not be negative, got {value}"
            )));
        }
        if let Some(value) = self.station.iter().find(|s| **s >= network.n_stations) {
            return Err(KernelError::InvalidArgument(format!(
                "station must lie in 0..{}, got {value}",
                network.n_stations
            )));
        }
        Ok(())
    }

    /// The innovation covariance S, shape (m, m).
    pub fn innovation_covariance(&self, network: &Network) -> Matrix {
        let mut matrix = network.cross_covariance(self, &self.station, &self.time_h);
        for (i, error) in self.obs_error.iter().enumerate() {
            let diagonal = matrix.get(i, i) + error * error;
            matrix.set(i, i, diagonal);
        }
        matrix
    }

    /// Factor of S; when S is not positive definite the error names the most correlated pair of observations.
    pub fn factorize(&self, covariance: Matrix) -> Result<Cholesky> {
        let diagonal: Vec<f64> = (0..self.len()).map(|i| covariance.get(i, i)).collect();
        let factor = Cholesky::new(covariance.clone());
        let is_sound = factor.as_ref().is_ok_and(|factor| {
            factor
                .diagonal()
                .zip(&diagonal)
                .all(|(pivot, variance)| pivot * pivot > RELATIVE_PIVOT_MINIMUM * variance)
        });
        match factor {
            Ok(factor) if is_sound => Ok(factor),
            _ => Err(self.not_positive_definite(&covariance)),
        }
    }

    fn not_positive_definite(&self, covariance: &Matrix) -> KernelError {
        let mut worst = (0, 0, f64::NEG_INFINITY);
        for j in 0..self.len() {
            for i in 0..j {
                let scale = (covariance.get(i, i) * covariance.get(j, j)).sqrt();
                let correlation = if scale > 0.0 {
                    covariance.get(i, j) / scale
                } else {
                    1.0
                };
                if correlation > worst.2 {
                    worst = (i, j, correlation);
                }
            }
        }
        let (i, j, correlation) = worst;
        if i == j {
            return KernelError::NotPositiveDefinite(
                "the innovation covariance is not positive definite: observation 0 has no prior variance \
                 and no obs_error"
                    .to_string(),
            );
        }
        let describe = |row: usize| {
            format!(
                "{row} (station {}, time_h {}, obs_error {})",
                self.station[row], self.time_h[row], self.obs_error[row]
            )
        };
        KernelError::NotPositiveDefinite(format!(
            "the innovation covariance is not positive definite: observations {} and {} have correlation \
             {correlation}; drop one of the duplicates or give them a larger obs_error",
            describe(i),
            describe(j),
        ))
    }
}

/// The solved analysis; every question to it is answered from one factorisation.
pub struct Analysis {
    network: Network,
    rows: Rows,
    factor: Cholesky,
    /// C = S^-1, shape (m, m).
    precision: Matrix,
    alpha: Vec<f64>,
    pool: ThreadPool,
}

/// Mean and standard deviation at points.
pub struct Estimate {
    pub mean: Vec<f64>,
    pub sd: Vec<f64>,
}

/// What a station's rows look like to all the others.
pub struct HeldOut {
    /// The station's rows.
    pub rows: Vec<usize>,
    /// Observation minus prediction from the other stations.
    pub residual: Vec<f64>,
    /// Covariance of the residual, observation error included, shape (rows, rows).
    pub covariance: Matrix,
}

impl Analysis {
    /// Solves for the rows; `threads` 0 takes all cores.
    pub fn new(network: Network, rows: Rows, threads: usize) -> Result<Self> {
        rows.check(&network)?;
        let pool = thread_pool(threads)?;
        let (factor, precision) = pool.install(|| -> Result<_> {
            let factor = rows.factorize(rows.innovation_covariance(&network))?;
            let precision = factor.inverse();
            Ok((factor, precision))
        })?;
        let alpha = precision.times_vector(&rows.innovation);
        Ok(Self {
            network,
            rows,
            factor,
            precision,
            alpha,
            pool,
        })
    }

    pub fn n_obs(&self) -> usize {
        self.rows.len()
    }

    /// `S^-1 d`, shape (m,).
    pub fn alpha(&self) -> &[f64] {
        &self.alpha
    }

    /// `d' S^-1 d / m`, 1 when the covariances are right; not a number without rows.
    pub fn chi2(&self) -> f64 {
        dot(&self.rows.innovation, &self.alpha) / self.n_obs() as f64
    }

    /// `ln p(d)`. Rasmussen and Williams (2006), equation 2.30.
    pub fn log_evidence(&self) -> f64 {
        let m = self.n_obs() as f64;
        0.0 - 0.5
            * (dot(&self.rows.innovation, &self.alpha)
                + self.factor.log_determinant()
                + m * (2.0 * std::f64::consts::PI).ln())
    }

    /// Observation minus analysis at every row, `R alpha`, shape (m,).
    pub fn residual(&self) -> Vec<f64> {
        self.alpha
            .iter()
            .zip(&self.rows.obs_error)
            .map(|(alpha, error)| alpha * error * error)
            .collect()
    }

    /// Mean and standard deviation of the field at points and one time: the terms that are fields only.
    ///
    /// Stations stay where they are and terms are separable, so the weights of the rows compress to one per
    /// term and station; the cost is points x (terms x stations)^2 and does not depend on the rows.
    pub fn predict(
        &self,
        latitude_deg: &[f64],
        longitude_deg: &[f64],
        time_h: f64,
    ) -> Result<Estimate> {
        check_places(latitude_deg, longitude_deg, "")?;
        check_finite("time_h", &[time_h])?;
        let fields: Vec<usize> = (0..self.network.terms.len())
            .filter(|&c| self.network.terms[c].is_mapped())
            .collect();
        let terms = &self.network.terms;
        let n_stations = self.network.n_stations;
        let prior: f64 = fields.iter().map(|&c| terms[c].variance()).sum();
        Ok(self.pool.install(|| {
            // Column (term, station): the temporal correlation of that station's rows with the time asked for.
            let temporal =
                Matrix::from_columns(self.n_obs(), fields.len() * n_stations, |column, values| {
                    let term = &terms[fields[column / n_stations]];
                    for (i, value) in values.iter_mut().enumerate() {
                        if self.rows.station[i] == column % n_stations {
                            *value = term.temporal_correlation(time_h - self.rows.time_h[i]);
                        }
                    }
                });
            let weights: Vec<f64> = (0..temporal.n_columns())
                .map(|column| dot(temporal.column(column), &self.alpha))
                .collect();
            let reduction = self.factor.solve_lower(temporal).gram();
            let blocks: Vec<(Vec<f64>, Vec<f64>)> = latitude_deg
                .par_chunks(BLOCK_POINTS)
                .zip(longitude_deg.par_chunks(BLOCK_POINTS))
                .map(|(latitudes, longitudes)| {
                    let mut spatial = Matrix::zeros(weights.len(), latitudes.len());
                    for (j, (&latitude, &longitude)) in latitudes.iter().zip(longitudes).enumerate()
                    {
                        let column = spatial.column_mut(j);
                        for (k, &c) in fields.iter().enumerate() {
                            let term = &terms[c];
                            let place = term.embed(latitude, longitude);
                            for (s, station) in self.network.places[c].iter().enumerate() {
                                column[k * n_stations + s] =
                                    term.variance() * term.spatial_correlation(&place, station);
                            }
                        }
                    }
                    let reduced = reduction.times(&spatial);
                    let mean = (0..latitudes.len())
                        .map(|j| dot(spatial.column(j), &weights))
                        .collect();
                    let sd = (0..latitudes.len())
                        .map(|j| {
                            let explained = dot(spatial.column(j), reduced.column(j));
                            (prior - explained).max(0.0).sqrt()
                        })
                        .collect();
                    (mean, sd)
                })
                .collect();
            let mut estimate = Estimate {
                mean: Vec::with_capacity(latitude_deg.len()),
                sd: Vec::with_capacity(latitude_deg.len()),
            };
            for (mean, sd) in blocks {
                estimate.mean.extend(mean);
                estimate.sd.extend(sd);
            }
            estimate
        }))
    }

    /// Mean and standard deviation of what a station would report without error, all terms, shape (n,).
    ///
    /// With `is_held_out` the station's own rows are left out of the prediction; `innovation` replaces the
    /// rows' innovations, as when the background itself is made without the station.
    pub fn predict_station(
        &self,
        station: usize,
        time_h: &[f64],
        is_held_out: bool,
        innovation: Option<&[f64]>,
    ) -> Result<Estimate> {
        check_finite("time_h", time_h)?;
        let mut alpha = self.alpha_of(innovation)?;
        let held = self.rows_of(station)?;
        let held_factor = if is_held_out && !held.is_empty() {
            let factor = self.held_factor(&held)?;
            // alpha without the station: alpha - C_:I C_II^-1 alpha_I, zero on the station's rows.
            let held_alpha: Vec<f64> = held.iter().map(|&i| alpha[i]).collect();
            let correction = factor.inverse().times_vector(&held_alpha);
            for (&row, &weight) in held.iter().zip(&correction) {
                for (value, &element) in alpha.iter_mut().zip(self.precision.column(row)) {
                    *value -= weight * element;
                }
            }
            Some(factor)
        } else {
            None
        };
        let stations = vec![station; time_h.len()];
        let mut cross = self
            .pool
            .install(|| self.network.cross_covariance(&self.rows, &stations, time_h));
        if held_factor.is_some() {
            for j in 0..cross.n_columns() {
                for &row in &held {
                    cross.set(row, j, 0.0);
                }
            }
        }
        let mean = (0..time_h.len())
            .map(|j| dot(cross.column(j), &alpha))
            .collect();
        let prior = self.network.prior_variance();
        let whitened = self.pool.install(|| self.factor.solve_lower(cross.clone()));
        let sd = (0..time_h.len())
            .map(|j| {
                let mut explained = dot(whitened.column(j), whitened.column(j));
                if let Some(factor) = &held_factor {
                    let mut own = Matrix::zeros(held.len(), 1);
                    for (k, &row) in held.iter().enumerate() {
                        own.set(k, 0, dot(self.precision.column(row), cross.column(j)));
                    }
                    let own = factor.solve_lower(own);
                    explained -= dot(own.column(0), own.column(0));
                }
                (prior - explained).max(0.0).sqrt()
            })
            .collect();
        Ok(Estimate { mean, sd })
    }

    /// Leave-one-out residual `alpha_i / C_ii` and its variance `1 / C_ii`, observation error included.
    pub fn leave_one_out(&self) -> (Vec<f64>, Vec<f64>) {
        (0..self.n_obs())
            .map(|i| {
                let own = self.precision.get(i, i);
                (self.alpha[i] / own, 1.0 / own)
            })
            .unzip()
    }

    /// Leave-station-out residual `C_II^-1 (C d)_I` and covariance `C_II^-1`; `innovation` replaces d.
    pub fn leave_station_out(&self, station: usize, innovation: Option<&[f64]>) -> Result<HeldOut> {
        let rows = self.rows_of(station)?;
        let innovation = self.innovation_or(innovation)?;
        let own: Vec<f64> = rows
            .iter()
            .map(|&i| dot(self.precision.column(i), innovation))
            .collect();
        let covariance = self.held_factor(&rows)?.inverse();
        let residual = covariance.times_vector(&own);
        Ok(HeldOut {
            rows,
            residual,
            covariance,
        })
    }

    /// Per station: degrees of freedom for signal `tr(I - R_I C_II)` and information gain in nats,
    /// `1/2 (logdet C_II^-1 - logdet R_I)`, infinite for an observation without error.
    pub fn station_information(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut degrees = Vec::with_capacity(self.network.n_stations);
        let mut gain = Vec::with_capacity(self.network.n_stations);
        for station in 0..self.network.n_stations {
            let held = self.rows_of(station)?;
            let variances: Vec<f64> = held
                .iter()
                .map(|&i| self.rows.obs_error[i].powi(2))
                .collect();
            degrees.push(
                held.iter()
                    .zip(&variances)
                    .map(|(&i, variance)| 1.0 - variance * self.precision.get(i, i))
                    .sum::<f64>()
                    + 0.0, // an empty sum is -0.0
            );
            let log_error: f64 = variances.iter().map(|variance| variance.ln()).sum();
            gain.push(-0.5 * (self.held_factor(&held)?.log_determinant() + log_error));
        }
        Ok((degrees, gain))
    }

    fn innovation_or<'a>(&'a self, innovation: Option<&'a [f64]>) -> Result<&'a [f64]> {
        match innovation {
            None => Ok(&self.rows.innovation),
            Some(values) => {
                check_length("innovation", values.len(), self.n_obs(), "the rows")?;
                check_finite("innovation", values)?;
                Ok(values)
            }
        }
    }

    fn alpha_of(&self, innovation: Option<&[f64]>) -> Result<Vec<f64>> {
        match innovation {
            None => Ok(self.alpha.clone()),
            Some(_) => Ok(self.precision.times_vector(self.innovation_or(innovation)?)),
        }
    }

    fn rows_of(&self, station: usize) -> Result<Vec<usize>> {
        if station >= self.network.n_stations {
            return Err(KernelError::InvalidArgument(format!(
                "station must lie in 0..{}, got {station}",
                self.network.n_stations
            )));
        }
        Ok((0..self.n_obs())
            .filter(|&i| self.rows.station[i] == station)
            .collect())
    }

    fn held_factor(&self, rows: &[usize]) -> Result<Cholesky> {
        Cholesky::new(self.precision.select(rows)).map_err(|row| {
            KernelError::NotPositiveDefinite(format!(
                "observation {} cannot be told from the others of its station; give them a larger obs_error",
                rows[row]
            ))
        })
    }
}
