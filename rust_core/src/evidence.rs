//! How the evidence of the observations changes with every parameter of the covariance.
//!
//! `d ln p(d) / d theta = 1/2 tr((alpha alpha' - C) dS/d theta)`, Rasmussen and Williams (2006), equation 5.9.

use rayon::prelude::*;

use crate::analysis::Analysis;
use crate::covariance::Term;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::linalg::Matrix;
use crate::network::Network;

/// Where the parameters of one term stand in the gradient.
struct Layout {
    first: usize,
    n_quantities: usize,
    is_mapped: bool,
    is_diurnal: bool,
}

impl Layout {
    fn n_pairs(&self) -> usize {
        self.n_quantities * (self.n_quantities - 1) / 2
    }

    fn sd(&self, quantity: usize) -> usize {
        self.first + quantity
    }

    fn correlation(&self, a: usize, b: usize) -> usize {
        let (p, q) = (a.min(b), a.max(b));
        self.first + self.n_quantities + q * (q - 1) / 2 + p
    }

    fn lengths(&self) -> Option<usize> {
        self.is_mapped
            .then_some(self.first + self.n_quantities + self.n_pairs())
    }

    fn times(&self) -> usize {
        self.first + self.n_quantities + self.n_pairs() + if self.is_mapped { 2 } else { 0 }
    }

    fn end(&self) -> usize {
        self.times() + 1 + usize::from(self.is_diurnal)
    }

    fn names(&self, term: usize) -> Vec<String> {
        let mut names = vec![String::new(); self.end() - self.first];
        for q in 0..self.n_quantities {
            names[self.sd(q) - self.first] = format!("terms[{term}].sd[{q}]");
            for p in 0..q {
                names[self.correlation(p, q) - self.first] =
                    format!("terms[{term}].correlation[{p},{q}]");
            }
        }
        if let Some(at) = self.lengths() {
            names[at - self.first] = format!("terms[{term}].zonal_km");
            names[at + 1 - self.first] = format!("terms[{term}].meridional_km");
        }
        names[self.times() - self.first] = format!("terms[{term}].time_scale_h");
        if self.is_diurnal {
            names[self.times() + 1 - self.first] = format!("terms[{term}].phase_scale_h");
        }
        names
    }
}

fn layouts(terms: &[Term]) -> Vec<Layout> {
    let mut first = 0;
    terms
        .iter()
        .map(|term| {
            let layout = Layout {
                first,
                n_quantities: term.n_quantities(),
                is_mapped: term.is_mapped(),
                is_diurnal: term.is_diurnal(),
            };
            first = layout.end();
            layout
        })
        .collect()
}

/// Derivatives of a term's spatial correlation between stations with respect to ln zonal and ln meridional length.
fn length_derivatives(network: &Network, term: usize) -> [Matrix; 2] {
    let n = network.n_stations();
    let mut derivatives = [Matrix::zeros(n, n), Matrix::zeros(n, n)];
    let places = network.places(term);
    for j in 0..n {
        for i in 0..n {
            let (of_i, of_j) = (network.places_of(i), network.places_of(j));
            let n_pairs = (of_i.len() * of_j.len()) as f64;
            for &a in of_i {
                for &b in of_j.iter().filter(|&&b| b != a) {
                    let values = network.terms()[term]
                        .shape()
                        .spatial_derivatives(&places[a], &places[b]);
                    for (matrix, value) in derivatives.iter_mut().zip(values) {
                        matrix.set(i, j, matrix.get(i, j) + value / n_pairs);
                    }
                }
            }
        }
    }
    derivatives
}

impl Analysis {
    /// Derivative of `ln p(d)` by the name of the parameter: with respect to ln of every sd, length, time scale and of
    /// a common factor on the observation errors (`obs_error`), and with respect to every correlation itself.
    pub fn evidence_gradient(&self, interrupt: &Interrupt) -> Result<Vec<(String, f64)>> {
        let terms = self.network.terms();
        let layouts = layouts(terms);
        let obs_error = layouts.last().map_or(0, Layout::end);
        let by_length: Vec<[Matrix; 2]> = (0..terms.len())
            .map(|c| length_derivatives(&self.network, c))
            .collect();
        let columns: Vec<Vec<f64>> = self.pool.install(|| -> Result<_> {
            (0..self.n_obs())
                .into_par_iter()
                .map(|j| {
                    interrupt.check()?;
                    let mut sum = vec![0.0; obs_error + 1];
                    for i in j..self.n_obs() {
                        self.add_pair(i, j, &layouts, &by_length, &mut sum);
                    }
                    let own = self.alpha[j].powi(2) - self.precision.get(j, j);
                    sum[obs_error] += own * self.rows.obs_error[j].powi(2);
                    Ok(sum)
                })
                .collect()
        })?;
        let mut gradient = vec![0.0; obs_error + 1];
        for column in columns {
            for (total, value) in gradient.iter_mut().zip(column) {
                *total += value;
            }
        }
        for (one, other, covariance) in self.rows.error_covariances() {
            let both = self.alpha[one] * self.alpha[other] - self.precision.get(one, other);
            gradient[obs_error] += 2.0 * both * covariance;
        }
        Ok(layouts
            .iter()
            .enumerate()
            .flat_map(|(c, layout)| layout.names(c))
            .chain(["obs_error".to_string()])
            .zip(gradient)
            .collect())
    }

    fn add_pair(
        &self,
        i: usize,
        j: usize,
        layouts: &[Layout],
        by_length: &[[Matrix; 2]],
        sum: &mut [f64],
    ) {
        let (a, b) = (self.rows.site(i), self.rows.site(j));
        let both = if i == j { 0.5 } else { 1.0 };
        let weight = both * (self.alpha[i] * self.alpha[j] - self.precision.get(i, j));
        for (c, term) in self.network.terms().iter().enumerate() {
            let layout = &layouts[c];
            let in_space = self.network.spatial_correlation(c, a.station, b.station);
            if in_space == 0.0 {
                continue;
            }
            let lag = a.time_h - b.time_h;
            let in_time = term.shape().temporal_correlation(lag);
            let scale = weight * term.factor(a.amplitude) * term.factor(b.amplitude);
            let (p, q) = (a.quantity, b.quantity);
            if p != q {
                sum[layout.correlation(p, q)] +=
                    term.sd()[p] * term.sd()[q] * in_space * in_time * scale;
            }
            let scale = scale * term.between_quantities(p, q);
            if scale == 0.0 {
                continue;
            }
            sum[layout.sd(p)] += scale * in_space * in_time;
            sum[layout.sd(q)] += scale * in_space * in_time;
            if let Some(at) = layout.lengths() {
                sum[at] += scale * by_length[c][0].get(a.station, b.station) * in_time;
                sum[at + 1] += scale * by_length[c][1].get(a.station, b.station) * in_time;
            }
            let by_time = term.shape().temporal_derivatives(lag);
            sum[layout.times()] += scale * in_space * by_time[0];
            if layout.is_diurnal {
                sum[layout.times() + 1] += scale * in_space * by_time[1];
            }
        }
    }
}
