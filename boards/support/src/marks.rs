//! High-water marks: memory is filled with a pattern beforehand, and afterwards one looks how far it has been
//! overwritten.

// Painting the stack writes below the stack pointer.
#![allow(unsafe_code)]

/// What unused bytes hold.
const PAINT: u8 = 0xA5;

/// Fills `memory`.
pub fn paint(memory: &mut [u8]) {
    memory.fill(PAINT);
}

/// Bytes from the beginning of painted memory to the last one written (or, if that one was written with the paint's
/// own value, to the last that was not).
#[must_use]
pub fn high_water(memory: &[u8]) -> usize {
    memory.iter().rposition(|b| *b != PAINT).map_or(0, |last| last + 1)
}

/// At most this much stack is painted: RAM below it may be megabytes.
#[cfg(target_os = "none")]
const STACK_BYTES: usize = 64 * 1024;

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// The address just above the stack, from cortex-m-rt's or riscv-rt's linker script.
    static _stack_start: u8;
    /// The end of all statics, from the same.
    static __sheap: u8;
}

/// The lowest address that is painted, and the highest that the stack uses.
#[cfg(target_os = "none")]
fn stack_bounds() -> (usize, usize) {
    let (top, statics) = ((&raw const _stack_start).addr(), (&raw const __sheap).addr());
    (top.saturating_sub(STACK_BYTES).max(statics), top)
}

/// Paints the stack below the caller. Call it first thing in `main`.
#[cfg(target_os = "none")]
#[inline(never)]
pub fn paint_stack() {
    let here = 0u8;
    // Leaves this function's own frame and what `black_box` and the loop may push.
    let end = core::hint::black_box(&raw const here).addr().saturating_sub(256);
    let mut at = stack_bounds().0;
    while at < end {
        // SAFETY: [statics' end, stack pointer - 256) belongs to nobody: not to a static, and not yet to the stack.
        unsafe { core::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(PAINT) };
        at += 1;
    }
}

/// Bytes of stack that have been in use at any time since [`paint_stack`], from the very top.
#[cfg(target_os = "none")]
#[must_use]
pub fn stack_high_water() -> usize {
    let (low, top) = stack_bounds();
    let mut at = low;
    // SAFETY: the range is RAM between the statics and the top of the stack; it is only read, byte by byte.
    while at < top && unsafe { core::ptr::with_exposed_provenance::<u8>(at).read_volatile() } == PAINT {
        at += 1;
    }
    top - at
}

/// On a host there is nothing to measure.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn stack_high_water() -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        let mut memory = [0u8; 100];
        paint(&mut memory);
        assert_eq!(high_water(&memory), 0);
        memory[41] = 7;
        assert_eq!(high_water(&memory), 42);
    }
}
