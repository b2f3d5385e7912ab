//! The kernels of this core against the scalar ones: `cargo xtask test kernels`.
#![no_std]
#![no_main]

use mote_board_support::counter::SysTick;
use mote_board_support::{kernels, semihosting};

#[cortex_m_rt::entry]
fn main() -> ! {
    match cortex_m::Peripherals::take() {
        Some(peripherals) => kernels::run(SysTick::start(peripherals.SYST, 25_000_000)),
        None => semihosting::exit(1),
    }
}
