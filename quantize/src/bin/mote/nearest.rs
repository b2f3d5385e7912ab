//! `mote nearest`.

use crate::args;
use anyhow::{Context, Result, bail, ensure};
use mote_host::Arena;
use mote_host::runtime::Session;
use mote_host::runtime::image::{Limits, section};
use mote_host::runtime::nearest::{Neighbour, dot_products, nearest};
use mote_host::runtime::text::Tokenizer;
use mote_quantize::float::embeddings::spearman;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image, quantized from word vectors
    image: PathBuf,
    /// Words, with + or - between: `king`, or `king - man + woman`
    query: Vec<String>,
    /// How many neighbours are printed
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
    /// Answer questions (a line each: A B C D, "A is to B as C is to D") and print the share of right answers
    #[arg(long, value_name = "FILE", conflicts_with = "query")]
    analogies: Option<PathBuf>,
    /// Rate pairs (a line each: word, word, rating) and print the rank correlation with the ratings
    #[arg(long, value_name = "FILE", conflicts_with = "query")]
    similarity: Option<PathBuf>,
}

/// A model with its words.
struct Words<'a> {
    session: Session<'a>,
    text: Tokenizer<'a>,
    /// A unit of the dot products.
    unit: f64,
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let model = args::open(&args.image)?;
    let image = model.image();
    let what = || format!("{} holds no word vectors", args.image.display());
    let text = Tokenizer::open(image.section(section::TEXT).with_context(what)?).with_context(what)?;
    let port = image.ports().outputs().next().with_context(what)?;
    let limits = Limits { batch: 1, context: 1, threads: 1 };
    let mut arena = Arena::for_limits(&model, limits)?;
    let session = Session::new(image, arena.bytes(), limits)?;
    let unit = f64::from(port.mantissa) * 2f64.powi(-port.exponent);
    let mut words = Words { session, text, unit };
    let mut out = std::io::stdout().lock();
    if let Some(path) = &args.analogies {
        words.analogies(path, &mut out)?;
    }
    if let Some(path) = &args.similarity {
        words.similarity(path, &mut out)?;
    }
    if args.analogies.is_none() && args.similarity.is_none() {
        let terms = words.terms(&args.query)?;
        words.print(&terms, args.top, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Words<'_> {
    /// The index of a word, as it is or in small letters.
    fn find(&self, word: &str) -> Option<u32> {
        self.text.find_piece(word.as_bytes()).or_else(|| self.text.find_piece(word.to_lowercase().as_bytes()))
    }

    fn terms(&self, query: &[String]) -> Result<Vec<(u32, i8)>> {
        let mut terms = vec![];
        let mut sign = 1;
        for part in query.iter().flat_map(|q| q.split_whitespace()) {
            match part {
                "+" => sign = 1,
                "-" => sign = -1,
                word => {
                    // "-man" and "+woman" are words with a sign, unless there are such words.
                    let signed = || {
                        let minus = word.strip_prefix('-').map(|bare| (bare, -1));
                        minus.or(word.strip_prefix('+').map(|bare| (bare, 1)))
                    };
                    let (bare, sign) = match self.find(word) {
                        Some(_) => (word, sign),
                        None => signed().unwrap_or((word, sign)),
                    };
                    terms.push((self.find(bare).with_context(|| format!("the image does not know \"{bare}\""))?, sign));
                }
            }
        }
        ensure!(!terms.is_empty(), "no words: give some, as in `king - man + woman`");
        Ok(terms)
    }

    fn print(&mut self, terms: &[(u32, i8)], top: usize, out: &mut impl Write) -> Result<()> {
        // The square of the query's length is the sum of its terms' products with it.
        let scores = dot_products(&mut self.session, terms)?;
        let square: f64 = terms.iter().map(|(id, weight)| f64::from(*weight) * f64::from(scores[*id as usize])).sum();
        let length = (square * self.unit).max(1e-12).sqrt();
        let mut found = vec![Neighbour::default(); top];
        let count = nearest(&mut self.session, terms, &mut found)?;
        for neighbour in &found[..count] {
            let word = String::from_utf8_lossy(self.text.piece(neighbour.id));
            writeln!(out, "{:>8.4}  {word}", f64::from(neighbour.score) * self.unit / length)?;
        }
        Ok(())
    }

    /// The word2vec test: the nearest word to B - A + C must be D. Lines with a colon are headings.
    fn analogies(&mut self, path: &Path, out: &mut impl Write) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (mut asked, mut known, mut right) = (0usize, 0usize, 0usize);
        for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.starts_with(':') && !l.trim().is_empty()) {
            let [a, b, c, d] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                bail!("{}, line {}: four words are expected", path.display(), at + 1);
            };
            asked += 1;
            let (Some(a), Some(b), Some(c), Some(d)) = (self.find(a), self.find(b), self.find(c), self.find(d)) else {
                continue;
            };
            known += 1;
            let mut found = [Neighbour::default()];
            nearest(&mut self.session, &[(b, 1), (a, -1), (c, 1)], &mut found)?;
            right += usize::from(found[0].id == d);
        }
        let share = 100.0 * right as f64 / known.max(1) as f64;
        writeln!(out, "analogies: {right} of {known} right ({share:.2} %), of {asked} questions with known words")?;
        Ok(())
    }

    /// Spearman's rank correlation of cosines and ratings.
    fn similarity(&mut self, path: &Path, out: &mut impl Write) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut pairs = vec![];
        let mut asked = 0;
        for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.starts_with('#') && !l.trim().is_empty()) {
            let parts: Vec<&str> = line.split(['\t', ',', ';']).collect();
            let rating = parts.get(2).and_then(|r| r.trim().parse::<f64>().ok());
            let rating = rating.with_context(|| format!("{}, line {}: no rating", path.display(), at + 1))?;
            asked += 1;
            if let Some((a, b)) = self.find(parts[0]).zip(self.find(parts[1])) {
                let scores = dot_products(&mut self.session, &[(a, 1)])?;
                pairs.push((f64::from(scores[b as usize]), rating));
            }
        }
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let rho = spearman(&a, &b);
        writeln!(out, "similarity: Spearman {rho:.4} over {} of {asked} pairs with known words", pairs.len())?;
        Ok(())
    }
}
