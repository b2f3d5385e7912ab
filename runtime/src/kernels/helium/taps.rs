//! Sums of a depthwise convolution's pixel, channels side by side.

/// The taps of a pixel that lie inside the image, of some groups of channels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Taps {
    /// Activations and weights of the first group at the first tap.
    pub x: *const i8,
    pub w: *const i8,
    /// Taps down and across, at least 1 each.
    pub rows: usize,
    pub cols: usize,
    /// Bytes from a tap to the next.
    pub x_tap: usize,
    pub w_tap: usize,
    /// Bytes from behind a row's last tap to the next row, modulo 2^32.
    pub x_row: usize,
    pub w_row: usize,
    /// Less the zero point.
    pub less: i32,
    /// Groups, at least 1: of 16 channels for [`one_each`], of 8 for the others.
    pub groups: usize,
    /// A sum for each channel.
    pub sums: *mut i32,
}

/// A function over taps: of each group `$zero`s sums, does `$tap` with activations at r1 and weights at r2, stores sums to r11; r12 is free,
/// r9 is `less`. `$x` and `$w`: bytes from a group to the next.
macro_rules! over_taps {
    ($(#[$meta:meta])* $name:ident, $zero:literal, $tap:literal, $store:literal, $x:literal, $w:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// What `taps` describes lies in memory, and the sums may be written.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(taps: &Taps) {
            naked_asm!(
                "push {{r4-r12, lr}}",
                "vpush {{d8-d15}}",
                "sub sp, sp, #8",
                "ldm r0, {{r1-r11}}",
                "1: strd r1, r2, [sp]",
                "mov r0, r3",
                $zero,
                "2: dls lr, r4",
                concat!("3: ", $tap),
                "add r1, r1, r5",
                "add r2, r2, r6",
                "le lr, 3b",
                "add r1, r1, r7",
                "add r2, r2, r8",
                "subs r0, r0, #1",
                "bne 2b",
                $store,
                "ldrd r1, r2, [sp]",
                concat!("add r1, r1, #", $x),
                concat!("add r2, r2, #", $w),
                "subs r10, r10, #1",
                "bne 1b",
                "add sp, sp, #8",
                "vpop {{d8-d15}}",
                "pop {{r4-r12, pc}}",
            )
        }
    };
}

over_taps! {
    /// Each channel has its own activation.
    one_each,
    "vmov.i32 q4, #0
    vmov.i32 q5, #0
    vmov.i32 q6, #0
    vmov.i32 q7, #0",
    "vldrb.s16 q0, [r1]
    vldrb.s16 q1, [r2]
    vadd.i16 q0, q0, r9
    vmullb.s16 q2, q0, q1
    vmullt.s16 q3, q0, q1
    vadd.i32 q4, q4, q2
    vadd.i32 q5, q5, q3
    vldrb.s16 q0, [r1, #8]
    vldrb.s16 q1, [r2, #8]
    vadd.i16 q0, q0, r9
    vmullb.s16 q2, q0, q1
    vmullt.s16 q3, q0, q1
    vadd.i32 q6, q6, q2
    vadd.i32 q7, q7, q3",
    "vst20.32 {{q4, q5}}, [r11]
    vst21.32 {{q4, q5}}, [r11]!
    vst20.32 {{q6, q7}}, [r11]
    vst21.32 {{q6, q7}}, [r11]!",
    "16", "16"
}

over_taps! {
    /// The same, half as many.
    eight_each,
    "vmov.i32 q4, #0
    vmov.i32 q5, #0",
    "vldrb.s16 q0, [r1]
    vldrb.s16 q1, [r2]
    vadd.i16 q0, q0, r9
    vmullb.s16 q2, q0, q1
    vmullt.s16 q3, q0, q1
    vadd.i32 q4, q4, q2
    vadd.i32 q5, q5, q3",
    "vst20.32 {{q4, q5}}, [r11]
    vst21.32 {{q4, q5}}, [r11]!",
    "8", "8"
}

over_taps! {
    /// All channels have the same activation.
    one_for_all,
    "vmov.i32 q4, #0
    vmov.i32 q5, #0",
    "ldrsb r12, [r1]
    vldrb.s32 q0, [r2]
    add r12, r12, r9
    vldrb.s32 q1, [r2, #4]
    vmla.s32 q4, q0, r12
    vmla.s32 q5, q1, r12",
    "vstrw.32 q4, [r11], #16
    vstrw.32 q5, [r11], #16",
    "0", "8"
}
