//! Virtual height of a vertical path: the integral of the group index from the ground to where the wave is reflected.
//!
//! The integrand grows without bound at reflection, and nearly so at any peak that the wave passes with little to spare. On
//! every piece between two knots of the profile, `e = (level - fN^2) / f^2` is therefore modelled by the quadratic through its
//! value and slope at the end where it is least and its value at the other end; the nodes of a Gauss-Legendre rule are spread by
//! the substitution that makes `dh / sqrt(e)` of the model constant. At the peak of a parabolic layer this is the closed form,
//! elsewhere next to `h = h_r - L s^2`. What is left to integrate is smooth.

use std::sync::OnceLock;

use pulp::{Arch, NullaryFnOnce};

use crate::dual::Dual;
use crate::exponential::exp;
use crate::group_index::{Gyro, Mode};

/// Parameters that derivatives are taken for: ln foF2, hmF2, ln B0.
pub const N_PARAMETERS: usize = 3;
/// Nodes on a piece shorter than [`SHORT_KM`], on others, and where the index changes its form close to reflection.
const N_NODES: [usize; 3] = [8, 16, 32];
const MOST_NODES: usize = 32;
const SHORT_KM: f64 = 4.0;
/// The index changes its form close to reflection when it does so within this share of the substituted range.
const GRADED_BELOW: f64 = 0.7;
/// Curvature over slope of the model below which the quadratic is taken as linear; and e over its change above which it is
/// taken as constant.
const STRAIGHT: f64 = 0.05;
const FLAT: f64 = 1e4;
/// Nodes of a piece that the wave passes with more than this e to spare may stay the same for all frequencies.
const TO_SPARE: f64 = 0.5;
/// Least e at a node, which rounding alone could bring to zero.
const LEAST_LEFT: f64 = 1e-15;

/// End of a piece of a profile: square of the plasma frequency, MHz^2, and its slope by height on both sides, MHz^2 / km.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knot {
    pub height_km: f64,
    pub plasma_mhz2: f64,
    pub slope_below: f64,
    pub slope_above: f64,
}

/// Square of the plasma frequency at a height, with its derivative by height and by the parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Local {
    pub plasma_mhz2: f64,
    pub slope: f64,
    pub by_parameter: [f64; N_PARAMETERS],
}

/// Nodes of a quadrature over a whole piece: equal in number.
#[derive(Debug, Clone, Default)]
pub struct FixedNodes {
    pub weight_km: Vec<f64>,
    pub plasma_mhz2: Vec<f64>,
    pub by_parameter: Vec<[f64; N_PARAMETERS]>,
}

impl FixedNodes {
    /// By the rule of n points, one of [`N_NODES`].
    pub fn new(low_km: f64, high_km: f64, is_smooth: bool, at: impl Fn(f64) -> Local) -> Self {
        let mut nodes = FixedNodes::default();
        for &(node, weight) in &rules()[usize::from(!is_smooth)] {
            let local = at(low_km + (high_km - low_km) * node);
            nodes.weight_km.push((high_km - low_km) * weight);
            nodes.plasma_mhz2.push(local.plasma_mhz2);
            nodes.by_parameter.push(local.by_parameter);
        }
        nodes
    }
}

/// A plasma in layers up to its highest peak. Between two knots it is smooth and rises or falls throughout.
pub trait Plasma {
    /// From the lowest height that matters to the peak; at least two.
    fn knots(&self) -> &[Knot];
    /// fN^2 in MHz^2 within the piece above knot `piece`.
    fn plasma_mhz2(&self, piece: usize, height_km: f64) -> f64;
    fn local(&self, piece: usize, height_km: f64) -> Local;
    /// Its derivative by height, MHz^2 / km.
    fn slope(&self, piece: usize, height_km: f64) -> f64 {
        self.local(piece, height_km).slope
    }
    /// Where a rising piece reaches the level, which lies between the values at its ends.
    fn height_of_km(&self, piece: usize, level_mhz2: f64) -> f64;
    /// Nodes for every frequency that passes the piece with much to spare; None where each spreads its own.
    fn fixed(&self, piece: usize) -> Option<&FixedNodes>;
    /// Derivatives of fN^2 by the parameters at the peak that is knot `knot`, which moves with them.
    fn peak_by_parameter(&self, knot: usize) -> [f64; N_PARAMETERS];
}

