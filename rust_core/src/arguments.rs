//! Checks shared by the entry points: each error names the argument and its value.

use crate::error::{KernelError, Result};

/// Latitudes must lie in -90..90, longitudes in -360..360 degrees.
pub fn check_places(latitude_deg: &[f64], longitude_deg: &[f64]) -> Result<()> {
    for (name, values, limit) in [
        ("latitude_deg", latitude_deg, 90.0),
        ("longitude_deg", longitude_deg, 360.0),
    ] {
        if let Some((index, value)) = values
            .iter()
            .enumerate()
            .find(|(_, v)| !(-limit..=limit).contains(*v))
        {
            return Err(KernelError::InvalidArgument(format!(
                "{name}[{index}] = {value} is outside -{limit}..{limit}"
            )));
        }
    }
    Ok(())
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
