//! Stations, what they observed, and the prior covariance between their observations.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::covariance::{Embedded, Term};
use crate::error::{KernelError, Result};
use crate::interrupt::Interrupt;
use crate::linalg::{BlockCholesky, Blocks, Cholesky, Matrix};

/// A squared pivot below this fraction of its variance has lost all its digits to cancellation.
const RELATIVE_PIVOT_MINIMUM: f64 = 1e-13;
/// First share of an observation's variance that is added to its error where the factorisation fails.
const FIRST_JITTER: f64 = 1e-10;

pub(crate) fn invalid(message: String) -> KernelError {
    KernelError::InvalidArgument(message)
}

pub(crate) fn check_finite(name: &str, values: &[f64]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(invalid(format!(
            "{name} must be finite, got {} at index {index}",
            values[index]
        ))),
        None => Ok(()),
    }
}

pub(crate) fn check_length(name: &str, length: usize, expected: usize, of: &str) -> Result<()> {
    if length == expected {
        Ok(())
    } else {
        Err(invalid(format!(
            "{name} must have the length of {of}, {expected}, got {length}"
        )))
    }
}

pub(crate) fn check_not_negative(name: &str, values: &[f64]) -> Result<()> {
    match values.iter().find(|value| value.is_nan() || **value < 0.0) {
        Some(value) => Err(invalid(format!("{name} must not be negative, got {value}"))),
        None => Ok(()),
    }
}

pub(crate) fn check_places(latitude_deg: &[f64], longitude_deg: &[f64], what: &str) -> Result<()> {
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
        Some(value) => Err(invalid(format!(
            "{latitude_name} must lie in -90..90, got {value}"
        ))),
        None => Ok(()),
    }
}

pub(crate) fn check_index(name: &str, values: &[usize], n: usize) -> Result<()> {
    match values.iter().find(|value| **value >= n) {
        Some(value) => Err(invalid(format!("{name} must lie in 0..{n}, got {value}"))),
        None => Ok(()),
    }
}

/// A quantity at a station and time.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub station: usize,
    pub quantity: usize,
    pub time_h: f64,
    /// Factor on the standard deviation of the terms that are modulated.
    pub amplitude: f64,
    /// Latitude and longitude of another instrument, of whose bias nothing is known; none: the station itself.
    pub place: Option<(f64, f64)>,
}

/// Stations and the covariance between them.
pub struct Network {
    terms: Vec<Term>,
    /// Per term, the places in its metric.
    places: Vec<Vec<Embedded>>,
    /// The places of every station: it observes the mean of the field over them, with a bias of its own at each.
    places_of: Vec<Vec<usize>>,
    /// Per term, the spatial correlation between stations, shape (S, S); of a station of several places below 1.
    between_stations: Vec<Matrix>,
    n_stations: usize,
}

impl Network {
    /// Stations at magnetic (quasi-dipole) coordinates in degrees; `place_station` is the station that each place is part
    /// of, none: every place is a station.
    pub fn new(
        terms: Vec<Term>,
        latitude_deg: &[f64],
        longitude_deg: &[f64],
        place_station: Option<&[usize]>,
    ) -> Result<Self> {
        let Some(first) = terms.first() else {
            return Err(invalid(
                "terms must hold at least one covariance term".to_string(),
            ));
        };
        let n_quantities = first.n_quantities();
        if let Some(other) = terms.iter().find(|t| t.n_quantities() != n_quantities) {
            return Err(invalid(format!(
                "every term must have sd for the same quantities, got {n_quantities} and {}",
                other.n_quantities()
            )));
        }
        check_places(latitude_deg, longitude_deg, "station_")?;
        let places_of = match place_station {
            None => (0..latitude_deg.len()).map(|place| vec![place]).collect(),
            Some(stations) => places_of(stations, latitude_deg.len())?,
        };
        let n_stations = places_of.len();
        let places: Vec<Vec<Embedded>> = terms
            .iter()
            .map(|term| {
                latitude_deg
                    .iter()
                    .zip(longitude_deg)
                    .map(|(&latitude, &longitude)| term.shape().embed(latitude, longitude))
                    .collect()
            })
            .collect();
        let between_stations = terms
            .iter()
            .zip(&places)
            .map(|(term, place)| {
                let correlation = |a: usize, b: usize| {
                    if a == b {
                        1.0
                    } else {
                        term.shape().spatial_correlation(&place[a], &place[b])
                    }
                };
                let mut matrix = Matrix::from_columns(n_stations, n_stations, |j, column| {
                    for (i, element) in column.iter_mut().enumerate().skip(j) {
                        *element = mean_over(&places_of[i], &places_of[j], correlation);
                    }
                });
                matrix.mirror();
                matrix
            })
            .collect();
        Ok(Self {
            terms,
            places,
            places_of,
            between_stations,
            n_stations,
        })
    }

    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    pub fn n_stations(&self) -> usize {
        self.n_stations
    }

