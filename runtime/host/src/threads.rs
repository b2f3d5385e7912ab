//! A pool of threads that stay: each `run` hands one job out and waits for it.
//!
//! Between jobs of one token workers spin, because waking a sleeper costs more than the job (a hand-off takes less than a
//! microsecond, `cargo xtask bench speed`). After [`SPIN`] without a job they sleep on a condition variable, so an idle
//! session costs nothing. They do not yield in between: on a busy machine who yields gets the core back milliseconds later.
//!
//! Each thread has a share of the parts, one after the other: a matrix's parts lie in memory like that, and who goes on where he
//! ended has what he asked for ahead (`fetch_ahead` in the kernels). Who is through takes the last parts of others' shares. One
//! word a thread says all there is to know of its share: the job's generation, the first part that is left and their end. A part
//! is taken by changing that word from what was read, so no thread can take a part of a job that is over: `run` returns when all
//! parts that were taken are done.
#![allow(unsafe_code)]

use mote_runtime::view::Pool;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread waits awake: what lies between two large jobs of a token, several times over.
const SPIN: Duration = Duration::from_micros(100);

type Job = &'static (dyn Fn(usize) + Sync);

/// Parts of the current job: bits 0 to 15 the first that is left, 16 to 31 their end, 32 to 63 the job's generation.
#[derive(Clone, Copy)]
struct Share(u64);

impl Share {
    const MOST: usize = 0xFFFF;

    fn first(self) -> usize {
        (self.0 & 0xFFFF) as usize
    }

    fn end(self) -> usize {
        (self.0 >> 16 & 0xFFFF) as usize
    }

    fn is_open(self) -> bool {
        self.first() < self.end()
    }

    /// A share of the job of this generation.
    fn new(generation: u32, Range { start, end }: Range<usize>) -> Self {
        Self(u64::from(generation) << 32 | (end as u64) << 16 | start as u64)
    }
}

/// From which end of a share parts are taken.
#[derive(Clone, Copy)]
enum Side {
    First,
    Last,
}

/// A share in cache lines of its own, since another thread's word is written all the time.
#[repr(align(128))]
#[derive(Default)]
struct Word(AtomicU64);

impl Word {
    fn share(&self) -> Share {
        Share(self.0.load(Ordering::SeqCst))
    }

    fn take(&self, side: Side) -> Option<usize> {
        loop {
            let share = self.share();
            if !share.is_open() {
                return None;
            }
            let (part, left) = match side {
                Side::First => (share.first(), share.0 + 1),
                Side::Last => (share.end() - 1, share.0 - (1 << 16)),
            };
            if self.0.compare_exchange(share.0, left, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                return Some(part);
            }
        }
    }
}

#[derive(Default)]
struct Shared {
    /// Each thread's share, the caller's first.
    shares: Box<[Word]>,
    /// Written by `run` while no share is open.
    job: UnsafeCell<Option<Job>>,
    done: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only while no part can be taken or is running, and read only by who has taken a part: the exchange
// that takes it sees the store of the share, which comes after the write.
unsafe impl Sync for Shared {}

impl Shared {
    fn bed(&self) -> MutexGuard<'_, ()> {
        self.bed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Takes parts until none is left: of one's own share, then of the others'.
    fn help(&self, me: usize) {
        let others = || self.shares.iter().enumerate().filter(|(at, _)| *at != me);
        let mine = || self.shares[me].take(Side::First);
        while let Some(part) = mine().or_else(|| others().find_map(|(_, word)| word.take(Side::Last))) {
            // SAFETY: see `Sync`. The job cannot be replaced before this part is counted as done.
            let job = unsafe { *self.job.get() };
            let call = || job.into_iter().for_each(|job| job(part));
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// A worker's life.
    fn work(&self, me: usize) {
        while !self.is_stopped() {
            self.help(me);
            if !spin(|| self.shares[me].share().is_open() || self.is_stopped()) {
                self.sleep(me);
            }
        }
    }

    fn sleep(&self, me: usize) {
        let mut bed = self.bed();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Who opens shares looks for sleepers afterwards; who goes to sleep looks for a share afterwards.
        while !self.shares[me].share().is_open() && !self.is_stopped() {
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_sleepers(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _bed = self.bed();
            self.wake.notify_all();
        }
    }
}

/// Waits awake until `ready`, for at most [`SPIN`]; whether it is.
fn spin(ready: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..32 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

/// A pool of threads. The caller's thread is one of them.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job goes on: its generation.
    turn: Mutex<u32>,
}

impl Threads {
    /// A pool of `threads` threads (at least 1), the caller's among them.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shared =
            Arc::new(Shared { shares: (0..threads.max(1)).map(|_| Word::default()).collect(), ..Shared::default() });
        let worker = |me| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work(me))
        };
        let workers = (1..threads).map(worker).collect();
        Self { shared, workers, turn: Mutex::new(0) }
    }
}

// SAFETY: the exchange in `help` gives each part number out once; `run` returns when as many are done as there are.
unsafe impl Pool for Threads {
    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        if parts < 2 || self.workers.is_empty() || parts > Share::MOST {
            (0..parts).for_each(job);
            return;
        }
        let shared = &*self.shared;
        let mut generation = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *generation = generation.wrapping_add(1);
        // SAFETY: only the lifetime changes. When `run` returns no part is running and none can be taken, and the next job
        // replaces this one before any can: so no thread calls it afterwards.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: see `Sync`: `turn` is held, and all parts of the job before are done.
        unsafe { *shared.job.get() = Some(job) };
        shared.done.store(0, Ordering::Relaxed);
        let threads = shared.shares.len();
        for (at, word) in shared.shares.iter().enumerate() {
            let mine = (parts * at).div_ceil(threads)..(parts * (at + 1)).div_ceil(threads);
            // Not from what is there: another core has it, and is asked but once.
            word.0.store(Share::new(*generation, mine).0, Ordering::SeqCst);
        }
        shared.wake_sleepers();
        shared.help(0);
        // A part that takes this long has lost its core to other work, perhaps to this very wait.
        while !spin(|| shared.done.load(Ordering::Acquire) == parts) {
            std::thread::yield_now();
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        assert!(!panicked, "a job of the pool panicked");
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_sleepers();
        for worker in self.workers.drain(..) {
            // A worker cannot have panicked: jobs are caught.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_once() {
        let pool = Threads::new(3);
        for parts in [0, 1, 2, 3, 50] {
            let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            pool.run(parts, &|part| {
                counts[part].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    /// Jobs right after each other, and after workers have gone to sleep; from two threads at once.
    #[test]
    fn many_jobs() {
        let pool = Threads::new(4);
        let sum = AtomicUsize::new(0);
        let count = |jobs: usize| {
            for job in 0..jobs {
                pool.run(1 + job % 9, &|part| {
                    sum.fetch_add(part + 1, Ordering::Relaxed);
                });
                if job % 512 == 0 {
                    std::thread::sleep(3 * SPIN);
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| count(9 * 512));
            scope.spawn(|| count(9 * 512));
        });
        let each: usize = (1..=9).map(|parts| parts * (parts + 1) / 2).sum();
        assert_eq!(sum.load(Ordering::Relaxed), 2 * 512 * each);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Threads::new(2);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(2, &|part| assert_ne!(part, 1));
        }));
        assert!(caught.is_err());
        pool.run(2, &|_| {});
    }
}
