//! The assimilation kernel of AutoNVIS.
//!
//! All science lives in plain Rust modules; `python.rs` alone knows that Python exists and
//! `linalg.rs` alone knows the linear-algebra crate.

pub mod error;
mod python;
