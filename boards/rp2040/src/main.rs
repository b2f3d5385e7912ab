//! Mote on the RP2040 of a Raspberry Pi Pico: a Cortex-M0+, emulated by rp2040js.
#![no_std]
#![no_main]

use mote_board_support::counter::Elapsed;
use mote_board_support::{NoPin, semihosted};

#[cortex_m_rt::entry]
fn main() -> ! {
    semihosted("rp2040", Elapsed, NoPin)
}
