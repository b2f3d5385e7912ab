//! Square roots of integers.

/// The square root to the nearest, bit by bit as TFLM has it. That of 32 bits has 16, and is not rounded up to more.
#[must_use]
pub fn root(v: u64) -> u32 {
    let (mut rest, mut root, mut bit) = (v, 0u64, 1u64 << 62);
    while bit > rest {
        bit >>= 2;
    }
    while bit != 0 {
        if rest >= root + bit {
            rest -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
        bit >>= 2;
    }
    let most = if v >> 32 == 0 { 0xFFFF } else { 0xFFFF_FFFF };
    (if rest > root && root != most { root + 1 } else { root }) as u32
}

#[cfg(test)]
mod tests {
    use super::root;

    /// The nearest root is off by half at most: `(r - 1/2)^2 < v <= (r + 1/2)^2`.
    #[test]
    fn roots_are_the_nearest() {
        let few = (0..1u64 << 17).chain((0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        for v in few.filter(|v| *v < 0xFFFF_0000 || *v > u64::from(u32::MAX)) {
            let r = i128::from(root(v));
            let (below, above) = (r * r - r, r * r + r);
            assert!((v == 0 || below < v.into()) && i128::from(v) <= above, "{v}: {r}");
        }
        assert_eq!([root(0xFFFF_FFFF), root(1 << 32), root(u64::MAX)], [0xFFFF, 0x1_0000, 0xFFFF_FFFF]);
    }
}
