//! WebAssembly: the runtime in three builds, the page of `examples/web` around them, and the tests of both.

use crate::shell::{run, say, which};
use crate::{digest, table};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What pages and, for tests, Node run.
pub const TARGETS: [&str; 2] = [PAGE, WASI];
const PAGE: &str = "wasm32-unknown-unknown";
const WASI: &str = "wasm32-wasip1";

/// Name and features of each build, the best first. An engine refuses a module that has an instruction which it lacks.
const BUILDS: [(&str, &str); 3] = [("relaxed", "+simd128,+relaxed-simd"), ("simd128", "+simd128"), ("scalar", "")];

/// Tests of the runtime that compare backends.
const TESTS: [&str; 2] = ["backends", "convnet"];

/// Ends of names, and what a server says of such files.
const TYPES: [(&str, &str); 5] = [
    ("html", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("mote", "application/octet-stream"),
];

/// Where `--serve` listens.
const ADDRESS: &str = "127.0.0.1:8000";

/// Runs the verb.
pub fn main(args: &[String]) -> Result<()> {
    let serves = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--serve"] => true,
        _ => bail!("web takes nothing, or --serve"),
    };
    let folder = build()?;
    say(&format!("the page: {}", folder.display()));
    if serves {
        let listener = TcpListener::bind(ADDRESS).with_context(|| format!("cannot listen at {ADDRESS}"))?;
        say(&format!("http://{ADDRESS}/ (Ctrl-C ends it)"));
        serve(&listener, &folder);
    }
    Ok(())
}

/// Builds the modules and puts them into a folder with the page and the bundled model: all that a server needs.
pub fn build() -> Result<PathBuf> {
    let folder = digest::target_dir()?.join("web");
    fs::create_dir_all(&folder)?;
    for build in BUILDS {
        let mut cargo = cargo("build", PAGE, "std,panic_abort", "web", build)?;
        run(cargo.args(["--quiet", "--package", "mote-example-web"]))?;
        let module = wasm_folder(build.0)?.join(PAGE).join("web/mote_example_web.wasm");
        fs::copy(&module, folder.join(format!("mote-{}.wasm", build.0)))?;
    }
    for file in fs::read_dir(table::root()?.join("examples/web/page"))? {
        let file = file?;
        fs::copy(file.path(), folder.join(file.file_name()))?;
    }
    fs::copy(digest::bundled("llm")?, folder.join("llm.mote"))?;
    Ok(folder)
}

/// Lints of each build.
pub fn lint() -> Result<()> {
    for build in BUILDS {
        let mut cargo = cargo("clippy", PAGE, "std,panic_abort", "release", build)?;
        cargo.args(["--quiet", "--package", "mote-runtime", "--package", "mote-example-web", "--", "-D", "warnings"]);
        run(&mut cargo)?;
    }
    Ok(())
}

/// Runs the tests of all this, which count themselves.
pub fn check() -> Result<usize> {
    if which("node").is_none() {
        say("skipped: WebAssembly; there is no node");
        return Ok(0);
    }
    kernels()?;
    page()?;
    Ok(0)
}

/// Each build's backends give the scalar kernels' bits.
fn kernels() -> Result<()> {
    if table::toolchain(WASI)?.builds_std() {
        say(&format!("skipped: tests for {WASI}; it takes `rustup target add {WASI}`"));
        return Ok(());
    }
    let root = table::root()?;
    for build in BUILDS {
        let mut cargo = cargo("test", WASI, "std,panic_abort", "release", build)?;
        // Node 20 has relaxed SIMD behind a flag, and its first compiler (Liftoff) makes twice the dot product of it.
        let runner = format!(
            "node --no-warnings --experimental-wasm-relaxed-simd --no-liftoff {}",
            root.join("tests/web/wasi.mjs").display()
        );
        cargo.env("CARGO_TARGET_WASM32_WASIP1_RUNNER", runner);
        cargo.args(["--quiet", "--package", "mote-runtime"]).args(TESTS.map(|test| format!("--test={test}")));
        run(&mut cargo)?;
    }
    Ok(())
}

/// The page in a browser, beside `mote run` (`examples/web/tests/page.rs`, which skips itself where there is no Chromium).
fn page() -> Result<()> {
    let folder = build()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", listener.local_addr()?);
    let served = folder.clone();
    std::thread::spawn(move || serve(&listener, &served));
    let mut test = crate::shell::cargo();
    test.current_dir(table::root()?).args(["test", "--quiet", "--package", "mote-example-web"]);
    test.env("MOTE_WEB", url).env("MOTE_IMAGE", folder.join("llm.mote"));
    run(test.env("MOTE_COMMAND", digest::mote_file()?))
}

/// A cargo command of builds with these instructions, in a folder of their own.
fn cargo(verb: &str, target: &str, std: &str, profile: &str, (build, features): (&str, &str)) -> Result<Command> {
    let mut cargo = table::toolchain(target)?.cargo(verb, target, std);
    cargo.current_dir(table::root()?).env("RUSTFLAGS", format!("-C target-feature={features}"));
    cargo.args(["--profile", profile, "--target-dir"]).arg(wasm_folder(build)?);
    Ok(cargo)
}

fn wasm_folder(build: &str) -> Result<PathBuf> {
    Ok(digest::target_dir()?.join("wasm").join(build))
}

/// Answers requests for the files of a folder, each on a thread, for as long as the listener is there.
fn serve(listener: &TcpListener, folder: &Path) {
    std::thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            scope.spawn(move || {
                // Who has gone away needs no answer.
                let _ = answer(&stream, folder);
            });
        }
    });
}

/// Answers one request. A name is one of the folder's own, so no path leads out of it.
fn answer(mut stream: &TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut words = request.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let name = match target.split('?').next().unwrap_or_default() {
        "/" => "index.html",
        path => path.trim_start_matches('/'),
    };
    let file = fs::read_dir(folder)?.flatten().find(|entry| entry.file_name() == name && method == Some("GET"));
    let (status, body) = match file {
        Some(file) => ("200 OK", fs::read(file.path())?),
        None => ("404 Not Found", b"There is no such file.".to_vec()),
    };
    let kind =
        TYPES.iter().find(|(end, _)| name.rsplit('.').next() == Some(end)).map_or("text/plain", |(_, kind)| kind);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}
