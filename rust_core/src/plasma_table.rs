//! The plasma frequency of a [`Profile`] below its peak as polynomials, with derivatives by foF2, hmF2 and B0.
//!
//! Virtual heights ask for it at some eighty heights per frequency. It costs a dozen transcendental functions, a polynomial some
//! nanoseconds. Cells end where the profile has a kink and are short against its scales; next to the peak they are polynomials
//! in the square root of the depth, where powers of the depth are smooth. Below the E peak the layer's own formula stays.

use crate::dual::{Dual, Real};
use crate::profile::{Bottomside, DENSITY_PER_MHZ2, E_BOTTOM_KM, HME_KM, Profile};
use crate::virtual_height::{FixedNodes, Knot, Local, N_PARAMETERS, Plasma};

/// Coefficients of a cell: degree 7.
const N_TERMS: usize = 8;
/// Heights in km of knots in the foot of the E layer: below the first its density is under 2e-8 of its peak.
const FOOT_KM: [f64; 2] = [20.0, 60.0];
/// Depths of the edges of cells next to the F2 peak, in units of B0 or of this share of its height above E, the smaller.
const TOP_DEPTHS: [f64; 5] = [0.01, 0.05, 0.15, 0.35, 0.64];
const TOP_SHARE: f64 = 0.55;
/// A further knot where the topside of the E layer has ended, km.
const E_END_KM: f64 = 155.0;
/// Kinks nearer than this to one another count as one, km.
const SAME_KM: f64 = 0.01;
/// Samples in search of kinks of the F1 layer.
const F1_SAMPLES: usize = 32;
/// Halvings of a bracket: to 1e-9 km.
const HALVINGS: usize = 40;
/// Slope, in units of the squared peak frequency per km, below which the profile counts as level.
const LEVEL: f64 = 1e-9;
/// A step of Newton's method so short, in half widths of a cell, is the last: the next one would be of rounding.
const SETTLED: f64 = 1e-10;

#[derive(Debug, Clone, Copy)]
enum Scale {
    /// By height.
    Height,
    /// By the square root of the depth below the F2 peak.
    RootOfDepth,
}

#[derive(Debug, Clone)]
struct Cell {
    low_km: f64,
    high_km: f64,
    scale: Scale,
    middle: f64,
    /// Of the half width.
    per_half: f64,
    plasma: [f64; N_TERMS],
    /// fN^2 at its upper end.
    top_mhz2: f64,
    /// By ln foF2, hmF2 and ln B0 at a constant depth below the peak.
    by_parameter: [[f64; N_TERMS]; N_PARAMETERS],
}

/// The table: a [`Plasma`].
#[derive(Debug, Clone)]
pub struct PlasmaTable {
    knots: Vec<Knot>,
    /// First cell of every piece above the E peak, and the number of cells.
    first_cell: Vec<usize>,
    cells: Vec<Cell>,
    /// Upper ends of the cells, the last infinite.
    high_km: Vec<f64>,
    /// Cell in which every step of `index_step_km` above the E peak begins.
    index: Vec<u16>,
    per_step: f64,
    hmf2_km: f64,
    e_peak_mhz2: f64,
    fixed: Vec<FixedNodes>,
}

type Parameters = Dual<N_PARAMETERS>;

impl PlasmaTable {
    pub fn new(profile: &Profile) -> Self {
        let nmf2 = Dual {
            value: profile.nmf2,
            slope: [2.0 * profile.nmf2, 0.0, 0.0],
        };
        let hmf2 = Parameters::parameter(profile.hmf2_km, 1);
        let b0 = Dual {
            value: profile.b0_km,
            slope: [0.0, 0.0, profile.b0_km],
        };
        let below = Bottomside::new(
            nmf2,
            hmf2,
            b0,
            profile.b1,
            profile.nme,
            profile.f1_probability,
        );
        let plain = Bottomside::new(
            profile.nmf2,
            profile.hmf2_km,
            profile.b0_km,
            profile.b1,
            profile.nme,
            profile.f1_probability,
        );
        let kinks = f1_kinks_km(&plain);
        let edges = edges_km(profile, &kinks);
        let cells: Vec<Cell> = edges
            .windows(2)
            .map(|pair| {
                let is_top = is_near_top(profile, pair[0]);
                Cell::new(&below, profile.hmf2_km, pair[0], pair[1], is_top)
            })
            .collect();
        let e_peak_mhz2 = profile.nme / DENSITY_PER_MHZ2;
        PlasmaTable::assemble(profile, cells, &kinks, e_peak_mhz2)
    }

