//! Stopping long work: who waits for it raises a flag, and the loops over blocks look at it between two blocks.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{KernelError, Result};

#[derive(Debug, Default)]
pub struct Interrupt(AtomicBool);

impl Interrupt {
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Errors when the work is no longer wanted.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            Err(KernelError::Interrupted)
        } else {
            Ok(())
        }
    }
}
