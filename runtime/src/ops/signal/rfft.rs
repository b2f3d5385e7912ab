//! Rfft: the discrete Fourier transform of int16 samples, TFLM's `SignalRfft`: kissfft (Borgerding) with `FIXED_POINT` 16.
//!
//! Arguments: in slot (I16, at most N samples; zeros follow them), out slot (I16 of N + 2: real and imaginary part of N / 2 + 1
//! frequencies), table (I16 of N: `floor(32767 cos(2 pi j / N) + 1/2)`). N is a power of two, 4 to 2^14. NUMERICS.md, "rfft".
//!
//! Two samples side by side count as one complex number, so the transform is one of N / 2 numbers, in place in the output:
//! samples in the order of their digits reversed, then passes of radix 4, the first of radix 2 if a factor of 2 is left,
//! each dividing by its radix. A last pass takes apart what the even and the odd samples gave.

use super::super::{OpDef, Overlap, Run, ensure};
use super::{elements, halves, i16_arg};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef =
    OpDef { code: 53, name: "rfft", args: 3, flags: 0, slots: &[0, 1], overlap: Overlap::Apart, check, run };

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let (input, output, table) = (i16_arg(image, op, 0)?, i16_arg(image, op, 1)?, halves(image, op, 2)?);
    let length = table.len();
    ensure(length.is_power_of_two() && (4..=1 << 14).contains(&length))?;
    ensure(input.cols as usize <= length && output.cols as usize == length + 2)
}

/// A complex number.
type Complex = [i16; 2];

/// `x / 2^15` to the nearest, halves up; the low 16 bits.
fn rounded(x: i32) -> i16 {
    (x.wrapping_add(1 << 14) >> 15) as i16
}

/// Over 2 or 4: `part` is 16383 or 8191.
fn over(z: Complex, part: i32) -> Complex {
    z.map(|v| rounded(i32::from(v) * part))
}

fn times(a: Complex, b: Complex) -> Complex {
    let ([ar, ai], [br, bi]) = (a.map(i32::from), b.map(i32::from));
    [rounded((ar * br).wrapping_sub(ai * bi)), rounded((ar * bi).wrapping_add(ai * br))]
}

fn plus(a: Complex, b: Complex) -> Complex {
    [a[0].wrapping_add(b[0]), a[1].wrapping_add(b[1])]
}

fn minus(a: Complex, b: Complex) -> Complex {
    [a[0].wrapping_sub(b[0]), a[1].wrapping_sub(b[1])]
}

/// The circle in N steps, clockwise.
struct Circle<'a>(&'a [[u8; 2]]);

impl Circle<'_> {
    /// `e^(-2 pi i at / N)`: the sine is the cosine a quarter further on.
    fn at(&self, at: usize) -> Complex {
        let cosine = |at: usize| {
            let bytes = self.0.get(at & self.0.len().wrapping_sub(1));
            bytes.map_or(0, |bytes| i16::from_le_bytes(*bytes))
        };
        [cosine(at), cosine(at.wrapping_add(self.0.len() / 4))]
    }
}

/// Which of `2^log` numbers comes to place `place`: its digits, to base 4 (the lowest to base 2 if `log` is odd), reversed.
fn reversed(place: usize, log: u32) -> usize {
    let (mut rest, mut left, mut from, mut done) = (place, log, 0, 0);
    while left > 0 {
        let bits = left.min(2);
        left -= bits;
        from |= rest.wrapping_shr(left) << done;
        rest &= (1usize.wrapping_shl(left)).wrapping_sub(1);
        done += bits;
    }
    from
}

/// One pass of radix 2 over neighbours.
fn halve(z: &mut [Complex], one: Complex) {
    for [a, b] in z.as_chunks_mut().0 {
        let (x, t) = (over(*a, 16_383), times(over(*b, 16_383), one));
        (*a, *b) = (plus(x, t), minus(x, t));
    }
}

/// One pass of radix 4 over blocks of `4 m` numbers, whose twiddles are `step` apart on the circle.
fn quarter(z: &mut [Complex], m: usize, step: usize, circle: &Circle<'_>) -> Option<()> {
    for block in z.chunks_exact_mut((4 * m).max(1)) {
        let (a, rest) = block.split_at_mut_checked(m)?;
        let (b, rest) = rest.split_at_mut_checked(m)?;
        let (c, d) = rest.split_at_mut_checked(m)?;
        for (j, (((a, b), c), d)) in a.iter_mut().zip(b).zip(c).zip(d).enumerate() {
            let turned = |z: Complex, times_j: usize| times(over(z, 8191), circle.at(times_j * j * step));
            let (x, y, w, v) = (over(*a, 8191), turned(*b, 1), turned(*c, 2), turned(*d, 3));
            let (even, odd) = (minus(x, w), minus(y, v));
            let (x, y) = (plus(x, w), plus(y, v));
            *c = minus(x, y);
            *a = plus(x, y);
            *b = [even[0].wrapping_add(odd[1]), even[1].wrapping_sub(odd[0])];
            *d = [even[0].wrapping_sub(odd[1]), even[1].wrapping_add(odd[0])];
        }
    }
    Some(())
}

/// From the transform of pairs to that of samples: frequencies `k` and `n - k` follow from numbers `k` and `n - k`.
fn apart(z: &mut [Complex], n: usize, circle: &Circle<'_>) -> Option<()> {
    let [re, im] = over(*z.first()?, 16_383);
    *z.first_mut()? = [re.wrapping_add(im), 0];
    *z.get_mut(n)? = [re.wrapping_sub(im), 0];
    for k in 1..=n / 2 {
        let [re, im] = *z.get(n - k)?;
        let (a, b) = (over(*z.get(k)?, 16_383), over([re, im.wrapping_neg()], 16_383));
        let sum = plus(a, b).map(i32::from);
        // k quarters of a step beyond the first quarter: what the odd samples are turned by, times -i.
        let turned = times(minus(a, b), circle.at(n / 2 + k)).map(i32::from);
        let half = |v: i32| (v >> 1) as i16;
        *z.get_mut(k)? = [half(sum[0] + turned[0]), half(sum[1] + turned[1])];
        *z.get_mut(n - k)? = [half(sum[0] - turned[0]), half(turned[1] - sum[1])];
    }
    Some(())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output, table) = (i16_arg(r.image, op, 0)?, i16_arg(r.image, op, 1)?, halves(r.image, op, 2)?);
    let [x, y] = r.slots([&input, &output])?;
    let (x, z) = (elements::<i16>(&input, x)?, elements::<i16>(&output, y)?.as_chunks_mut::<2>().0);
    let (n, circle) = (table.len() / 2, Circle(table));
    let log = n.checked_ilog2()?;
    let numbers = z.get_mut(..n)?;
    for (place, to) in numbers.iter_mut().enumerate() {
        let at = 2 * reversed(place, log);
        *to = [at, at + 1].map(|at| x.get(at).copied().unwrap_or(0));
    }
    let mut m = 1;
    if log % 2 == 1 {
        halve(numbers, circle.at(0));
        m = 2;
    }
    while m < n {
        // N = 2 n steps are the whole circle.
        quarter(numbers, m, (n / 2).checked_div(m)?, &circle)?;
        m *= 4;
    }
    apart(z, n, &circle)
}
