//! A pool of threads that stay: each `run` hands one job out and waits for it.
//!
//! Between jobs of one token workers spin, because waking a sleeper costs more than the job (a hand-off takes about a
//! microsecond, `cargo xtask bench speed`). After [`SPIN`] without a job they sleep on a condition variable, so an idle
//! session costs nothing. They do not yield in between: on a busy machine who yields gets the core back milliseconds later.
//!
//! One word says all there is to know of the current job: its generation, its parts and the next of them. A part is taken by
//! changing that word from what was read, so no thread can take a part of a job that is over: `run` returns when all parts
//! that were taken are done.
#![allow(unsafe_code)]

use mote_runtime::view::Pool;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread waits awake: what lies between two large jobs of a token, several times over.
const SPIN: Duration = Duration::from_micros(100);

type Job = &'static (dyn Fn(usize) + Sync);

/// The current job: bits 0 to 15 the next part, 16 to 31 the number of parts, 32 to 63 the generation.
#[derive(Clone, Copy, PartialEq)]
struct Ticket(u64);

impl Ticket {
    const MOST: usize = 0xFFFF;

    fn next(self) -> usize {
        (self.0 & 0xFFFF) as usize
    }

    fn parts(self) -> usize {
        (self.0 >> 16 & 0xFFFF) as usize
    }

    fn is_open(self) -> bool {
        self.next() < self.parts()
    }

    /// The first ticket of the job after this one.
    fn after(self, parts: usize) -> Self {
        Self((self.0 >> 32).wrapping_add(1) << 32 | (parts as u64) << 16)
    }
}

#[derive(Default)]
struct Shared {
    ticket: AtomicU64,
    /// Written by `run` while no ticket is open.
    job: UnsafeCell<Option<Job>>,
    done: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only while no part can be taken or is running, and read only by who has taken a part: the exchange
// that takes it sees the store of the ticket, which comes after the write.
unsafe impl Sync for Shared {}

impl Shared {
    fn ticket(&self) -> Ticket {
        Ticket(self.ticket.load(Ordering::SeqCst))
    }

    fn bed(&self) -> MutexGuard<'_, ()> {
        self.bed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Takes parts until none is left.
    fn help(&self) {
        loop {
            let ticket = self.ticket();
            if !ticket.is_open() {
                return;
            }
            let taken = self.ticket.compare_exchange(ticket.0, ticket.0 + 1, Ordering::SeqCst, Ordering::Relaxed);
            if taken.is_err() {
                continue;
            }
            // SAFETY: see `Sync`. The job cannot be replaced before this part is counted as done.
            let job = unsafe { *self.job.get() };
            let call = || job.into_iter().for_each(|job| job(ticket.next()));
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// A worker's life.
    fn work(&self) {
        while !self.is_stopped() {
            self.help();
            if !spin(|| self.ticket().is_open() || self.is_stopped()) {
                self.sleep();
            }
        }
    }

    fn sleep(&self) {
        let mut bed = self.bed();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Who opens a ticket looks for sleepers afterwards; who goes to sleep looks for a ticket afterwards.
        while !self.ticket().is_open() && !self.is_stopped() {
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
    turn: Mutex<()>,
}

impl Threads {
    /// A pool of `threads` threads (at least 1), the caller's among them.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let worker = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work())
        };
        let workers = (1..threads).map(worker).collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }
}

// SAFETY: the exchange in `help` gives each part number out once; `run` returns when as many are done as there are.
unsafe impl Pool for Threads {
    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        if parts < 2 || self.workers.is_empty() || parts > Ticket::MOST {
            (0..parts).for_each(job);
            return;
        }
        let shared = &*self.shared;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the lifetime changes. When `run` returns no part is running and none can be taken, and the next job
        // replaces this one before any can: so no thread calls it afterwards.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: see `Sync`: `turn` is held, and all parts of the job before are done.
        unsafe { *shared.job.get() = Some(job) };
        shared.done.store(0, Ordering::Relaxed);
        shared.ticket.store(shared.ticket().after(parts).0, Ordering::SeqCst);
        shared.wake_sleepers();
        shared.help();
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
