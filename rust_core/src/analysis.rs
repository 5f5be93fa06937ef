//! The exact space-time Gaussian-process analysis of several quantities at once, solved in observation space.
//!
//! With innovations `d`, background covariance `B`, observation error variances `R` and the observation
//! operator `H` (the value of a quantity at a station and time):
//! `S = H B H' + R = L L'`, `C = S^-1`, `alpha = C d`; mean `b(x)' alpha`, variance `B(x,x) - |L^-1 b(x)|^2`.
//! Rasmussen and Williams (2006), algorithm 2.1; leave-out formulas from their section 5.4.2, by blocks.

use std::collections::BTreeMap;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::arguments::thread_pool;
use crate::covariance::Term;
use crate::error::{KernelError, Result};
use crate::interrupt::Interrupt;
use crate::linalg::{BlockCholesky, BlockMatrix, Blocks, Cholesky, Matrix, dot, interpolation};
use crate::network::{Network, Rows, Site, check_finite, check_length, check_places, invalid};

/// Grid points that one thread works on at a time: fixed, because the blocking decides the rounding.
const BLOCK_POINTS: usize = 256;
/// Sites whose covariances with all rows are held at a time.
const CHUNK_SITES: usize = 256;
/// A Gaussian field over this many stations is known from fewer of them.
const FEWEST_TO_REDUCE: usize = 200;
/// Share of the variance at any station that the others may leave open: what is mapped differs by its square root at most.
const SPATIAL_TOLERANCE: f64 = 1e-12;

/// The solved analysis; every question to it is answered from one factorisation.
pub struct Analysis {
    pub(crate) network: Network,
    pub(crate) rows: Rows,
    pub(crate) factor: BlockCholesky,
    /// C = S^-1, shape (m, m).
    pub(crate) precision: BlockMatrix,
    pub(crate) alpha: Vec<f64>,
    jitter: f64,
    pub(crate) pool: ThreadPool,
}

/// Points at one time; `amplitude` (Q, G), quantity by quantity, is the factor on modulated terms, all 1 if none.
pub struct Points<'a> {
    pub latitude_deg: &'a [f64],
    pub longitude_deg: &'a [f64],
    pub time_h: f64,
    pub amplitude: Option<&'a [f64]>,
}

impl Points<'_> {
    pub fn len(&self) -> usize {
        self.latitude_deg.len()
    }

    pub fn is_empty(&self) -> bool {
        self.latitude_deg.is_empty()
    }

    pub(crate) fn check(&self, network: &Network) -> Result<()> {
        check_places(self.latitude_deg, self.longitude_deg, "")?;
        check_finite("time_h", &[self.time_h])?;
        if let Some(amplitude) = self.amplitude {
            check_length(
                "amplitude",
                amplitude.len(),
                network.n_quantities() * self.len(),
                "quantities x points",
            )?;
            check_finite("amplitude", amplitude)?;
        }
        Ok(())
    }

    pub(crate) fn amplitude(&self, quantity: usize, point: usize) -> f64 {
        self.amplitude
            .map_or(1.0, |values| values[quantity * self.len() + point])
    }
}

/// Mean and standard deviation (n,); of a map (Q, G), quantity by quantity, with covariances (pairs, G).
pub struct Estimate {
    pub mean: Vec<f64>,
    pub sd: Vec<f64>,
    pub covariance: Vec<f64>,
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

/// The rows, compressed to what a field at one time needs of them: nodes of a family of terms, at most one per station.
///
/// Stations stay where they are and terms are separable, so the covariance of quantity p at a point with the rows is
/// `b_p(x) = T_p u_p(x)`: `u_p` (nodes,) has the spatial correlations with the stations times the amplitude at x,
/// `T_p` (m, nodes) the rest, the coregionalisation and the correlation in time. Terms that differ in time only are one
/// family: they share `u_p`.
pub(crate) struct Compression {
    /// A term of the family, and the station, of every node.
    pub nodes: Vec<(usize, usize)>,
    /// Of every family, in the order of the nodes.
    places: Vec<NodePlaces>,
    /// Per quantity, the nodes that say something about it.
    pub of_quantity: Vec<Vec<usize>>,
    /// Per quantity, the block of rows that may say something about it; none without such rows.
    pub block: Vec<Option<usize>>,
    /// Per quantity, `T_p` at the rows of its block: the others are zero.
    pub temporal: Vec<Matrix>,
}

/// The places of the nodes of one family, one after the other.
struct NodePlaces {
    term: usize,
    /// In the metric of the term, by axis.
    axes: [Vec<f64>; 4],
    /// Where the places of each node end.
    ends: Vec<usize>,
}

impl NodePlaces {
    /// By the nodes of all families.
    fn of(network: &Network, nodes: &[(usize, usize)]) -> Vec<Self> {
        let mut families: Vec<Self> = Vec::new();
        for &(term, station) in nodes {
            if families.last().is_none_or(|family| family.term != term) {
                families.push(Self {
                    term,
                    axes: Default::default(),
                    ends: Vec::new(),
                });
            }
            if let Some(family) = families.last_mut() {
                for &place in network.places_of(station) {
                    let coordinates = network.places(term)[place];
                    for (axis, coordinate) in family.axes.iter_mut().zip(coordinates) {
                        axis.push(coordinate);
                    }
                }
                family.ends.push(family.axes[0].len());
            }
        }
        families
    }

