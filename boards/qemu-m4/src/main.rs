//! Mote on the MPS2 AN386: a Cortex-M4 with DSP, emulated by QEMU.
#![no_std]
#![no_main]

use mote_board_support::counter::SysTick;
use mote_board_support::mps2::Led;
use mote_board_support::semihosted;

/// SysTick's clock, as in `boards.toml`.
const CLOCK_HZ: u32 = 25_000_000;

#[cortex_m_rt::entry]
fn main() -> ! {
    match cortex_m::Peripherals::take() {
        Some(peripherals) => semihosted("qemu-m4", SysTick::start(peripherals.SYST, CLOCK_HZ), Led::new()),
        None => mote_board_support::semihosting::exit(1),
    }
}
