//! Inputs of nets from files: arrays, images, sounds.
//!
//! - `.npy`: of the input's shape, or of many such, one after another along a new or its first dimension; dimensions of
//!   1 may be left out. An image may be channels-first. Numbers are taken as they are, except bytes (uint8): those are
//!   pixels, scaled as an image's.
//! - `.png`, `.jpg`, `.bmp`: made grey, RGB or RGBA as the input has channels; resized bilinearly without smoothing, output
//!   pixel i from input `i * in / out`, as TensorFlow Lite's examples do; scaled by [`Scaling`].
//! - `.wav`: 16 kHz; its channels' mean, in [-1, 1), cut into pieces of the input's size. With a hop, each piece begins so many
//!   samples after the one before, and ends with that many new ones; before the first there is silence.

use crate::graph::{Data, Tensor};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Why there are no inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A file could not be read.
    #[error("cannot read {path}: {why}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// A file is not of a kind that is read here.
    #[error("{path} is neither an array (.npy), an image (.png, .jpg, .bmp) nor a sound (.wav)")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// What a file holds does not fit the input.
    #[error("{path} holds {found}; the input takes {wanted}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What should be.
        wanted: String,
    },
    /// A folder holds nothing.
    #[error("{path} holds no arrays (.npy), images (.png, .jpg, .bmp) or sounds (.wav)")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A net with more than one input needs a folder for each.
    #[error("{path}: the net has {} inputs; give a folder for each: {}", names.len(), names.join(", "))]
    Folders {
        /// The folder.
        path: PathBuf,
        /// Names of the inputs.
        names: Vec<String>,
    },
}

type Result<T> = std::result::Result<T, SampleError>;

/// What a pixel of 0 to 255 becomes: `(pixel - mean) / std`, one pair or one for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Taken away.
    pub mean: Vec<f32>,
    /// Divided by.
    pub std: Vec<f32>,
}

impl Scaling {
    /// One pair for all channels.
    #[must_use]
    pub fn one(mean: f32, std: f32) -> Self {
        Self { mean: vec![mean], std: vec![std] }
    }

    /// What a net that takes numbers from `low` to `high` was most likely trained with: bytes as they are, [-1, 1], or
    /// [0, 1].
    #[must_use]
    pub fn guess(low: f32, high: f32) -> Self {
        match (low, high) {
            (_, high) if high > 16.0 => Self::one(0.0, 1.0),
            (low, _) if low < -0.25 => Self::one(127.5, 127.5),
            _ => Self::one(0.0, 255.0),
        }
    }

    fn apply(&self, pixel: f32, channel: usize) -> f32 {
        let of = |numbers: &[f32]| numbers[channel % numbers.len()];
        (pixel - of(&self.mean)) / of(&self.std)
    }
}

/// An input of a net.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its dimensions; images [1, height, width, channels].
    pub shape: Vec<usize>,
    /// Whether it takes integers that stand for themselves, such as ids.
    pub integers: bool,
    /// Samples of a sound from one run to the next; `None`: as many as it takes.
    pub hop: Option<usize>,
}

impl Input {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Height, width and channels, if it is one image.
    fn image(&self) -> Option<[usize; 3]> {
        match self.shape[..] {
            [1, h, w, c @ (1 | 3 | 4)] => Some([h, w, c]),
            // Of one channel it does not matter where that is counted.
            [1, 1, h, w] => Some([h, w, 1]),
            _ => None,
        }
    }

    fn tensor(&self, data: Data) -> Tensor {
        Tensor { shape: self.shape.clone(), data }
    }
}

/// Inputs for runs of a net, from a folder or a file: files in the order of their names. A net of several inputs has a folder
/// for each within, by its name or number.
///
/// # Errors
/// [`SampleError`].
pub fn read(path: &Path, inputs: &[Input], scaling: &Scaling) -> Result<Vec<Vec<Tensor>>> {
    if let [input] = inputs {
        return Ok(folder(path, input, scaling)?.into_iter().map(|t| vec![t]).collect());
    }
    let mut runs: Vec<Vec<Tensor>> = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let within = [path.join(&input.name), path.join(index.to_string())].into_iter().find(|p| p.is_dir());
        let names = || inputs.iter().map(|i| i.name.clone()).collect();
        let within = within.ok_or_else(|| SampleError::Folders { path: path.to_owned(), names: names() })?;
        let tensors = folder(&within, input, scaling)?;
        if index == 0 {
            runs.resize(tensors.len(), Vec::new());
        }
        // As many runs as the shortest has.
        runs.truncate(tensors.len());
        runs.iter_mut().zip(tensors).for_each(|(run, tensor)| run.push(tensor));
    }
    Ok(runs)
}

