//! Electron density above a place, from the peaks of the F2 and E layers and the shape of the F2 layer's bottom.
//!
//! The construction of PyIRI (Servan-Schreiber et al. 2026, doi:10.1029/2025SW004853): Ramakrishnan and Rawer's bottomside of
//! the F2 layer with IRI's B0 and B1, an Epstein layer for E, half of what an F1 layer would add, and NeQuick's topside (Nava
//! et al. 2008). Factors that fall from one peak to the other keep every layer's peak exactly its own.

use rayon::prelude::*;

use crate::arguments::{check_length, check_range, thread_pool};
use crate::dual::Real;
use crate::error::{KernelError, Result};
use crate::interrupt::Interrupt;
use crate::sun::{EXPONENT_LIMIT, clipped_exp};

/// Density of a plasma of 1 MHz, m^-3: N = 1.24e10 f^2.
pub const DENSITY_PER_MHZ2: f64 = 1.24e10;
/// Height of the E peak and thicknesses of the E layer above and below it, km.
pub const HME_KM: f64 = 110.0;
pub const E_TOP_KM: f64 = 7.0;
pub const E_BOTTOM_KM: f64 = 5.0;
/// The F1 layer lies no lower than this, km.
const LOWEST_HMF1_KM: f64 = 180.0;
/// Exponent of the probability of an F1 layer (Bilitza et al. 2022).
const F1_EXPONENT: f64 = 2.36;
/// Below this probability the F1 layer has no thickness; above the middle between it and 1 the thickness is full.
const F1_THRESHOLD: f64 = 0.1;
/// Full thickness of the F1 layer, as a share of hmF1 - hmE.
const F1_THICKNESS: f64 = 0.75;
/// Least densities, m^-3: of a layer's peak, and of any height.
const LEAST_PEAK: f64 = 1e6;
const LEAST_DENSITY: f64 = 1.0;
/// Shares of the distance between two peaks over which a layer falls off towards the other peak.
const FALL_DOWN: f64 = 0.1;
const FALL_UP: f64 = 0.2;
/// The logistic function at the ends of these falls: 1 / share - 1 widths from where they turn.
const LOGISTIC_OF_MINUS_4: f64 = 0.017_986_209_962_091_56;
const LOGISTIC_OF_MINUS_1: f64 = 0.268_941_421_369_995_1;
const LOGISTIC_OF_1: f64 = 0.731_058_578_630_004_9;
const LOGISTIC_OF_9: f64 = 0.999_876_605_424_013_7;
/// NeQuick's topside: how fast the scale height grows, and to what multiple.
const TOPSIDE_GROWTH: f64 = 0.125;
const TOPSIDE_RATIO: f64 = 100.0;
/// Thickness of the topside where the formula gives none, km.
const LEAST_TOPSIDE_KM: f64 = 10.0;
/// Exponents of Epstein layers beyond this leave nothing.
const EPSTEIN_LIMIT: f64 = 25.0;
/// Heights of density and content, km.
pub const HEIGHT_RANGE_KM: (f64, f64) = (0.0, 50_000.0);
/// Values per parallel task.
const CHUNK: usize = 4096;
/// Electrons per square metre in a unit of total electron content, by metres per kilometre.
const TECU_PER_DENSITY_KM: f64 = 1e3 / 1e16;

/// Half of the nodes and weights of 8-point Gauss-Legendre quadrature on -1..1.
const GAUSS_LEGENDRE: [(f64, f64); 4] = [
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_48),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_26),
];
/// Panels of the quadrature: below the E peak, up to F1, up to F2, above.
const PANELS: [usize; 4] = [2, 8, 4, 10];

/// Names and ranges of the columns of [`Peaks`].
const RANGES: [(&str, (f64, f64)); 8] = [
    ("fof2_mhz", (0.05, 60.0)),
    ("hmf2_km", (120.0, 2000.0)),
    ("m3000f2", (0.5, 8.0)),
    ("b0_km", (1.0, 1000.0)),
    ("b1", (0.1, 20.0)),
    ("foe_mhz", (0.01, 30.0)),
    ("solar_zenith_deg", (0.0, 180.0)),
    ("r12", (-200.0, 500.0)),
];