/// A virtual height with its derivatives, the profile's parameters as of [`Local`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VirtualHeight {
    pub km: f64,
    /// km / MHz, at constant profile.
    pub by_frequency: f64,
    pub by_parameter: [f64; N_PARAMETERS],
}

/// A piece's nodes: those that it keeps, or one of its own.
enum Nodes<'a> {
    Fixed(&'a FixedNodes),
    Own(Node),
}

struct Node {
    piece: usize,
    height_km: f64,
    /// km
    weight: f64,
    /// By how much height and weight grow when reflection moves up by 1 km.
    height_share: f64,
    weight_share: f64,
}

/// Where a wave turns: its piece and height.
struct Turn {
    piece: usize,
    height_km: f64,
    level_mhz2: f64,
}

fn turn<P: Plasma>(plasma: &P, gyro: &Gyro, mode: Mode, frequency_mhz: f64) -> Option<Turn> {
    let level_mhz2 = gyro.level(mode, frequency_mhz);
    let knots = plasma.knots();
    if level_mhz2 <= knots[0].plasma_mhz2 {
        return None;
    }
    let piece = knots[1..]
        .iter()
        .position(|knot| knot.plasma_mhz2 > level_mhz2)?;
    Some(Turn {
        piece,
        height_km: plasma.height_of_km(piece, level_mhz2),
        level_mhz2,
    })
}

/// Height in km where a vertical wave is reflected: the first that reaches its level. None when none does, and for an extraordinary wave
/// not above the gyrofrequency.
pub fn reflection_km<P: Plasma>(
    plasma: &P,
    gyro: &Gyro,
    mode: Mode,
    frequency_mhz: f64,
) -> Option<f64> {
    turn(plasma, gyro, mode, frequency_mhz).map(|turn| turn.height_km)
}

/// Virtual height in km of a vertical wave, from the ground. None where nothing reflects it.
pub fn virtual_height_km<P: Plasma>(
    plasma: &P,
    gyro: &Gyro,
    mode: Mode,
    frequency_mhz: f64,
) -> Option<f64> {
    let turn = turn(plasma, gyro, mode, frequency_mhz)?;
    let y = gyro.frequency_mhz / frequency_mhz;
    let per_square = 1.0 / (frequency_mhz * frequency_mhz);
    let mut batch = Batch::new(gyro, mode, y);
    each_piece(
        plasma,
        gyro,
        mode,
        y,
        per_square,
        &turn,
        None,
        |nodes| match nodes {
            Nodes::Fixed(fixed) => {
                for (plasma_mhz2, &weight) in fixed.plasma_mhz2.iter().zip(&fixed.weight_km) {
                    batch.push((turn.level_mhz2 - plasma_mhz2) * per_square, weight);
                }
            }
            Nodes::Own(node) => {
                let plasma_mhz2 = plasma.plasma_mhz2(node.piece, node.height_km);
                let left = ((turn.level_mhz2 - plasma_mhz2) * per_square).max(LEAST_LEFT);
                batch.push(left, node.weight);
            }
        },
    );
    batch.flush();
    Some(plasma.knots()[0].height_km + batch.sum)
}

