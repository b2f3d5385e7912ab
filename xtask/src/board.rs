//! `board`: one board at a time.

use crate::{shell, symbols, table};
use anyhow::{Result, bail};
use std::path::Path;
use table::Firmware;

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    let root = table::root()?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let firmware = |image| Firmware { image: Some(Path::new(image)), ..Firmware::default() };
    let build = |name: &str, firmware| {
        let board = table::find(&root, name)?;
        let elf = table::build(&root, &board, firmware)?;
        anyhow::Ok((board, elf))
    };
    match words[..] {
        ["list"] => {
            for board in table::table(&root)? {
                println!("{:12} {:12} {:28} {}", board.name, board.core, board.target, board.description);
            }
            Ok(())
        }
        ["build", name, ref image @ ..] => {
            let image = image.first().map_or(Firmware::default(), |image| firmware(*image));
            println!("{}", build(name, image)?.1.display());
            Ok(())
        }
        ["run", name, image, ref line @ ..] => {
            let (board, elf) = build(name, firmware(image))?;
            match table::run(&board, &elf, &line.join(" "), &mut |line| println!("{line}"))? {
                0 => Ok(()),
                code => bail!("{name} exited with code {code}"),
            }
        }
        ["symbols", name, ref image @ ..] => {
            let image = image.first().map_or(Firmware::default(), |image| firmware(*image));
            let (board, elf) = build(name, image)?;
            shell::say(&format!("{}", elf.display()));
            println!("{}", symbols::check(&board, &elf)?);
            Ok(())
        }
        _ => bail!("board list | build NAME [IMAGE] | run NAME IMAGE [ARGS] | symbols NAME [IMAGE]"),
    }
}
