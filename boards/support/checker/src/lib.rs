//! The runtime that checks an image while firmware is built (`boards/support/build.rs`): with the firmware's features, on the host, and
//! with the checks, which a firmware that is `vouched` for has not.
#![no_std]

pub use mote_runtime::*;
