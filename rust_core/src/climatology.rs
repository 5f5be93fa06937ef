//! The climatological background: IRI's monthly maps by spherical harmonics in quasi-dipole latitude and magnetic local time.
//!
//! Servan-Schreiber et al. (2026), doi:10.1029/2025SW004853, with the coefficients that PyIRI distributes. For each of
//! twelve months and two solar levels (index 0 and 100) a field is a degree-29 series in space times an 11-term Fourier
//! series in universal time; it is linear between mid-months, and linear in IG12 (foF2, hmF2) or R12 (the others).
//!
//! All of that is linear, so it is folded into one coefficient vector before any point is looked at: Fourier terms are
//! summed, each month's series is turned from magnetic local time to quasi-dipole longitude (a rotation about the
//! pole), months and solar levels are added up, and every point then costs one pass over 900 terms. Only where the two
//! mid-months take apex coordinates of different years (mid-December to mid-January) do two passes remain.

use ndarray::ArrayView4;
use rayon::prelude::*;

use crate::arguments::{Points, check_length, check_range, thread_pool};
use crate::calendar::{Date, MICROSECONDS_PER_DAY, date_and_hour, days_from_date};
use crate::error::{KernelError, Result};
use crate::interrupt::Interrupt;
use crate::legendre::{BLOCK, Directions, Lanes, Legendre};
use crate::magnetic::QuasiDipole;
use crate::solar_index::{IG12_RANGE, ig12_to_r12, r12_to_f107};
use crate::sun::{
    SubsolarPoint, clipped_exp, effective_zenith_angle_deg, subsolar_point, zenith_angle_deg,
};

/// Degree of the maps.
pub const MAP_DEGREE: usize = 29;
const MONTHS: usize = 12;
/// Solar levels of the maps: index 0 and 100.
pub const LEVEL_COUNT: usize = 2;
const LEVELS: usize = LEVEL_COUNT;
/// Constant, then cosine and sine of 1 to 5 cycles per day.
const FOURIER_TERMS: usize = 11;
const HARMONICS: usize = (MAP_DEGREE + 1) * (MAP_DEGREE + 1);
/// Mapped parameters, in this order: foF2, hmF2, M(3000)F2, B0, B1.
pub const PARAMETERS: usize = 5;
pub const PARAMETER_NAMES: [&str; PARAMETERS] = ["fof2", "hmf2", "m3000f2", "b0", "b1"];
/// The first this many parameters are linear in IG12, the others in R12.
const LINEAR_IN_IG12: usize = 2;
const FIELDS: usize = PARAMETERS * LEVELS;
/// The solar index of the second level; the first is 0.
const UPPER_LEVEL: f64 = 100.0;
/// Day of the month that a monthly map stands for.
const MID_MONTH_DAY: u32 = 15;
/// Smallest value of each parameter (MHz, km, 1, km, 1). The maps are extrapolated beyond index 0 and 100 and may then
/// leave the physical range; the floors lie below what the maps hold between those levels.
pub const FLOORS: [f64; PARAMETERS] = [0.5, 100.0, 1.0, 10.0, 0.5];
/// Points per parallel task.
const CHUNK: usize = 64 * BLOCK;

/// Climatology at one place and time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct State {
    pub fof2_mhz: f64,
    pub hmf2_km: f64,
    pub m3000f2: f64,
    pub b0_km: f64,
    pub b1: f64,
    pub foe_mhz: f64,
    pub solar_zenith_deg: f64,
}

/// The mapped parameters at solar index 0 and 100 (IG12 for foF2 and hmF2, R12 for the others), without floors.
pub type Levels = [[f64; LEVELS]; PARAMETERS];

pub struct Climatology {
    legendre: Legendre,
    quasi_dipole: QuasiDipole,
    /// By month, then Fourier term: coefficients of all fields (parameter, level).
    maps: Vec<Vec<f64>>,
}

/// One pass of synthesis: coefficients in the apex coordinates of one year.
struct Pass {
    apex_year: i32,
    coefficients: Vec<f64>,
}

/// The two monthly maps around a date and their weights (linear, by whole days, as IRI does).
fn months_around(date: Date) -> [(Date, f64); 2] {
    let middle = Date {
        day: MID_MONTH_DAY,
        ..date
    };
    let (before, after) = if date.day >= MID_MONTH_DAY {
        let next = if date.month == 12 {
            Date {
                year: date.year + 1,
                month: 1,
                ..middle
            }
        } else {
            Date {
                month: date.month + 1,
                ..middle
            }
        };
        (middle, next)
    } else {
        let previous = if date.month == 1 {
            Date {
                year: date.year - 1,
                month: 12,
                ..middle
            }
        } else {
            Date {
                month: date.month - 1,
                ..middle
            }
        };
        (previous, middle)
    };
    let (day, first, last) = (
        days_from_date(date),
        days_from_date(before),
        days_from_date(after),
    );
    let span = (last - first) as f64;
    [
        (before, (last - day) as f64 / span),
        (after, (day - first) as f64 / span),
    ]
}

