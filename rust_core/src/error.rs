//! The errors of the kernel: each names the argument at fault and its value.

use thiserror::Error;

#[derive(Debug, Error, PartialEq)]
pub enum KernelError {
    /// An argument is outside what the formula accepts.
    #[error("{0}")]
    InvalidArgument(String),
    /// The innovation covariance could not be factorised.
    #[error("{0}")]
    NotPositiveDefinite(String),
    /// Who asked for the work wants it no more.
    #[error("interrupted")]
    Interrupted,
}

pub type Result<T> = std::result::Result<T, KernelError>;