    /// Mean correlation of every node with a point.
    fn fill(&self, network: &Network, latitude_deg: f64, longitude_deg: f64, column: &mut [f64]) {
        let shape = network.terms()[self.term].shape();
        let point = shape.embed(latitude_deg, longitude_deg);
        let [x, y, z, w] = &self.axes;
        let mut correlations: Vec<f64> = x
            .iter()
            .zip(y)
            .zip(z)
            .zip(w)
            .map(|(((x, y), z), w)| {
                (x - point[0]).powi(2)
                    + (y - point[1]).powi(2)
                    + (z - point[2]).powi(2)
                    + (w - point[3]).powi(2)
            })
            .collect();
        shape.spatial_correlations(&mut correlations);
        let mut first = 0;
        for (element, &end) in column.iter_mut().zip(&self.ends) {
            *element = correlations[first..end].iter().sum::<f64>() / (end - first) as f64;
            first = end;
        }
    }
}

/// Terms with the same `u_p`.
struct Family {
    terms: Vec<usize>,
    /// Stations that are its nodes.
    nodes: Vec<usize>,
    /// Where fewer stations than have rows are nodes: the weights (stations, nodes) that give the others.
    weights: Option<Matrix>,
}

impl Family {
    fn new(network: &Network, terms: Vec<usize>, stations: &[usize]) -> Self {
        let shape = network.terms()[terms[0]].shape();
        if shape.is_gaussian() && stations.len() >= FEWEST_TO_REDUCE {
            let (pivots, weights) = interpolation(stations.len(), SPATIAL_TOLERANCE, |a, b| {
                network.spatial_correlation(terms[0], stations[a], stations[b])
            });
            if 2 * pivots.len() < stations.len() {
                let mut of_station = Matrix::zeros(network.n_stations(), pivots.len());
                for (row, &station) in stations.iter().enumerate() {
                    for k in 0..pivots.len() {
                        of_station.set(station, k, weights.get(row, k));
                    }
                }
                return Self {
                    terms,
                    nodes: pivots.into_iter().map(|row| stations[row]).collect(),
                    weights: Some(of_station),
                };
            }
        }
        Self {
            terms,
            nodes: stations.to_vec(),
            weights: None,
        }
    }

