//! Word vectors: the integer queries find what floats find, in all file formats.

use mote_host::{Arena, Model};
use mote_quantize::codes::Coding;
use mote_quantize::import::vectors::{is_vectors, read};
use mote_quantize::net::Settings;
use mote_quantize::vectors;
use mote_runtime::Session;
use mote_runtime::image::Limits;
use mote_runtime::nearest::{Neighbour, nearest};
use mote_tests::shared;

const LIMITS: Limits = Limits { batch: 1, context: 1, threads: 1 };

/// The ten nearest in floats, by cosine.
fn in_floats(unit: &[f32], dims: usize, terms: &[(u32, i8)]) -> Vec<u32> {
    let mut sum = vec![0f64; dims];
    for (id, weight) in terms {
        let row = &unit[*id as usize * dims..][..dims];
        sum.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*weight) * f64::from(*v));
    }
    let dot = |row: &[f32]| row.iter().zip(&sum).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
    let mut all: Vec<(f64, u32)> = unit.chunks(dims).map(dot).zip(0..).collect();
    all.retain(|(_, id)| terms.iter().all(|(term, _)| term != id));
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().take(10).map(|(_, id)| id).collect()
}

#[test]
fn neighbours_are_those_of_floats() {
    let folder = tempfile::tempdir().unwrap();
    // Of the ten nearest in floats so many are among the ten found, over 200 queries of one word and of three.
    for (file, at_8_bits, at_4_bits) in [
        ("word2vec/lee_fasttext.vec", 0.95, 0.70),
        ("word2vec/euclidean_vectors.bin", 0.95, 0.78),
        ("word2vec/en_1-10_cbow_300d.txt", 0.98, 0.95),
    ] {
        let Some(path) = shared(file) else {
            return;
        };
        assert!(is_vectors(&path), "{file}");
        let (mut floats, _) = read(&path).unwrap();
        for row in floats.values.chunks_mut(floats.dims) {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-30);
            row.iter_mut().for_each(|v| *v /= length);
        }
        for (coding, least) in [(Coding::N8, at_8_bits), (Coding::N4Learned, at_4_bits)] {
            let out = folder.path().join("v.mote");
            let settings = Settings::new("v");
            vectors::quantize(&path, coding, &settings, &out).unwrap();
            let model = Model::open(&out).unwrap();
            let mut arena = Arena::for_limits(&model, LIMITS).unwrap();
            let mut session = Session::new(model.image(), arena.bytes(), LIMITS).unwrap();
            let words = floats.words.len() as u32;
            let (mut same, mut all) = (0, 0);
            for query in 0..200u32 {
                let word = |i: u32| (query * 7919 + i * 104_729) % words;
                let one = [(word(0), 1)];
                let three = [(word(1), 1), (word(2), -1), (word(3), 1)];
                let terms: &[(u32, i8)] = if query % 2 == 0 { &one } else { &three };
                let expected = in_floats(&floats.values, floats.dims, terms);
                let mut found = [Neighbour::default(); 10];
                let count = nearest(&mut session, terms, &mut found).unwrap();
                assert_eq!(count, expected.len(), "{file}");
                assert!(found[..count].is_sorted_by(|a, b| a.score >= b.score));
                same += found[..count].iter().filter(|n| expected.contains(&n.id)).count();
                all += count;
            }
            let share = f64::from(same as u32) / f64::from(all as u32);
            println!("{file} {coding:?}: {share:.3} of the ten nearest");
            assert!(share >= least, "{file} {coding:?}: {share}");
        }
    }
}
