//! What sounders are worth for a map: the variance that each one buys, that a better or a new one would buy.
//!
//! Everything is read off the factorisation of the analysis. With the row block `u = (S^-1 b(x))_I` of a station,
//! leaving the station out raises the variance at x by `u' C_II^-1 u`; an error variance changed by D lowers it by
//! `-u' (D^-1 + C_II)^-1 u`; new observations at x* with error variances R lower it by
//! `c(x,x*) (c(x*,x*) + R)^-1 c(x*,x)`, c the posterior covariance. (Woodbury identity; Krause, Singh and Guestrin 2008 for greedy placement by it.)

use rayon::prelude::*;

use crate::analysis::{Analysis, Compression, Points};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::linalg::{Cholesky, Matrix, dot};
use crate::network::{
    Network, Site, check_finite, check_length, check_not_negative, check_places, invalid,
};

/// Points whose spatial correlations are held at a time.
const CHUNK_POINTS: usize = 4096;

/// Points whose variance counts, with their weights (G,).
pub struct Targets<'a> {
    pub points: Points<'a>,
    pub weight: &'a [f64],
}

impl Targets<'_> {
    fn chunks(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let n = self.points.len();
        (0..n)
            .step_by(CHUNK_POINTS)
            .map(move |first| first..(first + CHUNK_POINTS).min(n))
    }
}

/// A new station at each of several places (K,), which sounds at the same times everywhere.
pub struct Candidates<'a> {
    pub latitude_deg: &'a [f64],
    pub longitude_deg: &'a [f64],
    /// Of each sounding (J,).
    pub time_h: &'a [f64],
    /// One sd of each value (J, Q, K); infinite for what is not observed.
    pub noise: &'a [f64],
    /// Factor on modulated terms (J, Q, K); None: 1.
    pub amplitude: Option<&'a [f64]>,
}

/// One value that a candidate would observe.
struct NewRow {
    sounding: usize,
    quantity: usize,
    time_h: f64,
    noise: f64,
    amplitude: f64,
}

/// A candidate as it is met by the targets.
struct NewStation {
    rows: Vec<NewRow>,
    factor: Cholesky,
    /// Per quantity p, what the analysis' rows explain of its covariance with the rows, (nodes of p, rows); None where
    /// nothing correlates them.
    explained: Vec<Option<Matrix>>,
}

impl Candidates<'_> {
    pub fn len(&self) -> usize {
        self.latitude_deg.len()
    }

    pub fn is_empty(&self) -> bool {
        self.latitude_deg.is_empty()
    }

    fn check(&self, network: &Network) -> Result<()> {
        check_places(self.latitude_deg, self.longitude_deg, "candidate_")?;
        check_finite("candidate_time_h", self.time_h)?;
        let (n, of) = (
            self.time_h.len() * network.n_quantities() * self.len(),
            "soundings x quantities x candidates",
        );
        check_length("noise", self.noise.len(), n, of)?;
        check_not_negative("noise", self.noise)?;
        if let Some(amplitude) = self.amplitude {
            check_length("candidate_amplitude", amplitude.len(), n, of)?;
            check_finite("candidate_amplitude", amplitude)?;
        }
        Ok(())
    }

    fn points(&self, sounding: usize, n_quantities: usize) -> Points<'_> {
        let size = n_quantities * self.len();
        Points {
            latitude_deg: self.latitude_deg,
            longitude_deg: self.longitude_deg,
            time_h: self.time_h[sounding],
            amplitude: self
                .amplitude
                .map(|values| &values[sounding * size..(sounding + 1) * size]),
        }
    }

    fn is_observed(&self, sounding: usize, quantity: usize) -> bool {
        let n_quantities = self.noise.len() / (self.time_h.len() * self.len()).max(1);
        let first = (sounding * n_quantities + quantity) * self.len();
        self.noise[first..first + self.len()]
            .iter()
            .any(|noise| noise.is_finite())
    }

    /// What the station at one of the places observes.
    fn rows(&self, k: usize, n_quantities: usize) -> Vec<NewRow> {
        let mut rows = Vec::new();
        for sounding in 0..self.time_h.len() {
            for quantity in 0..n_quantities {
                let at = (sounding * n_quantities + quantity) * self.len() + k;
                if self.noise[at].is_finite() {
                    rows.push(NewRow {
                        sounding,
                        quantity,
                        time_h: self.time_h[sounding],
                        noise: self.noise[at],
                        amplitude: self.amplitude.map_or(1.0, |values| values[at]),
                    });
                }
            }
        }
        rows
    }
}