/// What a profile is made of: slices of one length n.
#[derive(Debug, Clone, Copy)]
pub struct Peaks<'a> {
    pub fof2_mhz: &'a [f64],
    pub hmf2_km: &'a [f64],
    pub m3000f2: &'a [f64],
    pub b0_km: &'a [f64],
    pub b1: &'a [f64],
    pub foe_mhz: &'a [f64],
    pub solar_zenith_deg: &'a [f64],
    /// 12-month sunspot number, for the topside.
    pub r12: &'a [f64],
}

/// The profile above one place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// Peak densities, m^-3.
    pub nmf2: f64,
    pub nmf1: f64,
    pub nme: f64,
    pub hmf2_km: f64,
    pub hmf1_km: f64,
    pub b0_km: f64,
    pub b1: f64,
    /// NeQuick's thicknesses of the F2 layer above and below its peak; the profile takes B0 below.
    pub f2_top_km: f64,
    pub f2_bottom_km: f64,
    pub f1_bottom_km: f64,
    pub f1_probability: f64,
}

impl Peaks<'_> {
    fn columns(&self) -> [&[f64]; 8] {
        [
            self.fof2_mhz,
            self.hmf2_km,
            self.m3000f2,
            self.b0_km,
            self.b1,
            self.foe_mhz,
            self.solar_zenith_deg,
            self.r12,
        ]
    }

    /// The profile at every point.
    pub fn profiles(&self) -> Result<Vec<Profile>> {
        let columns = self.columns();
        let (first, n_points) = (RANGES[0].0, columns[0].len());
        for ((name, range), column) in RANGES.into_iter().zip(columns) {
            check_length(name, column.len(), first, n_points)?;
            check_range(name, column, range)?;
        }
        Ok((0..n_points)
            .map(|point| Profile::new(columns.map(|column| column[point])))
            .collect())
    }
}

impl Profile {
    fn new(
        [
            fof2_mhz,
            hmf2_km,
            m3000f2,
            b0_km,
            b1,
            foe_mhz,
            solar_zenith_deg,
            r12,
        ]: [f64; 8],
    ) -> Self {
        let nmf2 = (DENSITY_PER_MHZ2 * fof2_mhz * fof2_mhz).max(LEAST_PEAK);
        let nme = (DENSITY_PER_MHZ2 * foe_mhz * foe_mhz).max(LEAST_PEAK);
        let f1_probability = (0.5 + 0.5 * solar_zenith_deg.to_radians().cos()).powf(F1_EXPONENT);
        let below = Bottomside::new(nmf2, hmf2_km, b0_km, b1, nme, f1_probability);
        let (f2_top_km, f2_bottom_km) = nequick_thickness_km(nmf2, fof2_mhz, m3000f2, hmf2_km, r12);
        Profile {
            nmf2,
            nmf1: below.nmf1,
            nme,
            hmf2_km,
            hmf1_km: below.hmf1_km,
            b0_km,
            b1,
            f2_top_km,
            f2_bottom_km,
            f1_bottom_km: below.f1_bottom_km,
            f1_probability,
        }
    }

    fn bottomside(&self) -> Bottomside<f64> {
        Bottomside {
            nmf2: self.nmf2,
            hmf2_km: self.hmf2_km,
            b0_km: self.b0_km,
            b1: self.b1,
            nme: self.nme,
            nmf1: self.nmf1,
            hmf1_km: self.hmf1_km,
            f1_bottom_km: self.f1_bottom_km,
        }
    }

    /// Plasma frequency where the F1 layer has its peak, MHz; whether there is such a layer says the probability.
    pub fn fof1_mhz(&self) -> f64 {
        (self.nmf1 / DENSITY_PER_MHZ2).sqrt()
    }

    /// Electron density at a height, m^-3.
    pub fn density(&self, height_km: f64) -> f64 {
        let density = if height_km >= self.hmf2_km {
            self.topside(height_km)
        } else if height_km < HME_KM {
            epstein(self.nme, HME_KM, E_BOTTOM_KM, height_km)
        } else {
            self.bottomside().density(height_km)
        };
        density.max(LEAST_DENSITY)
    }

    fn topside(&self, height_km: f64) -> f64 {
        let above = height_km - self.hmf2_km;
        let growth = TOPSIDE_RATIO * TOPSIDE_GROWTH * above
            / (TOPSIDE_RATIO * self.f2_top_km + TOPSIDE_GROWTH * above);
        let exponential = clipped_exp(above / (self.f2_top_km * (1.0 + growth)));
        4.0 * self.nmf2 * exponential / (1.0 + exponential).powi(2)
    }

