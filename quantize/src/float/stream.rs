//! A text on its way through a program: what its slots hold, in memory or in a file.

use super::Result;
use candle_core::{Device, Shape, Tensor, TensorId};
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What a slot holds: a row a token, or of a cache keys and values `[kv_heads, positions, head_dim]`.
type Held = Vec<Tensor>;

/// A text on its way through a program.
#[derive(Clone, Default)]
pub(crate) struct Stream {
    /// Tokens of this step.
    pub tokens: Vec<u32>,
    /// Position of the first of them.
    pub position: usize,
    /// Contents of slots in memory.
    held: HashMap<u32, Held>,
    /// Contents of slots in the file; the same where a slot is in both.
    filed: HashMap<u32, Arc<Filed>>,
}

impl Stream {
    /// A text at its beginning.
    pub(crate) fn new(tokens: &[u32]) -> Self {
        Self { tokens: tokens.to_vec(), ..Self::default() }
    }

    /// What a slot holds.
    pub(crate) fn value(&self, slot: u32) -> Result<&Tensor> {
        Ok(&self.part(slot, 0)?[0])
    }

    /// Keys and values that a cache holds.
    pub(crate) fn cache(&self, slot: u32) -> Result<(&Tensor, &Tensor)> {
        let both = self.part(slot, 1)?;
        Ok((&both[0], &both[1]))
    }

    /// All that a slot holds, if it is in memory.
    pub(crate) fn held(&self, slot: u32) -> Option<&[Tensor]> {
        self.held.get(&slot).map(Vec::as_slice)
    }

    fn part(&self, slot: u32, last: usize) -> Result<&Held> {
        let empty = || candle_core::Error::Msg(format!("the program reads slot {slot}, which it has not written"));
        Ok(self.held.get(&slot).filter(|held| held.len() > last).ok_or_else(empty)?)
    }

    pub(crate) fn has_caches(&self) -> bool {
        self.held.values().any(|held| held.len() > 1)
    }

    /// Fills a slot.
    pub(crate) fn put(&mut self, slot: u32, held: Held) {
        self.filed.remove(&slot);
        self.held.insert(slot, held);
    }

    /// Forgets a slot.
    pub(crate) fn drop(&mut self, slot: u32) {
        self.held.remove(&slot);
        self.filed.remove(&slot);
    }

    /// The slots that hold something.
    pub(crate) fn slots(&self) -> Vec<u32> {
        let all: BTreeSet<u32> = self.held.keys().chain(self.filed.keys()).copied().collect();
        all.into_iter().collect()
    }

    /// Bytes of what is in memory.
    fn bytes(&self) -> u64 {
        self.held.values().flatten().map(|tensor| 4 * tensor.elem_count() as u64).sum()
    }
}

/// Bounds what streams have in memory together: what is more goes to a file.
pub(crate) struct Room {
    most: u64,
    used: u64,
    /// Streams that are computed at a time.
    at_once: usize,
    file: Arc<Mutex<Spill>>,
}

/// A file without a name, whose stretches are used again once nobody has them.
struct Spill {
    file: File,
    end: u64,
    /// Offsets of free stretches, by their bytes.
    free: HashMap<u64, Vec<u64>>,
}

/// A slot's contents in the file, one tensor after the other.
struct Filed {
    file: Arc<Mutex<Spill>>,
    offset: u64,
    shapes: Vec<Shape>,
    /// Where they were before, and will be again.
    device: Device,
}

impl Filed {
    fn bytes(&self) -> u64 {
        self.shapes.iter().map(|shape| 4 * shape.elem_count() as u64).sum()
    }
}

impl Drop for Filed {
    fn drop(&mut self) {
        let bytes = self.bytes();
        lock(&self.file).free.entry(bytes).or_default().push(self.offset);
    }
}