    fn of(network: &Network, stations: &[usize]) -> Vec<Self> {
        let terms = network.terms();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for c in (0..terms.len()).filter(|&c| terms[c].is_mapped()) {
            match members
                .iter_mut()
                .find(|of_one| terms[of_one[0]].varies_in_space_as(&terms[c]))
            {
                Some(of_one) => of_one.push(c),
                None => members.push(vec![c]),
            }
        }
        members
            .into_iter()
            .map(|of_one| Self::new(network, of_one, stations))
            .collect()
    }
}

impl Compression {
    fn new(network: &Network, rows: &Rows, blocks: &Blocks, time_h: f64) -> Self {
        let terms = network.terms();
        let group = rows.groups(network);
        let block: Vec<Option<usize>> = group
            .iter()
            .map(|own| {
                blocks
                    .iter()
                    .position(|block| group[rows.quantity[block[0]]] == *own)
            })
            .collect();
        let mut rows_of = vec![Vec::new(); network.n_stations()];
        for (row, &station) in rows.station.iter().enumerate() {
            rows_of[station].push(row);
        }
        let stations: Vec<usize> = (0..network.n_stations())
            .filter(|&s| !rows_of[s].is_empty())
            .collect();
        let families = Family::of(network, &stations);
        // Covariance of quantity p with a row, but for the spatial correlation and the amplitude at the point.
        let between = |family: &Family, p: usize, i: usize| {
            family
                .terms
                .iter()
                .map(|&c| {
                    let scale = terms[c].between_quantities(p, rows.quantity[i]);
                    if scale == 0.0 {
                        return 0.0;
                    }
                    scale
                        * terms[c].factor(rows.amplitude[i])
                        * terms[c]
                            .shape()
                            .temporal_correlation(time_h - rows.time_h[i])
                })
                .sum::<f64>()
        };
        let is_linked = |family: &Family, p: usize, i: usize| {
            family
                .terms
                .iter()
                .any(|&c| terms[c].between_quantities(p, rows.quantity[i]) != 0.0)
        };
        let mut nodes = Vec::new();
        let mut family_of = Vec::new();
        for (f, family) in families.iter().enumerate() {
            for (k, &s) in family.nodes.iter().enumerate() {
                nodes.push((family.terms[0], s));
                family_of.push((f, k));
            }
        }
        let n_quantities = network.n_quantities();
        let of_quantity: Vec<Vec<usize>> = (0..n_quantities)
            .map(|p| {
                (0..nodes.len())
                    .filter(|&node| {
                        let family = &families[family_of[node].0];
                        let any = |rows: &[usize]| rows.iter().any(|&i| is_linked(family, p, i));
                        match family.weights {
                            None => any(&rows_of[nodes[node].1]),
                            Some(_) => rows_of.iter().any(|rows| any(rows)),
                        }
                    })
                    .collect()
            })
            .collect();
        let temporal = of_quantity
            .iter()
            .enumerate()
            .map(|(p, chosen)| {
                let Some(number) = block[p] else {
                    return Matrix::zeros(0, 0);
                };
                let own = blocks.rows(number);
                let scales: Vec<Vec<f64>> = families
                    .iter()
                    .map(|family| own.iter().map(|&i| between(family, p, i)).collect())
                    .collect();
                Matrix::from_columns(own.len(), chosen.len(), |column_number, column| {
                    let (f, k) = family_of[chosen[column_number]];
                    match &families[f].weights {
                        None => {
                            for &i in &rows_of[nodes[chosen[column_number]].1] {
                                let (of_row, place) = blocks.place(i);
                                if of_row == number {
                                    column[place] = scales[f][place];
                                }
                            }
                        }
                        Some(weights) => {
                            for ((element, scale), &i) in column.iter_mut().zip(&scales[f]).zip(own)
                            {
                                *element = scale * weights.get(rows.station[i], k);
                            }
                        }
                    }
                })
            })
            .collect();
        Self {
            places: NodePlaces::of(network, &nodes),
            nodes,
            of_quantity,
            block,
            temporal,
        }
    }

    /// Spatial correlations of every node with a point.
    fn fill(&self, network: &Network, latitude_deg: f64, longitude_deg: f64, column: &mut [f64]) {
        let mut first = 0;
        for family in &self.places {
            let end = first + family.ends.len();
            family.fill(
                network,
                latitude_deg,
                longitude_deg,
                &mut column[first..end],
            );
            first = end;
        }
    }

    /// `u_p(x)` from the spatial correlations.
    fn modulate(&self, terms: &[Term], p: usize, amplitude: f64, spatial: &[f64], u: &mut [f64]) {
        for (element, &k) in u.iter_mut().zip(&self.of_quantity[p]) {
            *element = spatial[k] * terms[self.nodes[k].0].factor(amplitude);
        }
    }

    /// `u_p` at some of the points for every quantity, shapes (nodes of p, points).
    pub fn at(
        &self,
        network: &Network,
        points: &Points<'_>,
        chosen: std::ops::Range<usize>,
    ) -> Vec<Matrix> {
        let terms = network.terms();
        let mut spatial = vec![0.0; self.nodes.len()];
        let mut u: Vec<Matrix> = self
            .of_quantity
            .iter()
            .map(|nodes| Matrix::zeros(nodes.len(), chosen.len()))
            .collect();
        for (j, point) in chosen.enumerate() {
            self.fill(
                network,
                points.latitude_deg[point],
                points.longitude_deg[point],
                &mut spatial,
            );
            for (p, matrix) in u.iter_mut().enumerate() {
                self.modulate(
                    terms,
                    p,
                    points.amplitude(p, point),
                    &spatial,
                    matrix.column_mut(j),
                );
            }
        }
        u
    }
}

/// Of one block of points: means by quantity, covariances by pair of quantities.
type BlockEstimate = (Vec<Vec<f64>>, Vec<Vec<f64>>);

impl Analysis {
    /// Solves for the rows; `threads` 0 takes all cores, `max_jitter` as in [`Rows::factorize`].
    pub fn new(
        network: Network,
        mut rows: Rows,
        max_jitter: f64,
        threads: usize,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        rows.check(&network)?;
        let pool = thread_pool(threads)?;
        let (factor, precision, jitter) = pool.install(|| -> Result<_> {
            let (factor, jitter) = rows.factorize(&network, max_jitter, interrupt)?;
            let precision = factor.inverse(interrupt)?;
            Ok((factor, precision, jitter))
        })?;
        let alpha = precision.times_vector(&rows.innovation);
        Ok(Self {
            network,
            rows,
            factor,
            precision,
            alpha,
            jitter,
            pool,
        })
    }

