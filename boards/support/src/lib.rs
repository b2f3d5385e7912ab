//! What the boards share. A board is a few lines over this crate: see `../qemu-m3/src/main.rs`.
//!
//! 1. [`mod@app`]: the application: opens the image and runs it: [`tokens`] a language model, [`net`] any other;
//! 2. [`command`]: what the command line says;
//! 3. [`memory`]: the image in flash, the arena and buffers in RAM, each a static;
//! 4. [`marks`]: painting of stack and arena, and their high-water marks;
//! 5. [`print`](mod@print): text and numbers onto an [`embedded_io::Write`], without `core::fmt`;
//! 6. [`counter`], [`semihosting`]: what differs between architectures; `mps2` (Arm only): what one family of boards has;
//! 7. `kernels` (boards only): another application, which compares a board's kernels with the scalar ones; `least`: the smallest.
//!
//! Rules: no float, no allocator, no panic. `cargo xtask board symbols` proves it of the linked firmware; the panic
//! handler below exists because the language wants one, and is not in the ELF.
#![cfg_attr(not(test), no_std)]

pub mod app;
pub mod command;
pub mod counter;
#[cfg(all(feature = "convnet", target_os = "none"))]
pub mod kernels;
#[cfg(feature = "convnet")]
pub mod least;
pub mod marks;
pub mod memory;
#[cfg(feature = "mps2")]
pub mod mps2;
#[cfg(feature = "convnet")]
pub mod net;
pub mod print;
pub mod semihosting;
#[cfg(feature = "decoder")]
pub mod tokens;
#[cfg(target_arch = "arm")]
mod vectors;

pub use app::app;

use embedded_hal::digital::OutputPin;
use embedded_io::Write;

/// A board: what the application needs from the hardware.
#[derive(Debug)]
pub struct Board<W: Write, C: counter::Counter, P: OutputPin> {
    /// Name, as in `boards.toml`.
    pub name: &'static str,
    /// Where results go.
    pub console: W,
    /// Counts instructions or cycles.
    pub counter: C,
    /// High while the model computes: a place for an oscilloscope or a current probe. [`NoPin`] if there is none.
    pub busy: P,
}

/// A pin that is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPin;

impl embedded_hal::digital::ErrorType for NoPin {
    type Error = core::convert::Infallible;
}

impl OutputPin for NoPin {
    fn set_low(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Runs the application on a board whose console and command line are the debugger's (or emulator's), then exits:
/// code 0 if all went well, 1 if not.
#[cfg(target_os = "none")]
pub fn semihosted<C: counter::Counter, P: OutputPin>(name: &'static str, counter: C, busy: P) -> ! {
    marks::paint_stack();
    let mut console = semihosting::Console::open();
    let done = match memory::take() {
        Some(memory) => {
            let line = semihosting::command_line(memory.line);
            app(&mut Board { name, console, counter, busy }, line, memory.room)
        }
        None => {
            print::field(&mut console, "error", "memory_taken");
            false
        }
    };
    semihosting::exit(if done { 0 } else { 1 })
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    semihosting::exit(101)
}
