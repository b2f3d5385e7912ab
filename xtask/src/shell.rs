//! Running programs.

use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Says what is going on.
pub fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// The cargo that runs this.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command, shown first; fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    show(command);
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { bail!("{} failed ({status})", command.get_program().display()) }
}

/// Runs a command, shown first, and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    show(command);
    let out = command.stderr(Stdio::inherit()).output();
    let out = out.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !out.status.success() {
        bail!("{} failed ({}):\n{}", command.get_program().display(), out.status, String::from_utf8_lossy(&out.stdout));
    }
    String::from_utf8(out.stdout).context("output is no UTF-8")
}

/// What a command wrote and took.
pub struct Used {
    /// Its standard output.
    pub stdout: String,
    /// From its start to its end.
    pub seconds: f64,
    /// The most memory it had (0 where there is no /proc).
    pub peak_rss_bytes: u64,
}

/// Does it, and says how long it took.
pub fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    say(&format!("{what}: {} s", start.elapsed().as_secs()));
    Ok(done)
}

/// [`output`], measured. What it says on standard error is shown at its end and, if it fails, is the error.
pub fn measured(command: &mut Command) -> Result<Used> {
    show(command);
    let start = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let status = format!("/proc/{}/status", child.id());
    // The kernel keeps the peak, but not beyond the end: look until it is gone.
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = std::fs::read_to_string(&status).ok().and_then(|text| peak_kib(&text)) {
            peak = now;
            std::thread::sleep(Duration::from_millis(5));
        }
        peak * 1024
    });
    let out = child.wait_with_output()?;
    let seconds = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&out.stderr);
    eprint!("{said}");
    match said.trim() {
        _ if out.status.success() => {}
        "" => bail!("{} failed ({})", command.get_program().display(), out.status),
        why => bail!("{why}"),
    }
    let stdout = String::from_utf8(out.stdout).context("output is no UTF-8")?;
    Ok(Used { stdout, seconds, peak_rss_bytes: watch.join().unwrap_or(0) })
}

/// VmHWM of a /proc/PID/status, which ended processes do not have.
fn peak_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// Whether a command succeeds within `limit`. It is killed after that.
pub fn succeeds(command: &mut Command, limit: Duration) -> bool {
    let Ok(mut child) = command.stdin(Stdio::null()).spawn() else { return false };
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(50)),
            _ => {
                // Failing to kill what has just ended is no trouble.
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// Where a program is, if it is on the path.
pub fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn show(command: &Command) {
    let mut line = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value.filter(|_| key != "PATH") {
            line.push_str(&format!("{}={} ", key.display(), value.display()));
        }
    }
    line.push_str(&Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy());
    for arg in command.get_args() {
        line.push_str(&format!(" {}", arg.display()));
    }
    say(&line);
}