fn folder(path: &Path, input: &Input, scaling: &Scaling) -> Result<Vec<Tensor>> {
    if !path.is_dir() {
        return file(path, input, scaling);
    }
    let failed = |why: std::io::Error| SampleError::Read { path: path.to_owned(), why: why.to_string() };
    let entries = std::fs::read_dir(path).map_err(failed)?;
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(failed)?;
    files.retain(|p| find(p).is_some());
    files.sort();
    let mut tensors = Vec::new();
    for path in files {
        tensors.extend(file(&path, input, scaling)?);
    }
    if tensors.is_empty() { Err(SampleError::Empty { path: path.to_owned() }) } else { Ok(tensors) }
}

/// Reads a file of one kind.
type Reader = fn(&Path, &Input, &Scaling) -> Result<Vec<Tensor>>;

/// Kinds of files by the end of their names.
const KINDS: [(&str, Reader); 6] =
    [("npy", array), ("png", picture), ("jpg", picture), ("jpeg", picture), ("bmp", picture), ("wav", sound)];

fn find(path: &Path) -> Option<Reader> {
    let end = path.extension()?.to_str()?.to_ascii_lowercase();
    KINDS.iter().find(|(kind, _)| *kind == end).map(|(_, reader)| *reader)
}

/// Inputs in one file: one, or as many as it holds.
///
/// # Errors
/// [`SampleError`].
pub fn file(path: &Path, input: &Input, scaling: &Scaling) -> Result<Vec<Tensor>> {
    find(path).ok_or_else(|| SampleError::Kind { path: path.to_owned() })?(path, input, scaling)
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> SampleError {
    SampleError::Read { path: path.to_owned(), why: why.to_string() }
}

/// Dimensions that are not 1.
fn long(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|d| *d != 1).collect()
}

fn array(path: &Path, input: &Input, scaling: &Scaling) -> Result<Vec<Tensor>> {
    let open = || npyz::NpyFile::new(BufReader::new(File::open(path)?));
    let npy = open().map_err(|why| unreadable(path, why))?;
    let shape: Vec<usize> = npy.shape().iter().map(|d| usize::try_from(*d).unwrap_or(usize::MAX)).collect();
    let wrong = || SampleError::Shape {
        path: path.to_owned(),
        found: format!("an array of shape {shape:?}"),
        wanted: format!("{:?}, or many of them", input.shape),
    };
    if npy.order() != npyz::Order::C {
        return Err(unreadable(path, "it is in Fortran order: save it in C order"));
    }
    let first = input.image().map(|[h, w, c]| long(&[c, h, w]));
    let (last, here) = (long(&input.shape), long(&shape));
    let rest = here.get(1..).unwrap_or_default();
    // How many there are, and whether an image's channels come first.
    let (count, channels_first) = match () {
        () if here == last => (1, false),
        () if rest == last => (here[0], false),
        () if first.as_ref() == Some(&here) => (1, true),
        () if first.as_deref() == Some(rest) => (here[0], true),
        () => return Err(wrong()),
    };
    let pixels =
        matches!(npy.dtype(), npyz::DType::Plain(t) if t.type_char() == npyz::TypeChar::Uint && t.size_field() == 1);
    let numbers = numbers(npy).map_err(|why| unreadable(path, why))?;
    let size = input.count();
    if numbers.len() != count * size {
        return Err(wrong());
    }
    let one = |numbers: &[f64]| {
        if input.integers {
            return input.tensor(Data::Int(numbers.iter().map(|x| *x as i64).collect()));
        }
        let channels = input.shape.last().copied().unwrap_or(1).max(1);
        let from = |i: usize| match input.image() {
            Some([h, w, c]) if channels_first => numbers[i % c * h * w + i / c],
            _ => numbers[i],
        };
        let scale = |i: usize| {
            let x = from(i) as f32;
            if pixels { scaling.apply(x, i % channels) } else { x }
        };
        input.tensor(Data::F32((0..size).map(scale).collect()))
    };
    Ok(numbers.chunks(size.max(1)).map(one).collect())
}

/// The numbers of an array of any type.
fn numbers<R: std::io::Read>(npy: npyz::NpyFile<R>) -> std::io::Result<Vec<f64>> {
    use npyz::TypeChar::{Bool, Float, Int, Uint};
    let npyz::DType::Plain(kind) = npy.dtype() else {
        return Err(std::io::Error::other("it holds records: numbers are expected"));
    };
    macro_rules! read {
        ($t:ty) => {
            npy.into_vec::<$t>()?.into_iter().map(|x| x as f64).collect()
        };
    }
    Ok(match (kind.type_char(), kind.size_field()) {
        (Float, 4) => read!(f32),
        (Float, 8) => read!(f64),
        (Int, 1) => read!(i8),
        (Int, 2) => read!(i16),
        (Int, 4) => read!(i32),
        (Int, 8) => read!(i64),
        (Uint, 1) => read!(u8),
        (Uint, 2) => read!(u16),
        (Uint, 4) => read!(u32),
        (Bool, _) => npy.into_vec::<bool>()?.into_iter().map(|x| f64::from(u8::from(x))).collect(),
        _ => return Err(std::io::Error::other(format!("it holds {kind}: float32, float64 or integers are expected"))),
    })
}