/// As [`virtual_height_km`], with derivatives: exact ones of the quadrature's own integrals.
pub fn virtual_height<P: Plasma>(
    plasma: &P,
    gyro: &Gyro,
    mode: Mode,
    frequency_mhz: f64,
) -> Option<VirtualHeight> {
    let turn = turn(plasma, gyro, mode, frequency_mhz)?;
    let y = gyro.frequency_mhz / frequency_mhz;
    let per_square = 1.0 / (frequency_mhz * frequency_mhz);
    let level_slope = gyro
        .level(mode, Dual::<1>::parameter(frequency_mhz, 0))
        .slope[0];
    let at_turn = plasma.local(turn.piece, turn.height_km);
    // Where the level is reached moves by dh = (dlevel - dfN^2) / slope.
    let turn_by_frequency = level_slope / at_turn.slope;
    let turn_by_parameter = at_turn.by_parameter.map(|by| -by / at_turn.slope);

    let mut found = VirtualHeight {
        km: plasma.knots()[0].height_km,
        by_frequency: 0.0,
        by_parameter: [0.0; N_PARAMETERS],
    };
    each_piece(
        plasma,
        gyro,
        mode,
        y,
        per_square,
        &turn,
        Some(at_turn.slope),
        |nodes| {
            let node = match nodes {
                Nodes::Own(node) => node,
                Nodes::Fixed(fixed) => {
                    for (number, &plasma_mhz2) in fixed.plasma_mhz2.iter().enumerate() {
                        let left = (turn.level_mhz2 - plasma_mhz2) * per_square;
                        let index = gyro.group_index(
                            mode,
                            Dual::<2>::parameter(left, 0),
                            Dual::<2>::parameter(y, 1),
                        );
                        let (weight, [by_left, by_y]) = (fixed.weight_km[number], index.slope);
                        found.km += weight * index.value;
                        found.by_frequency += weight
                            * (by_left * (level_slope * per_square - 2.0 * left / frequency_mhz)
                                - by_y * y / frequency_mhz);
                        for (target, by) in found
                            .by_parameter
                            .iter_mut()
                            .zip(fixed.by_parameter[number])
                        {
                            *target -= weight * by_left * by * per_square;
                        }
                    }
                    return;
                }
            };
            let local = plasma.local(node.piece, node.height_km);
            let left = ((turn.level_mhz2 - local.plasma_mhz2) * per_square).max(LEAST_LEFT);
            let index = gyro.group_index(
                mode,
                Dual::<2>::parameter(left, 0),
                Dual::<2>::parameter(y, 1),
            );
            let [by_left, by_y] = index.slope;
            found.km += node.weight * index.value;
            let moved = node.height_share * local.slope;
            found.by_frequency += node.weight
                * (by_left
                    * ((level_slope - moved * turn_by_frequency) * per_square
                        - 2.0 * left / frequency_mhz)
                    - by_y * y / frequency_mhz)
                + node.weight_share * turn_by_frequency * index.value;
            for (parameter, target) in found.by_parameter.iter_mut().enumerate() {
                let by = local.by_parameter[parameter] + moved * turn_by_parameter[parameter];
                *target += -node.weight * by_left * by * per_square
                    + node.weight_share * turn_by_parameter[parameter] * index.value;
            }
        },
    );
    Some(found)
}

/// Nodes whose indices are computed together.
const BATCH: usize = 128;

/// The integral, and nodes that are not in it yet.
struct Batch<'a> {
    gyro: &'a Gyro,
    mode: Mode,
    y: f64,
    left: [f64; BATCH],
    weight: [f64; BATCH],
    n: usize,
    sum: f64,
}

impl<'a> Batch<'a> {
    fn new(gyro: &'a Gyro, mode: Mode, y: f64) -> Self {
        Batch {
            gyro,
            mode,
            y,
            left: [0.0; BATCH],
            weight: [0.0; BATCH],
            n: 0,
            sum: 0.0,
        }
    }

    fn push(&mut self, left: f64, weight: f64) {
        self.left[self.n] = left;
        self.weight[self.n] = weight;
        self.n += 1;
        if self.n == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let index = &mut self.left[..self.n];
        self.gyro.indices(self.mode, index, self.y);
        self.sum += index
            .iter()
            .zip(&self.weight)
            .map(|(index, weight)| index * weight)
            .sum::<f64>();
        self.n = 0;
    }
}

