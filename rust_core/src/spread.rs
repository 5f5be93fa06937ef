//! How much wider or narrower the field is than its covariance says, by what the stations say of each other.
//!
//! A station's rows against the prediction of the others, `r ~ N(0, V)` with `V = f P + R`, have `z_i^2 = r_i^2 / V_ii`,
//! whose expectation at the factor f is `1 + (f - 1) p_i`, p = P_ii / V_ii. With weights k_i the least-squares estimate is
//! `f - 1 = sum k p (z^2 - 1) / sum k p^2`; at f = 1 its variance is 2 / n, with
//! `n = (sum k p^2)^2 / sum_ij k_i p_i rho_ij^2 k_j p_j`, rho the correlation of the residuals (Isserlis): the rows of a
//! station that sounds every five minutes say little more than one.

use rayon::prelude::*;

use crate::analysis::Analysis;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::linalg::{Cholesky, Matrix, dot};
use crate::network::{check_finite, check_length, check_not_negative, invalid};

/// What is asked of the rows; arrays of shape (m,).
pub struct SpreadQuestion<'a> {
    /// A station whose rows are left out of everything, and must not speak.
    pub excluded: Option<usize>,
    /// The stations that are asked.
    pub stations: &'a [usize],
    /// Replaces the rows' innovations, as when the background is made without the station that is excluded.
    pub innovation: Option<&'a [f64]>,
    /// Error of each observation as its class has it, without what robust weights added.
    pub error: &'a [f64],
    /// Weight of each row, 0..1, by its age; 0 for what is not asked.
    pub recency: &'a [f64],
    /// A larger z^2 counts as this: a gross error is no storm.
    pub largest_z2: f64,
    /// The expectation of such a z^2 when f is 1.
    pub mean_z2: f64,
}

/// By station asked and quantity, shape (stations, Q).
pub struct SpreadEvidence {
    /// Estimate of f - 1; 0 without rows.
    pub excess: Vec<f64>,
    /// Independent rows that it is worth, times their mean recency.
    pub weight: Vec<f64>,
}

/// The station that is left out: its rows and `L^-1` of its block of C, to take it out of any other block.
struct Excluded {
    rows: Vec<usize>,
    factor: Cholesky,
    /// `L^-1 alpha`.
    whitened: Vec<f64>,
}

impl Analysis {
    /// What each of the stations says of the factor on the field's variance, by its rows against the prediction of all
    /// others but the excluded one: `C_BB - C_BA C_AA^-1 C_AB` is the precision of its rows then.
    pub fn spread_evidence(&self, question: &SpreadQuestion<'_>) -> Result<SpreadEvidence> {
        for (name, values) in [("error", question.error), ("recency", question.recency)] {
            check_length(name, values.len(), self.n_obs(), "the rows")?;
            check_finite(name, values)?;
            check_not_negative(name, values)?;
        }
        if let Some(&station) = question
            .stations
            .iter()
            .find(|&&station| station >= self.network.n_stations())
        {
            return Err(invalid(format!(
                "stations must lie in 0..{}, got {station}",
                self.network.n_stations()
            )));
        }
        let innovation = self.innovation_or(question.innovation)?;
        // Quantities that nothing links have zeros between them: each group of them is a problem of its own, and one whose
        // rows have no weight is none.
        let group = self.rows.groups(&self.network);
        let group_of = |row: usize| group[self.rows.quantity[row]];
        let mut is_asked = vec![false; self.n_quantities()];
        for row in 0..self.n_obs() {
            is_asked[group_of(row)] |= question.recency[row] > 0.0;
        }
        let mut rows_of = vec![vec![Vec::new(); self.n_quantities()]; self.network.n_stations()];
        for row in (0..self.n_obs()).filter(|&row| is_asked[group_of(row)]) {
            rows_of[self.rows.station[row]][group_of(row)].push(row);
        }
        let mut is_wanted = vec![false; self.network.n_stations()];
        for &station in question.stations.iter().chain(&question.excluded) {
            if station < is_wanted.len() {
                is_wanted[station] = true;
            }
        }
        // C d, where it is needed.
        let alpha: Vec<f64> = self.pool.install(|| {
            (0..self.n_obs())
                .into_par_iter()
                .map(|row| {
                    if !is_wanted[self.rows.station[row]] || !is_asked[group_of(row)] {
                        return 0.0;
                    }
                    self.precision.row_times(row, innovation)
                })
                .collect()
        });
        let excluded = match question.excluded {
            None => Vec::new(),
            Some(station) => {
                self.rows_of(station)?; // names a station that is none
                rows_of[station]
                    .iter()
                    .map(|rows| self.excluded(rows, &alpha))
                    .collect::<Result<Vec<_>>>()?
            }
        };
        let parts: Vec<Vec<(f64, f64)>> = self.pool.install(|| {
            question
                .stations
                .par_iter()
                .map(|&station| {
                    let mut found = vec![(0.0, 0.0); self.n_quantities()];
                    if question.excluded == Some(station) {
                        return Ok(found);
                    }
                    for (number, rows) in rows_of[station].iter().enumerate() {
                        if !rows.is_empty() {
                            self.judge(question, rows, excluded.get(number), &alpha, &mut found)?;
                        }
                    }
                    Ok(found)
                })
                .collect::<Result<_>>()
        })?;
        let (excess, weight) = parts.into_iter().flatten().unzip();
        Ok(SpreadEvidence { excess, weight })
    }

