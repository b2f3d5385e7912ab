//! Mote on RISC-V: an RV32IMAC hart of QEMU's `virt` machine.
#![no_std]
#![no_main]

use mote_board_support::counter::Minstret;
use mote_board_support::{NoPin, semihosted};

#[riscv_rt::entry]
fn main() -> ! {
    semihosted("qemu-rv32", Minstret, NoPin)
}
