//! What this processor and its system support. `std` has a macro for it; `core` has only the instructions.
//!
//! Source: Intel's manual, volume 1, 14.3 and 15.2 to 15.4; AMD's is the same.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use core::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets, those of which the system keeps the registers.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// AVX2, BMI2 and LZCNT.
    pub avx2: bool,
    /// These and AVX-VNNI.
    pub avx_vnni: bool,
    /// These and AVX-512 F, BW, DQ, VL, CD and VNNI.
    pub avx512_vnni: bool,
    /// These and AVX-512 VBMI.
    pub avx512_vbmi: bool,
}

/// The answer, asked once: a hypervisor may take microseconds for each question.
pub fn features() -> Features {
    const KNOWN: u8 = 128;
    static SEEN: AtomicU8 = AtomicU8::new(0);
    let mut seen = SEEN.load(Ordering::Relaxed);
    if seen == 0 {
        seen = KNOWN | ask();
        SEEN.store(seen, Ordering::Relaxed);
    }
    Features { avx2: seen & 1 != 0, avx_vnni: seen & 2 != 0, avx512_vnni: seen & 4 != 0, avx512_vbmi: seen & 8 != 0 }
}

fn ask() -> u8 {
    let bit = |word: u32, bit: u32| word >> bit & 1 != 0;
    let (leaves, one) = (__cpuid(0).eax, __cpuid(1).ecx);
    if leaves < 7 || !bit(one, 27) || !bit(one, 28) {
        return 0; // no leaf 7, no xgetbv, no AVX
    }
    // SAFETY: bit 27 (OSXSAVE) says that xgetbv is there.
    let kept = unsafe { kept_registers() };
    let seven = __cpuid_count(7, 0);
    // Bits of XCR0: 1 and 2 the xmm and ymm registers, 5 to 7 masks and zmm.
    // All processors with AVX2 have BMI2 and LZCNT, too; hypervisors may hide them.
    let more = __cpuid(0x8000_0000).eax >= 0x8000_0001 && bit(__cpuid(0x8000_0001).ecx, 5) && bit(seven.ebx, 8);
    let avx2 = kept & 6 == 6 && bit(seven.ebx, 5) && more;
    let avx_vnni = avx2 && seven.eax >= 1 && bit(__cpuid_count(7, 1).eax, 4);
    // F, DQ, CD, BW, VL.
    let avx512 = [16, 17, 28, 30, 31].iter().all(|at| bit(seven.ebx, *at));
    let avx512_vnni = avx2 && kept & 0xE6 == 0xE6 && avx512 && bit(seven.ecx, 11);
    let avx512_vbmi = avx512_vnni && bit(seven.ecx, 1);
    u8::from(avx2) | u8::from(avx_vnni) << 1 | u8::from(avx512_vnni) << 2 | u8::from(avx512_vbmi) << 3
}

#[target_feature(enable = "xsave")]
unsafe fn kept_registers() -> u64 {
    // SAFETY: the caller has seen that the system enabled it; register 0 is always there.
    unsafe { _xgetbv(0) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_std_has_it() {
        let has = super::features();
        assert_eq!(has.avx2, is_x86_feature_detected!("avx2"));
        assert_eq!(has.avx_vnni, is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"));
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        assert_eq!(has.avx512_vnni, avx512 && is_x86_feature_detected!("avx512bw"));
        assert_eq!(has.avx512_vbmi, has.avx512_vnni && is_x86_feature_detected!("avx512vbmi"));
    }
}
