//! Quality control of observations before the analysis: each keeps the flag that stopped it, and a weight.
//!
//! In order: physical limits; background check `|d| > k sqrt(S_ii)`; leave-one-out buddy check, the worst
//! observation rejected first and the others judged anew; robust weights for what remains (Huber 1964: 1 up to
//! a threshold of the leave-one-out score z, threshold / |z| beyond, the error variance divided by the weight).
//!
//! Rejecting an observation or changing its error is a rank-one change of C = S^-1, so the whole chain costs
//! one factorisation: with `delta` added to the error variance of row i,
//! `C' = C - C_:i C_i: delta / (1 + delta C_ii)`, and rejection is the limit of infinite `delta`. Where errors of several
//! rows go together a weight changes their covariances too, by `D` in rows and columns B:
//! `C' = C - C_:B (I + D C_BB)^-1 D C_B:`.

use crate::arguments::thread_pool;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::linalg::Matrix;
use crate::network::{ErrorLink, Network, Rows, check_index, check_length, invalid};

/// Sweeps of the robust weights: they settle to 1 % within three.
const WEIGHT_SWEEPS: usize = 3;
/// One in this many rows: more rank-one changes, each passing once over C on one core, cost more than a factorisation.
const CHEAPER_ANEW: usize = 8;

/// Why an observation was stopped, or that it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    Accepted = 0,
    PhysicalLimits = 1,
    BackgroundCheck = 2,
    BuddyCheck = 3,
}

impl Flag {
    pub const NAMES: [&str; 4] = [
        "accepted",
        "physical_limits",
        "background_check",
        "buddy_check",
    ];
}

/// Thresholds of the checks.
#[derive(Clone, Debug)]
pub struct Thresholds {
    /// Physical limits of the observed value, one per quantity.
    pub minimum: Vec<f64>,
    pub maximum: Vec<f64>,
    /// Limit of the background check in standard deviations of the innovation.
    pub background_sd: f64,
    /// Limit of the buddy check in standard deviations of the leave-one-out residual.
    pub buddy_sd: f64,
    /// Score up to which an observation keeps its full weight.
    pub full_weight_sd: f64,
    /// As for [`Rows::factorize`].
    pub max_jitter: f64,
}

/// Flag and weight of every observation.
pub struct Screening {
    pub flag: Vec<Flag>,
    /// 0 for a stopped observation, else 0..1; the effective error is `obs_error / sqrt(weight)`.
    pub weight: Vec<f64>,
}

/// C and `C d` of the observations that are still in, under rank-one changes.
struct Judged {
    precision: Matrix,
    alpha: Vec<f64>,
}

impl Judged {
    /// Adds `delta` to the error variance of row `i`; infinite takes the row out.
    fn change_error(&mut self, i: usize, delta: f64) {
        let column = self.precision.column(i).to_vec();
        let own = column[i];
        let factor = if delta.is_infinite() {
            1.0 / own
        } else {
            delta / (1.0 + delta * own)
        };
        let alpha = self.alpha[i];
        for (j, &element) in column.iter().enumerate() {
            self.alpha[j] -= factor * element * alpha;
            let scale = factor * element;
            if scale != 0.0 {
                for (value, &other) in self.precision.column_mut(j).iter_mut().zip(&column) {
                    *value -= scale * other;
                }
            }
        }
    }
}

/// Whose errors go with those of each row, and how they are correlated.
struct Partners {
    of_row: Vec<Vec<(usize, f64)>>,
}

impl Partners {
    fn new(rows: &Rows) -> Self {
        let mut of_row = vec![Vec::new(); rows.len()];
        for &ErrorLink {
            one,
            other,
            correlation,
        } in &rows.error_links
        {
            of_row[one].push((other, correlation));
            of_row[other].push((one, correlation));
        }
        Self { of_row }
    }

    /// The partners of row `i` that are still in, and the covariance of their errors with an error of one sd.
    fn within<'a>(
        &'a self,
        i: usize,
        rows: &'a Rows,
        weight: &'a [Option<f64>],
    ) -> impl Iterator<Item = (usize, f64)> + 'a {
        self.of_row[i].iter().filter_map(move |&(j, correlation)| {
            weight[j].map(|own| (j, correlation * rows.obs_error[j] / own.sqrt()))
        })
    }
}

