//! Typed views of bytes, and the one place where a buffer is split between threads.
//!
//! `bytemuck` does the checked casts. The only unsafe code is in [`for_column_parts`], [`for_rows`] and [`for_stretches`]: threads write
//! disjoint parts of a buffer that they find by their number, which slices cannot express.
#![allow(unsafe_code)]

use core::cell::Cell;
use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ops::Range;

/// Runs `parts` independent jobs, in any order, on any threads, and returns when all are done.
///
/// # Safety
/// `run` must call `job` with each of `0..parts` at most once, and must not return while a call is under way: the jobs
/// write to parts of one buffer which they get by their number.
pub unsafe trait Pool: Sync {
    /// How many jobs can run at once.
    fn threads(&self) -> usize;
    /// Calls `job(0)` to `job(parts - 1)`.
    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync));
}

/// Everything on the caller's thread: microcontrollers, and the reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

// SAFETY: a plain loop, each part once, done when it returns.
unsafe impl Pool for Single {
    fn threads(&self) -> usize {
        1
    }
    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        for part in 0..parts {
            job(part);
        }
    }
}

/// The bytes as int32; `None` if address or length do not fit.
#[must_use]
pub fn as_i32(bytes: &mut [u8]) -> Option<&mut [i32]> {
    as_elements(bytes)
}

/// The bytes as elements of a plain type; `None` if address or length do not fit.
#[must_use]
pub fn as_elements<T: bytemuck::Pod>(bytes: &mut [u8]) -> Option<&mut [T]> {
    bytemuck::try_cast_slice_mut(bytes).ok()
}

/// The bytes as int8.
#[must_use]
pub fn as_i8(bytes: &[u8]) -> &[i8] {
    bytemuck::must_cast_slice(bytes)
}

/// The bytes as int8, writable.
#[must_use]
pub fn as_i8_mut(bytes: &mut [u8]) -> &mut [i8] {
    bytemuck::must_cast_slice_mut(bytes)
}

/// The bytes as elements that several views may read and write; `None` if address or length do not fit.
#[must_use]
pub fn as_cells<T: bytemuck::Pod>(bytes: &mut [u8]) -> Option<&[Cell<T>]> {
    Some(Cell::from_mut(bytemuck::try_cast_slice_mut(bytes).ok()?).as_slice_of_cells())
}

/// Some columns of a row-major matrix, writable.
pub struct Columns<'a, T> {
    base: *mut T,
    rows: usize,
    stride: usize,
    cols: Range<usize>,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<T> Columns<'_, T> {
    /// This part's columns.
    #[must_use]
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// This part's columns of `row`; empty if there is no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        if row >= self.rows {
            return &mut [];
        }
        // SAFETY: `for_column_parts` has checked that rows * stride elements lie in the buffer it holds exclusively
        // and that cols.end <= stride, so the slice lies inside. It gives each part columns that no other part has,
        // and `&mut self` keeps this part's slices from overlapping.
        unsafe { core::slice::from_raw_parts_mut(self.base.add(row * self.stride + self.cols.start), self.cols.len()) }
    }
}

struct Shared<T>(*mut T);
// SAFETY: only functions of this file make one; each part derives from it slices that no other part has, or that no part writes.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn base(&self) -> *mut T {
        self.0
    }
}

/// Some columns of a row-major matrix in a buffer.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Rows.
    pub rows: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Columns, which end at `stride` at most.
    pub cols: Range<usize>,
    /// Parts start at multiples of this many columns from the first.
    pub granule: usize,
}

/// Into how many parts work is split that needs no scratch: several a thread, so that one that is interrupted, or slower, takes fewer.
fn parts_of(pool: &dyn Pool) -> usize {
    const A_THREAD: usize = 4;
    if pool.threads() > 1 { pool.threads().saturating_mul(A_THREAD) } else { 1 }
}

