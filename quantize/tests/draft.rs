//! Drafts change how fast a text is made, never the text: over seeds, temperatures, lengths, caches, and what guesses.

#[path = "support/command.rs"]
mod command;

use command::{bad, good, json};
use mote_host::{Arena, Draft, Generation, HostError, Lookup, Model, Options, Small, Threads};
use mote_runtime::sample::{ONE, Params};
use std::ops::ControlFlow;
use std::path::Path;

/// The small GPT-2 of this repository: its image, with these flags.
fn image(folder: &Path, name: &str, flags: &[&str]) -> String {
    let path = folder.join(name).to_str().unwrap().to_owned();
    let args = ["quantize", "examples/models/gpt", "-o", &path, "--calibrate-tokens", "300", "--method", "nearest"];
    good(&[&args[..], flags].concat());
    path
}

fn open(path: &str) -> Model {
    Model::open(path.as_ref()).unwrap()
}

/// Guesses what is never right, or always the same: the worst that there can be.
struct Wrong(u32);

impl Draft for Wrong {
    fn most(&self) -> u32 {
        self.0
    }

    fn guess(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, HostError> {
        // More than was asked for, too.
        Ok(vec![tokens[0]; most + 1])
    }
}

fn generate(model: &Model, options: &Options, draft: Option<&mut dyn Draft>) -> Generation {
    let prompt = model.encode("Once upon a time there was a little girl. Once upon a time").unwrap();
    let mut shown = String::new();
    let made = model.generate_with(&prompt, options, draft, &mut |_, text| {
        shown.push_str(text);
        ControlFlow::Continue(())
    });
    let made = made.unwrap();
    assert_eq!(shown, made.text);
    made
}

#[test]
fn a_text_is_the_same_with_any_draft() {
    let folder = tempfile::tempdir().unwrap();
    let fine = [("8.mote", "8"), ("4.mote", "4")]
        .map(|(name, kv)| open(&image(folder.path(), name, &["--bits", "8", "--kv-bits", kv])));
    let coarse = open(&image(folder.path(), "coarse.mote", &["--bits", "3"]));
    let (mut cases, mut partly) = (0, 0);
    for (model, seed) in fine.iter().flat_map(|model| [1, 2].map(|seed| (model, seed))) {
        for (temperature, penalty) in [(0, ONE), (ONE / 2, ONE), (ONE * 5 / 4, ONE / 8 * 9)] {
            let sampling = Params { temperature, top_k: 30, repeat_penalty: penalty, ..Params::GREEDY };
            let options = Options { max_tokens: 40, sampling, seed, batch: 3, ..Options::default() };
            let plain = generate(model, &options, None);
            assert_eq!((plain.drafted, plain.accepted), (0, 0));
            for most in [1, 4] {
                let pool = Threads::new(1);
                let mut arena = Arena::for_limits(&coarse, coarse.limits(4, 128, 1)).unwrap();
                let mut lookup = Lookup { most };
                let mut small = Small::new(&coarse, model, &mut arena, &pool, most).unwrap();
                for draft in [&mut lookup as &mut dyn Draft, &mut small, &mut Wrong(most)] {
                    let made = generate(model, &options, Some(draft));
                    assert_eq!(made.tokens, plain.tokens, "seed {seed}, temperature {temperature}, {most}");
                    assert_eq!((&made.text, made.ended), (&plain.text, plain.ended));
                    assert!(made.accepted <= made.drafted);
                    partly += usize::from(made.accepted > 0 && made.accepted < made.drafted);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 72);
    assert!(partly > 20, "{partly} of {cases} had guesses that were right and others that were wrong");
}

/// Where the text ends, and why, is the same, too: at a context's end, at the last token that was asked for.
#[test]
fn a_text_ends_where_it_would() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&image(folder.path(), "8.mote", &["--bits", "8"]));
    let given = model.encode("Once upon a time there was a little girl. Once upon a time").unwrap().len() as u32;
    for context in [given, given + 1, given + 2, given + 7, given + 30] {
        for max_tokens in [0, 1, 2, 3, 9] {
            let options =
                Options { max_tokens, context: Some(context), sampling: Params::GREEDY, ..Options::default() };
            let plain = generate(&model, &options, None);
            let pool = Threads::new(1);
            let mut arena = Arena::for_limits(&model, model.limits(2, context, 1)).unwrap();
            let mut same = Small::new(&model, &model, &mut arena, &pool, 5).unwrap();
            for draft in [&mut same as &mut dyn Draft, &mut Lookup { most: 6 }] {
                let made = generate(&model, &options, Some(draft));
                assert_eq!((made.tokens, made.ended), (plain.tokens.clone(), plain.ended), "{context} {max_tokens}");
            }
        }
    }
    // A model that guesses for itself is always right.
    let options = Options { max_tokens: 30, sampling: Params::GREEDY, ..Options::default() };
    let pool = Threads::new(1);
    let mut arena = Arena::for_limits(&model, model.limits(2, 128, 1)).unwrap();
    let made = generate(&model, &options, Some(&mut Small::new(&model, &model, &mut arena, &pool, 5).unwrap()));
    assert!(made.drafted > 20 && made.accepted == made.drafted, "{} of {}", made.accepted, made.drafted);
}

/// The bundled draft is right about most of what the bundled model writes.
#[test]
fn the_bundled_draft_guesses_well() {
    let folder = tempfile::tempdir().unwrap();
    let [model, small] = ["llm", "draft"].map(|name| {
        let path = folder.path().join(name).to_str().unwrap().to_owned();
        let source = format!("examples/models/{name}");
        good(&["quantize", &source, "-o", &path, "--calibrate-tokens", "300", "--method", "nearest"]);
        open(&path)
    });
    let options = Options { max_tokens: 60, sampling: Params::GREEDY, ..Options::default() };
    let pool = Threads::new(1);
    let mut arena = Arena::for_limits(&small, small.limits(4, 128, 1)).unwrap();
    let made = generate(&model, &options, Some(&mut Small::new(&small, &model, &mut arena, &pool, 2).unwrap()));
    assert_eq!(made.tokens, generate(&model, &options, None).tokens);
    assert!(2 * made.accepted > made.drafted, "{} of {}", made.accepted, made.drafted);
}

#[test]
fn the_command_drafts() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "8.mote", &["--bits", "8"]);
    let small = image(folder.path(), "3.mote", &["--bits", "3"]);
    let run = |more: &[&str]| {
        let prompt = ["--prompt", "Once upon a time there was a cat. Once upon", "-n", "30", "--seed", "3", "--json"];
        json(&[&["run", &path][..], &prompt, more].concat())
    };
    let plain = run(&[]);
    assert_eq!(plain["drafted_tokens"], 0);
    for more in
        [&["--lookup"][..], &["--lookup", "2"], &["--draft", &small], &["--draft", &path, "--draft-tokens", "7"]]
    {
        let made = run(more);
        assert_eq!((&made["tokens"], &made["text"]), (&plain["tokens"], &plain["text"]), "{more:?}");
        assert!(made["drafted_tokens"].as_u64().unwrap() > 0, "{made}");
    }
    // What cannot guess, and why.
    let refused = |draft: &str| bad(1, &["run", &path, "--prompt", "x", "--draft", draft]);
    assert!(refused("README.md").contains("is not a .mote image"));
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (net, translator) = (at("net.mote"), at("m2m100.mote"));
    let lenet5 = "examples/models/lenet5";
    good(&["quantize", &format!("{lenet5}/lenet5.onnx"), "--calibrate", &format!("{lenet5}/calibration"), "-o", &net]);
    assert!(refused(&net).contains("it is no language model that writes"));
    good(&["quantize", "tests/golden/transformers/m2m100", "-o", &translator, "--bits", "8"]);
    assert!(refused(&translator).contains("it has an encoder"));
    let source = ["run", &translator, "--tokens", "5,9,77,3", "--temperature", "0", "--json"];
    assert_eq!(json(&source)["tokens"], json(&[&source[..], &["--lookup"]].concat())["tokens"]);
    let other = at("other.mote");
    good(&["quantize", "tests/golden/transformers/gqa-tied", "-o", &other, "--bits", "8"]);
    assert!(refused(&other).contains("tokens, the model one of"), "{}", refused(&other));
    assert!(bad(2, &["run", &path, "--lookup", "0"]).contains("0 is not in"));
    assert!(bad(2, &["run", &path, "--lookup", "--draft", &small]).contains("cannot be used with"));
}