    fn excluded(&self, rows: &[usize], alpha: &[f64]) -> Result<Excluded> {
        let factor = self.held_factor(rows)?;
        let own = Matrix::from_columns(rows.len(), 1, |_, column| {
            for (element, &row) in column.iter_mut().zip(rows) {
                *element = alpha[row];
            }
        });
        let whitened = factor.solve_lower(own).as_slice().to_vec();
        Ok(Excluded {
            rows: rows.to_vec(),
            factor,
            whitened,
        })
    }

    /// The evidence of one station's rows of one group of quantities.
    fn judge(
        &self,
        question: &SpreadQuestion<'_>,
        rows: &[usize],
        excluded: Option<&Excluded>,
        alpha: &[f64],
        found: &mut [(f64, f64)],
    ) -> Result<()> {
        let mut precision = self.precision.select(rows);
        let mut own: Vec<f64> = rows.iter().map(|&row| alpha[row]).collect();
        if let Some(left) = excluded.filter(|left| !left.rows.is_empty()) {
            let mut cross = Matrix::zeros(left.rows.len(), rows.len());
            for (j, &row) in rows.iter().enumerate() {
                for (i, &other) in left.rows.iter().enumerate() {
                    cross.set(i, j, self.precision.get(other, row));
                }
            }
            let cross = left.factor.solve_lower(cross);
            for (j, element) in own.iter_mut().enumerate() {
                *element -= dot(cross.column(j), &left.whitened);
                for i in 0..rows.len() {
                    let taken = dot(cross.column(i), cross.column(j));
                    precision.set(i, j, precision.get(i, j) - taken);
                }
            }
        }
        let covariance = Self::factor_of(precision, rows)?.inverse(&Interrupt::default())?;
        let residual = covariance.times_vector(&own);
        for (quantity, result) in found.iter_mut().enumerate() {
            let chosen: Vec<usize> = (0..rows.len())
                .filter(|&k| self.rows.quantity[rows[k]] == quantity)
                .collect();
            if !chosen.is_empty() {
                *result = self.summarise(question, rows, &chosen, &residual, &covariance);
            }
        }
        Ok(())
    }

    /// f - 1 and its weight by the chosen ones of the rows.
    fn summarise(
        &self,
        question: &SpreadQuestion<'_>,
        rows: &[usize],
        chosen: &[usize],
        residual: &[f64],
        covariance: &Matrix,
    ) -> (f64, f64) {
        let (mut score, mut information, mut squared) = (0.0, 0.0, 0.0);
        let mut weights = Vec::with_capacity(chosen.len());
        for &k in chosen {
            let row = rows[k];
            let spread = (covariance.get(k, k) - self.rows.obs_error[row].powi(2)).max(0.0);
            let total = spread + question.error[row].powi(2);
            let share = if total > 0.0 { spread / total } else { 0.0 };
            let recency = question.recency[row];
            let z2 = if total > 0.0 {
                (residual[k].powi(2) / total).min(question.largest_z2)
            } else {
                question.mean_z2
            };
            score += recency * share * (z2 - question.mean_z2);
            information += recency * share * share;
            squared += (recency * share).powi(2);
            weights.push(recency * share);
        }
        let mut crowding = 0.0;
        for (a, &i) in weights.iter().zip(chosen) {
            for (b, &j) in weights.iter().zip(chosen) {
                let scale = covariance.get(i, i) * covariance.get(j, j);
                crowding += a * b * covariance.get(i, j).powi(2) / scale;
            }
        }
        if information > 0.0 && crowding > 0.0 {
            // information^2 / crowding independent rows, times squared / information, their mean recency.
            (score / information, information * squared / crowding)
        } else {
            (0.0, 0.0)
        }
    }
}