    fn assemble(profile: &Profile, mut cells: Vec<Cell>, kinks: &[f64], e_peak_mhz2: f64) -> Self {
        let foot = |height_km: f64| {
            let (plasma_mhz2, slope) = e_bottom(e_peak_mhz2, height_km);
            Knot {
                height_km,
                plasma_mhz2,
                slope_below: slope,
                slope_above: slope,
            }
        };
        let mut knots: Vec<Knot> = FOOT_KM.into_iter().map(foot).collect();
        let level = LEVEL * profile.nmf2 / DENSITY_PER_MHZ2;
        let mut extrema = extrema_km(&cells, level);
        let is_top_long = profile.hmf2_km > E_END_KM + 2.0 * SAME_KM;
        if is_top_long {
            extrema.push(E_END_KM);
        }
        extrema.extend(kinks);
        extrema.sort_by(f64::total_cmp);
        extrema.dedup_by(|a, b| (*a - *b).abs() < SAME_KM);
        // A knot inside a cell cuts it: both parts keep the polynomial.
        for &height in &extrema {
            if let Some(at) = cells
                .iter()
                .position(|cell| cell.low_km + 1e-9 < height && height < cell.high_km - 1e-9)
            {
                let mut upper = cells[at].clone();
                cells[at].high_km = height;
                cells[at].top_mhz2 = cells[at].at(profile.hmf2_km, height).0;
                upper.low_km = height;
                cells.insert(at + 1, upper);
            }
        }
        let mut first_cell = vec![0];
        knots.push(Knot {
            height_km: HME_KM,
            plasma_mhz2: e_peak_mhz2,
            slope_below: 0.0,
            slope_above: cells[0].at(profile.hmf2_km, HME_KM).1,
        });
        for (at, pair) in cells.windows(2).enumerate() {
            let height_km = pair[0].high_km;
            if extrema
                .iter()
                .any(|knot| (knot - height_km).abs() < SAME_KM)
            {
                let (plasma_mhz2, slope_below) = pair[0].at(profile.hmf2_km, height_km);
                knots.push(Knot {
                    height_km,
                    plasma_mhz2,
                    slope_below,
                    slope_above: pair[1].at(profile.hmf2_km, height_km).1,
                });
                first_cell.push(at + 1);
            }
        }
        first_cell.push(cells.len());
        knots.push(Knot {
            height_km: profile.hmf2_km,
            plasma_mhz2: profile.nmf2 / DENSITY_PER_MHZ2,
            slope_below: 0.0,
            slope_above: 0.0,
        });
        let span = profile.hmf2_km - HME_KM;
        let steps = (4 * cells.len()).max(16);
        let per_step = steps as f64 / span;
        let mut at = 0;
        let index = (0..=steps)
            .map(|step| {
                let height = HME_KM + step as f64 / per_step;
                while at + 1 < cells.len() && cells[at].high_km <= height {
                    at += 1;
                }
                at as u16
            })
            .collect();
        let mut high_km: Vec<f64> = cells.iter().map(|cell| cell.high_km).collect();
        if let Some(last) = high_km.last_mut() {
            *last = f64::INFINITY;
        }
        let mut table = PlasmaTable {
            knots,
            first_cell,
            cells,
            high_km,
            index,
            per_step,
            hmf2_km: profile.hmf2_km,
            e_peak_mhz2,
            fixed: Vec::new(),
        };
        // The piece that ends at the F2 peak is never passed.
        table.fixed = (0..table.knots.len() - 2)
            .map(|piece| {
                let (low, high) = (
                    table.knots[piece].height_km,
                    table.knots[piece + 1].height_km,
                );
                FixedNodes::new(low, high, piece == 0, |height| table.local(piece, height))
            })
            .collect();
        table
    }

    fn cell(&self, height_km: f64) -> &Cell {
        let step = ((height_km - HME_KM) * self.per_step).max(0.0) as usize;
        let mut at = usize::from(self.index[step.min(self.index.len() - 1)]);
        // Mostly no or one step: not worth a branch that is guessed wrong every other time.
        at += usize::from(self.high_km[at] < height_km);
        while self.high_km[at] < height_km {
            at += 1;
        }
        &self.cells[at]
    }
}

impl Plasma for PlasmaTable {
    fn knots(&self) -> &[Knot] {
        &self.knots
    }

