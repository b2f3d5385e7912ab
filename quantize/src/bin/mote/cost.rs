//! `mote quantize --report`: what the library's `report` measures a language model on.

use anyhow::Result;
use mote_quantize::calibrate::{self, Text};
use mote_quantize::import::tokenizer;
use mote_quantize::report::Tried;
use mote_runtime::text::Tokenizer;

/// Tokens that are left for a report.
pub const HELD: usize = 1024;
/// Prompts, and the words of each.
const PROMPTS: usize = 4;
const WORDS: usize = 8;
/// Tokens of a prompt of a model without a tokenizer.
const IDS: usize = 8;

/// For a model without an encoder: `text`, of which calibration took the first `calibrated`, in windows of at most `longest` tokens
/// that begin as the model's texts do; and beginnings of its lines. `section` is the tokenizer's.
pub fn tried(section: Option<&[u8]>, text: Option<&str>, calibrated: &[u32], longest: usize) -> Result<Tried> {
    let Some(section) = section else {
        let step = calibrated.len().div_ceil(PROMPTS).max(IDS);
        let prompts = calibrated.chunks(step).map(|ids| ids[..ids.len().min(IDS)].to_vec()).collect();
        return Ok(Tried { texts: Text::windows(calibrated, longest), held: false, prompts });
    };
    let text = text.unwrap_or(calibrate::TEXT);
    let bos = Tokenizer::open(section)?.bos();
    let all = tokenizer::encode(section, text, false)?;
    let rest = all.get(calibrated.len()..).filter(|rest| rest.len() >= HELD / 4);
    let tokens = rest.map_or(calibrated, |rest| &rest[..rest.len().min(HELD)]);
    let length = calibrate::WINDOW.min(longest).saturating_sub(bos.iter().len()).max(1);
    let window = |chunk: &[u32]| Text { source: vec![], tokens: bos.iter().chain(chunk).copied().collect() };
    let windows = tokens.chunks(length).map(window);
    let prompts = prompts(text).into_iter().map(|prompt| tokenizer::encode_after(section, bos, prompt, false));
    Ok(Tried { held: rest.is_some(), prompts: prompts.collect::<Result<_, _>>()?, texts: windows.collect() })
}

/// For a model with an encoder, which is calibrated on what it makes of sources itself.
pub fn translated(calibration: &[Text]) -> Tried {
    let step = calibration.len().div_ceil(PROMPTS).max(1);
    let prompts = calibration.iter().step_by(step).map(|text| text.source.clone()).collect();
    Tried { texts: calibration.to_vec(), held: false, prompts }
}

/// Beginnings of some lines, evenly spaced: of those that go on, if there are any.
fn prompts(text: &str) -> Vec<&str> {
    let long: Vec<&str> = text.lines().filter(|line| line.split_whitespace().nth(WORDS).is_some()).collect();
    let lines = if long.is_empty() { text.lines().filter(|line| !line.trim().is_empty()).collect() } else { long };
    let step = lines.len().div_ceil(PROMPTS).max(1);
    let end = |line: &str| line.match_indices(char::is_whitespace).nth(WORDS - 1).map_or(line.len(), |(at, _)| at);
    lines.into_iter().step_by(step).map(|line| &line[..end(line)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_beginnings() {
        let text = "one two three four five six seven eight nine\nshort\n\nu v w x y z a b c\n".repeat(6);
        let found = prompts(&text);
        assert_eq!(found.len(), PROMPTS);
        assert_eq!(found[0], "one two three four five six seven eight");
        assert_eq!(prompts("short\n\nshorter"), ["short", "shorter"]);
        assert!(prompts("").is_empty());
    }
}
