//! The only file that knows Python: converts arguments, detaches from the interpreter, calls, converts back.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::KernelError;

impl From<KernelError> for PyErr {
    fn from(error: KernelError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

#[pymodule]
fn rust_core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
