//! `board`: one board at a time.

use crate::{setup, shell, symbols, table};
use anyhow::{Result, bail};
use std::path::Path;
use table::{Board, Built, Firmware};

/// The example of boards that runs a net and has nothing else.
pub const LEAST: &str = "net";

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    let root = table::root()?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let build = |name: &str, firmware| {
        let board = table::find(&root, name)?;
        let built = table::build(&root, &board, firmware)?;
        anyhow::Ok((board, built))
    };
    match words[..] {
        ["list"] => {
            for board in table::table(&root)? {
                println!("{:12} {:12} {:28} {}", board.name, board.core, board.target, board.description);
            }
            Ok(())
        }
        ["build", name, ref image @ ..] => {
            let image = image.first().map_or(Firmware::default(), |image| firmware(image));
            println!("{}", build(name, image)?.1.elf.display());
            Ok(())
        }
        ["run", name, image, ref line @ ..] => {
            let (board, built) = build(name, firmware(image))?;
            match table::run(&board, &built, &line.join(" "), &mut |line| println!("{line}"))? {
                0 => Ok(()),
                code => bail!("{name} exited with code {code}"),
            }
        }
        ["symbols", name, ref image @ ..] => {
            let image = image.first().map_or(Firmware::default(), |image| firmware(image));
            let (board, built) = build(name, image)?;
            shell::say(&format!("{}, for {}", built.elf.display(), built.features.join(" and ")));
            println!("{}", symbols::check(&board, &built)?);
            Ok(())
        }
        ["runtime", name, image] => {
            let least = Firmware { image: Some(Path::new(image)), example: Some(LEAST), ..Firmware::default() };
            let (board, built) = build(name, least)?;
            let sizes = symbols::check(&board, &built)?;
            println!("{sizes}\n{}", symbols::owners(&built, &sizes)?);
            Ok(())
        }
        _ => bail!(
            "board list | build NAME [IMAGE|FEATURE] | run NAME IMAGE [ARGS] | symbols NAME [IMAGE|FEATURE] | runtime NAME IMAGE"
        ),
    }
}

/// What to build for an image, or for the name of a feature, all of whose ops are linked then.
fn firmware(what: &str) -> Firmware<'_> {
    match table::FEATURES.iter().find(|(name, _)| *name == what) {
        Some((name, _)) => Firmware { feature: Some(name), ..Firmware::default() },
        None => Firmware { image: Some(Path::new(what)), ..Firmware::default() },
    }
}

/// The boards that this machine can run.
pub fn all(root: &Path) -> Result<Vec<Board>> {
    let mut boards = table::table(root)?;
    for board in &boards {
        if !setup::runs(board)? {
            shell::say(&format!("skipped: {}, whose runner {} is not there", board.name, board.runner[0]));
        }
    }
    boards.retain(|board| setup::runs(board).unwrap_or(false));
    Ok(boards)
}

/// Those of these boards that this firmware fits.
pub fn fitting<'b>(boards: &'b [Board], firmware: Firmware<'_>) -> Result<Vec<&'b Board>> {
    let mut fitting = Vec::new();
    for board in boards {
        match table::lack(board, firmware)? {
            None => fitting.push(board),
            Some(why) => shell::say(&format!("skipped: {why}")),
        }
    }
    Ok(fitting)
}

/// Runs a firmware that must end well; the lines it prints.
pub fn lines(board: &Board, built: &Built, line: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    match table::run(board, built, line, &mut |line| lines.push(line.to_owned()))? {
        0 => Ok(lines),
        code => bail!("{} exited with code {code}:\n{}", board.name, lines.join("\n")),
    }
}
