//! rten with an ONNX file of one input.

use crate::answer;
use anyhow::{Context, Result, bail};
use rten::{Dimension, ModelOptions, RunOptions, ThreadPool};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use std::sync::Arc;

/// Answers until the input ends.
pub fn serve(path: &str, threads: usize) -> Result<()> {
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
    let size = |d: &Dimension| match d {
        Dimension::Fixed(n) => Ok(*n),
        Dimension::Symbolic(_) => bail!("the input has an open dimension"),
    };
    let shape = model.input_shape(0).context("the input has no shape")?;
    let shape: Vec<usize> = shape.iter().map(size).collect::<Result<_>>()?;
    let shape: [usize; 4] = shape.try_into().ok().context("the input is not of rank 4")?;
    let input = NdTensor::from_data(shape, crate::input(shape.iter().product()));
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    let options = RunOptions::default().with_thread_pool(Some(pool));
    answer::answer_lines(|what, count| match what {
        "run" => answer::seconds_of_each(count, || {
            Ok(model.run_one(input.view().into(), Some(options.clone())).map(drop)?)
        }),
        _ => bail!("no question {what}"),
    });
    Ok(())
}