impl Judged {
    /// Score of row `i`, whose weight is `old`, as if its weight were 1, so that a weight does not excuse itself.
    fn nominal_score(
        &self,
        i: usize,
        old: f64,
        rows: &Rows,
        partners: &Partners,
        weight: &[Option<f64>],
    ) -> f64 {
        let variance = rows.obs_error[i].powi(2);
        let own = self.precision.get(i, i);
        let mut residual = self.alpha[i] / own;
        let mut nominal = 1.0 / own - variance / old + variance;
        // With r the covariances of the error at weight 1 with the other rows, at weight w they are r / sqrt(w). S_o is
        // the covariance of the others, of which C knows the inverse: C_oo - C_oi C_io / C_ii.
        let shared: Vec<(usize, f64)> = partners
            .within(i, rows, weight)
            .map(|(j, covariance)| (j, covariance * rows.obs_error[i]))
            .collect();
        if !shared.is_empty() {
            let (mut of_alpha, mut of_own, mut squared) = (0.0, 0.0, 0.0);
            for &(j, r) in &shared {
                of_alpha += r * (self.alpha[j] - self.precision.get(j, i) * residual);
                of_own += r * self.precision.get(j, i) / own;
                for &(k, s) in &shared {
                    let between = self.precision.get(j, k)
                        - self.precision.get(j, i) * self.precision.get(k, i) / own;
                    squared += r * s * between;
                }
            }
            let change = 1.0 - 1.0 / old.sqrt();
            // S_oi grows by change r: the prediction by change r' S_o^-1 d_o, the variance falls by
            // 2 change r' S_o^-1 S_oi + change^2 r' S_o^-1 r, where S_o^-1 S_oi = -C_oi / C_ii.
            residual -= change * of_alpha;
            nominal += 2.0 * change * of_own - change * change * squared;
        }
        residual.abs() / nominal.sqrt()
    }

    /// Gives row `i` the weight `new` instead of `old`; the weights of the others are `weight`.
    fn change_weight(
        &mut self,
        i: usize,
        (old, new): (f64, f64),
        rows: &Rows,
        partners: &Partners,
        weight: &[Option<f64>],
    ) {
        let variance = rows.obs_error[i].powi(2);
        let delta = variance / new - variance / old;
        let shared: Vec<(usize, f64)> = partners.within(i, rows, weight).collect();
        if shared.is_empty() {
            self.change_error(i, delta);
            return;
        }
        let block: Vec<usize> = std::iter::once(i)
            .chain(shared.iter().map(|&(j, _)| j))
            .collect();
        let mut change = Matrix::zeros(block.len(), block.len());
        change.set(0, 0, delta);
        for (k, &(_, covariance)) in shared.iter().enumerate() {
            let value = covariance * rows.obs_error[i] * (1.0 / new.sqrt() - 1.0 / old.sqrt());
            change.set(0, k + 1, value);
            change.set(k + 1, 0, value);
        }
        self.change_errors(&block, &change);
    }

    /// Adds `change` to the error covariances of the rows `block`.
    fn change_errors(&mut self, block: &[usize], change: &Matrix) {
        let n = block.len();
        let mut inner = change.times(&self.precision.select(block));
        for k in 0..n {
            inner.set(k, k, inner.get(k, k) + 1.0);
        }
        let middle = inner.solve(change);
        let columns: Vec<Vec<f64>> = block
            .iter()
            .map(|&i| self.precision.column(i).to_vec())
            .collect();
        // K C_B:, K the middle, symmetric but for rounding.
        let weighted: Vec<Vec<f64>> = (0..n)
            .map(|a| {
                let mut sum = vec![0.0; columns[a].len()];
                for (b, column) in columns.iter().enumerate() {
                    let factor = 0.5 * (middle.get(a, b) + middle.get(b, a));
                    for (total, &element) in sum.iter_mut().zip(column) {
                        *total += factor * element;
                    }
                }
                sum
            })
            .collect();
        let alpha: Vec<f64> = block.iter().map(|&i| self.alpha[i]).collect();
        for (own, weights) in alpha.iter().zip(&weighted) {
            for (value, weight) in self.alpha.iter_mut().zip(weights) {
                *value -= weight * own;
            }
        }
        for j in 0..self.precision.n_columns() {
            for (weights, column) in weighted.iter().zip(&columns) {
                let scale = column[j];
                if scale != 0.0 {
                    let target = self.precision.column_mut(j);
                    for (value, &weight) in target.iter_mut().zip(weights) {
                        *value -= scale * weight;
                    }
                }
            }
        }
    }
}

