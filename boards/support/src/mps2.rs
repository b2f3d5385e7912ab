//! Arm's MPS2 boards (AN385, AN386 and so on).

// An LED is a bit in a register.
#![allow(unsafe_code)]

use core::convert::Infallible;
use embedded_hal::digital::{ErrorType, OutputPin};

/// The FPGA's LED register: bits 0 and 1 are LEDs. Arm DAI 0385, "FPGA system control and I/O".
const LEDS: usize = 0x4002_8000;

/// LED 0.
#[derive(Debug)]
pub struct Led(());

impl Led {
    /// The LED. As it owns the register, take one only.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }

    fn set(&mut self, on: bool) {
        // SAFETY: on an MPS2 this is a device register, always mapped, and writing it only switches LEDs.
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(LEDS).write_volatile(u32::from(on)) };
    }
}

impl Default for Led {
    fn default() -> Self {
        Self::new()
    }
}

impl ErrorType for Led {
    type Error = Infallible;
}

impl OutputPin for Led {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.set(false);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.set(true);
        Ok(())
    }
}
