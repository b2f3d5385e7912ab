//! The least that runs a net, over and over, on nothing: no console, no command line, no digest. Of the boards' examples `net`.

use core::hint::black_box;

use mote_runtime::{Limits, Session};

use crate::memory;

/// Runs the net until an error, of which there is none: `None`.
pub fn run() -> Option<()> {
    let room = memory::take()?.room;
    let image = memory::open(room.image).ok()?;
    let mut session = Session::new(&image, room.arena, Limits { batch: 1, context: 1, threads: 1 }).ok()?;
    loop {
        // The optimiser must take these for a sensor and an actuator.
        black_box(session.input_bytes(0).ok()?);
        session.run().ok()?;
        black_box(session.output_bytes(0).ok()?);
    }
}
