//! Conversions between solar indices: F10.7 (sfu), 12-month sunspot number R12, ionosonde index IG12.
//!
//! Relations of IRI-2020 (irisub.for) for the sunspot series of 2015 (version 2). IG12(R12) is a parabola that rises
//! to IG12 = 178.0 at R12 = 247.3; beyond its top the inverse does not exist, and R12 stays at the top.

use crate::error::{KernelError, Result};

/// Range of IG12 that the background accepts: what a 12-month index reaches, with room for an effective index.
pub const IG12_RANGE: (f64, f64) = (-20.0, 200.0);

const F107_OF_R12: (f64, f64, f64) = (63.75, 0.728, 8.9e-4);
const IG12_OF_R12: (f64, f64, f64) = (-11.5634, 1.5332, -0.0031);
/// Where IG12(R12) has its top.
const R12_TOP: f64 = -IG12_OF_R12.1 / (2.0 * IG12_OF_R12.2);

fn parabola((constant, linear, square): (f64, f64, f64), x: f64) -> f64 {
    constant + linear * x + square * x * x
}

pub fn r12_to_f107(r12: f64) -> f64 {
    parabola(F107_OF_R12, r12)
}

pub fn f107_to_r12(f107_sfu: f64) -> f64 {
    let (constant, linear, square) = F107_OF_R12;
    // F10.7 below the parabola's bottom (far under any observed value) has no sunspot number: take the bottom.
    let discriminant = (linear * linear - 4.0 * square * (constant - f107_sfu)).max(0.0);
    (-linear + discriminant.sqrt()) / (2.0 * square)
}

pub fn r12_to_ig12(r12: f64) -> f64 {
    parabola(IG12_OF_R12, r12.min(R12_TOP))
}

pub fn ig12_to_r12(ig12: f64) -> f64 {
    let (constant, linear, square) = IG12_OF_R12;
    let discriminant = (linear * linear - 4.0 * square * (constant - ig12)).max(0.0);
    (-linear + discriminant.sqrt()) / (2.0 * square)
}

/// IG12 for an F10.7 in sfu, within [`IG12_RANGE`].
pub fn f107_to_ig12(f107_sfu: f64) -> Result<f64> {
    if !(f107_sfu > 0.0 && f107_sfu.is_finite()) {
        return Err(KernelError::InvalidArgument(format!(
            "f107_sfu = {f107_sfu}: a positive number is needed"
        )));
    }
    Ok(r12_to_ig12(f107_to_r12(f107_sfu)).clamp(IG12_RANGE.0, IG12_RANGE.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_round_trip_and_never_fall() {
        let mut previous = f64::NEG_INFINITY;
        for f107 in 62..400 {
            let ig12 = f107_to_ig12(f64::from(f107)).unwrap_or(f64::NAN);
            assert!(ig12 >= previous, "IG12 falls at F10.7 = {f107}");
            previous = ig12;
        }
        for ig12 in -20..=177 {
            let ig12 = f64::from(ig12);
            assert!((r12_to_ig12(ig12_to_r12(ig12)) - ig12).abs() < 1e-9);
            assert!(
                f107_to_ig12(r12_to_f107(ig12_to_r12(ig12)))
                    .is_ok_and(|back| (back - ig12).abs() < 1e-9)
            );
        }
        assert!((ig12_to_r12(200.0) - R12_TOP).abs() < 1e-9);
        assert!(f107_to_ig12(-1.0).is_err() && f107_to_ig12(f64::NAN).is_err());
    }
}
