//! Group delay of an oblique path between two places on the ground.
//!
//! Breit and Tuve's theorem: the group path is that of the triangle over the virtual height; Martyn's: the virtual height is that
//! of the equivalent vertical frequency `f cos(phi)` (Davies 1990, chapter 6). Both are exact for a flat ionosphere without field; here
//! phi is the angle of incidence at the apex of the triangle over the curved Earth, and the field is that of the vertical path.

use crate::covariance::EARTH_RADIUS_KM;
use crate::group_index::{Gyro, Mode};
use crate::virtual_height::{
    N_PARAMETERS, Plasma, reflection_km, virtual_height, virtual_height_km,
};

/// Speed of light, km / ms.
pub const LIGHT_KM_PER_MS: f64 = 299.792_458;
/// Least height of a reflection that counts, km.
const LEAST_HEIGHT_KM: f64 = 40.0;
/// How close to a critical frequency a ceiling is sought: w up to this in f = fc (1 - exp(-w)).
const CLOSEST: f64 = 14.0;
const SCAN_STEPS: usize = 10;
const PARABOLIC_STEPS: usize = 9;
const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// Equivalent frequencies are solved to this share.
const TOLERANCE: f64 = 1e-9;
const MAX_STEPS: usize = 80;

/// One wave on one path: the mode, the field in the layer and half the ground distance.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    pub mode: Mode,
    pub gyro: Gyro,
    /// Half the angle between the ends at the centre of the Earth, rad.
    half_angle: f64,
    /// Virtual height with which the search for the equivalent frequency begins, km.
    expected_km: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Echo {
    pub delay_ms: f64,
    pub virtual_height_km: f64,
    pub equivalent_mhz: f64,
    /// ms by ln foF2, hmF2 (km), ln B0; NaN where not asked for.
    pub delay_by: [f64; N_PARAMETERS],
    /// ms / MHz
    pub delay_by_frequency: f64,
    /// km by the same.
    pub height_by: [f64; N_PARAMETERS],
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceiling {
    pub mhz: f64,
    /// Equivalent frequency of the ray that turns at the ceiling, MHz.
    pub equivalent_mhz: f64,
    /// MHz by ln foF2, hmF2 (km), ln B0.
    pub by: [f64; N_PARAMETERS],
}

/// Part of the equivalent frequencies that one layer reflects: above what the layers below it reflect, up to its own peak.
#[derive(Debug, Clone, Copy)]
struct Branch {
    low_mhz: f64,
    high_mhz: f64,
    /// Knot of its peak.
    peak: usize,
}

impl Path {
    pub fn new(mode: Mode, gyro: Gyro, distance_km: f64) -> Self {
        Path {
            mode,
            gyro,
            half_angle: 0.5 * distance_km / EARTH_RADIUS_KM,
            expected_km: 250.0,
        }
    }

    /// The same path, its search begun at the virtual height of a delay.
    pub fn expecting(mut self, delay_ms: f64) -> Self {
        let side = 0.5 * delay_ms * LIGHT_KM_PER_MS;
        let (across, up) = self.sides(0.0);
        let height = (side * side - across * across).max(0.0).sqrt() - up;
        self.expected_km = height.clamp(80.0, 800.0);
        self
    }

    fn is_vertical(&self) -> bool {
        self.half_angle == 0.0
    }

    /// Group path in km over a virtual height, and its derivative.
    fn length_km(&self, height_km: f64) -> (f64, f64) {
        let (across, up) = self.sides(height_km);
        let side = across.hypot(up);
        (2.0 * side, 2.0 * up / side)
    }

    /// From an end of the path to the apex of the triangle: across the vertical of the apex and along it, km.
    fn sides(&self, height_km: f64) -> (f64, f64) {
        let half = (0.5 * self.half_angle).sin();
        (
            EARTH_RADIUS_KM * self.half_angle.sin(),
            height_km + 2.0 * EARTH_RADIUS_KM * half * half,
        )
    }

    /// Cosine of the angle of incidence at the apex, and its derivative by the virtual height.
    fn cosine(&self, height_km: f64) -> (f64, f64) {
        let (across, up) = self.sides(height_km);
        let side = across.hypot(up);
        (up / side, across * across / side.powi(3))
    }

    fn branches<P: Plasma>(&self, plasma: &P) -> impl Iterator<Item = Branch> {
        let (gyro, mode) = (self.gyro, self.mode);
        let knots = plasma.knots().to_vec();
        let mut top = knots[0].plasma_mhz2;
        let count = knots.len();
        (1..count).filter_map(move |knot| {
            let here = knots[knot].plasma_mhz2;
            // A peak, not a kink on the way up.
            let is_peak = knot + 1 == count || knots[knot + 1].plasma_mhz2 < here;
            if !is_peak || here <= top {
                return None;
            }
            let branch = Branch {
                low_mhz: gyro.critical_mhz(mode, top).0,
                high_mhz: gyro.critical_mhz(mode, here).0,
                peak: knot,
            };
            top = here;
            Some(branch)
        })
    }

    /// Frequency whose equivalent is given, MHz.
    fn oblique_mhz<P: Plasma>(&self, plasma: &P, equivalent_mhz: f64) -> Option<f64> {
        let height = virtual_height_km(plasma, &self.gyro, self.mode, equivalent_mhz)?;
        Some(equivalent_mhz / self.cosine(height).0)
    }

    /// An upper bound of what a branch reflects: virtual heights are at least those of reflection.
    fn bound_mhz<P: Plasma>(&self, plasma: &P, branch: &Branch) -> f64 {
        let middle = branch.low_mhz.max(0.5 * branch.high_mhz);
        let bound = |from: f64, to: f64| {
            let height = reflection_km(plasma, &self.gyro, self.mode, from)
                .unwrap_or(LEAST_HEIGHT_KM)
                .max(LEAST_HEIGHT_KM);
            to / self.cosine(height).0
        };
        let upper = bound(middle * (1.0 + 1e-9), branch.high_mhz);
        if middle > branch.low_mhz {
            upper.max(bound(branch.low_mhz, middle))
        } else {
            upper
        }
    }

    /// The highest frequency of a branch and its equivalent: the largest of f_v / cos(phi).
    fn ceiling_of_branch<P: Plasma>(&self, plasma: &P, branch: &Branch) -> (f64, f64) {
        let Branch {
            low_mhz, high_mhz, ..
        } = *branch;
        if self.is_vertical() {
            return (high_mhz, high_mhz);
        }
        let from = -(-low_mhz / high_mhz).ln_1p() + 1e-9;
        let equivalent = |w: f64| -high_mhz * (-w).exp_m1();
        let at = |w: f64| {
            self.oblique_mhz(plasma, equivalent(w))
                .unwrap_or(f64::NEG_INFINITY)
        };
        let width = (CLOSEST - from).max(1e-9) / SCAN_STEPS as f64;
        let scanned = |step: usize| {
            let w = from + width * step as f64;
            (at(w), w)
        };
        let mut points = [(f64::NEG_INFINITY, from); 3];
        let mut before = (f64::NEG_INFINITY, from);
        let mut here = scanned(0);
        for step in 1..=SCAN_STEPS + 1 {
            let after = if step > SCAN_STEPS {
                (f64::NEG_INFINITY, here.1 + width)
            } else {
                scanned(step)
            };
            if here.0 > points[1].0 {
                points = [before, here, after];
            }
            (before, here) = (here, after);
        }
        // Steps to the top of the parabola through three points about the largest, by golden section where it is none.
        for _ in 0..PARABOLIC_STEPS {
            let [left, middle, right] = points;
            let (a, b) = (middle.1 - left.1, right.1 - middle.1);
            let (down, up) = (middle.0 - left.0, right.0 - middle.0);
            let offset = 0.5 * (down * b * b + up * a * a) / (down * b - up * a);
            let is_inside = offset.is_finite() && offset > -0.9 * a && offset < 0.9 * b;
            let offset = if is_inside && offset.abs() > 1e-3 * (a + b) {
                offset
            } else if b > a {
                (1.0 - GOLDEN) * b * if is_inside { 0.1 } else { 1.0 }
            } else {
                -(1.0 - GOLDEN) * a * if is_inside { 0.1 } else { 1.0 }
            };
            let w = middle.1 + offset;
            let found = (at(w), w);
            points = match (found.0 > middle.0, offset > 0.0) {
                (true, true) => [middle, found, right],
                (true, false) => [left, found, middle],
                (false, true) => [left, middle, found],
                (false, false) => [found, middle, right],
            };
        }
        let best = points[1];
        // Towards the critical frequency itself heights grow without bound and the wave turns vertical.
        if best.0 > high_mhz {
            (best.0, equivalent(best.1))
        } else {
            (high_mhz, high_mhz)
        }
    }

    /// The highest frequency that comes back on this path (its MUF), with derivatives. None where nothing does.
    pub fn ceiling<P: Plasma>(&self, plasma: &P) -> Option<Ceiling> {
        let mut best: Option<(f64, f64, Branch)> = None;
        for branch in self.branches(plasma) {
            if best.is_some_and(|(mhz, ..)| self.bound_mhz(plasma, &branch) <= mhz) {
                continue;
            }
            let (mhz, equivalent_mhz) = self.ceiling_of_branch(plasma, &branch);
            if mhz.is_finite() && best.is_none_or(|(least, ..)| mhz > least) {
                best = Some((mhz, equivalent_mhz, branch));
            }
        }
        let (mhz, equivalent_mhz, branch) = best?;
        let by = if equivalent_mhz == branch.high_mhz {
            let peak_mhz2 = plasma.knots()[branch.peak].plasma_mhz2;
            let (_, by_plasma) = self.gyro.critical_mhz(self.mode, peak_mhz2);
            plasma
                .peak_by_parameter(branch.peak)
                .map(|by| by * by_plasma)
        } else {
            // At the largest of f_v / cos(phi) its derivative by f_v is zero.
            let found = virtual_height(plasma, &self.gyro, self.mode, equivalent_mhz)?;
            let (cosine, by_height) = self.cosine(found.km);
            found
                .by_parameter
                .map(|by| -equivalent_mhz / (cosine * cosine) * by_height * by)
        };
        Some(Ceiling {
            mhz,
            equivalent_mhz,
            by,
        })
    }

    /// Equivalent vertical frequency of the low ray of the lowest layer that returns it, MHz. None above the ceiling.
    fn equivalent_mhz<P: Plasma>(&self, plasma: &P, frequency_mhz: f64) -> Option<f64> {
        if self.is_vertical() {
            return Some(frequency_mhz);
        }
        for branch in self.branches(plasma) {
            let high = if frequency_mhz < branch.high_mhz {
                frequency_mhz
            } else {
                if self.bound_mhz(plasma, &branch) < frequency_mhz {
                    continue;
                }
                let (ceiling, equivalent) = self.ceiling_of_branch(plasma, &branch);
                if frequency_mhz > ceiling {
                    continue;
                }
                equivalent
            };
            if high <= branch.low_mhz {
                continue;
            }
            return self.solve(plasma, frequency_mhz, branch.low_mhz, high);
        }
        None
    }

    /// Steps of the secant on `f_v - f cos(phi)` inside a bracket, the first one of the fixed point.
    fn solve<P: Plasma>(
        &self,
        plasma: &P,
        frequency_mhz: f64,
        mut low: f64,
        mut high: f64,
    ) -> Option<f64> {
        let mut at = high
            .min((frequency_mhz * self.cosine(self.expected_km).0).max(low + 0.2 * (high - low)));
        let mut before: Option<(f64, f64)> = None;
        for _ in 0..MAX_STEPS {
            let Some(height) = virtual_height_km(plasma, &self.gyro, self.mode, at) else {
                // Below what the layer reflects at all.
                low = at;
                at = 0.5 * (low + high);
                if high - low < TOLERANCE * high {
                    return None;
                }
                continue;
            };
            let miss = at - frequency_mhz * self.cosine(height).0;
            if miss > 0.0 {
                high = at;
            } else {
                low = at;
            }
            let slope = match before {
                Some((place, value)) if place != at => (miss - value) / (at - place),
                _ => 1.0,
            };
            before = Some((at, miss));
            let mut next = at - miss / slope;
            if !(next > low && next < high) {
                next = 0.5 * (low + high);
            }
            if (next - at).abs() <= TOLERANCE * high || high - low <= TOLERANCE * high {
                return Some(next);
            }
            at = next;
        }
        Some(at)
    }

    /// The echo of a frequency, without derivatives. None above the ceiling.
    pub fn echo<P: Plasma>(&self, plasma: &P, frequency_mhz: f64) -> Option<Echo> {
        let equivalent_mhz = self.equivalent_mhz(plasma, frequency_mhz)?;
        let height = virtual_height_km(plasma, &self.gyro, self.mode, equivalent_mhz)?;
        Some(Echo {
            delay_ms: self.length_km(height).0 / LIGHT_KM_PER_MS,
            virtual_height_km: height,
            equivalent_mhz,
            delay_by: [f64::NAN; N_PARAMETERS],
            delay_by_frequency: f64::NAN,
            height_by: [f64::NAN; N_PARAMETERS],
        })
    }

    /// As [`Path::echo`], with derivatives at a constant frequency: those of the equivalent frequency are implicit.
    pub fn echo_with_derivatives<P: Plasma>(&self, plasma: &P, frequency_mhz: f64) -> Option<Echo> {
        let equivalent_mhz = self.equivalent_mhz(plasma, frequency_mhz)?;
        let found = virtual_height(plasma, &self.gyro, self.mode, equivalent_mhz)?;
        let (cosine, cosine_by_height) = self.cosine(found.km);
        // f_v = f cos(phi(h')), h' = h'(f_v, p): dh' = (dh'/dp + dh'/df_v cos(phi) df) / (1 - dh'/df_v f dcos/dh').
        let growth = 1.0 / (1.0 - found.by_frequency * frequency_mhz * cosine_by_height);
        let height_by = found.by_parameter.map(|by| by * growth);
        let (length, by_height) = self.length_km(found.km);
        let per_km = by_height / LIGHT_KM_PER_MS;
        Some(Echo {
            delay_ms: length / LIGHT_KM_PER_MS,
            virtual_height_km: found.km,
            equivalent_mhz,
            delay_by: height_by.map(|by| by * per_km),
            delay_by_frequency: found.by_frequency * cosine * growth * per_km,
            height_by,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plasma_table::PlasmaTable;
    use crate::profile::Peaks;

    const NOON: [f64; 8] = [8.0, 290.0, 3.1, 95.0, 1.9, 3.2, 40.0, 70.0];
    const NIGHT: [f64; 8] = [4.0, 330.0, 2.9, 70.0, 2.7, 0.7, 130.0, 70.0];

    fn table(of: [f64; 8]) -> PlasmaTable {
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
            Ok(profiles) => PlasmaTable::new(&profiles[0]),
            Err(error) => unreachable!("{error}"),
        }
    }

    fn changed(of: [f64; 8], parameter: usize, step: f64) -> PlasmaTable {
        let mut of = of;
        match parameter {
            0 => of[0] *= step.exp(),
            1 => of[1] += step,
            _ => of[3] *= step.exp(),
        }
        table(of)
    }

    fn path(mode: Mode, distance_km: f64) -> Path {
        Path::new(mode, Gyro::new(1.2, 62.0), distance_km)
    }

    const MODES: [Mode; 2] = [Mode::Ordinary, Mode::Extraordinary];

    #[test]
    fn derivatives_are_those_of_differences() {
        for of in [NOON, NIGHT] {
            for mode in MODES {
                for distance in [0.0, 80.0, 400.0] {
                    let path = path(mode, distance);
                    for share in [0.5, 0.75, 0.93, 1.03] {
                        let frequency = share * of[0];
                        let Some(found) = path.echo_with_derivatives(&table(of), frequency) else {
                            continue;
                        };
                        let delay = |plasma: &PlasmaTable, frequency: f64| {
                            path.echo(plasma, frequency)
                                .map_or(f64::NAN, |e| e.delay_ms)
                        };
                        for parameter in 0..N_PARAMETERS {
                            let step = if parameter == 1 { 1e-2 } else { 1e-4 };
                            let by = (delay(&changed(of, parameter, step), frequency)
                                - delay(&changed(of, parameter, -step), frequency))
                                / (2.0 * step);
                            let unit = if parameter == 1 { 0.007 } else { 1.0 };
                            let error = (found.delay_by[parameter] - by).abs();
                            assert!(
                                error < 2e-3 * by.abs().max(unit),
                                "{mode:?} {distance} km {frequency} MHz, {parameter}: {} {by}",
                                found.delay_by[parameter]
                            );
                        }
                        let step = 1e-5;
                        let by = (delay(&table(of), frequency + step)
                            - delay(&table(of), frequency - step))
                            / (2.0 * step);
                        assert!((found.delay_by_frequency - by).abs() < 2e-3 * by.abs().max(1e-2));
                    }
                }
            }
        }
    }

    #[test]
    fn ceilings_end_what_comes_back_and_have_their_derivatives() {
        for of in [NOON, NIGHT] {
            for mode in MODES {
                for distance in [0.0, 1.0, 100.0, 500.0] {
                    let path = path(mode, distance);
                    let plasma = table(of);
                    let Some(ceiling) = path.ceiling(&plasma) else {
                        unreachable!()
                    };
                    let vertical = path.gyro.critical_mhz(mode, of[0] * of[0]).0;
                    assert!(ceiling.mhz >= vertical * (1.0 - 1e-6), "{distance}");
                    assert!(distance > 1.0 || ceiling.mhz < vertical * (1.0 + 1e-4));
                    assert!(path.echo(&plasma, ceiling.mhz * (1.0 - 1e-5)).is_some());
                    assert!(path.echo(&plasma, ceiling.mhz * (1.0 + 1e-6)).is_none());
                    for parameter in 0..N_PARAMETERS {
                        let step = if parameter == 1 { 0.1 } else { 1e-3 };
                        let at = |step: f64| {
                            path.ceiling(&changed(of, parameter, step))
                                .map_or(f64::NAN, |ceiling| ceiling.mhz)
                        };
                        let by = (at(step) - at(-step)) / (2.0 * step);
                        let error = (ceiling.by[parameter] - by).abs();
                        assert!(
                            error < 1e-3 * by.abs() + 1e-4,
                            "{mode:?} {distance} {parameter}: {} {by}",
                            ceiling.by[parameter]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_short_path_is_nearly_vertical_and_a_longer_one_takes_longer() {
        let plasma = table(NIGHT);
        for mode in MODES {
            let delay = |distance: f64| {
                path(mode, distance)
                    .echo(&plasma, 3.5)
                    .map_or(f64::NAN, |echo| echo.delay_ms)
            };
            assert!((delay(0.001) / delay(0.0) - 1.0).abs() < 1e-9);
            let mut before = delay(0.0);
            for step in 1..50 {
                let here = delay(10.0 * f64::from(step));
                assert!(here > before, "{mode:?} {step}: {before} {here}");
                before = here;
            }
        }
    }

    #[test]
    fn the_triangle_on_a_flat_earth_is_that_of_pythagoras() {
        let path = path(Mode::Ordinary, 0.5);
        let (length, _) = path.length_km(300.0);
        assert!((length - 2.0 * 300.0_f64.hypot(0.25)).abs() < 1e-5);
        // 1,000 km, 300 km high: R^2 + (R + h)^2 - 2 R (R + h) cos(D / 2R), twice its root.
        let far = Path::new(Mode::Ordinary, Gyro::new(1.0, 0.0), 1000.0);
        let (a, b) = (EARTH_RADIUS_KM, EARTH_RADIUS_KM + 300.0);
        let side = (a * a + b * b - 2.0 * a * b * (500.0 / a).cos()).sqrt();
        assert!((far.length_km(300.0).0 - 2.0 * side).abs() < 1e-8);
        let cosine = (b - a * (500.0 / a).cos()) / side;
        assert!((far.cosine(300.0).0 - cosine).abs() < 1e-12);
    }
}
