//! Many echoes at once, each by one of a set of profiles.

use rayon::prelude::*;

use crate::arguments::{check_length, check_range, thread_pool};
use crate::error::{KernelError, Result};
use crate::group_index::{Gyro, Mode};
use crate::interrupt::Interrupt;
use crate::oblique::{Ceiling, Echo, Path};
use crate::plasma_table::PlasmaTable;
use crate::profile::Peaks;
use crate::virtual_height::N_PARAMETERS;

/// Ground distances: to where the horizon lies at 44 km, MHz and degrees of what a sounder may use.
pub const DISTANCE_RANGE_KM: (f64, f64) = (0.0, 1500.0);
pub const FREQUENCY_RANGE_MHZ: (f64, f64) = (0.1, 100.0);
pub const GYROFREQUENCY_RANGE_MHZ: (f64, f64) = (0.0, 5.0);
pub const DIP_RANGE_DEG: (f64, f64) = (-90.0, 90.0);
/// Echoes per parallel task.
const CHUNK: usize = 128;

/// Waves on their paths: slices of one length n.
#[derive(Debug, Clone, Copy)]
pub struct Waves<'a> {
    /// Index of the profile over the middle of the path.
    pub profile: &'a [i64],
    pub is_extraordinary: &'a [bool],
    pub gyrofrequency_mhz: &'a [f64],
    pub dip_deg: &'a [f64],
    /// Along the ground between the two ends.
    pub distance_km: &'a [f64],
}

impl Waves<'_> {
    fn validate(&self, n_profiles: usize) -> Result<()> {
        let n = self.profile.len();
        for (name, length) in [
            ("is_extraordinary", self.is_extraordinary.len()),
            ("gyrofrequency_mhz", self.gyrofrequency_mhz.len()),
            ("dip_deg", self.dip_deg.len()),
            ("distance_km", self.distance_km.len()),
        ] {
            check_length(name, length, "which", n)?;
        }
        if let Some((index, which)) = self
            .profile
            .iter()
            .enumerate()
            .find(|(_, which)| !(0..n_profiles as i64).contains(*which))
        {
            return Err(KernelError::InvalidArgument(format!(
                "which[{index}] = {which} is none of the {n_profiles} profiles"
            )));
        }
        check_range(
            "gyrofrequency_mhz",
            self.gyrofrequency_mhz,
            GYROFREQUENCY_RANGE_MHZ,
        )?;
        check_range("dip_deg", self.dip_deg, DIP_RANGE_DEG)?;
        check_range("distance_km", self.distance_km, DISTANCE_RANGE_KM)
    }

    fn path(&self, wave: usize) -> Path {
        let mode = if self.is_extraordinary[wave] {
            Mode::Extraordinary
        } else {
            Mode::Ordinary
        };
        let gyro = Gyro::new(self.gyrofrequency_mhz[wave], self.dip_deg[wave]);
        Path::new(mode, gyro, self.distance_km[wave])
    }
}

/// Tables of the profiles that are asked for.
fn tables(peaks: Peaks, waves: &Waves, interrupt: &Interrupt) -> Result<Vec<Option<PlasmaTable>>> {
    let profiles = peaks.profiles()?;
    waves.validate(profiles.len())?;
    let mut is_needed = vec![false; profiles.len()];
    for &which in waves.profile {
        is_needed[which as usize] = true;
    }
    profiles
        .par_iter()
        .zip(is_needed)
        .map(|(profile, is_needed)| {
            interrupt.check()?;
            Ok(is_needed.then(|| PlasmaTable::new(profile)))
        })
        .collect()
}

/// The echo of every wave at its frequency; NaN where nothing returns it.
pub fn group_delays(
    peaks: Peaks,
    waves: Waves,
    frequency_mhz: &[f64],
    with_derivatives: bool,
    n_threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<Echo>> {
    check_length(
        "frequency_mhz",
        frequency_mhz.len(),
        "which",
        waves.profile.len(),
    )?;
    check_range("frequency_mhz", frequency_mhz, FREQUENCY_RANGE_MHZ)?;
    let silence = Echo {
        delay_ms: f64::NAN,
        virtual_height_km: f64::NAN,
        equivalent_mhz: f64::NAN,
        delay_by: [f64::NAN; N_PARAMETERS],
        delay_by_frequency: f64::NAN,
        height_by: [f64::NAN; N_PARAMETERS],
    };
    each(
        peaks,
        waves,
        silence,
        n_threads,
        interrupt,
        |plasma, wave| {
            let path = waves.path(wave);
            if with_derivatives {
                path.echo_with_derivatives(plasma, frequency_mhz[wave])
            } else {
                path.echo(plasma, frequency_mhz[wave])
            }
        },
    )
}

/// The highest frequency that comes back of every wave.
pub fn ceilings(
    peaks: Peaks,
    waves: Waves,
    n_threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<Ceiling>> {
    let none = Ceiling {
        mhz: f64::NAN,
        equivalent_mhz: f64::NAN,
        by: [f64::NAN; N_PARAMETERS],
    };
    each(peaks, waves, none, n_threads, interrupt, |plasma, wave| {
        waves.path(wave).ceiling(plasma)
    })
}

fn each<T: Copy + Send + Sync>(
    peaks: Peaks,
    waves: Waves,
    none: T,
    n_threads: usize,
    interrupt: &Interrupt,
    find: impl Fn(&PlasmaTable, usize) -> Option<T> + Sync,
) -> Result<Vec<T>> {
    thread_pool(n_threads)?.install(|| {
        let tables = tables(peaks, &waves, interrupt)?;
        let mut found = vec![none; waves.profile.len()];
        found
            .par_chunks_mut(CHUNK)
            .enumerate()
            .try_for_each(|(number, chunk)| -> Result<()> {
                interrupt.check()?;
                for (offset, target) in chunk.iter_mut().enumerate() {
                    let wave = number * CHUNK + offset;
                    if let Some(plasma) = &tables[waves.profile[wave] as usize] {
                        *target = find(plasma, wave).unwrap_or(none);
                    }
                }
                Ok(())
            })?;
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_at_fault_are_named() {
        let one = [5.0];
        let peaks = Peaks {
            fof2_mhz: &one,
            hmf2_km: &[300.0],
            m3000f2: &[3.0],
            b0_km: &[90.0],
            b1: &[2.0],
            foe_mhz: &[1.0],
            solar_zenith_deg: &[90.0],
            r12: &[50.0],
        };
        let waves = Waves {
            profile: &[0],
            is_extraordinary: &[false],
            gyrofrequency_mhz: &[1.2],
            dip_deg: &[60.0],
            distance_km: &[100.0],
        };
        let message = |waves: Waves, frequency: f64| {
            group_delays(peaks, waves, &[frequency], true, 1, &Interrupt::default())
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(message(waves, 3.0), None);
        for (waves, frequency, expected) in [
            (
                waves,
                f64::NAN,
                "frequency_mhz[0] = NaN is outside 0.1..100",
            ),
            (
                Waves {
                    profile: &[1],
                    ..waves
                },
                3.0,
                "which[0] = 1 is none of the 1 profiles",
            ),
            (
                Waves {
                    distance_km: &[2000.0],
                    ..waves
                },
                3.0,
                "distance_km[0] = 2000 is outside 0..1500",
            ),
            (
                Waves {
                    dip_deg: &[],
                    ..waves
                },
                3.0,
                "dip_deg has 0 values where which has 1",
            ),
        ] {
            assert_eq!(message(waves, frequency).as_deref(), Some(expected));
        }
    }
}