    pub fn n_obs(&self) -> usize {
        self.rows.len()
    }

    pub fn n_quantities(&self) -> usize {
        self.network.n_quantities()
    }

    /// `S^-1 d`, shape (m,).
    pub fn alpha(&self) -> &[f64] {
        &self.alpha
    }

    /// Share of its variance by which every observation's error variance was raised to make S positive definite.
    pub fn jitter(&self) -> f64 {
        self.jitter
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
        let mut residual: Vec<f64> = self
            .alpha
            .iter()
            .zip(&self.rows.obs_error)
            .map(|(alpha, error)| alpha * error * error)
            .collect();
        for (one, other, covariance) in self.rows.error_covariances() {
            residual[one] += covariance * self.alpha[other];
            residual[other] += covariance * self.alpha[one];
        }
        residual
    }

    pub(crate) fn compress(&self, time_h: f64) -> Compression {
        Compression::new(&self.network, &self.rows, self.precision.blocks(), time_h)
    }

    /// `L^-1 T_p` at the rows of its block, for every quantity.
    pub(crate) fn whiten(
        &self,
        compression: &Compression,
        interrupt: &Interrupt,
    ) -> Result<Vec<Matrix>> {
        compression
            .temporal
            .iter()
            .zip(&compression.block)
            .map(|(temporal, block)| {
                interrupt.check()?;
                Ok(match block {
                    Some(block) => self.factor.factor(*block).solve_lower(temporal.clone()),
                    None => temporal.clone(),
                })
            })
            .collect()
    }

    pub(crate) fn prior_covariance(
        &self,
        points: &Points<'_>,
        p: usize,
        q: usize,
        point: usize,
    ) -> f64 {
        let (a, b) = (points.amplitude(p, point), points.amplitude(q, point));
        self.network
            .terms()
            .iter()
            .filter(|term| term.is_mapped())
            .map(|term| term.between_quantities(p, q) * term.factor(a) * term.factor(b))
            .sum()
    }

    /// Mean and standard deviation of the field of every quantity at points: the terms that are fields only. With
    /// `pairs`, the posterior covariances of these pairs of quantities too.
    ///
    /// The cost is points x nodes^2 for each quantity and pair, and does not depend on the rows.
    pub fn predict(
        &self,
        points: &Points<'_>,
        pairs: &[(usize, usize)],
        interrupt: &Interrupt,
    ) -> Result<Estimate> {
        points.check(&self.network)?;
        let n_quantities = self.n_quantities();
        if let Some((p, q)) = pairs.iter().find(|(p, q)| *p.max(q) >= n_quantities) {
            return Err(invalid(format!(
                "pairs must name quantities in 0..{n_quantities}, got ({p}, {q})"
            )));
        }
        self.pool
            .install(|| self.predict_blocks(points, pairs, interrupt))
    }

