//! What the machine can do: bytes read a second, and int8 multiply-accumulates a second.
#![allow(unsafe_code)]

use mote_runtime::view::Pool;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The machine's limits by the number of threads; each time that they were measured.
pub struct Limits {
    buffer: memmap2::MmapMut,
    /// Bytes read a second, in units of 10^9.
    pub bandwidth: BTreeMap<usize, Vec<f64>>,
    /// Multiply-accumulates of int8 a second, in units of 10^9; empty where this program knows no loop.
    pub peak: BTreeMap<usize, Vec<f64>>,
}

impl Limits {
    /// Nothing measured yet, for so many counts of threads.
    pub fn new(threads: &[usize]) -> Self {
        let mut buffer = memmap2::MmapMut::map_anon(1 << 29).expect("memory");
        // Large pages where they can be had: they are read faster. Advice only.
        #[cfg(target_os = "linux")]
        let _ = buffer.advise(memmap2::Advice::HugePage);
        buffer.fill(1);
        let none: BTreeMap<usize, Vec<f64>> = threads.iter().map(|threads| (*threads, vec![])).collect();
        Self { buffer, bandwidth: none.clone(), peak: none }
    }

    /// GB/s, measured now, that so many threads read: as many bytes as a few tokens do, since one read may find the host's memory idle.
    pub fn bandwidth(&mut self, threads: usize) -> f64 {
        const READS: usize = 8;
        let seconds: f64 = (0..READS).map(|_| 1.0 / bandwidth(&self.buffer, threads)).sum();
        let now = READS as f64 / seconds;
        self.bandwidth.entry(threads).or_default().push(now);
        now
    }

    /// Measures 10^9 multiply-accumulates of int8 a second, where this program knows a loop.
    pub fn peak(&mut self, threads: usize) {
        self.peak.entry(threads).or_default().extend(int8_peak(threads).map(|(rate, _)| rate));
    }
}

/// GB/s at which `threads` threads read `bytes`, each its share, once.
pub fn bandwidth(bytes: &[u8], threads: usize) -> f64 {
    let share = bytes.len().div_ceil(threads);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in bytes.chunks(share) {
            scope.spawn(move || black_box(sum(part)));
        }
    });
    bytes.len() as f64 * 1e-9 / start.elapsed().as_secs_f64()
}

fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 is there.
        return unsafe { sum_avx2(bytes) };
    }
    sum_lines(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_lines(bytes)
}

/// A vector of words that all are part of; 256 bytes a step. Sums of more vectors side by side are read more slowly.
#[inline(always)]
fn sum_lines(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    for lines in bytes.as_chunks::<256>().0 {
        for line in lines.as_chunks::<64>().0 {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum ^= u64::from_le_bytes(*word);
            }
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

/// Microseconds from a job's start to its end on a pool of two threads, both of which must take part in it, but do nothing
/// else: median of many right after each other.
pub fn hand_off() -> f64 {
    let pool = mote_host::Threads::new(2);
    let mut times: Vec<f64> = (0..2000)
        .map(|_| {
            let arrived = AtomicUsize::new(0);
            let start = Instant::now();
            pool.run(2, &|_| {
                arrived.fetch_add(1, Ordering::AcqRel);
                while arrived.load(Ordering::Acquire) < 2 {
                    std::hint::spin_loop();
                }
            });
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// int8 multiply-accumulates a second of `threads` threads, in units of 10^9, and the instruction that does them. `None` where
/// this program knows none.
pub fn int8_peak(threads: usize) -> Option<(f64, &'static str)> {
    const STEPS: u64 = 4_000_000;
    let Peak { run, macs, name } = peak_loop()?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(move || black_box(run(black_box(STEPS))));
        }
    });
    Some(((STEPS * macs * threads as u64) as f64 * 1e-9 / start.elapsed().as_secs_f64(), name))
}

/// A loop of so many turns, the multiply-accumulates of one, and the instruction that does them.
struct Peak {
    run: fn(u64) -> i32,
    macs: u64,
    name: &'static str,
}

fn peak_loop() -> Option<Peak> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
            // SAFETY: the features are there.
            return Some(Peak { run: |steps| unsafe { vnni512(steps) }, macs: 16 * 64, name: "vpdpbusd, 512 bits" });
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature is there.
            let name = "vpmaddubsw and vpmaddwd, 256 bits";
            return Some(Peak { run: |steps| unsafe { madd256(steps) }, macs: 8 * 32, name });
        }
    }
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni512(steps: u64) -> i32 {
    use core::arch::x86_64::*;
    let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-5)));
    let mut sums = [_mm512_setzero_si512(); 16];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    sums.iter().fold(0i32, |all, sum| all.wrapping_add(_mm512_reduce_add_epi32(*sum)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn madd256(steps: u64) -> i32 {
    use core::arch::x86_64::*;
    let (a, b, ones) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(-5)), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); 8];
    for _ in 0..steps {
        for sum in &mut sums {
            let pairs = _mm256_maddubs_epi16(black_box(a), b);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    sums.iter().fold(0i32, |all, sum| all.wrapping_add(_mm256_extract_epi32::<0>(*sum)))
}
