//! The end of a Cortex-M's vector table.

// The table has its place.
#![allow(unsafe_code)]

/// The board's interrupts, none of which is enabled: one entry, because cortex-m-rt wants to see some.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".vector_table.interrupts")]
static __INTERRUPTS: [unsafe extern "C" fn(); 1] = [DefaultHandler];

unsafe extern "C" {
    /// cortex-m-rt's handler of what nobody handles.
    fn DefaultHandler();
}
