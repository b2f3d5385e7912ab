//! Matrix products, by candle's (the `gemm` crate); of integers, by plain loops.

use super::moves::broadcast_places;
use super::{Args, Data, Outcome, Tensor};
use candle_core::Device;

/// x [m, k] times y [n, k], transposed if `by_rows`, or y [k, n]: [m, n].
pub(super) fn product(
    x: &[f32],
    y: &[f32],
    (m, k, n): (usize, usize, usize),
    by_rows: bool,
) -> Result<Vec<f32>, String> {
    if m * n * k == 0 {
        return Ok(vec![0.0; m * n]);
    }
    // A row by a matrix is bound by reading the matrix: what is copied for candle would be read twice.
    if m == 1 && by_rows {
        return Ok(y.chunks_exact(k).map(|row| dot(x, row)).collect());
    }
    let multiply = || -> candle_core::Result<Vec<f32>> {
        let x = candle_core::Tensor::from_slice(x, (m, k), &Device::Cpu)?;
        let y = match by_rows {
            true => candle_core::Tensor::from_slice(y, (n, k), &Device::Cpu)?.t()?,
            false => candle_core::Tensor::from_slice(y, (k, n), &Device::Cpu)?,
        };
        x.matmul(&y)?.flatten_all()?.to_vec1()
    };
    multiply().map_err(|why| why.to_string())
}

/// Sums of sixteen columns apart, which the compiler keeps in vectors.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

pub(super) fn fully_connected(args: &Args) -> Outcome {
    let [o, i] = [args.shape(1)[0], args.shape(1)[1]];
    if let (Data::Int(x), Data::Int(w), None) = (&args.x(0)?.data, &args.x(1)?.data, args.given(2)) {
        let dot = |x: &[i64], w: &[i64]| x.iter().zip(w).fold(0i64, |s, (x, w)| s.wrapping_add(x.wrapping_mul(*w)));
        let y = x.chunks_exact(i).flat_map(|x| w.chunks_exact(i).map(move |w| dot(x, w))).collect();
        return Ok(vec![Tensor::ints(args.out(), y)]);
    }
    let (x, w) = (args.floats(0)?, args.floats(1)?);
    let mut y = product(x, w, (x.len() / i, i, o), true)?;
    add_bias(&mut y, args.floats_if(2)?);
    args.floats_out(y)
}

/// Adds a number a channel, the last dimension.
pub(super) fn add_bias(y: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias.filter(|b| !b.is_empty()) {
        y.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
}

pub(super) fn matmul(args: &Args, transposed: bool) -> Outcome {
    let (a, b, out) = (args.shape(0), args.shape(1), args.out());
    let split = out.len() - 2;
    let (m, k, n) = (out[split], a[a.len() - 1], out[split + 1]);
    // Places of the matrices, counted in matrices.
    let xs = broadcast_places(&a[..a.len() - 2], &out[..split]);
    let ys = broadcast_places(&b[..b.len() - 2], &out[..split]);
    let pairs = xs.iter().zip(&ys);
    let data = match (&args.x(0)?.data, &args.x(1)?.data) {
        (Data::F32(x), Data::F32(y)) => {
            let mut all = Vec::with_capacity(xs.len() * m * n);
            for (i, j) in pairs {
                let (x, y) = (&x[i * m * k..(i + 1) * m * k], &y[j * k * n..(j + 1) * k * n]);
                all.extend(product(x, y, (m, k, n), transposed)?);
            }
            Data::F32(all)
        }
        (Data::Int(x), Data::Int(y)) => {
            let mut all = Vec::with_capacity(xs.len() * m * n);
            for (i, j) in pairs {
                let at = |r: usize, c: usize| y[j * k * n + if transposed { c * k + r } else { r * n + c }];
                for r in 0..m {
                    let row = &x[(i * m + r) * k..(i * m + r + 1) * k];
                    let sum =
                        |c| row.iter().enumerate().fold(0i64, |s, (d, x)| s.wrapping_add(x.wrapping_mul(at(d, c))));
                    all.extend((0..n).map(sum));
                }
            }
            Data::Int(all)
        }
        _ => return Err("a product of floats and integers".into()),
    };
    Ok(vec![Tensor { shape: out.to_vec(), data }])
}
