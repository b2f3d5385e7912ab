//! The page in a browser, as wide as a phone and as a desk's screen: what it writes is what `mote run` writes.
//!
//! `cargo xtask test web` builds the page, serves it, and runs this with `MOTE_WEB` (where it is served), `MOTE_COMMAND` (the `mote`
//! command) and `MOTE_IMAGE` (the page's own image). With `MOTE_PICTURES`, a folder, it leaves pictures there, in base64.

#[path = "../../../quantize/tests/browser/mod.rs"]
mod browser;

use browser::Browser;
use serde_json::{Value, json};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const LOOK: &str = include_str!("../../../quantize/tests/browser/look.js");
const PHONE: u32 = 390;
const DESK: u32 = 1280;
/// A prompt of more than one batch.
const LONG: &str = "Once upon a time, there was a little girl named Lily who lived in a small house near the big forest. \
    She had a red ball, a blue hat and a green frog that could sing. Every day, she went to the park with her mom and her dog.";

/// A browser and where the page is; without them says "skipped".
fn start() -> Option<(Browser, String)> {
    let Ok(url) = env::var("MOTE_WEB") else {
        eprintln!("skipped: the page is built and served by `cargo xtask test web`");
        return None;
    };
    Browser::start().map(|browser| (browser, url))
}

fn mote(args: &[&str]) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = Command::new(env::var_os("MOTE_COMMAND").unwrap()).current_dir(root).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// What `mote run` writes with an image, the page's own if there is none.
fn run(image: Option<&Path>, prompt: &str, tokens: u32, temperature: &str, seed: &str) -> String {
    let own = PathBuf::from(env::var_os("MOTE_IMAGE").unwrap());
    let (image, tokens) = (image.unwrap_or(&own).to_str().unwrap(), tokens.to_string());
    let sampling = ["--temperature", temperature, "--seed", seed, "-n", &tokens];
    let out: Value =
        serde_json::from_slice(&mote(&[&["run", image, "--json", "--prompt", prompt][..], &sampling].concat()))
            .unwrap();
    out["text"].as_str().unwrap().to_owned()
}

/// Waits until `what` is so in the page, half a minute at most.
fn wait(browser: &mut Browser, what: &str) {
    let look = "const look = () => { if (WHAT) resolve(''); \
        else if (performance.now() > end) resolve(document.body.innerText); else setTimeout(look, 10) };";
    let script = format!(
        "new Promise((resolve) => {{ const end = performance.now() + 30000; {} look(); }})",
        look.replace("WHAT", what)
    );
    assert_eq!(browser.run(&script), "", "{what}");
}

fn open(browser: &mut Browser, url: &str, width: u32, scheme: &str) {
    browser.open(url, width, scheme);
    wait(browser, "document.body.dataset.ready === 'llm.mote'");
}

/// Fills the form in as its user does.
fn fill(browser: &mut Browser, prompt: &str, tokens: u32, temperature: &str, seed: &str) {
    browser.run(&format!(
        "for (const [id, value] of Object.entries({})) {{ const e = document.getElementById(id); e.value = value; \
         e.dispatchEvent(new Event('input', {{ bubbles: true }})); }}",
        json!({ "prompt": prompt, "tokens": tokens.to_string(), "temperature": temperature, "seed": seed })
    ));
}

/// Has the page write, and returns the text and what is said of its speed.
fn write(browser: &mut Browser, prompt: &str, tokens: u32, temperature: &str, seed: &str) -> (String, String) {
    fill(browser, prompt, tokens, temperature, seed);
    browser.run("document.getElementById('write').click()");
    wait(browser, "document.getElementById('stop').disabled");
    let said = browser.run("['text', 'speed'].map((id) => document.getElementById(id).textContent)");
    (said[0].as_str().unwrap().to_owned(), said[1].as_str().unwrap().to_owned())
}