fn lock(file: &Mutex<Spill>) -> std::sync::MutexGuard<'_, Spill> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    /// Room for `most` bytes, and a file in `folder`, which nobody else sees and which goes with this process. On a CPU each thread
    /// computes a stream at a time.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(most: u64, folder: &Path, device: &Device) -> io::Result<Self> {
        let spill = Spill { file: tempfile::tempfile_in(folder)?, end: 0, free: HashMap::new() };
        let at_once = at_once(device);
        Ok(Self { most, used: 0, at_once, file: Arc::new(Mutex::new(spill)) })
    }

    /// Does `work` with each stream, what it holds in `slots` being in memory, and hands what that gives to `then`, in order.
    pub(crate) fn each<T: Send>(
        &mut self,
        streams: &mut [Stream],
        slots: &[u32],
        work: impl Fn(usize, &mut Stream) -> Result<T> + Sync,
        mut then: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<()> {
        for (streams, first) in streams.chunks_mut(self.at_once).zip((0..).step_by(self.at_once)) {
            streams.iter_mut().try_for_each(|s| self.enter(s, slots))?;
            let given = side_by_side(streams, self.at_once, |at, s| work(first + at, s));
            streams.iter_mut().try_for_each(|s| self.leave(s))?;
            given?.into_iter().zip(first..).try_for_each(|(given, at)| then(at, given))?;
        }
        Ok(())
    }

    /// Counts streams that are new.
    pub(crate) fn count(&mut self, streams: &[Stream]) {
        self.used += streams.iter().map(Stream::bytes).sum::<u64>();
    }

    /// Brings what `slots` of a stream hold to memory. [`Self::leave`] must follow.
    pub(crate) fn enter(&mut self, stream: &mut Stream, slots: &[u32]) -> Result<()> {
        self.used -= stream.bytes();
        for slot in slots.iter().filter(|slot| !stream.held.contains_key(slot)).copied().collect::<Vec<_>>() {
            if let Some(filed) = stream.filed.get(&slot) {
                let held = read(filed)?;
                stream.held.insert(slot, held);
            }
        }
        Ok(())
    }

    /// Counts a stream again, which goes to the file if there is no room for it. Streams are visited in turn, so those that are in
    /// memory stay there, and of the others no more than one is at a time.
    pub(crate) fn leave(&mut self, stream: &mut Stream) -> Result<()> {
        if self.used + stream.bytes() > self.most {
            let held = std::mem::take(&mut stream.held);
            // Two slots that hold the same tensor share its place.
            let places = held.iter().filter_map(|(slot, held)| Some((held[0].id(), stream.filed.get(slot)?.clone())));
            let mut places: HashMap<TensorId, Arc<Filed>> = places.collect();
            for (slot, held) in held.iter().filter(|(slot, _)| !stream.filed.contains_key(slot)).collect::<Vec<_>>() {
                let place = match places.get(&held[0].id()) {
                    Some(place) => place.clone(),
                    None => Arc::new(self.write(held)?),
                };
                places.insert(held[0].id(), place.clone());
                stream.filed.insert(*slot, place);
            }
        }
        self.used += stream.bytes();
        Ok(())
    }

    fn write(&self, held: &Held) -> Result<Filed> {
        let shapes: Vec<Shape> = held.iter().map(|tensor| tensor.shape().clone()).collect();
        let mut filed = Filed { file: self.file.clone(), offset: 0, shapes, device: held[0].device().clone() };
        let (bytes, mut spill) = (filed.bytes(), lock(&self.file));
        filed.offset = match spill.free.get_mut(&bytes).and_then(Vec::pop) {
            Some(offset) => offset,
            None => {
                spill.end += bytes;
                spill.end - bytes
            }
        };
        spill.file.seek(SeekFrom::Start(filed.offset)).map_err(candle_core::Error::from)?;
        for tensor in held {
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            spill.file.write_all(bytemuck::cast_slice(&values)).map_err(candle_core::Error::from)?;
        }
        drop(spill);
        Ok(filed)
    }
}

/// Streams that are computed at a time: on a CPU one a thread.
pub(crate) fn at_once(device: &Device) -> usize {
    if device.is_cpu() { rayon::current_num_threads() } else { 1 }
}

/// Does `work` with each stream, one after the other if `at_once` is 1, else as many at a time as there are threads; what that gives is in
/// their order.
pub(crate) fn side_by_side<T: Send>(
    streams: &mut [Stream],
    at_once: usize,
    work: impl Fn(usize, &mut Stream) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let one = |(at, s): (usize, &mut Stream)| work(at, s);
    if at_once == 1 || streams.len() == 1 {
        return streams.iter_mut().enumerate().map(one).collect();
    }
    streams.par_iter_mut().enumerate().map(one).collect()
}

fn read(filed: &Filed) -> Result<Held> {
    let mut spill = lock(&filed.file);
    spill.file.seek(SeekFrom::Start(filed.offset)).map_err(candle_core::Error::from)?;
    let tensor = |shape: &Shape| -> Result<Tensor> {
        let mut values = vec![0f32; shape.elem_count()];
        spill.file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(candle_core::Error::from)?;
        Ok(Tensor::from_vec(values, shape, &filed.device)?)
    };
    filed.shapes.iter().map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::{Room, Stream};
    use candle_core::{Device, Tensor};

    fn tensor(first: f32) -> Tensor {
        Tensor::from_vec((0..6).map(|i| first + i as f32).collect::<Vec<f32>>(), (2, 3), &Device::Cpu).unwrap()
    }

    fn first(stream: &Stream, slot: u32) -> f32 {
        stream.value(slot).unwrap().to_vec2::<f32>().unwrap()[0][0]
    }

    #[test]
    fn what_does_not_fit_comes_back_from_the_file() {
        // Two slots of one stream fit (48 bytes), those of the second do not.
        let folder = tempfile::tempdir().unwrap();
        let mut room = Room::new(60, folder.path(), &Device::Cpu).unwrap();
        let mut streams = [Stream::default(), Stream::default()];
        for (at, stream) in streams.iter_mut().enumerate() {
            room.enter(stream, &[]).unwrap();
            stream.put(1, vec![tensor(10.0 * at as f32)]);
            stream.put(2, vec![tensor(0.5), tensor(1.5)]);
            stream.drop(2);
            stream.put(3, vec![tensor(7.0)]);
            room.leave(stream).unwrap();
        }
        assert_eq!((streams[0].bytes(), streams[1].bytes()), (48, 0));
        // A copy shares the stretches, and what is written to one does not change the other.
        let mut copy = streams[1].clone();
        room.enter(&mut copy, &[1]).unwrap();
        assert_eq!((first(&copy, 1), copy.bytes()), (10.0, 24));
        copy.put(1, vec![tensor(-3.0)]);
        room.leave(&mut copy).unwrap();
        room.enter(&mut streams[1], &[1, 3]).unwrap();
        room.enter(&mut copy, &[1, 3]).unwrap();
        assert_eq!((first(&streams[1], 1), first(&copy, 1)), (10.0, -3.0));
        assert_eq!((first(&streams[1], 3), first(&copy, 3)), (7.0, 7.0));
        // What nobody has any more is used again: two slots and the copy's were all that was ever there.
        copy.drop(1);
        copy.put(1, vec![tensor(4.0)]);
        room.leave(&mut copy).unwrap();
        assert_eq!(super::lock(&room.file).end, 72);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
