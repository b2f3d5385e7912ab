//! Whether this core has vectors. The registers that say so are the system's alone; Linux tells programs in the auxiliary vector.
//! Without `std`, or elsewhere, it is what the code is compiled for, or these kernels would not be built (`runtime/build.rs`).

/// Bytes of a vector register.
pub fn register_bytes() -> usize {
    let bytes;
    // SAFETY: reads a register that cores with vectors have; only their kernels ask.
    unsafe {
        core::arch::asm!(
            ".option push", ".option arch, +v", "csrr {bytes}, vlenb", ".option pop",
            bytes = out(reg) bytes, options(nomem, nostack, preserves_flags)
        );
    }
    bytes
}

#[cfg(all(feature = "std", target_os = "linux"))]
pub fn has_vectors() -> bool {
    unsafe extern "C" {
        safe fn getauxval(kind: core::ffi::c_ulong) -> core::ffi::c_ulong;
    }
    const AT_HWCAP: core::ffi::c_ulong = 16;
    const V: u32 = (b'V' - b'A') as u32;
    getauxval(AT_HWCAP) >> V & 1 == 1 && is_version_1() && register_bytes() >= 16
}

#[cfg(not(all(feature = "std", target_os = "linux")))]
pub fn has_vectors() -> bool {
    true
}

/// Vendors' kernels have set the bit for cores of draft 0.7.1 (T-Head's C906 and C910), too, whose instructions mean something else.
/// There the two highest bits of this type are not known, so it is refused: the highest bit of `vtype`.
#[cfg(all(feature = "std", target_os = "linux"))]
fn is_version_1() -> bool {
    let vtype: isize;
    // SAFETY: sets nothing that lasts: whoever uses vectors sets their type and length first.
    unsafe {
        core::arch::asm!(
            ".option push", ".option arch, +v", "vsetvli {vtype}, zero, e8, m1, ta, ma", "csrr {vtype}, vtype", ".option pop",
            vtype = out(reg) vtype, options(nomem, nostack)
        );
    }
    vtype > 0
}
