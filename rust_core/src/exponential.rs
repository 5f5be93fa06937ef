//! The exponential of many numbers, by vector instructions.

use pulp::Arch;

/// Beyond, e^x counts as that of this: nothing beside any number of ours, or out of their range.
const LARGEST_EXPONENT: f64 = 700.0;
/// 1.5 times 2^52: added to a number it leaves the nearest integer in the last bits.
const ROUNDER: f64 = 6_755_399_441_055_744.0;
/// ln 2 in two parts, the first of so few digits that its multiples are exact (Cody and Waite 1980).
const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
const TAYLOR: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// e^x to two units in the last place: x = n ln 2 + r, and a Taylor series of r of degree 13.
///
/// Without branches and calls, so that the compiler takes several numbers of a loop at a time, which it cannot with `f64::exp`.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let x = x.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT);
    let rounded = x * std::f64::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut series = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        series = series * r + coefficient;
    }
    // 2^n: n stands in the last bits of what was rounded, and goes to the exponent.
    let power = f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52);
    series * power
}

/// e^x of every number, in place. The widest vectors that the machine has change no bit: nothing is fused or reordered.
pub fn exp_all(values: &mut [f64]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for value in values {
                *value = exp(*value);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_exponential() {
        let mut values: Vec<f64> = (-80_000..=80_000).map(|n| f64::from(n) * 0.01).collect();
        let given = values.clone();
        exp_all(&mut values);
        for (x, found) in given.iter().zip(values) {
            let expected = x.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp();
            let unit = expected * f64::EPSILON;
            assert!(
                (found - expected).abs() <= 2.0 * unit,
                "{x}: {found} {expected}"
            );
        }
    }
}
