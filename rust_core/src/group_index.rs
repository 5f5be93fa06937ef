//! Group refractive index of a magnetized plasma without collisions (Appleton and Hartree; Budden 1985, chapter 5).
//!
//! `X = (fN / f)^2`, `Y = fH / f`, the wave normal at an angle to the field whose cosine is the sine of the dip for a vertical
//! path; mu' = mu + f dmu/df. Both modes are written so that nothing cancels where the wave is reflected: with `e = 1 - X`,
//! `c` and `s` the cosine and sine of the dip and `W = sqrt(Y^2 c^4 + 4 e^2 s^2)`,
//!
//! ```text
//! O:  mu^2 = e (1 + A) / (1 + e A),                A = 2 Y s^2 / (W + Y c^2)
//! X:  mu^2 = 4 e^2 (e - Y) (e + Y) / (P Q),        P = 2 e^2 - Y^2 c^2 + Y W,   Q = 2 e - Y^2 c^2 - Y W
//! ```

use pulp::Arch;

use crate::dual::Real;

/// Which of the two characteristic waves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Ordinary,
    Extraordinary,
}

/// Least square of the cosine of the dip: where the field is vertical the ordinary wave is the limit that still turns at X = 1.
const LEAST_COS2: f64 = 1e-6;
/// What replaces a zero by which a zero is divided.
const TINY: f64 = 1e-150;

/// The field as both modes see it: gyrofrequency, squares of cosine and sine of the dip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gyro {
    pub frequency_mhz: f64,
    pub cos2: f64,
    pub sin2: f64,
}

impl Gyro {
    pub fn new(frequency_mhz: f64, dip_deg: f64) -> Self {
        let cos2 = dip_deg.to_radians().cos().powi(2).max(LEAST_COS2);
        Gyro {
            frequency_mhz,
            cos2,
            sin2: 1.0 - cos2,
        }
    }

    /// Square of the plasma frequency, MHz^2, that reflects a vertical wave: X = 1, or X = 1 - Y.
    pub fn level<T: Real>(&self, mode: Mode, frequency_mhz: T) -> T {
        match mode {
            Mode::Ordinary => frequency_mhz * frequency_mhz,
            Mode::Extraordinary => {
                frequency_mhz * (frequency_mhz - T::constant(self.frequency_mhz))
            }
        }
    }

    /// Frequency whose level is `plasma_mhz2`, and its derivative by the latter: the inverse of [`Gyro::level`].
    pub fn critical_mhz(&self, mode: Mode, plasma_mhz2: f64) -> (f64, f64) {
        match mode {
            Mode::Ordinary => {
                let frequency = plasma_mhz2.sqrt();
                (frequency, 0.5 / frequency)
            }
            Mode::Extraordinary => {
                let half = 0.5 * self.frequency_mhz;
                let root = half.hypot(plasma_mhz2.sqrt());
                (half + root, 0.5 / root)
            }
        }
    }

    /// Over what `e - e_reflection` the index changes its form near reflection: the ordinary wave from that along the field to
    /// that across it, the extraordinary one by the pole behind its zero. None without a field.
    pub fn scale(&self, mode: Mode, y: f64) -> Option<f64> {
        if y < 1e-14 {
            return None;
        }
        Some(match mode {
            Mode::Ordinary => y * self.cos2 / (2.0 * self.sin2.sqrt()).max(TINY),
            Mode::Extraordinary => y - y * y * self.cos2 / (1.0 - y * y * self.sin2),
        })
    }

    /// mu' at many nodes, by vector instructions; `left` is replaced.
    pub fn indices(&self, mode: Mode, left: &mut [f64], y: f64) {
        Arch::new().dispatch(
            #[inline(always)]
            || match mode {
                Mode::Ordinary => {
                    for value in left {
                        *value = self.ordinary(*value, y);
                    }
                }
                Mode::Extraordinary => {
                    for value in left {
                        *value = self.extraordinary(*value, y);
                    }
                }
            },
        );
    }

    /// mu' where `left = (level - fN^2) / f^2` and `y = fH / f`: e for the ordinary, e - Y for the extraordinary wave. Both
    /// positive.
    pub fn group_index<T: Real>(&self, mode: Mode, left: T, y: T) -> T {
        match mode {
            Mode::Ordinary => self.ordinary(left, y),
            Mode::Extraordinary => self.extraordinary(left, y),
        }
    }

    #[inline(always)]
    fn ordinary<T: Real>(&self, e: T, y: T) -> T {
        let n = T::constant;
        let one = n(1.0);
        let (yc, ys) = (y * n(self.cos2), y * n(self.sin2));
        let square_e = n(4.0 * self.sin2) * e * e;
        let w = (yc * yc + square_e).max(n(TINY)).sqrt();
        // Divisions take longest: one for both.
        let whole = (w + yc).max(n(TINY));
        let per_both = one / (w * whole);
        let (per_w, per_whole) = (per_both * whole, per_both * w);
        let a = n(2.0) * ys * per_whole;
        let x = one - e;
        // e A_e and Y A_Y: W_e = 4 e s^2 / W, Y W_Y = Y^2 c^4 / W.
        let e_a_e = -(a * per_whole) * square_e * per_w;
        let y_a_y = a - (a * per_whole) * (yc * yc * per_w + yc);
        let per_below = one / (one + e * a);
        let square = e * (one + a) * per_below;
        let dispersion = x * ((one + a) + x * e_a_e - n(0.5) * e * y_a_y) * (per_below * per_below);
        (square + dispersion) / square.sqrt()
    }