    #[inline]
    fn plasma_mhz2(&self, piece: usize, height_km: f64) -> f64 {
        if piece < FOOT_KM.len() {
            return e_bottom(self.e_peak_mhz2, height_km).0;
        }
        let cell = self.cell(height_km);
        horner(&cell.plasma, cell.coordinate(self.hmf2_km, height_km))
    }

    fn local(&self, piece: usize, height_km: f64) -> Local {
        if piece < FOOT_KM.len() {
            let (plasma_mhz2, slope) = e_bottom(self.e_peak_mhz2, height_km);
            return Local {
                plasma_mhz2,
                slope,
                by_parameter: [0.0; N_PARAMETERS],
            };
        }
        let cell = self.cell(height_km);
        let (plasma_mhz2, slope) = cell.at(self.hmf2_km, height_km);
        let coordinate = cell.coordinate(self.hmf2_km, height_km);
        let mut by_parameter = cell.by_parameter.map(|terms| horner(&terms, coordinate));
        // From constant depth to constant height.
        by_parameter[1] -= slope;
        Local {
            plasma_mhz2,
            slope,
            by_parameter,
        }
    }

    #[inline]
    fn slope(&self, piece: usize, height_km: f64) -> f64 {
        if piece < FOOT_KM.len() {
            return e_bottom(self.e_peak_mhz2, height_km).1;
        }
        self.cell(height_km).at(self.hmf2_km, height_km).1
    }

    fn height_of_km(&self, piece: usize, level_mhz2: f64) -> f64 {
        if piece < FOOT_KM.len() {
            // 4 E / (1 + E)^2 = share, E <= 1.
            let share = (level_mhz2 / self.e_peak_mhz2).min(1.0);
            let root = (1.0 - share).sqrt();
            return HME_KM + E_BOTTOM_KM * (share / (1.0 + root).powi(2)).ln();
        }
        let at = piece - FOOT_KM.len();
        let cells = &self.cells[self.first_cell[at]..self.first_cell[at + 1]];
        let cell = cells
            .iter()
            .find(|cell| cell.top_mhz2 >= level_mhz2)
            .unwrap_or(&cells[cells.len() - 1]);
        cell.height_of_km(self.hmf2_km, level_mhz2)
    }

    fn fixed(&self, piece: usize) -> Option<&FixedNodes> {
        self.fixed.get(piece)
    }

    fn peak_by_parameter(&self, knot: usize) -> [f64; N_PARAMETERS] {
        if knot == FOOT_KM.len() {
            return [0.0; N_PARAMETERS];
        }
        if knot + 1 == self.knots.len() {
            return [2.0 * self.knots[knot].plasma_mhz2, 0.0, 0.0];
        }
        // A turning point inside: its slope is zero, so it may be followed or not.
        self.local(knot, self.knots[knot].height_km).by_parameter
    }
}

impl Cell {
    fn new(
        below: &Bottomside<Parameters>,
        hmf2_km: f64,
        low_km: f64,
        high_km: f64,
        is_top: bool,
    ) -> Self {
        let (scale, ends) = if is_top {
            let root = |height: f64| (hmf2_km - height).max(0.0).sqrt();
            (Scale::RootOfDepth, [root(low_km), root(high_km)])
        } else {
            (Scale::Height, [low_km, high_km])
        };
        let (middle, half) = (0.5 * (ends[0] + ends[1]), 0.5 * (ends[1] - ends[0]));
        let samples = chebyshev_nodes().map(|node| {
            let at = middle + half * node;
            let height_km = match scale {
                Scale::Height => at,
                Scale::RootOfDepth => hmf2_km - at * at,
            };
            // Moves with the peak: at a constant depth.
            let density = below.density(Parameters::parameter(height_km, 1));
            density / Parameters::constant(DENSITY_PER_MHZ2)
        });
        let fit = |value: &dyn Fn(&Parameters) -> f64| {
            let mut values = [0.0; N_TERMS];
            for (target, sample) in values.iter_mut().zip(&samples) {
                *target = value(sample);
            }
            interpolate(values)
        };
        let mut by_parameter = [[0.0; N_TERMS]; N_PARAMETERS];
        for (parameter, target) in by_parameter.iter_mut().enumerate() {
            *target = fit(&|sample| sample.slope[parameter]);
        }
        let mut cell = Cell {
            low_km,
            high_km,
            scale,
            middle,
            per_half: 1.0 / half,
            plasma: fit(&|sample| sample.value),
            top_mhz2: 0.0,
            by_parameter,
        };
        cell.top_mhz2 = cell.at(hmf2_km, high_km).0;
        cell
    }