impl Analysis {
    fn check_targets(&self, targets: &Targets<'_>) -> Result<()> {
        targets.points.check(&self.network)?;
        check_length(
            "weight",
            targets.weight.len(),
            targets.points.len(),
            "the points",
        )?;
        check_not_negative("weight", targets.weight)
    }

    /// Per quantity, the sum over the targets of `w u_p u_p'`, shape (nodes of p, nodes of p).
    fn target_grams(
        &self,
        compression: &Compression,
        targets: &Targets<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<Matrix>> {
        let mut grams: Vec<Matrix> = compression
            .of_quantity
            .iter()
            .map(|nodes| Matrix::zeros(nodes.len(), nodes.len()))
            .collect();
        for chunk in targets.chunks() {
            interrupt.check()?;
            let mut u = compression.at(&self.network, &targets.points, chunk.clone());
            for (gram, u) in grams.iter_mut().zip(&mut u) {
                for (j, point) in chunk.clone().enumerate() {
                    let root = targets.weight[point].sqrt();
                    u.column_mut(j).iter_mut().for_each(|value| *value *= root);
                }
                gram.add(&u.outer());
            }
        }
        Ok(grams)
    }

    /// Weighted sum over the targets of `|Z u_p|^2` with `Z` (k, nodes of p) for every station and quantity, (S, Q)
    /// station by station; `of_station` makes `Z` from the station, its rows and its part of `C T_p`, or of `T_p` itself
    /// where it is taken alone.
    fn per_station(
        &self,
        targets: &Targets<'_>,
        is_alone: bool,
        interrupt: &Interrupt,
        of_station: impl Fn(usize, &[usize], Vec<Matrix>) -> Result<Vec<Matrix>> + Sync,
    ) -> Result<Vec<f64>> {
        self.check_targets(targets)?;
        self.pool.install(|| {
            let compression = self.compress(targets.points.time_h);
            let grams = self.target_grams(&compression, targets, interrupt)?;
            let basis: Vec<Matrix> = compression
                .temporal
                .iter()
                .zip(&compression.block)
                .map(|(temporal, block)| {
                    interrupt.check()?;
                    Ok(match block {
                        Some(block) if !is_alone => {
                            self.precision.part(*block).transpose_times(temporal)
                        }
                        _ => temporal.clone(),
                    })
                })
                .collect::<Result<_>>()?;
            let values: Vec<Vec<f64>> = (0..self.network.n_stations())
                .into_par_iter()
                .map(|station| {
                    interrupt.check()?;
                    let rows = self.rows_of(station)?;
                    let own = basis
                        .iter()
                        .zip(&compression.block)
                        .map(|(all, block)| self.rows_in_block(&rows, *block, all))
                        .collect();
                    Ok(of_station(station, &rows, own)?
                        .iter()
                        .zip(&grams)
                        .map(|(z, gram)| dot(z.times(gram).as_slice(), z.as_slice()))
                        .collect())
                })
                .collect::<Result<_>>()?;
            Ok(values.concat())
        })
    }

    /// Of values at the rows of a block, those at some rows, zero where these are of other blocks.
    fn rows_in_block(&self, rows: &[usize], block: Option<usize>, values: &Matrix) -> Matrix {
        Matrix::from_columns(rows.len(), values.n_columns(), |j, column| {
            for (element, &row) in column.iter_mut().zip(rows) {
                let (of_row, place) = self.precision.blocks().place(row);
                if block == Some(of_row) {
                    *element = values.get(place, j);
                }
            }
        })
    }

    /// How much the weighted sum of variances over the targets would rise without each station, (S, Q).
    pub fn variance_bought(
        &self,
        targets: &Targets<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>> {
        self.per_station(targets, false, interrupt, |_, rows, own| {
            let factor = self.held_factor(rows)?;
            Ok(own
                .into_iter()
                .map(|part| factor.solve_lower(part))
                .collect())
        })
    }

    /// How much the weighted sum of prior variances over the targets would fall with each station alone, (S, Q).
    pub fn variance_bought_alone(
        &self,
        targets: &Targets<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>> {
        self.per_station(targets, true, interrupt, |_, chosen, own| {
            let rows = self.rows.select(chosen);
            let sites: Vec<Site> = (0..rows.len()).map(|row| rows.site(row)).collect();
            let mut covariance = self.network.cross_covariance(&rows, &sites);
            let root = self.rows.error_root(chosen)?;
            covariance.add(&root.outer());
            let factor = Self::factor_of(covariance, chosen)?;
            Ok(own
                .into_iter()
                .map(|part| factor.solve_lower(part))
                .collect())
        })
    }

    /// How much the weighted sum of variances over the targets would fall if the observation errors of one station were
    /// multiplied by its `error_factor` (S,), for each station, (S, Q); negative for a factor above 1.
    pub fn upgrade_gain(
        &self,
        error_factor: &[f64],
        targets: &Targets<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>> {
        check_length(
            "error_factor",
            error_factor.len(),
            self.network.n_stations(),
            "the stations",
        )?;
        if let Some(value) = error_factor
            .iter()
            .find(|value| !(**value > 0.0 && value.is_finite()))
        {
            return Err(invalid(format!(
                "error_factor must be positive, got {value}"
            )));
        }
        // R changes by -sign G G': the matrix in the middle is G (I - sign G' C_II G)^-1 G', times sign.
        let change: Vec<f64> = error_factor
            .iter()
            .map(|value| 1.0 - value * value)
            .collect();
        let mut gain = self.per_station(targets, false, interrupt, |station, rows, own| {
            let sign = change[station].signum();
            let mut root = self.rows.error_root(rows)?;
            for j in 0..rows.len() {
                let column = root.column_mut(j);
                column
                    .iter_mut()
                    .for_each(|element| *element *= change[station].abs().sqrt());
            }
            let product = root.transpose_times(&self.precision.select(rows).times(&root));
            let mut inner = Matrix::identity(rows.len());
            for j in 0..rows.len() {
                for i in 0..rows.len() {
                    inner.set(i, j, inner.get(i, j) - sign * product.get(i, j));
                }
            }
            let factor = Cholesky::new(inner, &Interrupt::default()).map_err(|row| {
                invalid(format!(
                    "error_factor = {} leaves observation {} without any error",
                    error_factor[station], rows[row]
                ))
            })?;
            Ok(own
                .into_iter()
                .map(|part| factor.solve_lower(root.transpose_times(&part)))
                .collect())
        })?;
        for (own, change) in gain.chunks_mut(self.n_quantities()).zip(&change) {
            own.iter_mut().for_each(|value| *value *= change.signum());
        }
        Ok(gain)
    }

    /// How much the weighted sum of variances over the targets would fall with one new station at each candidate place,
    /// (K, Q) place by place. What the prior says of a station's own bias counts, common to its soundings.
    ///
    /// The cost is candidates x rows of one candidate x (rows x nodes + targets x (nodes + terms)), the memory candidates x
    /// rows of one candidate x rows.
    pub fn candidate_gain(
        &self,
        candidates: &Candidates<'_>,
        targets: &Targets<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>> {
        let n_quantities = self.n_quantities();
        candidates.check(&self.network)?;
        self.check_targets(targets)?;
        self.pool.install(|| {
            // Of every sounding and quantity, `L^-1` times the covariance of the rows of its block with it at every place,
            // (rows, K); None where nobody observes it or no row tells of it.
            let covariances: Vec<Vec<Option<Matrix>>> = (0..candidates.time_h.len())
                .into_par_iter()
                .map(|number| {
                    interrupt.check()?;
                    let compression = self.compress(candidates.time_h[number]);
                    let places = candidates.points(number, n_quantities);
                    let u = compression.at(&self.network, &places, 0..places.len());
                    Ok((0..n_quantities)
                        .map(|q| {
                            let temporal = &compression.temporal[q];
                            let block = compression.block[q]?;
                            let factor = self.factor.factor(block);
                            // The solve is what costs: of the nodes or of the places, whatever is less.
                            candidates.is_observed(number, q).then(|| {
                                if temporal.n_columns() <= places.len() {
                                    factor.solve_lower(temporal.clone()).times(&u[q])
                                } else {
                                    factor.solve_lower(temporal.times(&u[q]))
                                }
                            })
                        })
                        .collect())
                })
                .collect::<Result<_>>()?;
            let now = self.compress(targets.points.time_h);
            let whitened = self.whiten(&now, interrupt)?;
            let group = self.rows.groups(&self.network);
            let stations: Vec<NewStation> = (0..candidates.len())
                .into_par_iter()
                .map(|k| {
                    interrupt.check()?;
                    let rows = candidates.rows(k, n_quantities);
                    let known: Vec<Option<&[f64]>> = rows
                        .iter()
                        .map(|row| {
                            let all = covariances[row.sounding][row.quantity].as_ref()?;
                            Some(all.column(k))
                        })
                        .collect();
                    let factor = self.candidate_factor(k, &rows, &known, &group)?;
                    let explained = (0..n_quantities)
                        .map(|p| {
                            rows.iter()
                                .any(|row| group[row.quantity] == group[p])
                                .then(|| {
                                    let own = Matrix::from_columns(
                                        whitened[p].n_rows(),
                                        rows.len(),
                                        |j, column| {
                                            if let (Some(known), true) =
                                                (known[j], group[rows[j].quantity] == group[p])
                                            {
                                                column.copy_from_slice(known);
                                            }
                                        },
                                    );
                                    whitened[p].transpose_times(&own)
                                })
                        })
                        .collect();
                    Ok(NewStation {
                        rows,
                        factor,
                        explained,
                    })
                })
                .collect::<Result<_>>()?;
            let mut gain = vec![0.0; candidates.len() * n_quantities];
            for chunk in targets.chunks() {
                interrupt.check()?;
                let u = now.at(&self.network, &targets.points, chunk.clone());
                gain.par_chunks_mut(n_quantities).enumerate().try_for_each(
                    |(k, own)| -> Result<()> {
                        interrupt.check()?;
                        let station = &stations[k];
                        let prior = self.correlations_with(
                            (candidates.latitude_deg[k], candidates.longitude_deg[k]),
                            &targets.points,
                            chunk.clone(),
                        );
                        for (p, total) in own.iter_mut().enumerate() {
                            let Some(explained) = &station.explained[p] else {
                                continue;
                            };
                            let covariance = self.with_targets(
                                station,
                                explained,
                                &prior,
                                &u[p],
                                targets,
                                p,
                                chunk.start,
                            );
                            let reduced = station.factor.solve_lower(covariance);
                            for (j, point) in chunk.clone().enumerate() {
                                *total += targets.weight[point]
                                    * dot(reduced.column(j), reduced.column(j));
                            }
                        }
                        Ok(())
                    },
                )?;
            }
            Ok(gain)
        })
    }

    /// Posterior covariance of a new station's rows with quantity p at targets from `first` on, shape (rows, targets).
    #[allow(clippy::too_many_arguments)]
    fn with_targets(
        &self,
        station: &NewStation,
        explained: &Matrix,
        prior: &Matrix,
        u: &Matrix,
        targets: &Targets<'_>,
        p: usize,
        first: usize,
    ) -> Matrix {
        let terms = self.network.terms();
        let time_h = targets.points.time_h;
        let scale = Matrix::from_columns(station.rows.len(), terms.len(), |c, column| {
            for (element, row) in column.iter_mut().zip(&station.rows) {
                *element = terms[c].between_quantities(p, row.quantity)
                    * terms[c].factor(row.amplitude)
                    * terms[c].shape().temporal_correlation(time_h - row.time_h);
            }
        });
        let mut covariance = explained.transpose_times(u);
        for j in 0..covariance.n_columns() {
            let amplitude = targets.points.amplitude(p, first + j);
            let column = covariance.column_mut(j);
            column.iter_mut().for_each(|value| *value = -*value);
            for (c, term) in terms.iter().enumerate() {
                let spatial = prior.get(c, j) * term.factor(amplitude);
                if spatial != 0.0 {
                    for (value, scale) in column.iter_mut().zip(scale.column(c)) {
                        *value += spatial * scale;
                    }
                }
            }
        }
        covariance
    }

    /// Spatial correlation of every term with a place, shape (terms, points); 0 for station terms.
    fn correlations_with(
        &self,
        (latitude_deg, longitude_deg): (f64, f64),
        points: &Points<'_>,
        chosen: std::ops::Range<usize>,
    ) -> Matrix {
        let shapes: Vec<_> = self
            .network
            .terms()
            .iter()
            .map(|term| term.shape())
            .collect();
        let own: Vec<_> = shapes
            .iter()
            .map(|shape| shape.embed(latitude_deg, longitude_deg))
            .collect();
        let mut correlations = Matrix::zeros(shapes.len(), chosen.len());
        for (j, point) in chosen.enumerate() {
            for (c, (shape, own)) in shapes.iter().zip(&own).enumerate() {
                let place = shape.embed(points.latitude_deg[point], points.longitude_deg[point]);
                correlations.set(c, j, shape.spatial_correlation(&place, own));
            }
        }
        correlations
    }

    /// Factor of the covariance of what a candidate would observe, given the analysis' rows; `known` is `L^-1` times
    /// their covariance with each of its own, `group` the quantities that go together.
    fn candidate_factor(
        &self,
        k: usize,
        rows: &[NewRow],
        known: &[Option<&[f64]>],
        group: &[usize],
    ) -> Result<Cholesky> {
        let terms = self.network.terms();
        let mut covariance = Matrix::zeros(rows.len(), rows.len());
        for (j, b) in rows.iter().enumerate() {
            for (i, a) in rows.iter().enumerate().skip(j) {
                let prior: f64 = terms
                    .iter()
                    .map(|term| {
                        let scale = term.between_quantities(a.quantity, b.quantity);
                        if scale == 0.0 {
                            return 0.0;
                        }
                        scale
                            * (term.factor(a.amplitude) * term.factor(b.amplitude))
                            * term.shape().temporal_correlation(a.time_h - b.time_h)
                    })
                    .sum();
                let own = if i == j { a.noise.powi(2) } else { 0.0 };
                let explained = match (known[i], known[j]) {
                    (Some(one), Some(other)) if group[a.quantity] == group[b.quantity] => {
                        dot(one, other)
                    }
                    _ => 0.0,
                };
                let value = prior - explained + own;
                covariance.set(i, j, value);
                covariance.set(j, i, value);
            }
        }
        Cholesky::new(covariance, &Interrupt::default()).map_err(|row| {
            invalid(format!(
                "candidate {k} would say nothing new of quantity {} at time_h {}; give it noise",
                rows[row].quantity, rows[row].time_h
            ))
        })
    }
}
