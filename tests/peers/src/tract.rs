//! tract with an ONNX file of one input, optimised.

use crate::answer;
use anyhow::{Result, bail};
use tract_linalg::multithread::Executor;
use tract_onnx::prelude::*;

/// Answers until the input ends.
pub fn serve(path: &str, threads: usize) -> Result<()> {
    if threads > 1 {
        tract_linalg::multithread::set_default_executor(Executor::multithread(threads));
    }
    let model = tract_onnx::onnx().model_for_path(path)?.into_optimized()?;
    let shape = model.input_fact(0)?.shape.as_concrete().map(<[usize]>::to_vec);
    let Some(shape) = shape else { bail!("the input has an open dimension") };
    let plan = model.into_runnable()?;
    let input: Tensor = tract_ndarray::Array::from_shape_vec(&shape[..], crate::input(shape.iter().product()))?.into();
    answer::answer_lines(|what, count| match what {
        "run" => answer::seconds_of_each(count, || plan.run(tvec!(input.clone().into())).map(drop)),
        _ => bail!("no question {what}"),
    });
    Ok(())
}