    #[inline(always)]
    fn extraordinary<T: Real>(&self, left: T, y: T) -> T {
        let n = T::constant;
        let (one, two, four) = (n(1.0), n(2.0), n(4.0));
        let e = left + y;
        let x = one - e;
        let yc = y * n(self.cos2);
        let w = (yc * yc + n(4.0 * self.sin2) * e * e).max(n(TINY)).sqrt();
        let (across, s) = (y * yc, y * w);
        let (p, q) = (two * e * e - across + s, two * e - across - s);
        // Divisions take longest: two for five.
        let (pq, es) = (p * q, e * (e + y));
        let per_wpq = one / (w * pq);
        let per_w = per_wpq * pq;
        let s_e = n(4.0 * self.sin2) * e * y * per_w;
        let y_s_y = s + y * yc * yc * per_w;
        let (per_p, per_q) = (per_wpq * w * q, per_wpq * w * p);
        let per_es = one / es;
        let (per_e, per_sum) = (per_es * (e + y), per_es * e);
        let k = four * e * e * (e + y) * per_p * per_q;
        // Logarithmic derivatives of K, mu^2 = (e - Y) K.
        let k_e = k * (two * per_e + per_sum - (four * e + s_e) * per_p - (two - s_e) * per_q);
        let y_k_y =
            k * (y * per_sum - (y_s_y - two * across) * per_p + (y_s_y + two * across) * per_q);
        let square = left * k;
        let by_e = k + left * k_e;
        let by_y = left * y_k_y - y * k;
        (square + x * by_e - n(0.5) * by_y) / square.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dual::Dual;

    /// The textbook's form, with the derivative by differences.
    fn textbook(mode: Mode, x: f64, y: f64, dip_deg: f64) -> f64 {
        let index = |stretch: f64| {
            let (x, y) = (x / stretch.powi(2), y / stretch);
            let (across, along) = (
                y * dip_deg.to_radians().cos(),
                y * dip_deg.to_radians().sin(),
            );
            let root = (across.powi(4) + 4.0 * (1.0 - x).powi(2) * along.powi(2)).sqrt();
            let sign = if mode == Mode::Ordinary { 1.0 } else { -1.0 };
            let below = 2.0 * (1.0 - x) - across.powi(2) + sign * root;
            (1.0 - 2.0 * x * (1.0 - x) / below).sqrt()
        };
        let step = 1e-5;
        index(1.0) + (index(1.0 + step) - index(1.0 - step)) / (2.0 * step)
    }

    #[test]
    fn both_modes_are_the_textbooks() {
        for dip in [0.0, 20.0, 45.0, 67.0, 85.0] {
            for y in [0.05, 0.2, 0.5, 0.8] {
                for x in [0.001, 0.05, 0.18, 0.3, 0.6, 0.9] {
                    let gyro = Gyro::new(y, dip);
                    let found = gyro.group_index(Mode::Ordinary, 1.0 - x, y);
                    let expected = textbook(Mode::Ordinary, x, y, dip);
                    assert!((found / expected - 1.0).abs() < 1e-7, "O {dip} {y} {x}");
                    if x < 0.98 * (1.0 - y) {
                        let found = gyro.group_index(Mode::Extraordinary, 1.0 - x - y, y);
                        let expected = textbook(Mode::Extraordinary, x, y, dip);
                        assert!(
                            (found / expected - 1.0).abs() < 1e-6,
                            "X {dip} {y} {x}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_field_it_is_the_inverse_of_the_index() {
        let gyro = Gyro::new(0.0, 60.0);
        for left in [1e-9, 1e-3, 0.4, 0.99] {
            for mode in [Mode::Ordinary, Mode::Extraordinary] {
                let found = gyro.group_index(mode, left, 0.0) * left.sqrt();
                assert!((found - 1.0).abs() < 1e-12, "{mode:?} {left}: {found}");
            }
        }
    }

    #[test]
    fn derivatives_carry_through() {
        for (mode, left, y, dip) in [
            (Mode::Ordinary, 0.02, 0.3, 60.0),
            (Mode::Extraordinary, 0.1, 0.3, 60.0),
            (Mode::Ordinary, 0.4, 0.1, 89.0),
        ] {
            let gyro = Gyro::new(y, dip);
            let found =
                gyro.group_index(mode, Dual::<2>::parameter(left, 0), Dual::parameter(y, 1));
            let step = 1e-6;
            let by_left = (gyro.group_index(mode, left + step, y)
                - gyro.group_index(mode, left - step, y))
                / (2.0 * step);
            let by_y = (gyro.group_index(mode, left, y + step)
                - gyro.group_index(mode, left, y - step))
                / (2.0 * step);
            assert!((found.slope[0] / by_left - 1.0).abs() < 1e-5);
            assert!((found.slope[1] - by_y).abs() < 1e-5 * by_y.abs().max(1.0));
        }
    }
}