fn error(browser: &mut Browser) -> String {
    browser
        .run("document.getElementById('error').hidden ? '' : document.getElementById('error').textContent")
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn writes_what_mote_run_writes() {
    let Some((mut browser, url)) = start() else { return };
    let cases = [("Once upon a time, Lily", 60, "0.8", "7"), (LONG, 24, "1.3", "12345678901"), ("Ben é", 9, "0", "0")];
    let expected = cases.map(|(prompt, tokens, temperature, seed)| run(None, prompt, tokens, temperature, seed));
    assert!(expected[0].len() > 100 && expected[0].starts_with(cases[0].0), "{}", expected[0]);
    for width in [PHONE, DESK] {
        for (query, kernels) in
            [("", "wasm32-i8-relaxed"), ("?build=simd128", "wasm32-i8-simd128"), ("?build=scalar", "any-i8-scalar")]
        {
            open(&mut browser, &format!("{url}{query}"), width, "light");
            let about = browser.run("document.getElementById('about').textContent");
            assert!(about.as_str().unwrap().contains(kernels), "{about}");
            for ((prompt, tokens, temperature, seed), expected) in cases.iter().zip(&expected) {
                let (text, speed) = write(&mut browser, prompt, *tokens, temperature, seed);
                assert_eq!(text, *expected, "{kernels}, {width}");
                let written = format!("{tokens} written · ");
                assert!(speed.contains(&written) && speed.ends_with("tokens/s · length"), "{speed}");
            }
        }
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn fits_phones_and_desks() {
    let Some((mut browser, url)) = start() else { return };
    for (width, scheme) in [(PHONE, "light"), (PHONE, "dark"), (DESK, "light"), (DESK, "dark")] {
        open(&mut browser, &url, width, scheme);
        for state in ["open", "written", "wrong"] {
            match state {
                "written" => _ = write(&mut browser, "Once upon a time, Lily", 160, "0.8", "7"),
                "wrong" => browser.choose("#file", &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page.rs")),
                _ => {}
            }
            if state == "wrong" {
                wait(&mut browser, "!document.getElementById('error').hidden");
            }
            let seen = browser.run(LOOK);
            assert_eq!(seen["width"], width, "{seen}");
            assert!(seen["content"].as_u64().unwrap() <= width.into(), "wider than the screen: {seen}");
            for what in ["unnamed", "faint"] {
                assert_eq!(seen[what], json!([]), "{what}, {scheme}, {state}");
            }
            let small = browser.run(
                "[...document.querySelectorAll('button, input, textarea, #drop')].filter((e) => e.id !== 'file' && \
                 e.getBoundingClientRect().height < 44).map((e) => e.id)",
            );
            assert_eq!(small, json!([]), "too small for a finger");
            if let Some(folder) = env::var_os("MOTE_PICTURES") {
                let picture = Path::new(&folder).join(format!("{state}-{width}-{scheme}.png.base64"));
                std::fs::write(picture, browser.picture()).unwrap();
            }
        }
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn opens_other_images() {
    let Some((mut browser, url)) = start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (dates, gpt) = (folder.path().join("dates.mote"), folder.path().join("gpt.mote"));
    for (source, image) in [("examples/models/dates", &dates), ("examples/models/gpt", &gpt)] {
        mote(&["quantize", source, "-o", image.to_str().unwrap()]);
    }
    open(&mut browser, &url, PHONE, "light");
    browser.choose("#file", &dates);
    wait(&mut browser, "document.body.dataset.ready === 'dates.mote'");
    assert_eq!(browser.run("document.getElementById('prompt-label').textContent"), "Source");
    let (text, speed) = write(&mut browser, "3 March 2021", 16, "0", "1");
    assert_eq!((text.as_str(), text.clone()), ("2021-03-03", run(Some(&dates), "3 March 2021", 16, "0", "1")));
    assert!(speed.ends_with("end token"), "{speed}");

    // The other one is dropped.
    let bytes: Vec<u8> = std::fs::read(&gpt).unwrap();
    browser.run(&format!(
        "const data = new DataTransfer(); data.items.add(new File([new Uint8Array({bytes:?})], 'gpt.mote')); \
         document.body.dispatchEvent(new DragEvent('drop', {{ dataTransfer: data, bubbles: true, cancelable: true }}));"
    ));
    wait(&mut browser, "document.body.dataset.ready === 'gpt.mote'");
    let (text, _) = write(&mut browser, "Once upon a time", 40, "0.8", "3");
    assert_eq!(text, run(Some(&gpt), "Once upon a time", 40, "0.8", "3"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn refuses_wrong_files() {
    let Some((mut browser, url)) = start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = std::fs::read(env::var_os("MOTE_IMAGE").unwrap()).unwrap();
    let mut damaged = image.clone();
    damaged[40] ^= 1;
    let words = folder.path().join("words.mote");
    mote(&["quantize", "examples/models/word2vec/vectors.bin", "-o", words.to_str().unwrap()]);
    let words = std::fs::read(words).unwrap();
    open(&mut browser, &url, PHONE, "light");
    for (name, bytes, why) in [
        ("nothing.mote", &[][..], "not a .mote image"),
        (
            "notes.txt",
            b"These are notes, and not an image of a model. They are long enough for a header, though.....",
            "not a .mote image",
        ),
        ("half.mote", &image[..image.len() / 2], "the file is truncated"),
        ("damaged.mote", &damaged, "the image is damaged"),
        ("words.mote", &words, "no model that writes text"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        browser.run("document.getElementById('error').hidden = true");
        browser.choose("#file", &file);
        wait(&mut browser, "!document.getElementById('error').hidden");
        let said = error(&mut browser);
        assert!(said.starts_with(&format!("{name} cannot be opened: ")) && said.contains(why), "{said}");
        // The model before it is still there.
        let (text, _) = write(&mut browser, "Once upon a time", 8, "0", "1");
        assert_eq!(text, run(None, "Once upon a time", 8, "0", "1"));
        assert_eq!(error(&mut browser), "");
    }
    let (_, speed) = write(&mut browser, &LONG.repeat(8), 8, "0", "1");
    let said = error(&mut browser);
    assert!(said.contains("tokens; the image allows 256") && speed.starts_with("0 prompt tokens"), "{said} {speed}");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn stops() {
    let Some((mut browser, url)) = start() else { return };
    open(&mut browser, &format!("{url}?build=scalar"), PHONE, "light");
    let whole = run(None, "Once upon a time", 240, "0.8", "5");
    fill(&mut browser, "Once upon a time", 240, "0.8", "5");
    browser.run(
        "new MutationObserver((_, it) => { if (document.getElementById('text').textContent.length > 30) \
         { it.disconnect(); document.getElementById('stop').click(); } }) \
         .observe(document.getElementById('text'), { subtree: true, childList: true, characterData: true }); \
         document.getElementById('write').click()",
    );
    wait(&mut browser, "document.getElementById('stop').disabled");
    let said = browser.run("['text', 'speed'].map((id) => document.getElementById(id).textContent)");
    let (text, speed) = (said[0].as_str().unwrap(), said[1].as_str().unwrap());
    assert!(whole.starts_with(text) && text.len() > 30 && text.len() < whole.len(), "{text}");
    assert!(speed.ends_with("stopped"), "{speed}");
    assert_eq!(write(&mut browser, "Once upon a time", 240, "0.8", "5").0, whole);
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn loads_nothing_from_elsewhere() {
    let Some((mut browser, url)) = start() else { return };
    open(&mut browser, &url, PHONE, "light");
    let seen = browser.run(LOOK);
    let loaded: Vec<&str> = seen["loaded"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(loaded.len() > 2 && loaded.iter().all(|name| name.starts_with(&url)), "{loaded:?}");
    assert_eq!(seen["scripts"], json!([""]), "no script in the page itself");
    assert_eq!(browser.complaints, Vec::<String>::new());
    // The page's policy is heard of: that the assertions above could fail.
    let tries = "fetch('https://example.com/').then(() => 'loaded', () => 'refused')";
    assert_eq!(browser.run(tries), "refused");
    let inserts = "const script = document.createElement('script'); script.textContent = 'window.ran = true'; \
        document.body.append(script); window.ran ?? 'refused'";
    assert_eq!(browser.run(inserts), "refused");
    assert!(browser.complaints.iter().any(|said| said.contains("Content Security Policy")), "{:?}", browser.complaints);
}
