//! The kernels of this core against the scalar ones: `cargo xtask test kernels`.
#![no_std]
#![no_main]

use mote_board_support::counter::Elapsed;

#[cortex_m_rt::entry]
fn main() -> ! {
    mote_board_support::kernels::run(Elapsed)
}