impl Climatology {
    /// `maps`: one array (2 levels, 12 months, 11 Fourier terms, 900 harmonics) per parameter, in the order of
    /// [`PARAMETER_NAMES`].
    pub fn new(maps: [ArrayView4<f64>; PARAMETERS], quasi_dipole: QuasiDipole) -> Result<Self> {
        let legendre = Legendre::new(MAP_DEGREE);
        for (name, map) in PARAMETER_NAMES.iter().zip(&maps) {
            if map.dim() != (LEVELS, MONTHS, FOURIER_TERMS, HARMONICS) {
                return Err(KernelError::InvalidArgument(format!(
                    "{name} has shape {:?}: ({LEVELS}, {MONTHS}, {FOURIER_TERMS}, {HARMONICS}) is needed",
                    map.shape()
                )));
            }
            if let Some(value) = map.iter().find(|value| !value.is_finite()) {
                return Err(KernelError::InvalidArgument(format!(
                    "{name} holds the coefficient {value}"
                )));
            }
        }
        let mut folded = Vec::with_capacity(MONTHS * FOURIER_TERMS);
        for month in 0..MONTHS {
            for term in 0..FOURIER_TERMS {
                let mut coefficients = vec![0.0; FIELDS * legendre.terms()];
                for (parameter, map) in maps.iter().enumerate() {
                    for level in 0..LEVELS {
                        let field = parameter * LEVELS + level;
                        legendre.scatter(
                            |index| map[(level, month, term, index)],
                            FIELDS,
                            field,
                            &mut coefficients,
                        );
                    }
                }
                folded.push(coefficients);
            }
        }
        Ok(Climatology {
            legendre,
            quasi_dipole,
            maps: folded,
        })
    }

    pub fn quasi_dipole(&self) -> &QuasiDipole {
        &self.quasi_dipole
    }

    /// Climatology at `points` for `ig12` (one value per point), on a pool of `n_threads`; the bits do not depend on it.
    pub fn evaluate(
        &self,
        points: Points,
        ig12: &[f64],
        n_threads: usize,
        interrupt: &Interrupt,
    ) -> Result<Vec<State>> {
        points.validate()?;
        check_length("ig12", ig12.len(), "times", points.time_us.len())?;
        check_range("ig12", ig12, IG12_RANGE)?;
        self.for_each_group(
            points,
            |index| (points.time_us[index], ig12[index].to_bits()),
            (n_threads, interrupt),
            |first| {
                fold_levels(
                    &self.legendre,
                    self.passes(points.time_us[first]),
                    ig12[first],
                )
            },
            |first| Daylight::new(points.time_us[first], ig12[first]),
            |daylight, index, sums, lane| {
                let value = |parameter: usize| sums[parameter][lane].max(FLOORS[parameter]);
                let (foe_mhz, solar_zenith_deg) =
                    daylight.foe(points.latitude_deg[index], points.longitude_deg[index]);
                State {
                    fof2_mhz: value(0),
                    hmf2_km: value(1),
                    m3000f2: value(2),
                    b0_km: value(3),
                    b1: value(4),
                    foe_mhz,
                    solar_zenith_deg,
                }
            },
        )
    }

    /// The mapped parameters at both solar levels, from which any index follows by a line.
    pub fn levels(
        &self,
        points: Points,
        n_threads: usize,
        interrupt: &Interrupt,
    ) -> Result<Vec<Levels>> {
        points.validate()?;
        self.for_each_group(
            points,
            |index| points.time_us[index],
            (n_threads, interrupt),
            |first| self.passes(points.time_us[first]),
            |_| (),
            |(), _, sums, lane| {
                let mut levels = Levels::default();
                for (field, sum) in sums.iter().enumerate() {
                    levels[field / LEVELS][field % LEVELS] = sum[lane];
                }
                levels
            },
        )
    }