    fn predict_blocks(
        &self,
        points: &Points<'_>,
        pairs: &[(usize, usize)],
        interrupt: &Interrupt,
    ) -> Result<Estimate> {
        let n_quantities = self.n_quantities();
        let compression = self.compress(points.time_h);
        let weights: Vec<Vec<f64>> = compression
            .temporal
            .iter()
            .zip(&compression.block)
            .map(|(temporal, block)| match block {
                Some(block) => {
                    let rows = self.precision.blocks().rows(*block);
                    let own: Vec<f64> = rows.iter().map(|&row| self.alpha[row]).collect();
                    temporal.transpose_times_vector(&own)
                }
                None => Vec::new(),
            })
            .collect();
        let whitened = self.whiten(&compression, interrupt)?;
        // Every (p, q) whose covariance is wanted; the first ones are the variances.
        let wanted: Vec<(usize, usize)> = (0..n_quantities)
            .map(|p| (p, p))
            .chain(pairs.iter().copied())
            .collect();
        // None where nothing links the two, or no row tells of them: nothing is explained.
        let block = &compression.block;
        let reductions: Vec<Option<Matrix>> = wanted
            .iter()
            .map(|&(p, q)| {
                (block[p].is_some() && block[p] == block[q])
                    .then(|| whitened[p].transpose_times(&whitened[q]))
            })
            .enumerate()
            // A variance is a quadratic form: one triangle does.
            .map(|(k, reduction)| match reduction {
                Some(matrix) if k < n_quantities => Some(matrix.folded()),
                other => other,
            })
            .collect();
        drop(whitened);
        let n_points = points.len();
        let blocks: Vec<BlockEstimate> = (0..n_points.div_ceil(BLOCK_POINTS))
            .into_par_iter()
            .map(|block| {
                interrupt.check()?;
                let first = block * BLOCK_POINTS;
                let chosen = first..(first + BLOCK_POINTS).min(n_points);
                let u = compression.at(&self.network, points, chosen.clone());
                let mean = (0..n_quantities)
                    .map(|p| {
                        (0..chosen.len())
                            .map(|j| dot(u[p].column(j), &weights[p]))
                            .collect()
                    })
                    .collect();
                let covariance = wanted
                    .iter()
                    .zip(&reductions)
                    .enumerate()
                    .map(|(k, (&(p, q), reduction))| {
                        let Some(reduction) = reduction else {
                            return (0..chosen.len())
                                .map(|j| self.prior_covariance(points, p, q, first + j))
                                .collect();
                        };
                        let reduced = if k < n_quantities {
                            reduction.lower_times(&u[q])
                        } else {
                            reduction.times(&u[q])
                        };
                        (0..chosen.len())
                            .map(|j| {
                                self.prior_covariance(points, p, q, first + j)
                                    - dot(u[p].column(j), reduced.column(j))
                            })
                            .collect()
                    })
                    .collect();
                Ok((mean, covariance))
            })
            .collect::<Result<_>>()?;
        let gather = |rows: std::ops::Range<usize>, part: fn(&BlockEstimate) -> &Vec<Vec<f64>>| {
            rows.flat_map(|k| {
                blocks
                    .iter()
                    .flat_map(move |block| part(block)[k].iter().copied())
            })
            .collect::<Vec<f64>>()
        };
        Ok(Estimate {
            mean: gather(0..n_quantities, |block| &block.0),
            sd: gather(0..n_quantities, |block| &block.1)
                .into_iter()
                .map(|variance| variance.max(0.0).sqrt())
                .collect(),
            covariance: gather(n_quantities..wanted.len(), |block| &block.1),
        })
    }