    pub fn n_quantities(&self) -> usize {
        self.terms[0].n_quantities()
    }

    /// The places in the metric of a term.
    pub(crate) fn places(&self, term: usize) -> &[Embedded] {
        &self.places[term]
    }

    pub(crate) fn places_of(&self, station: usize) -> &[usize] {
        &self.places_of[station]
    }

    /// Spatial correlation of a term between a station and a point in its metric.
    pub(crate) fn correlation_with(&self, term: usize, station: usize, point: &Embedded) -> f64 {
        let (shape, places) = (self.terms[term].shape(), &self.places[term]);
        let own = &self.places_of[station];
        let total: f64 = own
            .iter()
            .map(|&place| shape.spatial_correlation(&places[place], point))
            .sum();
        total / own.len() as f64
    }

    pub(crate) fn spatial_correlation(&self, term: usize, a: usize, b: usize) -> f64 {
        self.between_stations[term].get(a, b)
    }

    /// Prior variance of what a site reports without error: all terms.
    pub(crate) fn prior_variance(&self, site: &Site) -> f64 {
        self.terms
            .iter()
            .zip(&self.between_stations)
            .map(|(term, matrix)| {
                let own = match site.place {
                    None => matrix.get(site.station, site.station),
                    Some(_) => 1.0,
                };
                own * (term.between_quantities(site.quantity, site.quantity)
                    * term.factor(site.amplitude).powi(2))
            })
            .sum()
    }

    /// Prior covariance of two sites.
    fn between(&self, a: &Site, b: &Site) -> f64 {
        let mut total = 0.0;
        for (term, matrix) in self.terms.iter().zip(&self.between_stations) {
            let scale =
                term.between_quantities(a.quantity, b.quantity) * matrix.get(a.station, b.station);
            if scale != 0.0 {
                total += scale
                    * (term.factor(a.amplitude) * term.factor(b.amplitude))
                    * term.shape().temporal_correlation(a.time_h - b.time_h);
            }
        }
        total
    }

    /// Covariance between rows and sites, shape (rows, sites).
    pub(crate) fn cross_covariance(&self, rows: &Rows, sites: &[Site]) -> Matrix {
        Matrix::from_columns(rows.len(), sites.len(), |j, column| {
            let site = &sites[j];
            if let Some((latitude_deg, longitude_deg)) = site.place {
                self.fill_elsewhere(rows, site, latitude_deg, longitude_deg, column);
                return;
            }
            for (i, element) in column.iter_mut().enumerate() {
                *element = self.between(&rows.site(i), site);
            }
        })
    }

    /// Covariance of the rows with a site that is no station.
    fn fill_elsewhere(
        &self,
        rows: &Rows,
        site: &Site,
        latitude_deg: f64,
        longitude_deg: f64,
        column: &mut [f64],
    ) {
        for (c, term) in self.terms.iter().enumerate().filter(|(_, t)| t.is_mapped()) {
            let point = term.shape().embed(latitude_deg, longitude_deg);
            let in_space: Vec<f64> = (0..self.n_stations)
                .map(|station| self.correlation_with(c, station, &point))
                .collect();
            for (i, element) in column.iter_mut().enumerate() {
                let scale = term.between_quantities(rows.quantity[i], site.quantity)
                    * in_space[rows.station[i]];
                if scale != 0.0 {
                    *element += scale
                        * (term.factor(rows.amplitude[i]) * term.factor(site.amplitude))
                        * term
                            .shape()
                            .temporal_correlation(rows.time_h[i] - site.time_h);
                }
            }
        }
    }

    /// Pairs of quantities that a term correlates.
    fn linked_quantities(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.n_quantities())
            .flat_map(|p| (0..p).map(move |q| (p, q)))
            .filter(|&(p, q)| self.terms.iter().any(|t| t.between_quantities(p, q) != 0.0))
    }
}

