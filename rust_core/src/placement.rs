//! What sounders are worth for a map: the variance that each one buys, that a better or a new one would buy.
//!
//! Everything is read off the factorisation of the analysis. With the row block `u = (S^-1 b(x))_I` of a station,
//! leaving the station out raises the variance at x by `u' C_II^-1 u`; an error variance changed by D lowers it by
//! `-u' (D^-1 + C_II)^-1 u`; a new observation at x* with error variance r lowers it by `c(x,x*)^2 / (c(x*,x*) + r)`,
//! c the posterior covariance. (Woodbury identity; Krause, Singh and Guestrin 2008 for greedy placement by it.)

use rayon::prelude::*;

use crate::analysis::{Analysis, Compression, Points};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::linalg::{Cholesky, Matrix, dot};
use crate::network::{check_length, check_not_negative, invalid};

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
    /// station by station; `of_station` makes `Z` from the station's rows and `(C T_p)_I`.
    fn per_station(
        &self,
        targets: &Targets<'_>,
        interrupt: &Interrupt,
        of_station: impl Fn(&[usize], Vec<Matrix>) -> Result<Vec<Matrix>> + Sync,
    ) -> Result<Vec<f64>> {
        self.check_targets(targets)?;
        self.pool.install(|| {
            let compression = self.compress(targets.points.time_h);
            let grams = self.target_grams(&compression, targets, interrupt)?;
            let solved: Vec<Matrix> = compression
                .temporal
                .iter()
                .zip(&compression.block)
                .map(|(temporal, block)| {
                    interrupt.check()?;
                    Ok(match block {
                        Some(block) => self.precision.part(*block).transpose_times(temporal),
                        None => temporal.clone(),
                    })
                })
                .collect::<Result<_>>()?;
            let values: Vec<Vec<f64>> = (0..self.network.n_stations())
                .into_par_iter()
                .map(|station| {
                    interrupt.check()?;
                    let rows = self.rows_of(station)?;
                    let own = solved
                        .iter()
                        .zip(&compression.block)
                        .map(|(all, block)| self.rows_in_block(&rows, *block, all))
                        .collect();
                    Ok(of_station(&rows, own)?
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
        self.per_station(targets, interrupt, |rows, own| {
            let factor = self.held_factor(rows)?;
            Ok(own
                .into_iter()
                .map(|part| factor.solve_lower(part))
                .collect())
        })
    }

    /// How much the weighted sum of variances over the targets would fall if a station's observation errors were
    /// multiplied by `error_factor`, for each station, (S, Q); negative for a factor above 1.
    pub fn upgrade_gain(
        &self,
        error_factor: f64,
        targets: &Targets<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>> {
        if !(error_factor > 0.0 && error_factor.is_finite()) {
            return Err(invalid(format!(
                "error_factor must be positive, got {error_factor}"
            )));
        }
        // R changes by -sign G G': the matrix in the middle is G (I - sign G' C_II G)^-1 G', times sign.
        let change = 1.0 - error_factor * error_factor;
        let sign = change.signum();
        let mut gain = self.per_station(targets, interrupt, |rows, own| {
            let mut root = self.rows.error_root(rows)?;
            for j in 0..rows.len() {
                let column = root.column_mut(j);
                column
                    .iter_mut()
                    .for_each(|element| *element *= change.abs().sqrt());
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
                    "error_factor = {error_factor} leaves observation {} without any error",
                    rows[row]
                ))
            })?;
            Ok(own
                .into_iter()
                .map(|part| factor.solve_lower(root.transpose_times(&part)))
                .collect())
        })?;
        gain.iter_mut().for_each(|value| *value *= sign);
        Ok(gain)
    }

    /// How much the weighted sum of variances over the targets would fall with one new station at each candidate, (K,
    /// Q) candidate by candidate: a single sounding at the targets' time, with `noise` (Q,) one sd, infinite for a
    /// quantity that it does not observe. What the prior says of a station's own bias counts as noise too.
    ///
    /// The cost is candidates x targets x (nodes + terms) for each pair of quantities.
    pub fn candidate_gain(
        &self,
        candidates: &Points<'_>,
        noise: &[f64],
        targets: &Targets<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>> {
        candidates.check(&self.network)?;
        self.check_targets(targets)?;
        let n_quantities = self.n_quantities();
        check_length("noise", noise.len(), n_quantities, "sd")?;
        check_not_negative("noise", noise)?;
        if candidates.time_h != targets.points.time_h {
            return Err(invalid(format!(
                "candidates must have the time of the targets, {}, got {}",
                targets.points.time_h, candidates.time_h
            )));
        }
        let observed: Vec<usize> = (0..n_quantities)
            .filter(|&q| noise[q].is_finite())
            .collect();
        self.pool.install(|| {
            let compression = self.compress(candidates.time_h);
            let whitened = self.whiten(&compression, interrupt)?;
            let at_candidates = compression.at(&self.network, candidates, 0..candidates.len());
            // [p][o]: M_pq u_q(x*) of every candidate, the part of the posterior covariance that the rows explain.
            let explained: Vec<Vec<Matrix>> = (0..n_quantities)
                .map(|p| {
                    observed
                        .iter()
                        .map(|&q| {
                            let between = if compression.block[p] == compression.block[q] {
                                whitened[q].transpose_times(&whitened[p])
                            } else {
                                Matrix::zeros(whitened[q].n_columns(), whitened[p].n_columns())
                            };
                            between.transpose_times(&at_candidates[q])
                        })
                        .collect()
                })
                .collect();
            let factors: Vec<Cholesky> = (0..candidates.len())
                .map(|k| {
                    self.candidate_factor(
                        k,
                        candidates,
                        noise,
                        &observed,
                        &at_candidates,
                        &explained,
                    )
                })
                .collect::<Result<_>>()?;
            let mut gain = vec![0.0; candidates.len() * n_quantities];
            for chunk in targets.chunks() {
                interrupt.check()?;
                let u = compression.at(&self.network, &targets.points, chunk.clone());
                gain.par_chunks_mut(n_quantities).enumerate().try_for_each(
                    |(k, own)| -> Result<()> {
                        interrupt.check()?;
                        let prior =
                            self.correlations_with(candidates, k, &targets.points, chunk.clone());
                        for (p, total) in own.iter_mut().enumerate() {
                            let mut covariance = Matrix::zeros(observed.len(), chunk.len());
                            for (o, &q) in observed.iter().enumerate() {
                                for (j, point) in chunk.clone().enumerate() {
                                    let a = targets.points.amplitude(p, point);
                                    let b = candidates.amplitude(q, k);
                                    let before: f64 = prior
                                        .column(j)
                                        .iter()
                                        .zip(self.network.terms())
                                        .map(|(correlation, term)| {
                                            correlation
                                                * term.between_quantities(p, q)
                                                * term.factor(a)
                                                * term.factor(b)
                                        })
                                        .sum();
                                    let after =
                                        before - dot(u[p].column(j), explained[p][o].column(k));
                                    covariance.set(o, j, after);
                                }
                            }
                            let reduced = factors[k].solve_lower(covariance);
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

    /// Spatial correlation of every term with a candidate, shape (terms, points); 0 for station terms.
    fn correlations_with(
        &self,
        candidates: &Points<'_>,
        candidate: usize,
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
            .map(|shape| {
                shape.embed(
                    candidates.latitude_deg[candidate],
                    candidates.longitude_deg[candidate],
                )
            })
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

    /// Factor of the covariance of what a candidate would observe, given the rows.
    fn candidate_factor(
        &self,
        k: usize,
        candidates: &Points<'_>,
        noise: &[f64],
        observed: &[usize],
        at_candidates: &[Matrix],
        explained: &[Vec<Matrix>],
    ) -> Result<Cholesky> {
        let mut covariance = Matrix::zeros(observed.len(), observed.len());
        for (i, &p) in observed.iter().enumerate() {
            for (j, &q) in observed.iter().enumerate() {
                let (a, b) = (candidates.amplitude(p, k), candidates.amplitude(q, k));
                let prior: f64 = self
                    .network
                    .terms()
                    .iter()
                    .map(|term| term.between_quantities(p, q) * term.factor(a) * term.factor(b))
                    .sum();
                let own = if i == j { noise[p].powi(2) } else { 0.0 };
                let known = dot(at_candidates[p].column(k), explained[p][j].column(k));
                covariance.set(i, j, prior - known + own);
            }
        }
        Cholesky::new(covariance, &Interrupt::default()).map_err(|row| {
            invalid(format!(
                "candidate {k} would say nothing new of quantity {}; give it noise",
                observed[row]
            ))
        })
    }
}