    /// Mean and standard deviation of what stations would report without error, all terms, shape (n,).
    ///
    /// With `is_held_out` each station's own rows are left out of its prediction; `innovation` replaces the rows'
    /// innovations, as when the background itself is made without some stations. Of a site with a place of its own the
    /// station is only who is left out.
    pub fn predict_sites(
        &self,
        sites: &[Site],
        is_held_out: bool,
        innovation: Option<&[f64]>,
    ) -> Result<Estimate> {
        for site in sites {
            check_finite("time_h", &[site.time_h])?;
            check_finite("amplitude", &[site.amplitude])?;
            if let Some((latitude_deg, longitude_deg)) = site.place {
                check_places(&[latitude_deg], &[longitude_deg], "")?;
            }
            if site.quantity >= self.n_quantities() {
                return Err(invalid(format!(
                    "quantity must lie in 0..{}, got {}",
                    self.n_quantities(),
                    site.quantity
                )));
            }
            self.check_station(site.station)?;
        }
        let alpha = self.alpha_of(innovation)?;
        // Of every station asked for: its rows, and what they would add.
        let mut held: BTreeMap<usize, (Vec<usize>, Cholesky, Vec<f64>)> = BTreeMap::new();
        if is_held_out {
            for site in sites {
                if held.contains_key(&site.station) {
                    continue;
                }
                let rows = self.rows_of(site.station)?;
                let factor = self.held_factor(&rows)?;
                let own: Vec<f64> = rows.iter().map(|&i| alpha[i]).collect();
                let correction = factor.inverse(&Interrupt::default())?.times_vector(&own);
                held.insert(site.station, (rows, factor, correction));
            }
        }
        let mut mean = Vec::with_capacity(sites.len());
        let mut sd = Vec::with_capacity(sites.len());
        for sites in sites.chunks(CHUNK_SITES) {
            let mut cross = self
                .pool
                .install(|| self.network.cross_covariance(&self.rows, sites));
            for (j, site) in sites.iter().enumerate() {
                if let Some((rows, ..)) = held.get(&site.station) {
                    for &row in rows {
                        cross.set(row, j, 0.0);
                    }
                }
            }
            let whitened = self.pool.install(|| self.factor.solve_lower(cross.clone()));
            for (j, site) in sites.iter().enumerate() {
                let column = cross.column(j);
                let mut center = dot(column, &alpha);
                let mut explained = dot(whitened.column(j), whitened.column(j));
                if let Some((rows, factor, correction)) = held.get(&site.station) {
                    // alpha without the station: alpha - C_:I C_II^-1 alpha_I, zero on the station's rows.
                    let own = Matrix::from_columns(rows.len(), 1, |_, values| {
                        for (value, &row) in values.iter_mut().zip(rows) {
                            *value = self.precision.row_times(row, column);
                        }
                    });
                    center -= dot(own.column(0), correction);
                    let own = factor.solve_lower(own);
                    explained -= dot(own.column(0), own.column(0));
                }
                let prior = self.network.prior_variance(site);
                mean.push(center);
                sd.push((prior - explained).max(0.0).sqrt());
            }
        }
        Ok(Estimate {
            mean,
            sd,
            covariance: Vec::new(),
        })
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

    /// Leave-station-out residual `C_II^-1 (C d)_I` and covariance `C_II^-1` of all the station's rows, whatever
    /// their quantity; `innovation` replaces d.
    pub fn leave_station_out(&self, station: usize, innovation: Option<&[f64]>) -> Result<HeldOut> {
        let rows = self.rows_of(station)?;
        let innovation = self.innovation_or(innovation)?;
        let own: Vec<f64> = rows
            .iter()
            .map(|&i| self.precision.row_times(i, innovation))
            .collect();
        let covariance = self.held_factor(&rows)?.inverse(&Interrupt::default())?;
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
        let mut degrees = Vec::with_capacity(self.network.n_stations());
        let mut gain = Vec::with_capacity(self.network.n_stations());
        // Of the errors' correlations: what they add to ln det R_I, and to tr(R_I C_II).
        let mut log_correlation = vec![0.0; self.network.n_stations()];
        for block in self.rows.error_blocks() {
            log_correlation[self.rows.station[block.rows[0]]] +=
                block.correlation_factor()?.log_determinant();
        }
        let mut shared = vec![0.0; self.network.n_stations()];
        for (one, other, covariance) in self.rows.error_covariances() {
            shared[self.rows.station[one]] += 2.0 * covariance * self.precision.get(one, other);
        }
        for station in 0..self.network.n_stations() {
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
                    - shared[station]
                    + 0.0, // an empty sum is -0.0
            );
            let log_error = variances.iter().map(|variance| variance.ln()).sum::<f64>()
                + log_correlation[station];
            gain.push(-0.5 * (self.held_factor(&held)?.log_determinant() + log_error));
        }
        Ok((degrees, gain))
    }

    pub(crate) fn innovation_or<'a>(&'a self, innovation: Option<&'a [f64]>) -> Result<&'a [f64]> {
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

    fn check_station(&self, station: usize) -> Result<()> {
        if station >= self.network.n_stations() {
            return Err(invalid(format!(
                "station must lie in 0..{}, got {station}",
                self.network.n_stations()
            )));
        }
        Ok(())
    }

    pub(crate) fn rows_of(&self, station: usize) -> Result<Vec<usize>> {
        self.check_station(station)?;
        Ok((0..self.n_obs())
            .filter(|&i| self.rows.station[i] == station)
            .collect())
    }

    pub(crate) fn held_factor(&self, rows: &[usize]) -> Result<Cholesky> {
        Self::factor_of(self.precision.select(rows), rows)
    }

    /// Factor of the precision of a station's rows.
    pub(crate) fn factor_of(precision: Matrix, rows: &[usize]) -> Result<Cholesky> {
        Cholesky::new(precision, &Interrupt::default()).map_err(|row| {
            KernelError::NotPositiveDefinite(format!(
                "observation {} cannot be told from the others of its station; give them a larger obs_error",
                rows[row]
            ))
        })
    }
}