/// Calls for the nodes of the quadrature from the lowest knot to reflection.
#[allow(clippy::too_many_arguments)]
fn each_piece<'a, P: Plasma>(
    plasma: &'a P,
    gyro: &Gyro,
    mode: Mode,
    y: f64,
    per_square: f64,
    turn: &Turn,
    turn_slope: Option<f64>,
    mut visit: impl FnMut(Nodes<'a>),
) {
    let knots = plasma.knots();
    let left = |plasma_mhz2: f64| (turn.level_mhz2 - plasma_mhz2) * per_square;
    for piece in 0..=turn.piece {
        let (low, high) = (&knots[piece], &knots[piece + 1]);
        let is_last = piece == turn.piece;
        let top_km = if is_last {
            turn.height_km
        } else {
            high.height_km
        };
        let length = top_km - low.height_km;
        if length <= 0.0 {
            continue;
        }
        if !is_last
            && left(low.plasma_mhz2.max(high.plasma_mhz2)) > TO_SPARE
            && let Some(fixed) = plasma.fixed(piece)
        {
            visit(Nodes::Fixed(fixed));
            continue;
        }
        // The end where the wave is slowest, and the distance of a node from it.
        let is_rising = is_last || high.plasma_mhz2 >= low.plasma_mhz2;
        let (least, steep, most) = if is_last {
            let slope = turn_slope.unwrap_or_else(|| plasma.slope(piece, top_km));
            (0.0, slope, left(low.plasma_mhz2))
        } else if is_rising {
            (
                left(high.plasma_mhz2),
                high.slope_below,
                left(low.plasma_mhz2),
            )
        } else {
            (
                left(low.plasma_mhz2),
                -low.slope_above,
                left(high.plasma_mhz2),
            )
        };
        let spreader = Spreader::new(least, (steep * per_square).max(0.0), most, length);
        let scale = if is_last { gyro.scale(mode, y) } else { None };
        let spread = spreader.nodes(scale);
        for (&distance, &weight) in spread.distance[..spread.n].iter().zip(&spread.weight) {
            let height_km = if is_rising {
                top_km - distance
            } else {
                low.height_km + distance
            };
            visit(Nodes::Own(Node {
                piece,
                height_km,
                weight,
                height_share: if is_last {
                    1.0 - distance / length
                } else {
                    0.0
                },
                weight_share: if is_last { weight / length } else { 0.0 },
            }));
        }
    }
}

/// How nodes are spread over a piece, by distance from the end where e is least.
#[derive(Debug, Clone, Copy)]
enum Spread {
    /// distance = u
    Even,
    /// distance = u^2 - offset
    Square { offset: f64 },
    /// distance = size cosh u - offset
    Cosh { size: f64, offset: f64 },
    /// distance = size sinh u - offset
    Sinh { size: f64, offset: f64 },
}

struct Spreader {
    spread: Spread,
    length: f64,
    from: f64,
    to: f64,
    /// e of the model is `model * (substitution)^2` counted from reflection.
    steepness: f64,
}

impl Spreader {
    fn new(least: f64, slope: f64, most: f64, length: f64) -> Self {
        let curvature = (most - least - slope * length) / (length * length);
        let (spread, from, to, steepness) = if curvature * length > STRAIGHT * slope {
            let offset = slope / (2.0 * curvature);
            let size2 = offset * offset - least / curvature;
            let size = if least == 0.0 {
                offset
            } else {
                size2.abs().max(1e-24 * length * length).sqrt()
            };
            let ends = [offset / size, (length + offset) / size];
            if size2 > 0.0 {
                let [from, to] = ends.map(|ratio| ratio.max(1.0).acosh());
                (
                    Spread::Cosh { size, offset },
                    from,
                    to,
                    curvature * size * size,
                )
            } else {
                let [from, to] = ends.map(f64::asinh);
                (Spread::Sinh { size, offset }, from, to, 0.0)
            }
        } else if slope > 0.0 && least < FLAT * slope * length {
            let offset = least / slope;
            (
                Spread::Square { offset },
                offset.sqrt(),
                (length + offset).sqrt(),
                slope,
            )
        } else {
            (Spread::Even, 0.0, length, 0.0)
        };
        Spreader {
            spread,
            length,
            from,
            to,
            steepness,
        }
    }

    /// Distance and weight of every node; `scale` is the e at which the index changes its form, on the piece that ends at reflection.
    fn nodes(&self, scale: Option<f64>) -> SpreadNodes {
        let range = self.to - self.from;
        // Where the model reaches the scale: steepness sinh^2 u, or steepness u^2.
        let turn = match (scale, self.spread) {
            (Some(scale), Spread::Cosh { .. }) => (scale / self.steepness).sqrt().asinh(),
            (Some(scale), Spread::Square { .. }) => (scale / self.steepness).sqrt(),
            _ => f64::INFINITY,
        };
        let is_graded = turn < GRADED_BELOW * range;
        let rule = &rules()[if is_graded {
            2
        } else if self.length < SHORT_KM {
            0
        } else {
            1
        }];
        Arch::new().dispatch(Spreading {
            spreader: self,
            rule,
            range,
            graded_by: if is_graded { Some(turn) } else { None },
        })
    }
}

