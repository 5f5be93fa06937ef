//! The assimilation kernel of AutoNVIS.
//!
//! All science lives in plain Rust modules; `python` alone knows that Python exists and
//! `linalg.rs` alone knows the linear-algebra crate.

pub mod analysis;
pub mod arguments;
pub mod calendar;
pub mod climatology;
pub mod covariance;
pub mod dual;
pub mod echoes;
pub mod error;
pub mod evidence;
pub mod exponential;
pub mod group_index;
pub mod interrupt;
pub mod legendre;
pub mod linalg;
pub mod magnetic;
pub mod main_field;
pub mod network;
pub mod oblique;
pub mod placement;
pub mod plasma_table;
pub mod profile;
mod python;
pub mod quality;
pub mod solar_index;
pub mod spread;
pub mod sun;
pub mod virtual_height;
