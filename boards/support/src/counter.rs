//! Instruction (or cycle) counters.
//!
//! Under QEMU with `-icount shift=0` one instruction takes one nanosecond of the machine's time, so a clock that the
//! machine has counts instructions: the same number on every run and every host. It is not a number of cycles.

/// Counts upwards.
pub trait Counter {
    /// Instructions since it was started, as finely as the clock ticks.
    fn instructions(&mut self) -> u64;
}

/// SysTick: 24 bits downwards, continued to 56 by an interrupt on each wrap.
#[cfg(target_arch = "arm")]
#[derive(Debug)]
pub struct SysTick {
    /// Quarters of an instruction a tick: whole ones for a clock of 32 MHz, too.
    quarters: u32,
}

#[cfg(target_arch = "arm")]
mod sys_tick {
    use super::{Counter, SysTick};
    use core::sync::atomic::{AtomicU32, Ordering};
    use cortex_m::peripheral::SYST;
    use cortex_m::peripheral::syst::SystClkSource;

    static WRAPS: AtomicU32 = AtomicU32::new(0);
    const RELOAD: u32 = 0x00FF_FFFF;

    #[cortex_m_rt::exception]
    fn SysTick() {
        WRAPS.store(WRAPS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    impl SysTick {
        /// Starts the timer on the core's clock of `clock_hz`; the emulator runs 10^9 instructions a second.
        #[must_use]
        pub fn start(mut timer: SYST, clock_hz: u32) -> Self {
            timer.set_clock_source(SystClkSource::Core);
            timer.set_reload(RELOAD);
            timer.clear_current();
            timer.enable_interrupt();
            timer.enable_counter();
            Self { quarters: 4_000_000_000u32.checked_div(clock_hz).unwrap_or(4) }
        }
    }

    impl Counter for SysTick {
        fn instructions(&mut self) -> u64 {
            loop {
                let before = WRAPS.load(Ordering::Relaxed);
                let down = SYST::get_current() & RELOAD;
                // Taken in between: read again.
                if WRAPS.load(Ordering::Relaxed) == before {
                    let ticks = u64::from(before) * u64::from(RELOAD + 1) + u64::from(RELOAD - down);
                    return ticks * u64::from(self.quarters) / 4;
                }
            }
        }
    }
}

/// What the debugger counts: cycles, of the emulator that does (`boards/rp2040/run.mjs`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Elapsed;

impl Counter for Elapsed {
    fn instructions(&mut self) -> u64 {
        crate::semihosting::elapsed()
    }
}

/// The hart's own 64-bit count of retired instructions.
#[cfg(target_arch = "riscv32")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Minstret;

#[cfg(target_arch = "riscv32")]
mod minstret {
    // Reading a counter register takes an instruction.
    #![allow(unsafe_code)]

    use super::{Counter, Minstret};

    impl Counter for Minstret {
        fn instructions(&mut self) -> u64 {
            let (mut low, mut high, mut again): (u32, u32, u32);
            loop {
                // SAFETY: reads machine-mode counters, which every RISC-V hart has; no memory or stack is touched.
                unsafe {
                    core::arch::asm!(
                        "csrr {high}, minstreth", "csrr {low}, minstret", "csrr {again}, minstreth",
                        high = out(reg) high, low = out(reg) low, again = out(reg) again,
                        options(nomem, nostack),
                    );
                }
                if high == again {
                    return u64::from(high) << 32 | u64::from(low);
                }
            }
        }
    }
}
