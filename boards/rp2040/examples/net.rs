//! The least firmware that runs a net, over and over, on nothing: no console, no command line, no digest. What it takes of
//! flash is what the runtime takes, and some 300 bytes of start-up code: `cargo xtask bench boards`. By hand:
//!
//! ```sh
//! MOTE_IMAGE=/path/net.mote cargo build --release --target thumbv6m-none-eabi -p rp2040 --example net \
//!     --no-default-features --features convnet
//! ```
#![no_std]
#![no_main]

use core::hint::black_box;
use mote_board_support::memory;
use mote_runtime::{Image, Limits, Session};

#[cortex_m_rt::entry]
fn main() -> ! {
    let _ = run();
    loop {
        cortex_m::asm::wfi();
    }
}

/// Runs the net until an error, of which there is none: `None`.
fn run() -> Option<()> {
    let room = memory::take()?.room;
    let image = Image::open_with(room.image, memory::OPS).ok()?;
    let mut session = Session::new(&image, room.arena, Limits { batch: 1, context: 1, threads: 1 }).ok()?;
    loop {
        // The optimiser must take these for a sensor and an actuator.
        black_box(session.input_bytes(0).ok()?);
        session.run().ok()?;
        black_box(session.output_bytes(0).ok()?);
    }
}
