//! Quality control of observations before the analysis: each keeps the flag that stopped it, and a weight.
//!
//! In order: physical limits; background check `|d| > k sqrt(S_ii)`; leave-one-out buddy check, the worst
//! observation rejected first and the others judged anew; robust weights for what remains (Huber 1964: 1 up to
//! a threshold of the leave-one-out score z, threshold / |z| beyond, the error variance divided by the weight).
//!
//! Rejecting an observation or changing its error is a rank-one change of C = S^-1, so the whole chain costs
//! one factorisation: with `delta` added to the error variance of row i,
//! `C' = C - C_:i C_i: delta / (1 + delta C_ii)`, and rejection is the limit of infinite `delta`.

use crate::analysis::{Network, Rows};
use crate::arguments::thread_pool;
use crate::error::{KernelError, Result};
use crate::linalg::Matrix;

/// Sweeps of the robust weights: they settle to 1 % within three.
const WEIGHT_SWEEPS: usize = 3;

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
    /// Physical limits of the observed value.
    pub minimum: f64,
    pub maximum: f64,
    /// Limit of the background check in standard deviations of the innovation.
    pub background_sd: f64,
    /// Limit of the buddy check in standard deviations of the leave-one-out residual.
    pub buddy_sd: f64,
    /// Score up to which an observation keeps its full weight.
    pub full_weight_sd: f64,
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

/// Screens observations of `value` (physical unit, for the limits) with the innovations in `rows`.
///
/// An innovation that is not finite (a value whose logarithm does not exist) must be outside the limits.
pub fn screen(
    network: &Network,
    rows: &Rows,
    value: &[f64],
    thresholds: &Thresholds,
    threads: usize,
) -> Result<Screening> {
    let m = rows.len();
    if value.len() != m {
        return Err(KernelError::InvalidArgument(format!(
            "value must have the length of station, {m}, got {}",
            value.len()
        )));
    }
    for (name, number) in [
        ("background_sd", thresholds.background_sd),
        ("buddy_sd", thresholds.buddy_sd),
        ("full_weight_sd", thresholds.full_weight_sd),
    ] {
        if number.is_nan() || number <= 0.0 {
            return Err(KernelError::InvalidArgument(format!(
                "{name} must be positive, got {number}"
            )));
        }
    }
    let mut flag = vec![Flag::Accepted; m];
    let mut weight = vec![1.0; m];
    for i in 0..m {
        let is_possible = value[i] >= thresholds.minimum && value[i] <= thresholds.maximum;
        if !is_possible {
            flag[i] = Flag::PhysicalLimits;
        } else if let Some(error) = rows.obs_error.get(i) {
            let variance = network.prior_variance() + error * error;
            let innovation = rows.innovation.get(i).copied().unwrap_or(f64::NAN);
            if innovation.abs() > thresholds.background_sd * variance.sqrt() {
                flag[i] = Flag::BackgroundCheck;
            }
        }
    }
    let kept: Vec<usize> = (0..m).filter(|&i| flag[i] == Flag::Accepted).collect();
    let mut judged = judge(network, rows, &kept, threads)?;
    let kept_error: Vec<f64> = kept.iter().map(|&i| rows.obs_error[i]).collect();

    // Buddy check: the worst goes first, because it spoils the prediction of its neighbours.
    loop {
        let worst = (0..kept.len())
            .filter(|&k| flag[kept[k]] == Flag::Accepted)
            .map(|k| (k, judged.alpha[k].abs() / judged.precision.get(k, k).sqrt()))
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        match worst {
            Some((k, score)) if score > thresholds.buddy_sd => {
                flag[kept[k]] = Flag::BuddyCheck;
                judged.change_error(k, f64::INFINITY);
            }
            _ => break,
        }
    }

    for _ in 0..WEIGHT_SWEEPS {
        let changes: Vec<(usize, f64)> = (0..kept.len())
            .filter(|&k| flag[kept[k]] == Flag::Accepted)
            .filter_map(|k| {
                let variance = kept_error[k] * kept_error[k];
                let effective = variance / weight[kept[k]];
                let own = judged.precision.get(k, k);
                // The residual's variance with the nominal error, so that a weight does not excuse itself.
                let nominal = 1.0 / own - effective + variance;
                let score = (judged.alpha[k] / own).abs() / nominal.sqrt();
                let new_weight = if score > thresholds.full_weight_sd {
                    thresholds.full_weight_sd / score
                } else {
                    1.0
                };
                (new_weight != weight[kept[k]]).then_some((k, new_weight))
            })
            .collect();
        for (k, new_weight) in changes {
            let variance = kept_error[k] * kept_error[k];
            judged.change_error(k, variance / new_weight - variance / weight[kept[k]]);
            weight[kept[k]] = new_weight;
        }
    }
    for i in 0..m {
        if flag[i] != Flag::Accepted {
            weight[i] = 0.0;
        }
    }
    Ok(Screening { flag, weight })
}

fn judge(network: &Network, rows: &Rows, kept: &[usize], threads: usize) -> Result<Judged> {
    let chosen = |values: &[f64]| -> Vec<f64> {
        kept.iter()
            .map(|&i| values.get(i).copied().unwrap_or(f64::NAN))
            .collect()
    };
    let candidates = Rows {
        station: kept.iter().map(|&i| rows.station[i]).collect(),
        time_h: chosen(&rows.time_h),
        innovation: chosen(&rows.innovation),
        obs_error: chosen(&rows.obs_error),
    };
    candidates.check(network)?;
    let precision = thread_pool(threads)?.install(|| {
        candidates
            .factorize(candidates.innovation_covariance(network))
            .map(|factor| factor.inverse())
    })?;
    let alpha = precision.times_vector(&candidates.innovation);
    Ok(Judged { precision, alpha })
}
