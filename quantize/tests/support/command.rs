//! Runs the command as a user does.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub fn mote(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mote")).args(args).current_dir(root()).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run that must succeed.
pub fn good(args: &[&str]) -> String {
    let out = mote(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&good(args)).unwrap()
}

/// Standard error of a run that must fail with this code.
pub fn bad(code: i32, args: &[&str]) -> String {
    let out = mote(args);
    let why = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {why}");
    assert!(!why.contains("panicked"), "{args:?}: {why}");
    why
}
