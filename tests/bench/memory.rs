//! Peak memory of `mote quantize` on random models that differ only in their number of layers.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DIM: usize = 1024;
const HIDDEN: usize = 2816;
const VOCAB: usize = 4096;

/// Writes a Llama of random f16 weights in Hugging Face's layout.
fn write_model(folder: &Path, layers: usize) -> std::io::Result<u64> {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": DIM, "intermediate_size": HIDDEN,
        "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16, "hidden_act": "silu",
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, DIM])];
    for l in 0..layers {
        let name = |rest: &str| format!("model.layers.{l}.{rest}.weight");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((name(norm), vec![DIM]));
        }
        for matrix in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"] {
            tensors.push((name(matrix), vec![DIM, DIM]));
        }
        tensors.push((name("mlp.gate_proj"), vec![HIDDEN, DIM]));
        tensors.push((name("mlp.up_proj"), vec![HIDDEN, DIM]));
        tensors.push((name("mlp.down_proj"), vec![DIM, HIDDEN]));
    }
    tensors.push(("model.norm.weight".to_owned(), vec![DIM]));
    let (mut header, mut at) = (serde_json::Map::new(), 0usize);
    for (name, shape) in &tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut out = std::io::BufWriter::new(std::fs::File::create(folder.join("model.safetensors"))?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut state = 1u32;
    for _ in 0..at / 2 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // f16 of magnitude 2^-6 to 2^-4, either sign.
        let bits = (state >> 16 & 0x83FF) | 0x2400 | (state >> 5 & 0x0400);
        out.write_all(&(bits as u16).to_le_bytes())?;
    }
    out.flush()?;
    Ok(at as u64)
}

/// Peak resident KiB, in all and without pages of files, while `child` runs.
fn peak(child: &mut Child) -> (u64, u64) {
    let field = |status: &str, name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let (mut all, mut own) = (0, 0);
    while child.try_wait().expect("the child").is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        all = all.max(field(&status, "VmHWM:"));
        own = own.max(field(&status, "RssAnon:"));
        std::thread::sleep(Duration::from_millis(5));
    }
    (all, own)
}

fn main() -> std::io::Result<()> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    println!("| layers | weights, bytes of f16 | peak resident, MiB | of that, not pages of files |");
    println!("| ---: | ---: | ---: | ---: |");
    for layers in [2, 8, 32] {
        let folder = tempfile::tempdir_in(".")?;
        let bytes = write_model(folder.path(), layers)?;
        let mut child = Command::new(format!("{target}/release/mote"))
            .arg("quantize")
            .arg(folder.path())
            .arg("-o")
            .arg(folder.path().join("x.mote"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let (all, own) = peak(&mut child);
        assert!(child.wait()?.success(), "mote quantize failed");
        println!("| {layers} | {bytes} | {:.0} | {:.0} |", all as f64 / 1024.0, own as f64 / 1024.0);
    }
    Ok(())
}
