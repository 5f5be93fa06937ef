//! Checks shared by the entry points: each error names the argument and its value.

use crate::calendar::date_and_hour;
use crate::error::{KernelError, Result};

/// The Julian-date and sidereal series hold in the centuries around J2000.
const YEARS: std::ops::RangeInclusive<i32> = 1900..=2099;

/// Where and when to evaluate: slices of one length.
#[derive(Debug, Clone, Copy)]
pub struct Points<'a> {
    /// Microseconds since 1970-01-01 UTC.
    pub time_us: &'a [i64],
    pub latitude_deg: &'a [f64],
    pub longitude_deg: &'a [f64],
}

impl Points<'_> {
    pub fn validate(&self) -> Result<()> {
        check_length(
            "latitude_deg",
            self.latitude_deg.len(),
            "times",
            self.time_us.len(),
        )?;
        check_length(
            "longitude_deg",
            self.longitude_deg.len(),
            "times",
            self.time_us.len(),
        )?;
        for (index, &time_us) in self.time_us.iter().enumerate() {
            let (date, _) = date_and_hour(time_us);
            if !YEARS.contains(&date.year) {
                return Err(KernelError::InvalidArgument(format!(
                    "times[{index}] lies in the year {}: the background covers {}..{}",
                    date.year,
                    YEARS.start(),
                    YEARS.end()
                )));
            }
        }
        check_places(self.latitude_deg, self.longitude_deg)
    }
}

/// Latitudes must lie in -90..90, longitudes in -360..360 degrees.
pub fn check_places(latitude_deg: &[f64], longitude_deg: &[f64]) -> Result<()> {
    check_range("latitude_deg", latitude_deg, (-90.0, 90.0))?;
    check_range("longitude_deg", longitude_deg, (-360.0, 360.0))
}

/// Every value of an argument must lie in `low..=high`.
pub fn check_range(name: &str, values: &[f64], (low, high): (f64, f64)) -> Result<()> {
    match values
        .iter()
        .enumerate()
        .find(|(_, value)| !(low..=high).contains(*value))
    {
        None => Ok(()),
        Some((index, value)) => Err(KernelError::InvalidArgument(format!(
            "{name}[{index}] = {value} is outside {low}..{high}"
        ))),
    }
}

pub fn check_length(name: &str, found: usize, reference: &str, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(KernelError::InvalidArgument(format!(
        "{name} has {found} values where {reference} has {expected}"
    )))
}

/// A pool of its own per call: no global state, and the caller decides how many cores to take (0: all of them).
pub fn thread_pool(n_threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build()
        .map_err(|error| KernelError::InvalidArgument(format!("n_threads = {n_threads}: {error}")))
}
