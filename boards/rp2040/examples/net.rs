//! The least firmware that runs a net, over and over, on nothing: no console, no command line, no digest. What it takes of
//! flash is what the runtime takes, and some 300 bytes of start-up code: `cargo xtask bench boards`. By hand:
//!
//! ```sh
//! MOTE_IMAGE=/path/net.mote cargo build --release --target thumbv6m-none-eabi -p rp2040 --example net \
//!     --no-default-features --features convnet,mote-board-support/vouched
//! ```
#![no_std]
#![no_main]

#[cortex_m_rt::entry]
fn main() -> ! {
    let _ = mote_board_support::least::run();
    loop {
        cortex_m::asm::wfi();
    }
}
