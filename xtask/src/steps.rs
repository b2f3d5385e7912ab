//! Work in pieces on the boards: the same digest for every budget, and no piece longer than it may be.

use crate::board::{self, lines};
use crate::{digest, nets, symbols, table};
use anyhow::{Context, Result, ensure};
use table::Firmware;

/// What a piece may cost. 1: every unit by itself.
const BUDGETS: [u32; 3] = [1, 20_000, 100_000];

/// Instructions that a piece may take where the budget is no more than 20 000: twenty for each that it may cost. Language models and
/// DS-CNN stay below twelve, LeNet-5 on a Cortex-M3 takes fourteen.
const LONGEST: u64 = 400_000;

/// Nets, a convolutional one and one whose weights are codes; then a language model, a token at a time.
const NETS: [(&str, &str); 2] = [("kws", "--runs 2"), ("lenet5", "--runs 2")];
const MODEL: (&str, &str) = ("llm", "--tokens 1,403,407,261,378 --batch 1");

/// Runs everything whole and in pieces. Returns how many digests were compared.
pub fn check() -> Result<usize> {
    let mut images = vec![(MODEL.0, MODEL.1, digest::bundled(MODEL.0)?)];
    for (name, line) in NETS {
        images.extend(nets::named(name)?.map(|image| (name, line, image)));
    }
    let (root, mut compared) = (table::root()?, 0);
    let boards = board::all(&root)?;
    for (name, line, image) in &images {
        let context = (*name == MODEL.0).then_some(32);
        let firmware = Firmware { image: Some(image), batch: context.map(|_| 1), context, ..Firmware::default() };
        for board in board::fitting(&boards, firmware)? {
            let whole = table::build(&root, board, firmware)?;
            let expected = lines(board, &whole, &format!("{line} --sha256"))?;
            let built = table::build(&root, board, Firmware { steps: true, ..firmware })?;
            symbols::check(board, &built)?;
            for budget in BUDGETS {
                let found = lines(board, &built, &format!("{line} --sha256 --steps {budget}"))?;
                let sha256 = |lines: &[String]| lines.iter().find(|line| line.contains("_sha256=")).cloned();
                ensure!(sha256(&expected).is_some(), "{}: {name}: no digest", board.name);
                ensure!(sha256(&found) == sha256(&expected), "{}: {name}, budget {budget}: other bits", board.name);
                let number = |key| table::value(&found, key).and_then(|n| n.parse::<u64>().ok()).context(key);
                let (pieces, longest) = (number("pieces")?, number("longest_piece_instructions")?);
                println!(
                    "{name}, {}, budget {budget}: {pieces} pieces, the longest {longest} instructions",
                    board.name
                );
                ensure!(budget > 20_000 || longest <= LONGEST, "{}: {name}: that is longer than {LONGEST}", board.name);
                compared += 1;
            }
        }
    }
    Ok(compared)
}