    /// -1..1 at a height.
    #[inline]
    fn coordinate(&self, hmf2_km: f64, height_km: f64) -> f64 {
        let root = (hmf2_km - height_km).max(0.0).sqrt();
        let at = match self.scale {
            Scale::Height => height_km,
            Scale::RootOfDepth => root,
        };
        (at - self.middle) * self.per_half
    }

    /// And its derivative by height.
    fn coordinate_slope(&self, hmf2_km: f64, height_km: f64) -> f64 {
        match self.scale {
            Scale::Height => self.per_half,
            Scale::RootOfDepth => {
                let root = (hmf2_km - height_km).max(0.0).sqrt();
                -0.5 * self.per_half / root.max(1e-12)
            }
        }
    }

    fn height_km(&self, hmf2_km: f64, coordinate: f64) -> f64 {
        let at = self.middle + coordinate / self.per_half;
        match self.scale {
            Scale::Height => at,
            Scale::RootOfDepth => hmf2_km - at * at,
        }
    }

    /// Value and slope by height.
    fn at(&self, hmf2_km: f64, height_km: f64) -> (f64, f64) {
        let (value, slope) = horner_with_slope(&self.plasma, self.coordinate(hmf2_km, height_km));
        (value, slope * self.coordinate_slope(hmf2_km, height_km))
    }

    /// Where a cell that rises reaches the level: Newton's steps inside a bracket.
    fn height_of_km(&self, hmf2_km: f64, level_mhz2: f64) -> f64 {
        // Rising in height is rising in the coordinate, for its half width is negative where it is a root of the depth.
        let ends = [self.low_km, self.high_km].map(|h| self.coordinate(hmf2_km, h));
        let (mut low, mut high) = (ends[0], ends[1]);
        let mut at = 0.5 * (low + high);
        for _ in 0..100 {
            let (value, slope) = horner_with_slope(&self.plasma, at);
            let miss = value - level_mhz2;
            if miss > 0.0 {
                high = at;
            } else {
                low = at;
            }
            let step = miss / slope;
            let next = at - step;
            if step.abs() < SETTLED {
                at = next.clamp(low, high);
                break;
            }
            at = if next > low && next < high {
                next
            } else {
                0.5 * (low + high)
            };
        }
        self.height_km(hmf2_km, at)
    }
}

/// Value and slope below the E peak, where the layer stands alone.
#[inline]
fn e_bottom(peak_mhz2: f64, height_km: f64) -> (f64, f64) {
    let exponential = ((height_km - HME_KM) / E_BOTTOM_KM).exp();
    let whole = 1.0 + exponential;
    let value = 4.0 * peak_mhz2 * exponential / (whole * whole);
    (value, value * (1.0 - exponential) / (whole * E_BOTTOM_KM))
}