/// The places of every station, of the station of every place.
fn places_of(stations: &[usize], n_places: usize) -> Result<Vec<Vec<usize>>> {
    check_length("place_station", stations.len(), n_places, "the places")?;
    check_index("place_station", stations, n_places)?;
    let n_stations = stations
        .iter()
        .map(|station| station + 1)
        .max()
        .unwrap_or(0);
    let mut of_station = vec![Vec::new(); n_stations];
    for (place, &station) in stations.iter().enumerate() {
        of_station[station].push(place);
    }
    match of_station.iter().position(Vec::is_empty) {
        Some(station) => Err(invalid(format!(
            "place_station must name every station up to the largest, got no place of {station}"
        ))),
        None => Ok(of_station),
    }
}

/// Mean of `value` over all pairs of `a` and `b`.
fn mean_over(a: &[usize], b: &[usize], value: impl Fn(usize, usize) -> f64) -> f64 {
    let total: f64 = a
        .iter()
        .flat_map(|&one| b.iter().map(move |&other| (one, other)))
        .map(|(one, other)| value(one, other))
        .sum();
    total / (a.len() * b.len()) as f64
}

/// The smallest number that each of `0..n` is linked with, itself included, over any number of links.
fn joined(n: usize, links: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..n).collect();
    let root = |parent: &[usize], mut i: usize| {
        while parent[i] != i {
            i = parent[i];
        }
        i
    };
    for (a, b) in links {
        let (a, b) = (root(&parent, a), root(&parent, b));
        parent[a.max(b)] = a.min(b);
    }
    (0..n).map(|i| root(&parent, i)).collect()
}

/// Two rows whose errors go together, as those of the parameters of one sounding do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorLink {
    pub one: usize,
    pub other: usize,
    pub correlation: f64,
}

/// Rows whose errors go together, in ascending order, and the links between them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErrorBlock {
    pub rows: Vec<usize>,
    pub links: Vec<ErrorLink>,
}

impl ErrorBlock {
    /// Lower factor of the correlation matrix of the errors.
    pub fn correlation_factor(&self) -> Result<Cholesky> {
        let mut correlation = Matrix::identity(self.rows.len());
        for link in &self.links {
            if let (Ok(a), Ok(b)) = (
                self.rows.binary_search(&link.one),
                self.rows.binary_search(&link.other),
            ) {
                correlation.set(a, b, link.correlation);
                correlation.set(b, a, link.correlation);
            }
        }
        Cholesky::new(correlation, &Interrupt::default()).map_err(|k| {
            invalid(format!(
                "error_correlation must be positive definite, it is not at row {} of {:?}",
                self.rows[k], self.rows
            ))
        })
    }
}