    /// Electrons in a vertical column between two heights, TECU (1e16 m^-2).
    fn content_tecu(&self, low_km: f64, high_km: f64) -> f64 {
        let inside = |height: f64| height.clamp(low_km, high_km);
        let edges = [
            low_km,
            inside(HME_KM),
            inside(self.hmf1_km),
            inside(self.hmf2_km),
        ];
        let mut sum = 0.0;
        for ((from, to), panels) in edges.iter().zip(&edges[1..]).zip(PANELS) {
            sum += quadrature(*from, *to, panels, |height| self.density(height));
        }
        // Above the peak the density falls over an ever longer scale: equal steps in the logarithm of the height.
        let start = edges[3];
        let stretch = |height: f64| ((height - start) / self.f2_top_km).ln_1p();
        sum += quadrature(0.0, stretch(high_km), PANELS[3], |u| {
            self.density(start + self.f2_top_km * u.exp_m1()) * self.f2_top_km * u.exp()
        });
        sum * TECU_PER_DENSITY_KM
    }
}

/// Electron density, m^-3, by height, then point: `heights.len() * n` values.
pub fn densities(
    peaks: Peaks,
    heights_km: &[f64],
    n_threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<f64>> {
    let profiles = peaks.profiles()?;
    check_range("heights_km", heights_km, HEIGHT_RANGE_KM)?;
    let n_points = profiles.len();
    let mut values = vec![0.0; heights_km.len() * n_points];
    thread_pool(n_threads)?.install(|| {
        values
            .par_chunks_mut(CHUNK)
            .enumerate()
            .try_for_each(|(number, chunk)| -> Result<()> {
                interrupt.check()?;
                for (offset, value) in chunk.iter_mut().enumerate() {
                    let index = number * CHUNK + offset;
                    *value = profiles[index % n_points].density(heights_km[index / n_points]);
                }
                Ok(())
            })
    })?;
    Ok(values)
}

/// Vertical electron content, TECU, between two heights, at every point.
pub fn contents_tecu(
    peaks: Peaks,
    (low_km, high_km): (f64, f64),
    n_threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<f64>> {
    check_range("low_km, high_km", &[low_km, high_km], HEIGHT_RANGE_KM)?;
    if low_km >= high_km {
        return Err(KernelError::InvalidArgument(format!(
            "low_km = {low_km} must lie below high_km = {high_km}"
        )));
    }
    let profiles = peaks.profiles()?;
    thread_pool(n_threads)?.install(|| {
        profiles
            .par_iter()
            .map(|profile| {
                interrupt.check()?;
                Ok(profile.content_tecu(low_km, high_km))
            })
            .collect()
    })
}

/// The profile between the E and the F2 peak, by numbers that may carry derivatives.
#[derive(Debug, Clone, Copy)]
pub struct Bottomside<T> {
    nmf2: T,
    hmf2_km: T,
    b0_km: T,
    b1: f64,
    nme: f64,
    nmf1: T,
    pub hmf1_km: T,
    pub f1_bottom_km: T,
}

impl<T: Real> Bottomside<T> {
    pub fn new(nmf2: T, hmf2_km: T, b0_km: T, b1: f64, nme: f64, f1_probability: f64) -> Self {
        // PyIRI divides by the largest probability of the call; ours by the largest there is, with the sun overhead, so
        // that a place's profile does not depend on the other places asked for.
        let share = (f1_probability - F1_THRESHOLD).max(0.0) / (1.0 - F1_THRESHOLD);
        let hmf1_km = (hmf2_km - b0_km)
            .max(T::constant(LOWEST_HMF1_KM))
            .min(hmf2_km);
        let mut below = Bottomside {
            nmf2,
            hmf2_km,
            b0_km,
            b1,
            nme,
            nmf1: T::constant(LEAST_DENSITY),
            hmf1_km,
            f1_bottom_km: (hmf1_km - T::constant(HME_KM))
                * T::constant(F1_THICKNESS)
                * T::constant((2.0 * share).min(1.0)),
        };
        below.nmf1 =
            (below.f2(hmf1_km) * fall_down(hmf1_km, hmf2_km)).max(T::constant(LEAST_DENSITY));
        below
    }

    /// The F2 layer alone (Ramakrishnan and Rawer 1972), at or below its peak.
    fn f2(&self, height_km: T) -> T {
        let depth = (self.hmf2_km - height_km) / self.b0_km;
        self.nmf2 * clipped(-depth.powf(self.b1)).exp() / depth.cosh()
    }

    /// Density of F2 and E, and half of what an F1 layer would add, at or below the F2 peak.
    pub fn density(&self, height_km: T) -> T {
        let sum = self.without_f1(height_km);
        if !self.may_have_f1(height_km.value()) {
            return sum;
        }
        sum + (self.f1(height_km) - sum).max(T::constant(0.0)) / T::constant(2.0)
    }

    /// By how much an F1 layer alone would exceed the other layers; the density has a kink where this is 0.
    pub fn f1_excess(&self, height_km: T) -> T {
        self.f1(height_km) - self.without_f1(height_km)
    }

    fn may_have_f1(&self, height_km: f64) -> bool {
        height_km > HME_KM && height_km < self.hmf1_km.value() && self.f1_bottom_km.value() != 0.0
    }

    fn without_f1(&self, height_km: T) -> T {
        let f2 = self.f2(height_km) * fall_down(height_km, self.hmf2_km);
        let e = epstein(
            T::constant(self.nme),
            T::constant(HME_KM),
            T::constant(E_TOP_KM),
            height_km,
        ) * fall_up(height_km, self.hmf2_km);
        f2 + e
    }

    fn f1(&self, height_km: T) -> T {
        epstein(self.nmf1, self.hmf1_km, self.f1_bottom_km, height_km)
            * fall_down(height_km, self.hmf1_km)
    }
}

fn clipped<T: Real>(exponent: T) -> T {
    exponent
        .max(T::constant(-EXPONENT_LIMIT))
        .min(T::constant(EXPONENT_LIMIT))
}

fn epstein<T: Real>(peak: T, peak_height_km: T, thickness_km: T, height_km: T) -> T {
    let depth = (height_km - peak_height_km) / thickness_km;
    if depth.value() > EPSTEIN_LIMIT {
        return T::constant(0.0);
    }
    let exponential = clipped(depth).exp();
    let whole = T::constant(1.0) + exponential;
    T::constant(4.0) * peak * exponential / (whole * whole)
}

fn logistic<T: Real>(x: T) -> T {
    T::constant(1.0) / (T::constant(1.0) + (-x).exp())
}

/// 1 at a peak, 0 at the E peak below it: an S that turns one tenth of the way up.
fn fall_down<T: Real>(height_km: T, peak_height_km: T) -> T {
    let width = T::constant(FALL_DOWN) * (peak_height_km - T::constant(HME_KM));
    let at_height = logistic((height_km - T::constant(HME_KM)) / width - T::constant(1.0));
    (at_height - T::constant(LOGISTIC_OF_MINUS_1))
        / T::constant(LOGISTIC_OF_9 - LOGISTIC_OF_MINUS_1)
}

/// 1 at the E peak, 0 at the F2 peak: an S that turns one fifth of the way below the F2 peak.
fn fall_up<T: Real>(height_km: T, hmf2_km: T) -> T {
    let width = T::constant(FALL_UP) * (hmf2_km - T::constant(HME_KM));
    let at_height = logistic((height_km - hmf2_km) / width + T::constant(1.0));
    (T::constant(LOGISTIC_OF_1) - at_height) / T::constant(LOGISTIC_OF_1 - LOGISTIC_OF_MINUS_4)
}

/// NeQuick's thicknesses of the F2 layer above and below the peak, km (Nava et al. 2008, eq. 26-33).
fn nequick_thickness_km(
    nmf2: f64,
    fof2_mhz: f64,
    m3000f2: f64,
    hmf2_km: f64,
    r12: f64,
) -> (f64, f64) {
    let steepest_slope = 0.01 * clipped_exp(-3.467 + 1.714 * fof2_mhz.ln() + 2.02 * m3000f2.ln());
    let bottom_km = 3.85e-12 * nmf2 / steepest_slope;
    let k =
        3.22 - 0.0538 * fof2_mhz - 0.00664 * hmf2_km + 0.113 * hmf2_km / bottom_km + 0.00257 * r12;
    let x = (k * bottom_km - 150.0) / 100.0;
    let top_km = (100.0 * x + 150.0) / (0.041163 * x * x - 0.183981 * x + 1.424472);
    (
        if top_km > 0.0 {
            top_km
        } else {
            LEAST_TOPSIDE_KM
        },
        bottom_km,
    )
}

/// Integral of `function` by Gauss-Legendre quadrature on equal panels.
fn quadrature(from: f64, to: f64, panels: usize, function: impl Fn(f64) -> f64) -> f64 {
    if to <= from {
        return 0.0;
    }
    let half = (to - from) / (2 * panels) as f64;
    let mut sum = 0.0;
    for panel in 0..panels {
        let middle = from + half * (2 * panel + 1) as f64;
        for (node, weight) in GAUSS_LEGENDRE {
            sum += weight * (function(middle - half * node) + function(middle + half * node));
        }
    }
    sum * half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> Profile {
        Profile::new([8.0, 290.0, 3.1, 95.0, 1.9, 3.2, 40.0, 70.0])
    }

    fn night() -> Profile {
        Profile::new([4.0, 330.0, 2.9, 70.0, 2.7, 0.7, 130.0, 70.0])
    }

    #[test]
    fn peaks_are_exactly_their_own() {
        for profile in [noon(), night()] {
            assert_eq!(profile.density(profile.hmf2_km), profile.nmf2);
            assert!((profile.density(HME_KM) / profile.nme - 1.0).abs() < 1e-12);
            for step in 1..400 {
                let away = f64::from(step);
                assert!(profile.density(profile.hmf2_km + away) < profile.nmf2);
                assert!(profile.density(profile.hmf2_km - away) < profile.nmf2);
            }
        }
    }

    #[test]
    fn density_has_no_steps() {
        for profile in [noon(), night()] {
            for edge in [HME_KM, profile.hmf1_km, profile.hmf2_km] {
                let (below, above) = (profile.density(edge - 1e-6), profile.density(edge + 1e-6));
                assert!(
                    (below / above - 1.0).abs() < 2e-2,
                    "{edge}: {below} {above}"
                );
            }
        }
    }

    #[test]
    fn the_f1_layer_comes_with_the_sun() {
        assert_eq!(night().f1_bottom_km, 0.0);
        let thickness = |zenith: f64| {
            Profile::new([8.0, 290.0, 3.1, 95.0, 1.9, 3.2, zenith, 70.0]).f1_bottom_km
        };
        assert!((thickness(0.0) - F1_THICKNESS * (195.0 - HME_KM)).abs() < 1e-12);
        for zenith in 0..100 {
            assert!(thickness(f64::from(zenith)) >= thickness(f64::from(zenith + 1)));
        }
    }

    #[test]
    fn content_is_the_integral_whatever_the_limits() {
        for profile in [noon(), night()] {
            let step = 0.01;
            for (low, high) in [
                (80.0, 2000.0),
                (100.0, 105.0),
                (150.0, 250.0),
                (400.0, 1000.0),
                (0.0, 2000.0),
            ] {
                let n = ((high - low) / step) as usize;
                let midpoints: f64 = (0..n)
                    .map(|i| profile.density(low + step * (i as f64 + 0.5)))
                    .sum::<f64>()
                    * step
                    * TECU_PER_DENSITY_KM;
                let found = profile.content_tecu(low, high);
                assert!(
                    (found / midpoints - 1.0).abs() < 2e-5,
                    "{low}..{high}: {found} {midpoints}"
                );
            }
            let parts = profile.content_tecu(80.0, 700.0) + profile.content_tecu(700.0, 20_200.0);
            assert!((profile.content_tecu(80.0, 20_200.0) / parts - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn arguments_at_fault_are_named() {
        let one = [5.0];
        let peaks = Peaks {
            fof2_mhz: &one,
            hmf2_km: &[100.0],
            m3000f2: &[3.0],
            b0_km: &[90.0],
            b1: &[2.0],
            foe_mhz: &[1.0],
            solar_zenith_deg: &[90.0],
            r12: &[50.0],
        };
        assert_eq!(
            densities(peaks, &[300.0], 1, &Interrupt::default())
                .err()
                .map(|error| error.to_string())
                .as_deref(),
            Some("hmf2_km[0] = 100 is outside 120..2000")
        );
        let high = Peaks {
            hmf2_km: &[300.0],
            ..peaks
        };
        assert!(densities(high, &[-1.0], 1, &Interrupt::default()).is_err());
        assert!(contents_tecu(high, (500.0, 100.0), 1, &Interrupt::default()).is_err());
        assert!(
            densities(
                Peaks { r12: &[], ..high },
                &[300.0],
                1,
                &Interrupt::default()
            )
            .is_err()
        );
    }
}
