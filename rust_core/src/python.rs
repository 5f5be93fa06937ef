//! The module that Python sees, and the only folder that knows Python: converts arguments, detaches from the interpreter,
//! calls, converts back.

mod analysis;
mod background;
mod heights;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;

use crate::error::KernelError;
use crate::interrupt::Interrupt;

impl From<KernelError> for PyErr {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Interrupted => PyKeyboardInterrupt::new_err(error.to_string()),
            _ => PyValueError::new_err(error.to_string()),
        }
    }
}

/// How often a long call lets Python look for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// Work that may take long, without the interpreter, in a thread of its own: this one lets Python handle signals
/// meanwhile. What a handler raises, Ctrl-C's `KeyboardInterrupt` above all, ends the work at its next block.
fn interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Interrupt) -> Result<T, KernelError> + Send,
) -> PyResult<T> {
    let (interrupt, is_done) = (Interrupt::default(), AtomicBool::new(false));
    let caller = thread::current();
    let (outcome, raised) = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let outcome = work(&interrupt);
            is_done.store(true, Ordering::Release);
            caller.unpark();
            outcome
        });
        let mut raised = Ok(());
        // Done, or ended by a panic.
        while !is_done.load(Ordering::Acquire) && !worker.is_finished() {
            py.detach(|| thread::park_timeout(SIGNALS_EVERY));
            if raised.is_ok() {
                raised = py.check_signals();
                if raised.is_err() {
                    interrupt.raise();
                }
            }
        }
        (worker.join(), raised)
    });
    let outcome = outcome.unwrap_or_else(|panic| resume_unwind(panic));
    raised.and(outcome.map_err(PyErr::from))
}

#[pymodule]
fn rust_core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    background::add_to(module)?;
    heights::add_to(module)?;
    analysis::add_to(module)
}
