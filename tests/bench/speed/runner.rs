//! A runner: a process that is asked and answers, one line each (`answer.rs`), and what became of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A model in a runtime on so many threads.
pub struct Runner {
    /// What it is called in tables.
    pub who: String,
    /// Its threads.
    pub threads: usize,
    /// Why it gives no figures, if so.
    pub refused: Option<String>,
    server: Option<Server>,
}

struct Server {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.to.take()); // the end of its input ends it
        let _ = self.child.wait();
    }
}

impl Runner {
    /// Starts the process.
    pub fn start(who: &str, threads: usize, command: &mut Command) -> Self {
        let mut runner = Self { who: who.into(), threads, refused: None, server: None };
        match command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
            Ok(mut child) => {
                let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
                runner.server = Some(Server { child, to, from });
            }
            Err(why) => runner.refused = Some(format!("{}: {why}", command.get_program().display())),
        }
        runner
    }

    /// One that cannot be started.
    pub fn refused(who: &str, threads: usize, why: String) -> Self {
        Self { who: who.into(), threads, refused: Some(why), server: None }
    }

    /// The numbers it answers with, of which there must be `count`; none once it has refused, by `error: ` or by ending.
    pub fn ask(&mut self, question: &str, count: usize) -> Option<Vec<f64>> {
        let server = self.server.as_mut()?;
        let mut line = String::new();
        let _ = writeln!(server.to.as_mut()?, "{question}");
        let _ = server.from.read_line(&mut line);
        let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        match numbers {
            Ok(numbers) if numbers.len() == count => return Some(numbers),
            _ if line.is_empty() => self.refused = Some(format!("ended when asked for {question:?}")),
            _ => self.refused = Some(line.trim().trim_start_matches("error: ").to_owned()),
        }
        self.server = None;
        None
    }
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The largest.
pub fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// The median of the rounds' ratios.
pub fn ratio(over: &[f64], under: &[f64]) -> f64 {
    median(&over.iter().zip(under).map(|(a, b)| a / b).collect::<Vec<_>>())
}
