//! A pool of threads that stay: each `run` hands one job out and waits for it.
//!
//! Workers sleep on a condition variable between jobs, so an idle session costs nothing. (Spinning hand-off is a matter
//! for benchmarks, not of results: the parts of a job are fixed by their number.)
#![allow(unsafe_code)]

use mote_runtime::view::Pool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

type Job = &'static (dyn Fn(usize) + Sync);

#[derive(Default)]
struct State {
    job: Option<Job>,
    parts: usize,
    next: usize,
    running: usize,
    panicked: bool,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes parts of the current job until none is left.
    fn help<'s>(&'s self, mut state: MutexGuard<'s, State>) {
        while let Some(job) = state.job {
            if state.next == state.parts {
                return;
            }
            let part = state.next;
            state.next += 1;
            state.running += 1;
            drop(state);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(part)));
            state = self.lock();
            state.running -= 1;
            state.panicked |= outcome.is_err();
            if state.next == state.parts && state.running == 0 {
                self.done.notify_all();
            }
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
        let workers = (1..threads)
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let mut state = shared.lock();
                    while !state.stop {
                        if state.job.is_some() && state.next < state.parts {
                            shared.help(state);
                            state = shared.lock();
                        } else {
                            state = shared.work.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                        }
                    }
                })
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }
}

// SAFETY: `help` gives each part number out once, under the lock; `run` returns when no part is left or running.
unsafe impl Pool for Threads {
    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: only the lifetime changes. The job is taken back below before `run` returns, when no part is running
        // and none can start (`next == parts`), so no thread sees it afterwards.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        let mut state = self.shared.lock();
        (state.job, state.parts, state.next) = (Some(job), parts, 0);
        self.shared.work.notify_all();
        self.shared.help(state);
        let mut state = self.shared.lock();
        while state.running > 0 {
            state = self.shared.done.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.job = None;
        let panicked = std::mem::take(&mut state.panicked);
        drop(state);
        assert!(!panicked, "a job of the pool panicked");
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker cannot have panicked: jobs are caught.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
