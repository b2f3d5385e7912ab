//! candle's quantized models of the Llama and Qwen2 families. Threads by `RAYON_NUM_THREADS` and `CANDLE_NUM_THREADS`, which
//! whoever starts this sets.

use crate::answer;
use anyhow::{Result, bail, ensure};
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2};
use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

/// Position 0 forgets what came before; there is no other way back.
enum Model {
    Llama(quantized_llama::ModelWeights),
    Qwen2(quantized_qwen2::ModelWeights),
}

impl Model {
    /// The model, its vocabulary, and its weights in bytes.
    fn open(path: &str) -> Result<(Self, usize, usize)> {
        let mut file = BufReader::new(File::open(path)?);
        let content = Content::read(&mut file)?;
        let vocab = content.tensor_infos["token_embd.weight"].shape.dims()[0];
        let size = |t: &candle_core::quantized::gguf_file::TensorInfo| {
            t.shape.elem_count() / t.ggml_dtype.block_size() * t.ggml_dtype.type_size()
        };
        let bytes = content.tensor_infos.values().map(size).sum();
        let model = match &content.metadata["general.architecture"].to_string()?[..] {
            "llama" => Self::Llama(quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?),
            "qwen2" => Self::Qwen2(quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?),
            other => bail!("no model of {other}"),
        };
        Ok((model, vocab, bytes))
    }

    /// Logits after tokens from position `first` on.
    fn decode(&mut self, vocab: usize, first: usize, count: usize) -> Result<()> {
        let tokens: Vec<u32> = (first..first + count).map(|i| answer::token(i, vocab as u32)).collect();
        let tokens = Tensor::new(&tokens[..], &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Llama(model) => model.forward(&tokens, first)?,
            Self::Qwen2(model) => model.forward(&tokens, first)?,
        };
        ensure!(logits.dims() == [1, vocab], "logits of {:?}", logits.dims());
        Ok(())
    }
}

/// Answers until the input ends.
pub fn serve(path: &str) -> Result<()> {
    let (mut model, vocab, bytes) = Model::open(path)?;
    // Tokens of the prompt, and all that the model has seen.
    let (mut position, mut seen) = (0, 0);
    answer::answer_lines(|what, tokens| -> Result<String> {
        ensure!(position.max(tokens) <= crate::CONTEXT, "{tokens} tokens");
        let start = Instant::now();
        match what {
            "first" => {
                let (mut fresh, ..) = Model::open(path)?;
                let opened = start.elapsed().as_secs_f64();
                fresh.decode(vocab, 0, tokens)?;
                Ok(format!("{opened} {}", start.elapsed().as_secs_f64()))
            }
            "prompt" => {
                model.decode(vocab, 0, tokens)?;
                (position, seen) = (tokens, tokens);
                Ok(start.elapsed().as_secs_f64().to_string())
            }
            "decode" => {
                if seen != position {
                    model.decode(vocab, 0, position)?;
                }
                seen = position + tokens;
                let start = Instant::now();
                for i in position..seen {
                    model.decode(vocab, i, 1)?;
                }
                Ok(start.elapsed().as_secs_f64().to_string())
            }
            "memory" => Ok(format!("{} {bytes} 0", answer::resident())),
            _ => bail!("no question {what}"),
        }
    });
    Ok(())
}
