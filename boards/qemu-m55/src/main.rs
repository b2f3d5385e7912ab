//! Mote on the MPS3 AN547: a Cortex-M55 with Helium, emulated by QEMU.
#![no_std]
#![no_main]

use mote_board_support::counter::SysTick;
use mote_board_support::{NoPin, semihosted};

/// SysTick's clock, as in `boards.toml`.
const CLOCK_HZ: u32 = 32_000_000;

#[cortex_m_rt::entry]
fn main() -> ! {
    match cortex_m::Peripherals::take() {
        Some(peripherals) => semihosted("qemu-m55", SysTick::start(peripherals.SYST, CLOCK_HZ), NoPin),
        None => mote_board_support::semihosting::exit(1),
    }
}