/// Splits the columns of a matrix into parts, with scratch at most one a thread, and runs `job(columns, scratch)` for each, where
/// `scratch` is `each` elements of `scratch` for that part alone. `None`, having done nothing, if the matrix does not
/// lie in `buffer` or the scratch serves not even one part.
pub fn for_column_parts<T: Send>(
    pool: &dyn Pool,
    (buffer, shape): (&mut [T], Shape),
    (scratch, each): (&mut [T], usize),
    job: &(dyn Fn(Columns<'_, T>, &mut [T]) + Sync),
) -> Option<()> {
    let Shape { rows, stride, cols, granule } = shape;
    if rows.checked_mul(stride)? > buffer.len() || cols.end > stride || cols.is_empty() {
        return None;
    }
    let granule = NonZeroUsize::new(granule)?;
    let served = NonZeroUsize::new(each).map_or(usize::MAX, |each| scratch.len() / each);
    let steps = cols.len().div_ceil(granule.get());
    let wanted = if each == 0 { parts_of(pool) } else { pool.threads() };
    let parts = NonZeroUsize::new(wanted.min(steps).min(served))?;
    let share = steps.div_ceil(parts.get()) * granule.get();
    let (buffer, scratch) = (Shared(buffer.as_mut_ptr()), Shared(scratch.as_mut_ptr()));
    pool.run(parts.get(), &|part| {
        if part >= parts.get() {
            return;
        }
        let start = (cols.start + share * part).min(cols.end);
        let end = (cols.start + share * (part + 1)).min(cols.end);
        let columns = Columns { base: buffer.base(), rows, stride, cols: start..end, lifetime: PhantomData };
        // SAFETY: part < parts <= scratch.len() / each, so the slice lies inside; each part is run once (`Pool`), so
        // no other slice overlaps it. With each = 0 the slice is empty.
        let own = unsafe { core::slice::from_raw_parts_mut(scratch.base().add(part * each), each) };
        job(columns, own);
    });
    Some(())
}

/// What [`for_rows`] does with row number, row of a and row of b.
pub type RowJob<'j, A, B> = dyn Fn(usize, &mut [A], &mut [B]) + Sync + 'j;

/// Runs `job(row, row of a, row of b)` for each of some rows of two row-major matrices. A
/// row is its stride long; a stride of 0 means that there is no such matrix. `None`, having done nothing, if a matrix does not
/// lie in its buffer.
pub fn for_rows<A: Send, B: Send>(
    pool: &dyn Pool,
    rows: Range<usize>,
    (a, a_stride): (&mut [A], usize),
    (b, b_stride): (&mut [B], usize),
    job: &RowJob<'_, A, B>,
) -> Option<()> {
    if rows.end.checked_mul(a_stride)? > a.len() || rows.end.checked_mul(b_stride)? > b.len() {
        return None;
    }
    let parts = NonZeroUsize::new(parts_of(pool).min(rows.len()))?;
    let share = rows.len().div_ceil(parts.get());
    let (a, b) = (Shared(a.as_mut_ptr()), Shared(b.as_mut_ptr()));
    pool.run(parts.get(), &|part| {
        for row in rows.clone().skip(share.saturating_mul(part)).take(share) {
            // SAFETY: row < rows.end, and rows.end * stride elements have been seen to lie in each buffer, which is held exclusively.
            // Each part is run once (`Pool`) and has rows that no other part has, so no other slice overlaps these.
            let (a, b) = unsafe {
                (
                    core::slice::from_raw_parts_mut(a.base().add(row * a_stride), a_stride),
                    core::slice::from_raw_parts_mut(b.base().add(row * b_stride), b_stride),
                )
            };
            job(row, a, b);
        }
    });
    Some(())
}

/// Whether two ranges, neither of them empty, have something in common.
#[inline]
pub(crate) fn meet<T: PartialOrd>(a: &Range<T>, b: &Range<T>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What a part of some work has of a buffer, in elements: ranges that it reads, and the last, all of which it writes.
#[derive(Clone, Debug)]
pub struct Stretch<const N: usize> {
    /// The ranges.
    pub ranges: [Range<usize>; N],
    /// Where in the room it reads and writes instead: [`for_stretches`] finds out.
    pub copies: [Option<usize>; N],
}

impl<const N: usize> Stretch<N> {
    /// Of nothing.
    pub const EMPTY: Self = Self { ranges: [const { 0..0 }; N], copies: [None; N] };

    /// What it reads, and what it writes.
    #[cfg(feature = "threads")]
    fn split(&self) -> Option<(&[Range<usize>], &Range<usize>)> {
        self.ranges.split_last().map(|(to, from)| (from, to))
    }
}

/// Stretches that [`for_stretches`] takes, at most.
pub const MOST_STRETCHES: usize = 32;

/// What [`for_stretches`] does with a stretch, by its number: what is in its ranges.
pub type StretchJob<'j, T, const N: usize> = dyn Fn(usize, [&[Cell<T>]; N]) + Sync + 'j;

/// Runs `job(number, elements of its ranges)` for each stretch of a buffer, so that all read what was there before: what one reads and
/// another writes is copied before, to `room`, and read there; or what the first writes, which is the caller's thread, goes to the room and
/// is copied afterwards, since that thread then has both in its cache. `None`, having done nothing, if two write to one place, if there are
/// more than [`MOST_STRETCHES`], or if the room is too small.
#[cfg(feature = "threads")]
pub fn for_stretches<T: Copy + Send + Sync, const N: usize>(
    pool: &dyn Pool,
    (buffer, room): (&mut [T], &mut [T]),
    stretches: &mut [Stretch<N>],
    job: &StretchJob<'_, T, N>,
) -> Option<()> {
    /// Bytes that the caller's thread copies alone: others would take longer to hear of it.
    const ALONE: usize = 16 << 10;
    // What others read that the first writes is copied, or what it writes, whichever is less.
    let (_, written) = stretches.first()?.split()?;
    let from = stretches.iter().skip(1).filter_map(Stretch::split).flat_map(|(from, _)| from);
    let read: usize = from.filter(|from| meet(from, written)).map(ExactSizeIterator::len).sum();
    let (later, written) = (read > 0 && written.len() <= read, written.clone());
    let mut copied = 0usize;
    for at in 0..stretches.len() {
        let stretch = stretches.get(at).filter(|_| at < MOST_STRETCHES)?;
        let (from, to) = stretch.split()?;
        buffer.get(to.clone())?;
        let others = stretches.iter().enumerate().filter(|(n, _)| *n != at);
        let others = others.filter_map(|(n, other)| Some((n, other.split()?.1)));
        (!others.clone().any(|(_, other)| meet(to, other))).then_some(())?;
        let mut copies = [None; N];
        for (copy, from) in copies.iter_mut().zip(from) {
            buffer.get(from.clone())?;
            if others.clone().any(|(n, other)| meet(from, other) && !(later && n == 0)) {
                *copy = Some(copied);
                copied = copied.checked_add(from.len())?;
            }
        }
        if later && at == 0 {
            *copies.last_mut()? = Some(copied);
            copied = copied.checked_add(to.len())?;
        }
        stretches.get_mut(at)?.copies = copies;
    }
    room.get(..copied)?;
    let stretches = &*stretches;
    let (in_buffer, in_room) = (&Shared(buffer.as_mut_ptr()), &Shared(room.as_mut_ptr()));
    let copy = |part: usize| {
        let ranges = stretches.get(part).and_then(|s| Some(s.split()?.0.iter().zip(s.copies)));
        for (range, copy) in ranges.into_iter().flatten() {
            if let Some(at) = copy {
                // SAFETY: both ranges have been seen to lie in buffer and room, which are held exclusively. Nobody writes to the buffer
                // now, and each part is run once (`Pool`) and has ranges of the room of its own.
                let from = unsafe { in_buffer.base().add(range.start) };
                unsafe { in_room.base().add(at).copy_from_nonoverlapping(from, range.len()) };
            }
        }
    };
    if copied.saturating_mul(size_of::<T>()) < ALONE {
        (0..stretches.len()).for_each(copy);
    } else {
        pool.run(stretches.len(), &copy);
    }
    // Moved, so that all of it lies in one place: each line of the cache that another core has to ask for takes a tenth of a microsecond.
    pool.run(stretches.len(), &move |part| {
        let Some(stretch) = stretches.get(part) else { return };
        let mut cells: [&[Cell<T>]; N] = [&[]; N];
        for ((cells, range), copy) in cells.iter_mut().zip(&stretch.ranges).zip(stretch.copies) {
            // SAFETY: all ranges have been seen to lie in buffer and room, which are held exclusively. Each part is run once (`Pool`). No
            // other part writes what this one writes, nor what it reads: else it reads its copy, or the first part, if that is the
            // other, writes to a place of its own. Inside a part one may lie on the other, as cells may. A cell is as its contents.
            *cells = unsafe {
                let start = copy.map_or_else(|| in_buffer.base().add(range.start), |at| in_room.base().add(at));
                core::slice::from_raw_parts(start.cast::<Cell<T>>(), range.len())
            };
        }
        job(part, cells);
    });
    if later && let Some(at) = stretches.first().and_then(|first| *first.copies.last()?) {
        let count = written.len();
        buffer.get_mut(written)?.copy_from_slice(room.get(at..)?.get(..count)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;
    // SAFETY: each part runs once, in a scope that ends before `run` returns.
    unsafe impl Pool for Two {
        fn threads(&self) -> usize {
            2
        }
        fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
            std::thread::scope(|scope| {
                for part in 0..parts {
                    scope.spawn(move || job(part));
                }
            });
        }
    }

    /// Each stretch writes the sum of what it reads, as it was before any wrote.
    #[cfg(feature = "threads")]
    #[test]
    fn stretches_read_what_was_there() {
        let before: [i32; 40] = core::array::from_fn(|i| 1 + i as i32);
        let stretch = |from: Range<usize>, to: Range<usize>| Stretch { ranges: [from, to], ..Stretch::EMPTY };
        let run = |stretches: &[Stretch<2>], room: usize| {
            let (mut buffer, mut room) = (before, [0; 40][..room].to_vec());
            let all: &StretchJob<'_, i32, 2> = &|_, [from, to]| {
                let sum: i32 = from.iter().map(Cell::get).sum();
                to.iter().for_each(|to| to.set(sum));
            };
            for_stretches(&Two, (&mut buffer, &mut room), &mut stretches.to_vec(), all).map(|()| buffer)
        };
        // Apart; one on itself; each on the other; three, of which the middle one's input is written twice.
        let cases: [(&[Stretch<2>], usize); 5] = [
            (&[stretch(0..4, 10..12), stretch(2..6, 12..20)], 0),
            (&[stretch(3..9, 3..5), stretch(20..22, 21..30)], 0),
            (&[stretch(0..10, 30..40), stretch(25..35, 5..10)], 20), // of each its input: as much as the first writes
            (&[stretch(0..10, 30..38), stretch(25..35, 5..10)], 18),
            (&[stretch(2..3, 4..6), stretch(4..9, 20..21), stretch(9..10, 8..9)], 7),
        ];
        for (stretches, room) in cases {
            let mut expected = before;
            for Stretch { ranges: [from, to], .. } in stretches {
                let sum: i32 = before[from.clone()].iter().sum();
                expected[to.clone()].fill(sum);
            }
            for more in [0, 1] {
                assert_eq!(run(stretches, room + more), Some(expected), "{stretches:?}");
            }
            assert!(room == 0 || run(stretches, room - 1).is_none(), "{stretches:?}");
        }
        // Halves change places, which the threads copy before: too much for one.
        const HALF: usize = 5000;
        let mut buffer = core::array::from_fn::<usize, { 2 * HALF }, _>(|i| i);
        let swap = |_: usize, [from, to]: [&[Cell<usize>]; 2]| {
            from.iter().zip(to).for_each(|(from, to)| to.set(from.get()));
        };
        let (low, high) = (0..HALF, HALF..2 * HALF);
        let mut halves = [stretch(low.clone(), high.clone()), stretch(high, low)];
        for_stretches(&Two, (&mut buffer, &mut [0; 2 * HALF]), &mut halves, &swap).unwrap();
        assert!((0..2 * HALF).all(|i| buffer[i] == (i + HALF) % (2 * HALF)));
        assert!(run(&[stretch(0..1, 5..7), stretch(1..2, 6..8)], 40).is_none(), "two write to one place");
        assert!(run(&[stretch(0..1, 5..41)], 40).is_none() && run(&[stretch(39..41, 0..1)], 40).is_none());
        assert!(run(&vec![stretch(0..1, 2..2); MOST_STRETCHES + 1], 40).is_none());
        assert!(run(&[], 40).is_none());
    }

    #[test]
    fn every_element_once_whatever_the_pool() {
        for (first, cols, granule) in
            [(0, 1, 16), (0, 16, 16), (0, 33, 16), (0, 40, 8), (0, 7, 3), (16, 48, 16), (5, 9, 3)]
        {
            let shape = Shape { rows: 3, stride: 48, cols: first..cols, granule };
            let fill = |pool: &dyn Pool| {
                let mut buffer = [0i32; 3 * 48];
                let mut scratch = [0i32; 2];
                for_column_parts(pool, (&mut buffer, shape.clone()), (&mut scratch, 1), &|mut part, own| {
                    for row in 0..3 {
                        for (v, col) in part.row(row).iter_mut().zip(0i32..) {
                            *v += 1 + col;
                        }
                    }
                    own.fill(1);
                })
                .unwrap();
                let outside = |at: &usize| !(first..cols).contains(&(at % 48));
                assert!((0..3 * 48).filter(outside).all(|at| buffer[at] == 0));
                (buffer.iter().filter(|v| **v != 0).count(), scratch)
            };
            assert_eq!(fill(&Single).0, 3 * (cols - first));
            assert_eq!(fill(&Two).0, 3 * (cols - first));
        }
        for rows in 1..6 {
            let (mut a, mut b) = ([0i32; 30], [0u8; 10]);
            for_rows(&Two, 0..rows, (&mut a, 6), (&mut b, 2), &|row, a, b| {
                a.iter_mut().for_each(|a| *a += 1 + row as i32);
                b.iter_mut().for_each(|b| *b += 1 + row as u8);
            })
            .unwrap();
            assert!(a.iter().zip(0..).all(|(a, i)| *a == if i / 6 < rows as i32 { 1 + i / 6 } else { 0 }));
            assert!(b.iter().zip(0..).all(|(b, i)| *b == if i / 2 < rows as u8 { 1 + i / 2 } else { 0 }));
        }
        assert!(for_rows(&Two, 5..6, (&mut [0i32; 30], 6), (&mut [0u8; 10], 0), &|_, _, _| {}).is_none());
        let shape = Shape { rows: 3, stride: 48, cols: 0..48, granule: 16 };
        assert!(for_column_parts(&Single, (&mut [0i32; 143], shape), (&mut [], 0), &|_, _| {}).is_none());
    }
}