/// The substitution at the nodes of a rule: loops without branches, compiled for the widest vectors that the machine has.
struct Spreading<'a> {
    spreader: &'a Spreader,
    rule: &'a [(f64, f64)],
    range: f64,
    graded_by: Option<f64>,
}

impl NullaryFnOnce for Spreading<'_> {
    type Output = SpreadNodes;

    #[inline(always)]
    fn call(self) -> SpreadNodes {
        let Spreader {
            spread,
            length,
            from,
            ..
        } = *self.spreader;
        let n = self.rule.len();
        let mut nodes = SpreadNodes {
            n,
            distance: [0.0; MOST_NODES],
            weight: [0.0; MOST_NODES],
        };
        let (us, dus) = (&mut nodes.distance[..n], &mut nodes.weight[..n]);
        if let Some(turn) = self.graded_by {
            let stretched = (self.range / turn).asinh();
            for ((u, du), &(node, weight)) in us.iter_mut().zip(dus.iter_mut()).zip(self.rule) {
                let (sinh, cosh) = sinh_cosh(stretched * node);
                *u = from + turn * sinh;
                *du = turn * cosh * stretched * weight;
            }
        } else {
            for ((u, du), &(node, weight)) in us.iter_mut().zip(dus.iter_mut()).zip(self.rule) {
                *u = from + self.range * node;
                *du = self.range * weight;
            }
        }
        let both = us.iter_mut().zip(dus.iter_mut());
        match spread {
            Spread::Even => {}
            Spread::Square { offset } => {
                for (u, du) in both {
                    *du *= 2.0 * *u;
                    *u = *u * *u - offset;
                }
            }
            Spread::Cosh { size, offset } => {
                for (u, du) in both {
                    // By half the argument: cosh u = 1 + 2 sinh^2(u / 2) cancels nothing from reflection itself.
                    let (sinh, cosh) = sinh_cosh(0.5 * *u);
                    *du *= 2.0 * size * sinh * cosh;
                    *u = 2.0 * size * sinh * sinh + (size - offset);
                }
            }
            Spread::Sinh { size, offset } => {
                for (u, du) in both {
                    let (sinh, cosh) = sinh_cosh(*u);
                    *du *= size * cosh;
                    *u = size * sinh - offset;
                }
            }
        }
        for distance in us {
            *distance = distance.max(0.0).min(length);
        }
        nodes
    }
}

/// Nodes of one piece: distance in km from the end where e is least, weight in km.
struct SpreadNodes {
    n: usize,
    distance: [f64; MOST_NODES],
    weight: [f64; MOST_NODES],
}

/// Of x >= 0.
#[inline(always)]
fn sinh_cosh(x: f64) -> (f64, f64) {
    // To the last bits: x^11 / 11! is 4e-14 of x. Both ways are gone, so that there is no branch.
    let x2 = x * x;
    let small = x
        * (1.0
            + x2 * (1.0 / 6.0)
                * (1.0
                    + x2 * (1.0 / 20.0)
                        * (1.0
                            + x2 * (1.0 / 42.0)
                                * (1.0 + x2 * (1.0 / 72.0) * (1.0 + x2 * (1.0 / 110.0))))));
    let exponential = exp(x);
    let large = 0.5 * (exponential - 1.0 / exponential);
    let sinh = if x < 0.3 { small } else { large };
    (sinh, (1.0 + sinh * sinh).sqrt())
}

/// Gauss-Legendre rules on 0..1, of the sizes of [`N_NODES`].
fn rules() -> &'static [Vec<(f64, f64)>; 3] {
    static RULES: OnceLock<[Vec<(f64, f64)>; 3]> = OnceLock::new();
    RULES.get_or_init(|| N_NODES.map(gauss_legendre))
}

