//! What the tests of planned arenas share: random numbers, and runs between guards.

use mote_runtime::image::{Image, Limits};
use mote_runtime::{Error, Session};

/// Knuth's generator.
pub struct Random(pub u64);

impl Random {
    /// A number of `low..=high`.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + ((self.0 >> 33) as usize) % (high - low + 1)
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.range(0, 255) as u8).collect()
    }
}

/// Of a program without tokens.
pub const LIMITS: Limits = Limits { batch: 1, context: 1, threads: 1 };

/// Runs an image twice in exactly its arena, between guards; the bytes of all its outputs.
pub fn run(file: &[u8], input: &[u8]) -> Vec<Vec<u8>> {
    let image = Image::open(file).unwrap();
    let bytes = image.arena_bytes(LIMITS).unwrap() as usize;
    let mut words = vec![[0xA7u8; 64]; bytes.div_ceil(64) + 3];
    let all = words.as_flattened_mut();
    let start = 64 + all.as_ptr().align_offset(64);
    let found = bytes - 1;
    let short = Session::new(&image, &mut all[start..start + found], LIMITS).err();
    assert_eq!(short, Some(Error::ArenaSize { found, needed: bytes }), "a byte less is too little");
    let mut results = Vec::new();
    for _ in 0..2 {
        let mut session = Session::new(&image, &mut all[start..start + bytes], LIMITS).unwrap();
        session.input_bytes(0).unwrap().copy_from_slice(input);
        session.run().unwrap();
        let outputs = 0..image.ports().outputs().count() as u32;
        results = outputs.map(|index| session.output_bytes(index).unwrap().to_vec()).collect();
    }
    assert!(all[..start].iter().chain(&all[start + bytes..]).all(|b| *b == 0xA7), "the guards hold");
    results
}
