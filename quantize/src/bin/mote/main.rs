//! The command `mote`: quantize on a workstation, then run, measure and place the image. One file a subcommand.
//!
//! Data goes to stdout, talk to stderr. Exit code 0: done; 1: it could not be done, and stderr says why and what would
//! help; 2: the command line was not understood.

mod args;
mod bench;
mod board;
mod cost;
mod embed;
mod eval;
mod fit;
mod frontend;
mod infer;
mod inspect;
mod logits;
mod nearest;
mod quantize;
mod report;
mod run;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// 4-bit models for microcontrollers, phones and workstations.
#[derive(Parser)]
#[command(name = "mote", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Quantize a model (Hugging Face folder, llama2.c checkpoint, TensorFlow Lite file, word vectors) to an image
    Quantize(Box<quantize::Args>),
    /// Make an image of parts of a language model that `mote quantize --layers` made, maybe on several machines
    Merge(quantize::MergeArgs),
    /// Generate text with an image
    Run(run::Args),
    /// Turn texts into embeddings with an image of a sentence encoder, and say how near they are
    Embed(embed::Args),
    /// Run a net on arrays, pictures or sounds
    Infer(infer::Args),
    /// Make an image that turns sound into log-mel features or MFCCs
    Frontend(frontend::Args),
    /// Ask word vectors for the words nearest to a word, or to a sum of words
    Nearest(nearest::Args),
    /// Show what is in an image
    Inspect(inspect::Args),
    /// Say whether an image fits a board, and with what context
    Fit(fit::Args),
    /// Compare an image with its float model on a text: perplexity, KL divergence, agreement
    Eval(eval::Args),
    /// Compute logits, or their digest: the same on every device
    Logits(logits::Args),
    /// Measure tokens per second
    Bench(bench::Args),
    /// List boards; build, flash (or emulate) and run firmware with an image
    #[command(subcommand)]
    Board(board::Verb),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Tells the tensor library to leave tensors that are not multiplied to one thread: its threads wait for each other busily after each
/// operation, a third of the processor time of `mote quantize`, whose texts are computed side by side anyway.
fn texts_side_by_side() {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: nothing has run before, so that there is no other thread that could read the environment.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("CANDLE_NUM_THREADS", "1");
        }
    }
}

fn main() -> ExitCode {
    texts_side_by_side();
    let done = match Cli::parse().verb {
        Verb::Quantize(args) => quantize::main(&args),
        Verb::Merge(args) => quantize::merge_main(&args),
        Verb::Run(args) => run::main(&args),
        Verb::Embed(args) => embed::main(&args),
        Verb::Infer(args) => infer::main(&args),
        Verb::Frontend(args) => frontend::main(&args),
        Verb::Nearest(args) => nearest::main(&args),
        Verb::Inspect(args) => inspect::main(&args),
        Verb::Fit(args) => fit::main(&args),
        Verb::Eval(args) => eval::main(&args),
        Verb::Logits(args) => logits::main(&args),
        Verb::Bench(args) => bench::main(&args),
        Verb::Board(verb) => board::main(&verb),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "mote", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(why) if is_closed_pipe(&why) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("mote: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// `mote inspect x.mote | head` ends early on purpose.
fn is_closed_pipe(why: &anyhow::Error) -> bool {
    let io = why.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