/// Nodes, rising, and weights of the n-point rule on 0..1, by Newton's method on the Legendre polynomial.
pub fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    (0..n)
        .map(|index| {
            let mut x = -((index as f64 + 0.75) / (n as f64 + 0.5) * std::f64::consts::PI).cos();
            let mut derivative = 1.0;
            for _ in 0..100 {
                let (mut before, mut value) = (1.0, x);
                for degree in 2..=n {
                    let k = degree as f64;
                    (before, value) = (
                        value,
                        ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k,
                    );
                }
                derivative = n as f64 * (x * value - before) / (x * x - 1.0);
                let step = value / derivative;
                x -= step;
                if step.abs() < 1e-15 {
                    break;
                }
            }
            (
                0.5 * (1.0 + x),
                1.0 / ((1.0 - x * x) * derivative * derivative),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parabolic layer: ln foF2 moves its critical frequency, hmF2 its peak, ln B0 its half thickness.
    struct Parabola {
        critical_mhz: f64,
        peak_km: f64,
        half_km: f64,
        knots: [Knot; 2],
    }

    impl Parabola {
        fn new(critical_mhz: f64, peak_km: f64, half_km: f64) -> Self {
            let square = critical_mhz * critical_mhz;
            let foot = Knot {
                height_km: peak_km - half_km,
                plasma_mhz2: 0.0,
                slope_below: 0.0,
                slope_above: 2.0 * square / half_km,
            };
            let top = Knot {
                height_km: peak_km,
                plasma_mhz2: square,
                slope_below: 0.0,
                slope_above: 0.0,
            };
            Parabola {
                critical_mhz,
                peak_km,
                half_km,
                knots: [foot, top],
            }
        }
    }

    impl Plasma for Parabola {
        fn knots(&self) -> &[Knot] {
            &self.knots
        }
        fn plasma_mhz2(&self, piece: usize, height_km: f64) -> f64 {
            self.local(piece, height_km).plasma_mhz2
        }
        fn local(&self, _: usize, height_km: f64) -> Local {
            let depth = (self.peak_km - height_km) / self.half_km;
            let square = self.critical_mhz * self.critical_mhz;
            let slope = 2.0 * square * depth / self.half_km;
            Local {
                plasma_mhz2: square * (1.0 - depth * depth),
                slope,
                by_parameter: [
                    2.0 * square * (1.0 - depth * depth),
                    -slope,
                    2.0 * square * depth * depth,
                ],
            }
        }
        fn height_of_km(&self, _: usize, level_mhz2: f64) -> f64 {
            let rest = 1.0 - level_mhz2 / (self.critical_mhz * self.critical_mhz);
            self.peak_km - self.half_km * rest.sqrt()
        }
        fn fixed(&self, _: usize) -> Option<&FixedNodes> {
            None
        }
        fn peak_by_parameter(&self, _: usize) -> [f64; N_PARAMETERS] {
            [2.0 * self.critical_mhz * self.critical_mhz, 0.0, 0.0]
        }
    }

    /// h0 + (ym / 2) (f / fc) ln((fc + f) / (fc - f)).
    fn closed_form_km(layer: &Parabola, frequency_mhz: f64) -> f64 {
        let ratio = frequency_mhz / layer.critical_mhz;
        layer.peak_km - layer.half_km
            + 0.5 * layer.half_km * ratio * ((1.0 + ratio) / (1.0 - ratio)).ln()
    }

    #[test]
    fn a_parabolic_layer_without_field_is_its_closed_form() {
        for (critical, peak, half) in [
            (2.0, 250.0, 40.0),
            (7.0, 320.0, 120.0),
            (15.0, 450.0, 200.0),
        ] {
            let layer = Parabola::new(critical, peak, half);
            for mode in [Mode::Ordinary, Mode::Extraordinary] {
                for share in [0.01, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 0.99999] {
                    for dip in [0.0, 45.0, 90.0] {
                        let gyro = Gyro::new(0.0, dip);
                        let frequency = share * critical;
                        let found = virtual_height(&layer, &gyro, mode, frequency).map(|v| v.km);
                        let expected = closed_form_km(&layer, frequency);
                        let error = found.map(|found| (found - expected).abs());
                        assert!(error.is_some_and(|e| e < 1e-3), "{share}: {error:?} km");
                        let alone = virtual_height_km(&layer, &gyro, mode, frequency);
                        let difference = alone.zip(found).map(|(a, b)| (a - b).abs());
                        assert!(difference.is_some_and(|d| d < 1e-9));
                    }
                }
                assert_eq!(
                    virtual_height_km(&layer, &Gyro::new(0.0, 0.0), mode, critical),
                    None
                );
            }
        }
    }

    #[test]
    fn its_derivatives_are_those_of_the_closed_form() {
        let (critical, peak, half) = (6.0_f64, 300.0, 90.0_f64);
        let layer = Parabola::new(critical, peak, half);
        let none = Gyro::new(0.0, 30.0);
        for frequency in [1.0, 3.0, 5.5, 5.99] {
            let Some(found) = virtual_height(&layer, &none, Mode::Ordinary, frequency) else {
                unreachable!()
            };
            let by = |critical: f64, peak: f64, half: f64, frequency: f64| {
                closed_form_km(&Parabola::new(critical, peak, half), frequency)
            };
            let step = 1e-6_f64;
            let (up, down) = (step.exp(), (-step).exp());
            let expected = [
                by(critical * up, peak, half, frequency)
                    - by(critical * down, peak, half, frequency),
                by(critical, peak + step, half, frequency)
                    - by(critical, peak - step, half, frequency),
                by(critical, peak, half * up, frequency)
                    - by(critical, peak, half * down, frequency),
            ];
            for (found, expected) in found.by_parameter.iter().zip(expected) {
                let expected = expected / (2.0 * step);
                assert!(
                    (found / expected - 1.0).abs() < 1e-4,
                    "{frequency}: {found} {expected}"
                );
            }
            let by_frequency = (by(critical, peak, half, frequency + step)
                - by(critical, peak, half, frequency - step))
                / (2.0 * step);
            assert!((found.by_frequency / by_frequency - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn more_nodes_change_nothing_in_a_field() {
        let layer = Parabola::new(7.0, 320.0, 120.0);
        for (gyrofrequency, dip) in [
            (0.9, 0.0),
            (1.1, 30.0),
            (1.4, 60.0),
            (1.5, 85.0),
            (1.5, 89.9),
            (1.5, 90.0),
        ] {
            let gyro = Gyro::new(gyrofrequency, dip);
            for mode in [Mode::Ordinary, Mode::Extraordinary] {
                let (ceiling, _) = gyro.critical_mhz(mode, 49.0);
                for share in [0.25, 0.4, 0.7, 0.9, 0.99, 0.999] {
                    let frequency = share * ceiling;
                    let fine = fine_km(&layer, &gyro, mode, frequency);
                    let found = virtual_height_km(&layer, &gyro, mode, frequency);
                    let error = found.map(|found| (found - fine).abs());
                    assert!(
                        error.is_some_and(|error| error < 1e-3),
                        "{mode:?} fH {gyrofrequency} dip {dip} share {share}: {error:?} km"
                    );
                }
            }
        }
    }

    /// By u of h = h_r - u^2 in graded panels.
    fn fine_km(layer: &Parabola, gyro: &Gyro, mode: Mode, frequency_mhz: f64) -> f64 {
        let Some(turn) = turn(layer, gyro, mode, frequency_mhz) else {
            return f64::NAN;
        };
        let foot = layer.knots[0].height_km;
        let (y, whole) = (
            gyro.frequency_mhz / frequency_mhz,
            (turn.height_km - foot).sqrt(),
        );
        let rule = gauss_legendre(20);
        let edges: Vec<f64> = std::iter::once(0.0)
            .chain((0..=60).map(|panel| whole * 0.6_f64.powi(60 - panel)))
            .collect();
        let mut sum = foot;
        for pair in edges.windows(2) {
            for &(node, weight) in &rule {
                let u = pair[0] + (pair[1] - pair[0]) * node;
                // level - fN^2 without cancelling: slope d + square d^2.
                let slope = layer.local(0, turn.height_km).slope;
                let square = (layer.critical_mhz / layer.half_km).powi(2);
                let left = (slope * u * u + square * u.powi(4)) / frequency_mhz.powi(2);
                sum += (pair[1] - pair[0]) * weight * 2.0 * u * gyro.group_index(mode, left, y);
            }
        }
        sum
    }

    #[test]
    fn rules_integrate_polynomials() {
        for n in N_NODES {
            let rule = gauss_legendre(n);
            for power in 0..2 * n as i32 {
                let sum: f64 = rule.iter().map(|(x, w)| w * x.powi(power)).sum();
                assert!((sum * f64::from(power + 1) - 1.0).abs() < 1e-13);
            }
        }
    }
}