/// Heights where the F1 layer begins and ends to add to the density.
fn f1_kinks_km(below: &Bottomside<f64>) -> Vec<f64> {
    if below.f1_bottom_km == 0.0 {
        return Vec::new();
    }
    let step = (below.hmf1_km - HME_KM) / F1_SAMPLES as f64;
    let mut kinks = Vec::new();
    let mut was_positive = false;
    for sample in 1..=F1_SAMPLES {
        let height = HME_KM + step * sample as f64;
        let is_positive = sample < F1_SAMPLES && below.f1_excess(height) > 0.0;
        if is_positive != was_positive {
            let (mut low, mut high) = (height - step, height);
            for _ in 0..HALVINGS {
                let middle = 0.5 * (low + high);
                if (below.f1_excess(middle) > 0.0) == was_positive {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            kinks.push(0.5 * (low + high));
        }
        was_positive = is_positive;
    }
    kinks
}

/// Edges of the cells, rising from the E to the F2 peak.
fn edges_km(profile: &Profile, kinks: &[f64]) -> Vec<f64> {
    let (peak, scale) = (profile.hmf2_km, top_scale_km(profile));
    let mut fixed = vec![HME_KM, peak];
    fixed.extend(kinks);
    fixed.extend(TOP_DEPTHS.iter().map(|depth| peak - depth * scale));
    fixed.retain(|height| (HME_KM..=peak).contains(height));
    fixed.sort_by(f64::total_cmp);
    fixed.dedup_by(|a, b| (*a - *b).abs() < SAME_KM);
    let mut edges = vec![HME_KM];
    for pair in fixed.windows(2) {
        let is_top = is_near_top(profile, pair[0]);
        let mut at = pair[0];
        while !is_top && pair[1] - at > SAME_KM {
            let step = longest_km(profile, at);
            let parts = ((pair[1] - at) / step).ceil().max(1.0);
            if parts <= 1.0 {
                break;
            }
            at += ((pair[1] - at) / parts).min(step);
            edges.push(at);
        }
        edges.push(pair[1]);
    }
    edges
}

fn top_scale_km(profile: &Profile) -> f64 {
    profile.b0_km.min(TOP_SHARE * (profile.hmf2_km - HME_KM))
}

/// Whether a cell that begins at a height is a polynomial of the root of the depth.
fn is_near_top(profile: &Profile, height_km: f64) -> bool {
    let reach = TOP_DEPTHS[TOP_DEPTHS.len() - 1] * top_scale_km(profile);
    profile.hmf2_km - height_km <= reach * (1.0 + 1e-9)
}

/// How long a cell may be that begins at a height: short against the scales of the E layer's topside, of its end towards F2, and of
/// the F2 layer.
fn longest_km(profile: &Profile, height_km: f64) -> f64 {
    let above = height_km - HME_KM;
    let depth = profile.hmf2_km - height_km;
    let e_layer = 7.0 + 0.12 * above;
    let fall = 0.08 * (profile.hmf2_km - HME_KM);
    let f2_layer = if depth < 8.0 * profile.b0_km {
        profile.b0_km * 0.35_f64.min(0.8 / profile.b1)
    } else {
        f64::INFINITY
    };
    e_layer.min(fall).min(f2_layer).max(0.05)
}

/// Heights where the profile turns between rising and falling, where its cells are polynomials of the height.
fn extrema_km(cells: &[Cell], level: f64) -> Vec<f64> {
    let mut found = Vec::new();
    let mut before: Option<(bool, f64)> = None;
    for cell in cells {
        if matches!(cell.scale, Scale::RootOfDepth) {
            break;
        }
        let slope_at = |height: f64| cell.at(0.0, height).1;
        for step in 0..=N_TERMS {
            let share = step as f64 / N_TERMS as f64;
            let height = cell.low_km + (cell.high_km - cell.low_km) * share;
            let slope = slope_at(height);
            if slope.abs() < level {
                continue;
            }
            let is_rising = slope > 0.0;
            if let Some((was_rising, from)) = before
                && was_rising != is_rising
            {
                let (mut low, mut high) = (from.max(cell.low_km), height);
                for _ in 0..HALVINGS {
                    let middle = 0.5 * (low + high);
                    if (slope_at(middle) > 0.0) == was_rising {
                        low = middle;
                    } else {
                        high = middle;
                    }
                }
                found.push(0.5 * (low + high));
            }
            before = Some((is_rising, height));
        }
    }
    found
}

fn chebyshev_nodes() -> [f64; N_TERMS] {
    let mut nodes = [0.0; N_TERMS];
    for (index, node) in nodes.iter_mut().enumerate() {
        *node = -((index as f64 + 0.5) * std::f64::consts::PI / N_TERMS as f64).cos();
    }
    nodes
}

/// Coefficients by rising power of the polynomial through values at the Chebyshev nodes.
fn interpolate(values: [f64; N_TERMS]) -> [f64; N_TERMS] {
    let nodes = chebyshev_nodes();
    // Divided differences, then Newton's form opened into powers.
    let mut differences = values;
    for order in 1..N_TERMS {
        for index in (order..N_TERMS).rev() {
            differences[index] = (differences[index] - differences[index - 1])
                / (nodes[index] - nodes[index - order]);
        }
    }
    let mut terms = [0.0; N_TERMS];
    for index in (0..N_TERMS).rev() {
        for power in (1..N_TERMS).rev() {
            terms[power] = terms[power - 1] - nodes[index] * terms[power];
        }
        terms[0] = differences[index] - nodes[index] * terms[0];
    }
    terms
}

#[inline]
fn horner(terms: &[f64; N_TERMS], x: f64) -> f64 {
    // Estrin's scheme: short chains of dependent operations.
    let (x2, x4) = (x * x, x * x * x * x);
    let low = (terms[0] + terms[1] * x) + (terms[2] + terms[3] * x) * x2;
    let high = (terms[4] + terms[5] * x) + (terms[6] + terms[7] * x) * x2;
    low + high * x4
}

fn horner_with_slope(terms: &[f64; N_TERMS], x: f64) -> (f64, f64) {
    let (mut value, mut slope) = (0.0, 0.0);
    for &term in terms.iter().rev() {
        slope = slope * x + value;
        value = value * x + term;
    }
    (value, slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Peaks;

    fn profiles() -> Vec<[f64; 8]> {
        vec![
            [8.0, 290.0, 3.1, 95.0, 1.9, 3.2, 40.0, 70.0],
            [4.0, 330.0, 2.9, 70.0, 2.7, 0.7, 130.0, 70.0],
            [12.0, 420.0, 2.6, 180.0, 1.6, 4.0, 5.0, 150.0],
            [2.0, 250.0, 3.3, 40.0, 3.5, 1.2, 88.0, 0.0],
            [5.0, 230.0, 3.3, 60.0, 2.2, 3.0, 20.0, 0.0],
            [7.6, 248.0, 3.0, 175.0, 3.1, 0.5, 166.0, 80.0],
            [5.2, 312.0, 3.0, 173.0, 2.96, 1.7, 4.0, 80.0],
        ]
    }

    fn profile(of: [f64; 8]) -> Profile {
        let columns = of.map(|value| [value]);
        let [a, b, c, d, e, f, g, h] = &columns;
        let peaks = Peaks {
            fof2_mhz: a,
            hmf2_km: b,
            m3000f2: c,
            b0_km: d,
            b1: e,
            foe_mhz: f,
            solar_zenith_deg: g,
            r12: h,
        };
        match peaks.profiles() {
            Ok(profiles) => profiles[0],
            Err(error) => unreachable!("{error}"),
        }
    }

    #[test]
    fn the_table_is_the_profile() {
        for of in profiles() {
            let profile = profile(of);
            let table = PlasmaTable::new(&profile);
            let peak = profile.nmf2 / DENSITY_PER_MHZ2;
            let mut worst: f64 = 0.0;
            for (piece, pair) in table.knots().windows(2).enumerate() {
                for step in 1..400 {
                    let share = f64::from(step) / 400.0;
                    let height =
                        pair[0].height_km + share * (pair[1].height_km - pair[0].height_km);
                    let exact = profile.density(height) / DENSITY_PER_MHZ2;
                    let error = (table.plasma_mhz2(piece, height) - exact).abs();
                    worst = worst.max(error / (peak.min(exact + 0.01 * peak)));
                }
            }
            assert!(worst < 2e-6, "{of:?}: {worst} {} cells", table.cells.len());
        }
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        for of in profiles() {
            let table = PlasmaTable::new(&profile(of));
            let step = 1e-5_f64;
            let exact = |column: usize, factor: f64, shift: f64, height: f64| {
                let mut changed = of;
                changed[column] = changed[column] * factor + shift;
                profile(changed).density(height) / DENSITY_PER_MHZ2
            };
            for (piece, pair) in table.knots().windows(2).enumerate() {
                for share in [0.12, 0.5, 0.87] {
                    let height =
                        pair[0].height_km + share * (pair[1].height_km - pair[0].height_km);
                    let found = table.local(piece, height);
                    let (up, down) = (step.exp(), (-step).exp());
                    let expected = [
                        exact(0, up, 0.0, height) - exact(0, down, 0.0, height),
                        exact(1, 1.0, step, height) - exact(1, 1.0, -step, height),
                        exact(3, up, 0.0, height) - exact(3, down, 0.0, height),
                    ];
                    for (found, expected) in found.by_parameter.iter().zip(expected) {
                        let error = (found - expected / (2.0 * step)).abs();
                        assert!(error < 1e-4 * of[0] * of[0], "{of:?} {height}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn knots_part_what_rises_from_what_falls_and_levels_are_found() {
        for of in profiles() {
            let table = PlasmaTable::new(&profile(of));
            for (piece, pair) in table.knots().windows(2).enumerate() {
                let is_rising = pair[1].plasma_mhz2 > pair[0].plasma_mhz2;
                for step in 1..100 {
                    let share = f64::from(step) / 100.0;
                    let height =
                        pair[0].height_km + share * (pair[1].height_km - pair[0].height_km);
                    let local = table.local(piece, height);
                    let least = LEVEL * of[0] * of[0];
                    assert!(
                        local.slope.abs() <= least || (local.slope > 0.0) == is_rising,
                        "{of:?} {height} {local:?}"
                    );
                    if is_rising && local.slope > 1e-6 {
                        let back = table.height_of_km(piece, local.plasma_mhz2);
                        assert!((back - height).abs() < 1e-6, "{of:?}: {height} {back}");
                    }
                }
            }
        }
    }
}
