//! What this core and its system support. The registers that say so are the system's alone, which tells programs in its own way: `std`
//! knows it. Without `std` it is what the code is compiled for.

/// Instruction sets beyond NEON.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// `SDOT`.
    pub dotprod: bool,
    /// This and `SMMLA`.
    pub i8mm: bool,
}

#[cfg(feature = "std")]
pub fn features() -> Features {
    use std::arch::is_aarch64_feature_detected as has;
    let dotprod = has!("dotprod");
    Features { dotprod, i8mm: dotprod && has!("i8mm") }
}

#[cfg(not(feature = "std"))]
pub fn features() -> Features {
    let dotprod = cfg!(target_feature = "dotprod");
    Features { dotprod, i8mm: dotprod && cfg!(target_feature = "i8mm") }
}