/// Screens observations of `value` (physical unit, for the limits) with the innovations in `rows`.
///
/// An innovation that is not finite (a value whose logarithm does not exist) must be outside the limits.
pub fn screen(
    network: &Network,
    rows: &Rows,
    value: &[f64],
    thresholds: &Thresholds,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<Screening> {
    let m = rows.len();
    rows.check_lengths()?;
    check_length("value", value.len(), m, "station")?;
    let n_quantities = network.n_quantities();
    check_length("minimum", thresholds.minimum.len(), n_quantities, "sd")?;
    check_length("maximum", thresholds.maximum.len(), n_quantities, "sd")?;
    for (name, number) in [
        ("background_sd", thresholds.background_sd),
        ("buddy_sd", thresholds.buddy_sd),
        ("full_weight_sd", thresholds.full_weight_sd),
    ] {
        if number.is_nan() || number <= 0.0 {
            return Err(invalid(format!("{name} must be positive, got {number}")));
        }
    }
    check_index("station", &rows.station, network.n_stations())?;
    let mut flag = vec![Flag::Accepted; m];
    let mut weight = vec![0.0; m];
    for i in 0..m {
        let quantity = rows.quantity[i];
        if quantity >= n_quantities {
            return Err(invalid(format!(
                "quantity must lie in 0..{n_quantities}, got {quantity}"
            )));
        }
        let is_possible =
            value[i] >= thresholds.minimum[quantity] && value[i] <= thresholds.maximum[quantity];
        let variance = network.prior_variance(&rows.site(i)) + rows.obs_error[i].powi(2);
        if !is_possible {
            flag[i] = Flag::PhysicalLimits;
        } else if rows.innovation[i].abs() > thresholds.background_sd * variance.sqrt() {
            flag[i] = Flag::BackgroundCheck;
        }
    }
    let kept: Vec<usize> = (0..m).filter(|&i| flag[i] == Flag::Accepted).collect();
    let candidates = rows.select(&kept);
    candidates.check(network)?;
    // Quantities that nothing correlates cannot judge each other: smaller matrices, the same verdicts.
    for block in candidates.blocks(network).iter() {
        let block: Vec<usize> = block.iter().map(|&k| kept[k]).collect();
        let verdicts = judge(network, rows.select(&block), thresholds, threads, interrupt)?;
        for (&i, verdict) in block.iter().zip(verdicts) {
            match verdict {
                Some(own) => weight[i] = own,
                None => flag[i] = Flag::BuddyCheck,
            }
        }
    }
    Ok(Screening { flag, weight })
}

/// Buddy check and robust weights: the weight of every row, none for a rejected one.
fn judge(
    network: &Network,
    mut rows: Rows,
    thresholds: &Thresholds,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<Option<f64>>> {
    let pool = thread_pool(threads)?;
    let precision = pool.install(|| {
        rows.factorize(network, thresholds.max_jitter, interrupt)
            .and_then(|(factor, _)| factor.into_inverse(interrupt))
    })?;
    let precision = precision.into_full();
    let mut judged = Judged {
        alpha: precision.times_vector(&rows.innovation),
        precision,
    };
    let mut weight = vec![Some(1.0); rows.len()];

    // Buddy check: the worst goes first, because it spoils the prediction of its neighbours.
    loop {
        interrupt.check()?;
        let worst = (0..rows.len())
            .filter(|&k| weight[k].is_some())
            .map(|k| (k, judged.alpha[k].abs() / judged.precision.get(k, k).sqrt()))
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        match worst {
            Some((k, score)) if score > thresholds.buddy_sd => {
                weight[k] = None;
                judged.change_error(k, f64::INFINITY);
            }
            _ => break,
        }
    }

    let partners = Partners::new(&rows);
    for sweep in 0..WEIGHT_SWEEPS {
        let changes: Vec<(usize, f64, f64)> = (0..rows.len())
            .filter_map(|k| weight[k].map(|old| (k, old)))
            .filter_map(|(k, old)| {
                let score = judged.nominal_score(k, old, &rows, &partners, &weight);
                let new = if score > thresholds.full_weight_sd {
                    thresholds.full_weight_sd / score
                } else {
                    1.0
                };
                (new != old).then_some((k, old, new))
            })
            .collect();
        let is_anew = changes.len() * CHEAPER_ANEW > rows.len();
        for (k, old, new) in changes {
            interrupt.check()?;
            if !is_anew {
                judged.change_weight(k, (old, new), &rows, &partners, &weight);
            }
            weight[k] = Some(new);
        }
        if is_anew && sweep + 1 < WEIGHT_SWEEPS {
            drop(judged);
            judged = pool.install(|| {
                judged_anew(network, &rows, &weight, thresholds.max_jitter, interrupt)
            })?;
        }
    }
    Ok(weight)
}

/// As many rank-one changes give, by one factorisation.
fn judged_anew(
    network: &Network,
    rows: &Rows,
    weight: &[Option<f64>],
    max_jitter: f64,
    interrupt: &Interrupt,
) -> Result<Judged> {
    let kept: Vec<usize> = (0..rows.len()).filter(|&k| weight[k].is_some()).collect();
    let mut weighted = rows.select(&kept);
    for (error, &k) in weighted.obs_error.iter_mut().zip(&kept) {
        *error /= weight[k].unwrap_or(1.0).sqrt();
    }
    let inverse = weighted
        .factorize(network, max_jitter, interrupt)?
        .0
        .into_inverse(interrupt)?
        .into_full();
    let of_kept = inverse.times_vector(&weighted.innovation);
    if kept.len() == rows.len() {
        return Ok(Judged {
            precision: inverse,
            alpha: of_kept,
        });
    }
    let mut judged = Judged {
        precision: Matrix::zeros(rows.len(), rows.len()),
        alpha: vec![0.0; rows.len()],
    };
    for ((j, &column), alpha) in kept.iter().enumerate().zip(of_kept) {
        judged.alpha[column] = alpha;
        for (&row, &value) in kept.iter().zip(inverse.column(j)) {
            judged.precision.column_mut(column)[row] = value;
        }
    }
    Ok(judged)
}
