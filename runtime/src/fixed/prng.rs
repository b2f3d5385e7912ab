//! Random numbers that are the same on every device: PCG32 (O'Neill 2014, pcg-random.org, `pcg32_random_r`).

/// The generator's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcg32 {
    state: u64,
}

/// Stream selector of the reference's demo program, odd as it must be.
const INCREMENT: u64 = (54 << 1) | 1;
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;

impl Pcg32 {
    /// A generator for this seed, as `pcg32_srandom_r(seed, 54)` makes it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Self { state: 0 };
        rng.next_u32();
        rng.state = rng.state.wrapping_add(seed);
        rng.next_u32();
        rng
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        let mixed = (((old >> 18) ^ old) >> 27) as u32;
        mixed.rotate_right((old >> 59) as u32)
    }

    /// A number below `bound` (> 0), each as likely up to 2^-32 of the whole: `floor(random64 * bound / 2^64)`.
    pub fn below(&mut self, bound: u64) -> u64 {
        let random = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
        ((u128::from(random) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Pcg32;

    /// First numbers of the reference's `pcg32-demo` with seed 42, stream 54.
    #[test]
    fn reference_sequence() {
        let mut rng = Pcg32::new(42);
        let first: [u32; 6] = core::array::from_fn(|_| rng.next_u32());
        assert_eq!(first, [0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e]);
    }
}
