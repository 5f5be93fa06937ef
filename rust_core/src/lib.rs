//! The assimilation kernel of AutoNVIS.
//!
//! All science lives in plain Rust modules; `python.rs` alone knows that Python exists and
//! `linalg.rs` alone knows the linear-algebra crate.

pub mod analysis;
pub mod covariance;
pub mod error;
pub mod linalg;
mod python;
pub mod quality;