fn picture(path: &Path, input: &Input, scaling: &Scaling) -> Result<Vec<Tensor>> {
    let Some([h, w, c]) = input.image() else {
        let wanted = format!("{:?}, which is no image of 1, 3 or 4 channels", input.shape);
        return Err(SampleError::Shape { path: path.to_owned(), found: "an image".into(), wanted });
    };
    let image = image::open(path).map_err(|why| unreadable(path, why))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let bytes = match c {
        1 => image.into_luma8().into_raw(),
        3 => image.into_rgb8().into_raw(),
        _ => image.into_rgba8().into_raw(),
    };
    let mut out = Vec::with_capacity(h * w * c);
    for y in 0..h {
        let (y0, y1, fy) = between(y, height, h);
        for x in 0..w {
            let (x0, x1, fx) = between(x, width, w);
            for channel in 0..c {
                let at = |y: usize, x: usize| f32::from(bytes[(y * width + x) * c + channel]);
                let (above, below) = (mix(at(y0, x0), at(y0, x1), fx), mix(at(y1, x0), at(y1, x1), fx));
                out.push(scaling.apply(mix(above, below, fy), channel));
            }
        }
    }
    Ok(vec![input.tensor(Data::F32(out))])
}

/// The two pixels, of `from`, that pixel `at` of `to` lies between, and how far it is from the first.
fn between(at: usize, from: usize, to: usize) -> (usize, usize, f32) {
    let place = at as f32 * (from as f32 / to as f32);
    let first = (place as usize).min(from - 1);
    (first, (first + 1).min(from - 1), place - first as f32)
}

fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

/// Samples of a net's sounds in a second.
const RATE: u32 = 16_000;