    /// Run `finish(context, point index, sums, lane)` on every point, folding coefficients and making the context once
    /// per group of points with the same key.
    fn for_each_group<Key, Context, Out>(
        &self,
        points: Points,
        key: impl Fn(usize) -> Key,
        (n_threads, interrupt): (usize, &Interrupt),
        passes: impl Fn(usize) -> Vec<Pass> + Sync,
        context: impl Fn(usize) -> Context + Sync,
        finish: impl Fn(&Context, usize, &[Lanes], usize) -> Out + Sync,
    ) -> Result<Vec<Out>>
    where
        Key: Ord,
        Context: Sync,
        Out: Copy + Default + Send,
    {
        let n_points = points.time_us.len();
        let mut order: Vec<usize> = (0..n_points).collect();
        order.sort_by_key(|&index| key(index));
        let groups: Vec<&[usize]> = order.chunk_by(|&a, &b| key(a) == key(b)).collect();
        let evaluate_group = |group: &&[usize]| -> Vec<Out> {
            if interrupt.check().is_err() {
                return Vec::new();
            }
            let first = group[0];
            let passes = passes(first);
            let context = context(first);
            group
                .par_chunks(CHUNK)
                .flat_map_iter(|chunk| {
                    let wanted = if interrupt.check().is_ok() {
                        chunk
                    } else {
                        &[]
                    };
                    self.synthesize(&passes, wanted, points, |index, sums, lane| {
                        finish(&context, index, sums, lane)
                    })
                })
                .collect()
        };
        let results: Vec<Vec<Out>> =
            thread_pool(n_threads)?.install(|| groups.par_iter().map(evaluate_group).collect());
        interrupt.check()?;
        let mut ordered = vec![Out::default(); n_points];
        for (&index, result) in order.iter().zip(results.iter().flatten()) {
            ordered[index] = *result;
        }
        Ok(ordered)
    }

    fn synthesize<Out>(
        &self,
        passes: &[Pass],
        indices: &[usize],
        points: Points,
        finish: impl Fn(usize, &[Lanes], usize) -> Out,
    ) -> Vec<Out> {
        let mut results = Vec::with_capacity(indices.len());
        for block in indices.chunks(BLOCK) {
            let mut latitude_deg = [0.0; BLOCK];
            let mut longitude_deg = [0.0; BLOCK];
            for (lane, &index) in block.iter().enumerate() {
                latitude_deg[lane] = points.latitude_deg[index];
                longitude_deg[lane] = points.longitude_deg[index];
            }
            let geographic = Directions::from_degrees(&latitude_deg, &longitude_deg);
            let n_fields = passes[0].coefficients.len() / self.legendre.terms();
            let mut storage = [[0.0; BLOCK]; FIELDS];
            let sums = &mut storage[..n_fields];
            for pass in passes {
                let (qd_latitude_deg, qd_longitude_deg) =
                    self.quasi_dipole.of_block(pass.apex_year, &geographic);
                let magnetic = Directions::from_degrees(&qd_latitude_deg, &qd_longitude_deg);
                self.legendre
                    .add_series(&pass.coefficients, &magnetic, sums);
            }
            results.extend(
                block
                    .iter()
                    .enumerate()
                    .map(|(lane, &index)| finish(index, sums, lane)),
            );
        }
        results
    }

    /// Coefficients of all fields, in quasi-dipole longitude, at an instant: one pass, or two where the apex year changes.
    fn passes(&self, time_us: i64) -> Vec<Pass> {
        let (date, hour) = date_and_hour(time_us);
        let mut passes: Vec<Pass> = Vec::with_capacity(2);
        for (month, weight) in months_around(date) {
            if weight == 0.0 {
                continue;
            }
            let mut coefficients = self.fold_universal_time(month, hour, weight);
            let apex_year = self.quasi_dipole.nearest_year(month.year);
            let mid_month_us = days_from_date(month) * MICROSECONDS_PER_DAY
                + time_us.rem_euclid(MICROSECONDS_PER_DAY);
            let sun = subsolar_point(mid_month_us);
            let (_, sun_qd_longitude_deg) =
                self.quasi_dipole
                    .of_point(apex_year, sun.latitude_deg, sun.longitude_deg);
            // The maps' longitude is magnetic local time, 12 h under the sun: it is qd longitude - shift.
            self.legendre
                .rotate(&mut coefficients, FIELDS, sun_qd_longitude_deg - 180.0);
            match passes.iter_mut().find(|pass| pass.apex_year == apex_year) {
                Some(pass) => {
                    for (sum, value) in pass.coefficients.iter_mut().zip(&coefficients) {
                        *sum += value;
                    }
                }
                None => passes.push(Pass {
                    apex_year,
                    coefficients,
                }),
            }
        }
        passes
    }