/// What was observed: one row per observed quantity.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Index of the station in the network.
    pub station: Vec<usize>,
    pub quantity: Vec<usize>,
    pub time_h: Vec<f64>,
    /// Observation minus background.
    pub innovation: Vec<f64>,
    /// One standard deviation.
    pub obs_error: Vec<f64>,
    /// Factor on the standard deviation of modulated terms.
    pub amplitude: Vec<f64>,
    /// Rows of one station whose errors are correlated; those of all other pairs are not. `R_ij = rho e_i e_j`, so that an
    /// error that is made larger, as by a robust weight, takes its covariances along.
    pub error_links: Vec<ErrorLink>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.station.len()
    }

    pub fn is_empty(&self) -> bool {
        self.station.is_empty()
    }

    pub(crate) fn site(&self, row: usize) -> Site {
        Site {
            station: self.station[row],
            quantity: self.quantity[row],
            time_h: self.time_h[row],
            amplitude: self.amplitude[row],
            place: None,
        }
    }

    pub fn check_lengths(&self) -> Result<()> {
        let m = self.len();
        check_length("quantity", self.quantity.len(), m, "station")?;
        check_length("time_h", self.time_h.len(), m, "station")?;
        check_length("innovation", self.innovation.len(), m, "station")?;
        check_length("obs_error", self.obs_error.len(), m, "station")?;
        check_length("amplitude", self.amplitude.len(), m, "station")
    }

    pub fn check(&self, network: &Network) -> Result<()> {
        self.check_lengths()?;
        check_finite("time_h", &self.time_h)?;
        check_finite("innovation", &self.innovation)?;
        check_finite("obs_error", &self.obs_error)?;
        check_finite("amplitude", &self.amplitude)?;
        check_not_negative("obs_error", &self.obs_error)?;
        check_not_negative("amplitude", &self.amplitude)?;
        check_index("station", &self.station, network.n_stations)?;
        check_index("quantity", &self.quantity, network.n_quantities())?;
        self.check_links()
    }

    fn check_links(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for link in &self.error_links {
            let (one, other) = (link.one, link.other);
            check_index("error_pair", &[one, other], self.len())?;
            if one == other || !seen.insert((one.min(other), one.max(other))) {
                return Err(invalid(format!(
                    "error_pair must name two rows, once, got ({one}, {other})"
                )));
            }
            if self.station[one] != self.station[other] {
                return Err(invalid(format!(
                    "error_pair must be of one station, got rows {one} and {other} of stations {} and {}",
                    self.station[one], self.station[other]
                )));
            }
            if !link.correlation.is_finite() {
                return Err(invalid(format!(
                    "error_correlation must be finite, got {} of rows {one} and {other}",
                    link.correlation
                )));
            }
        }
        for block in self.error_blocks() {
            block.correlation_factor()?;
        }
        Ok(())
    }

    /// The rows whose errors go together, over any number of links.
    pub(crate) fn error_blocks(&self) -> Vec<ErrorBlock> {
        let first = joined(
            self.len(),
            self.error_links.iter().map(|link| (link.one, link.other)),
        );
        let mut blocks: BTreeMap<usize, ErrorBlock> = BTreeMap::new();
        for link in &self.error_links {
            let block = blocks.entry(first[link.one]).or_default();
            block.links.push(*link);
        }
        for (row, first) in first.iter().enumerate() {
            if let Some(block) = blocks.get_mut(first) {
                block.rows.push(row);
            }
        }
        blocks.into_values().collect()
    }

    /// Lower `G` with `R_I = G G'` of a station's rows I.
    pub(crate) fn error_root(&self, rows: &[usize]) -> Result<Matrix> {
        let links = self
            .error_links
            .iter()
            .filter(|link| rows.contains(&link.one));
        let block = ErrorBlock {
            rows: rows.to_vec(),
            links: links.copied().collect(),
        };
        let mut root = block.correlation_factor()?.into_lower();
        for j in 0..rows.len() {
            for (element, &row) in root.column_mut(j).iter_mut().zip(rows) {
                *element *= self.obs_error[row];
            }
        }
        Ok(root)
    }

    /// `R_ij` of every link.
    pub(crate) fn error_covariances(&self) -> impl Iterator<Item = (usize, usize, f64)> + '_ {
        self.error_links.iter().map(|link| {
            let (one, other) = (link.one, link.other);
            let covariance = link.correlation * self.obs_error[one] * self.obs_error[other];
            (one, other, covariance)
        })
    }

    /// Quantities that neither a term nor an error correlates with the others go apart: a group number for each.
    pub(crate) fn groups(&self, network: &Network) -> Vec<usize> {
        let of_errors = self
            .error_links
            .iter()
            .map(|link| (self.quantity[link.one], self.quantity[link.other]));
        joined(
            network.n_quantities(),
            network.linked_quantities().chain(of_errors),
        )
    }

    pub fn select(&self, rows: &[usize]) -> Self {
        let floats = |values: &[f64]| rows.iter().map(|&i| values[i]).collect();
        let indices = |values: &[usize]| rows.iter().map(|&i| values[i]).collect();
        let position: BTreeMap<usize, usize> = if self.error_links.is_empty() {
            BTreeMap::new()
        } else {
            rows.iter().enumerate().map(|(k, &row)| (row, k)).collect()
        };
        let error_links = self
            .error_links
            .iter()
            .filter_map(|link| {
                Some(ErrorLink {
                    one: *position.get(&link.one)?,
                    other: *position.get(&link.other)?,
                    correlation: link.correlation,
                })
            })
            .collect();
        Self {
            error_links,
            station: indices(&self.station),
            quantity: indices(&self.quantity),
            time_h: floats(&self.time_h),
            innovation: floats(&self.innovation),
            obs_error: floats(&self.obs_error),
            amplitude: floats(&self.amplitude),
        }
    }

    /// The rows of each group of quantities that nothing correlates with the others: S has zeros between them.
    pub(crate) fn blocks(&self, network: &Network) -> Blocks {
        let group = self.groups(network);
        let mut rows = vec![Vec::new(); network.n_quantities()];
        for (row, &quantity) in self.quantity.iter().enumerate() {
            rows[group[quantity]].push(row);
        }
        rows.retain(|rows| !rows.is_empty());
        Blocks::new(self.len(), rows)
    }

    /// Lower triangle of the innovation covariance of some rows, ascending, shape (rows, rows).
    fn innovation_covariance(
        &self,
        network: &Network,
        rows: &[usize],
        interrupt: &Interrupt,
    ) -> Result<Matrix> {
        let sites: Vec<Site> = rows.iter().map(|&row| self.site(row)).collect();
        let mut covariance = Matrix::from_columns(rows.len(), rows.len(), |j, column| {
            if interrupt.check().is_err() {
                return;
            }
            for (element, site) in column.iter_mut().zip(&sites).skip(j) {
                *element = network.between(site, &sites[j]);
            }
            column[j] += self.obs_error[rows[j]].powi(2);
        });
        interrupt.check()?;
        for (one, other, error) in self.error_covariances() {
            if let (Ok(a), Ok(b)) = (rows.binary_search(&one), rows.binary_search(&other)) {
                let (i, j) = (a.max(b), a.min(b));
                covariance.set(i, j, covariance.get(i, j) + error);
            }
        }
        Ok(covariance)
    }

    /// Factor of S, and the share of its variance by which every observation's error variance was raised: 0, or as
    /// little as makes S positive definite, up to `max_jitter`. The raise is in `obs_error` afterwards.
    ///
    /// When that is not enough, the error names the most correlated pair of observations.
    pub fn factorize(
        &mut self,
        network: &Network,
        max_jitter: f64,
        interrupt: &Interrupt,
    ) -> Result<(BlockCholesky, f64)> {
        let blocks = self.blocks(network);
        let mut variance = vec![0.0; self.len()];
        let mut jitter = 0.0;
        loop {
            let outcome =
                BlockCholesky::new(blocks.clone(), RELATIVE_PIVOT_MINIMUM, interrupt, |rows| {
                    let mut covariance = self.innovation_covariance(network, rows, interrupt)?;
                    for (k, &row) in rows.iter().enumerate() {
                        variance[row] = covariance.get(k, k);
                        if jitter > 0.0 {
                            covariance.set(k, k, variance[row] * (1.0 + jitter));
                        }
                    }
                    Ok(covariance)
                })?;
            interrupt.check()?;
            if let Some(factor) = outcome {
                if jitter > 0.0 {
                    self.raise_variances(jitter, &variance);
                }
                return Ok((factor, jitter));
            }
            let next = if jitter == 0.0 {
                FIRST_JITTER
            } else {
                10.0 * jitter
            };
            if next > max_jitter {
                return Err(self.not_positive_definite(network));
            }
            jitter = next;
        }
    }

    /// Adds a share of `variance` to the error variances; what errors have in common stays.
    fn raise_variances(&mut self, jitter: f64, variance: &[f64]) {
        let covariances: Vec<f64> = self
            .error_covariances()
            .map(|(_, _, value)| value)
            .collect();
        for (error, variance) in self.obs_error.iter_mut().zip(variance) {
            *error = (*error * *error + jitter * variance).sqrt();
        }
        for (link, covariance) in self.error_links.iter_mut().zip(covariances) {
            link.correlation = covariance / (self.obs_error[link.one] * self.obs_error[link.other]);
        }
    }

    fn not_positive_definite(&self, network: &Network) -> KernelError {
        let mut of_errors: BTreeMap<(usize, usize), f64> = (0..self.len())
            .map(|i| ((i, i), self.obs_error[i].powi(2)))
            .collect();
        for (one, other, covariance) in self.error_covariances() {
            of_errors.insert((one.max(other), one.min(other)), covariance);
        }
        let covariance = |i: usize, j: usize| {
            network.between(&self.site(i), &self.site(j))
                + of_errors.get(&(i, j)).copied().unwrap_or(0.0)
        };
        let (i, j, correlation) = (0..self.len())
            .into_par_iter()
            .flat_map_iter(|j| {
                let covariance = &covariance;
                (j + 1..self.len()).map(move |i| {
                    let scale = (covariance(i, i) * covariance(j, j)).sqrt();
                    let correlation = if scale > 0.0 {
                        covariance(i, j) / scale
                    } else {
                        1.0
                    };
                    (j, i, correlation)
                })
            })
            .reduce(
                || (0, 0, f64::NEG_INFINITY),
                |a, b| {
                    if b.2 > a.2 || (b.2 == a.2 && (b.1, b.0) < (a.1, a.0)) {
                        b
                    } else {
                        a
                    }
                },
            );
        if i == j {
            return KernelError::NotPositiveDefinite(
                "the innovation covariance is not positive definite: observation 0 has no prior variance \
                 and no obs_error"
                    .to_string(),
            );
        }
        let describe = |row: usize| {
            format!(
                "{row} (station {}, quantity {}, time_h {}, obs_error {})",
                self.station[row], self.quantity[row], self.time_h[row], self.obs_error[row]
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