fn sound(path: &Path, input: &Input, _: &Scaling) -> Result<Vec<Tensor>> {
    let mut reader = hound::WavReader::open(path).map_err(|why| unreadable(path, why))?;
    let spec = reader.spec();
    if spec.sample_rate != RATE {
        let (found, wanted) =
            (format!("{} samples a second", spec.sample_rate), format!("{RATE} of them: resample it"));
        return Err(SampleError::Shape { path: path.to_owned(), found, wanted });
    }
    let samples: std::result::Result<Vec<f32>, hound::Error> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect(),
        hound::SampleFormat::Int => {
            let full = 2f32.powi(i32::from(spec.bits_per_sample) - 1);
            reader.samples::<i32>().map(|s| s.map(|s| s as f32 / full)).collect()
        }
    };
    let samples = samples.map_err(|why| unreadable(path, why))?;
    let channels = usize::from(spec.channels).max(1);
    let size = input.count().max(1);
    let hop = input.hop.unwrap_or(size);
    if hop == 0 || hop > size {
        let (found, wanted) = (format!("pieces {hop} samples apart"), format!("1 to {size} of them"));
        return Err(SampleError::Shape { path: path.to_owned(), found, wanted });
    }
    let mut mono = vec![0.0; size - hop];
    mono.extend(samples.chunks(channels).map(|s| s.iter().sum::<f32>() / channels as f32));
    if mono.len() < size {
        let (found, wanted) = (format!("{} samples", mono.len() + hop - size), format!("{hop} of them"));
        return Err(SampleError::Shape { path: path.to_owned(), found, wanted });
    }
    Ok(mono.windows(size).step_by(hop).map(|s| input.tensor(Data::F32(s.to_vec()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use npyz::WriterBuilder;

    fn input(shape: &[usize]) -> Input {
        Input { name: "x".into(), shape: shape.to_vec(), integers: false, hop: None }
    }

    fn write<T: npyz::AutoSerialize + Copy>(path: &Path, shape: &[u64], values: &[T]) {
        let file = File::create(path).expect("a file");
        let mut npy = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().expect("a head");
        npy.extend(values.iter().copied()).expect("values");
        npy.finish().expect("an end");
    }

    fn floats(tensor: &Tensor) -> &[f32] {
        match &tensor.data {
            Data::F32(floats) => floats,
            Data::Int(_) => panic!("floats are expected"),
        }
    }

    #[test]
    fn arrays_alone_and_many_in_either_layout() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.npy");
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let x = input(&[1, 2, 4, 3]);
        let read = |shape: &[u64]| {
            write(&path, shape, &values);
            file(&path, &x, &Scaling::one(0.0, 1.0)).expect("an array that fits")
        };
        assert_eq!(floats(&read(&[2, 4, 3])[0]), values);
        let first = read(&[1, 3, 2, 4]);
        assert_eq!(floats(&first[0])[..6], [0.0, 8.0, 16.0, 1.0, 9.0, 17.0]);
        let many: Vec<i8> = (0..48).collect();
        write(&path, &[2, 2, 4, 3], &many);
        let two = file(&path, &x, &Scaling::one(0.0, 1.0)).expect("two arrays");
        assert_eq!((two.len(), floats(&two[1])[0]), (2, 24.0));
        // Bytes are pixels.
        write(&path, &[2, 4, 3], &[255u8; 24]);
        assert_eq!(floats(&file(&path, &x, &Scaling::one(127.5, 127.5)).expect("pixels")[0]), [1.0; 24]);
        write(&path, &[4, 4, 3], &[0f64; 48]);
        let why = file(&path, &x, &Scaling::one(0.0, 1.0)).expect_err("another shape").to_string();
        assert!(why.contains("[4, 4, 3]") && why.contains("[1, 2, 4, 3]"), "{why}");
    }

    #[test]
    fn images_are_resized_as_tflite_s_examples_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let pixels = image::GrayImage::from_raw(4, 2, vec![0, 50, 100, 150, 200, 210, 220, 230]).expect("an image");
        pixels.save(folder.path().join("a.png")).expect("a file");
        let runs = read(folder.path(), &[input(&[1, 2, 2, 1])], &Scaling::one(0.0, 1.0)).expect("one image");
        assert_eq!(floats(&runs[0][0]), [0.0, 100.0, 200.0, 220.0]);
        let wide = read(folder.path(), &[input(&[1, 4, 8, 1])], &Scaling::one(0.0, 1.0)).expect("one image");
        assert_eq!(floats(&wide[0][0])[..4], [0.0, 25.0, 50.0, 75.0]);
        assert_eq!(floats(&wide[0][0])[8..10], [100.0, 115.0]);
        let why = read(folder.path(), &[input(&[1, 7])], &Scaling::one(0.0, 1.0)).expect_err("no image").to_string();
        assert!(why.contains("no image"), "{why}");
    }

    #[test]
    fn sounds_are_cut_into_pieces() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.wav");
        let write = |rate| {
            let spec = hound::WavSpec {
                channels: 2,
                sample_rate: rate,
                bits_per_sample: 16,
                sample_format: hound::SampleFormat::Int,
            };
            let mut wav = hound::WavWriter::create(&path, spec).expect("a file");
            (0..10).for_each(|i| [i * 2000, i * 1000].iter().for_each(|s| wav.write_sample(*s as i16).expect("room")));
            wav.finalize().expect("an end");
        };
        write(RATE);
        let runs = read(folder.path(), &[input(&[1, 4])], &Scaling::one(0.0, 1.0)).expect("a sound");
        assert_eq!(runs.len(), 2);
        assert!((floats(&runs[1][0])[0] - 6000.0 / 32768.0).abs() < 1e-6);
        let overlapping = Input { hop: Some(3), ..input(&[1, 4]) };
        let runs = read(folder.path(), &[overlapping], &Scaling::one(0.0, 1.0)).expect("a sound");
        let firsts: Vec<f32> = runs.iter().map(|r| (floats(&r[0])[1] * 32768.0).round()).collect();
        assert_eq!((runs.len(), floats(&runs[0][0])[0], firsts), (3, 0.0, vec![0.0, 4500.0, 9000.0]));
        let far = Input { hop: Some(5), ..input(&[1, 4]) };
        assert!(read(folder.path(), &[far], &Scaling::one(0.0, 1.0)).is_err());
        write(8000);
        let why =
            read(folder.path(), &[input(&[1, 4])], &Scaling::one(0.0, 1.0)).expect_err("another rate").to_string();
        assert!(why.contains("8000") && why.contains("16000"), "{why}");
    }

    #[test]
    fn several_inputs_have_a_folder_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let inputs = [input(&[2]), Input { integers: true, name: "ids".into(), ..input(&[3]) }];
        let why = read(folder.path(), &inputs, &Scaling::one(0.0, 1.0)).expect_err("no folders").to_string();
        assert!(why.contains("x, ids"), "{why}");
        for (name, count) in [("0", 3u64), ("ids", 2)] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
            let path = folder.path().join(name).join("a.npy");
            let width = if name == "0" { 2 } else { 3 };
            write(&path, &[count, width], &(0..count * width).map(|i| i as i64).collect::<Vec<_>>());
        }
        let runs = read(folder.path(), &inputs, &Scaling::one(0.0, 1.0)).expect("two runs");
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[1][1].data, Data::Int(vec![3, 4, 5]));
        std::fs::write(folder.path().join("a.txt"), "x").expect("a file");
        assert!(file(&folder.path().join("a.txt"), &inputs[0], &Scaling::one(0.0, 1.0)).is_err());
    }
}