    fn fold_universal_time(&self, month: Date, hour: f64, weight: f64) -> Vec<f64> {
        let month_terms = &self.maps[(month.month as usize - 1) * FOURIER_TERMS..][..FOURIER_TERMS];
        let mut coefficients: Vec<f64> =
            month_terms[0].iter().map(|value| weight * value).collect();
        for (harmonic, terms) in month_terms[1..].chunks_exact(2).enumerate() {
            let phase = (harmonic + 1) as f64 * hour * std::f64::consts::TAU / 24.0;
            let (sine, cosine) = phase.sin_cos();
            let (cosine, sine) = (weight * cosine, weight * sine);
            for ((sum, c), s) in coefficients.iter_mut().zip(&terms[0]).zip(&terms[1]) {
                *sum += cosine * c + sine * s;
            }
        }
        coefficients
    }
}

/// Fold the two solar levels of each parameter into one value at an index.
fn fold_levels(legendre: &Legendre, passes: Vec<Pass>, ig12: f64) -> Vec<Pass> {
    let weights: [f64; PARAMETERS] = std::array::from_fn(|parameter| {
        (if parameter < LINEAR_IN_IG12 {
            ig12
        } else {
            ig12_to_r12(ig12)
        }) / UPPER_LEVEL
    });
    passes
        .into_iter()
        .map(|pass| {
            let mut coefficients = Vec::with_capacity(PARAMETERS * legendre.terms());
            for m in 0..=legendre.degree() {
                let start = legendre.order_start(FIELDS, m);
                let length = 2 * (legendre.degree() + 1 - m);
                for (parameter, weight) in weights.iter().enumerate() {
                    let (low, high) = pass.coefficients[start + parameter * LEVELS * length..]
                        [..LEVELS * length]
                        .split_at(length);
                    coefficients.extend(
                        low.iter()
                            .zip(high)
                            .map(|(low, high)| low * (1.0 - weight) + high * weight),
                    );
                }
            }
            Pass {
                apex_year: pass.apex_year,
                coefficients,
            }
        })
        .collect()
}

/// What the E layer needs to know of an instant.
struct Daylight {
    sun: SubsolarPoint,
    /// -1, 0, 1 for northern winter, equinox, summer months.
    season: f64,
    f107_root: f64,
}

impl Daylight {
    fn new(time_us: i64, ig12: f64) -> Self {
        let (date, _) = date_and_hour(time_us);
        let season = match date.month {
            1 | 2 | 11 | 12 => -1.0,
            5..=8 => 1.0,
            _ => 0.0,
        };
        Daylight {
            sun: subsolar_point(time_us),
            season,
            f107_root: r12_to_f107(ig12_to_r12(ig12)).sqrt(),
        }
    }

    /// foE in MHz (NeQuick: Leitinger et al. 2005; Nava et al. 2008, eq. 17) and the solar zenith angle in degrees.
    fn foe(&self, latitude_deg: f64, longitude_deg: f64) -> (f64, f64) {
        let zenith_deg = zenith_angle_deg(self.sun, latitude_deg, longitude_deg);
        let cosine = effective_zenith_angle_deg(zenith_deg)
            .to_radians()
            .cos()
            .max(0.0);
        let growth = clipped_exp((0.3 * latitude_deg).to_radians());
        let seasonal = self.season * (growth - 1.0) / (growth + 1.0);
        let foe_mhz =
            (0.49 + (1.112 - 0.019 * seasonal).powi(2) * self.f107_root * cosine.powf(0.6)).sqrt();
        (foe_mhz, zenith_deg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn month_weights_meet_at_mid_month_and_sum_to_one() {
        for days in days_from_date(Date {
            year: 2023,
            month: 1,
            day: 1,
        })..days_from_date(Date {
            year: 2025,
            month: 1,
            day: 1,
        }) {
            let date = crate::calendar::date_from_days(days);
            let [(before, before_weight), (after, after_weight)] = months_around(date);
            assert!((before_weight + after_weight - 1.0).abs() < 1e-15);
            assert!((0.0..=1.0).contains(&before_weight));
            assert!(days_from_date(before) <= days && days < days_from_date(after));
            if date.day == MID_MONTH_DAY {
                assert_eq!((before, before_weight), (date, 1.0));
            }
        }
    }

    #[test]
    fn turn_of_the_year_takes_both_years() {
        let [(before, _), (after, _)] = months_around(Date {
            year: 2022,
            month: 12,
            day: 20,
        });
        assert_eq!(
            (before.year, before.month, after.year, after.month),
            (2022, 12, 2023, 1)
        );
        let [(before, _), (after, _)] = months_around(Date {
            year: 2023,
            month: 1,
            day: 3,
        });
        assert_eq!(
            (before.year, before.month, after.year, after.month),
            (2022, 12, 2023, 1)
        );
    }
}
