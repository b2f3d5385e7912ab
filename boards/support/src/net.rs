//! Nets without tokens: from inputs to outputs.
//!
//! Inputs come from files on the debugger's machine, or from a generator that hosts and `tests/golden/tflite/make.py` have
//! too, so that one digest can be compared everywhere.

use crate::app::{self, Failure, Meter};
use crate::command::Infer;
use crate::counter::Counter;
use crate::semihosting::File;
use crate::{marks, print};
use embedded_hal::digital::OutputPin;
use embedded_io::Write;
use mote_runtime::image::Dtype;
use mote_runtime::{Error, Image, Limits, Session};
use sha2::{Digest, Sha256};

/// A net without tokens has no batch and no context.
const LIMITS: Limits = Limits { batch: 1, context: 1, threads: 1 };

/// From light to dark.
const SHADES: &[u8; 10] = b" .:-=+*#%@";

/// Runs `line` on a net and prints:
///
/// | key | value |
/// | --- | --- |
/// | (text) | with `--text N`: output 0 of the last run, a character twice for each value, N values a line |
/// | `run_sha256` | with `--each`, a line for each run: SHA-256 of all its outputs in order |
/// | `runs` | how often it ran |
/// | `instructions_per_inference` | of a run, without filling inputs and printing |
/// | `arena_bytes`, `arena_high_water_bytes` | what the image asked for, and how far it was written |
/// | `stack_high_water_bytes` | from the top of the stack |
/// | `top` | the largest values of output 0 of the last run, each `index:integer` |
/// | `output_sha256` | with `--sha256`: SHA-256 of all outputs of all runs in order |
///
/// Integers are hashed, read and written little-endian. What a net keeps from one run to the next it keeps through all of
/// them: they are a stream.
pub(crate) fn run<'l, W: Write, C: Counter, P: OutputPin>(
    meter: &mut Meter<'_, W, C, P>,
    line: &'l str,
    image: &Image<'_>,
    arena: &mut [u8],
) -> Result<(), Failure<'l>> {
    let command = Infer::parse(line).map_err(Failure::Word)?;
    let (inputs, outputs) = (image.ports().inputs().count(), image.ports().outputs().count());
    let (from, to) = (&command.inputs, &command.outputs);
    if !from.is_empty() && from.len() != inputs {
        return Err(Failure::Inputs { found: from.len(), expected: inputs });
    }
    let arena_bytes = image.arena_bytes(LIMITS)?;
    marks::paint(arena);
    let mut session = Session::new(image, arena, LIMITS)?;
    let mut sources = Files::new();
    for (name, index) in from.iter().zip(0..) {
        let file = File::read(name).ok_or(Failure::File(name))?;
        let expected = session.input_bytes(index)?.len().saturating_mul(command.runs as usize);
        let found = file.len();
        if found != expected {
            return Err(Failure::InputBytes { found, expected });
        }
        let _ = sources.push(file); // there is room for every name
    }
    #[cfg(feature = "steps")]
    {
        meter.steps.budget = command.steps;
    }
    let mut sinks = Files::new();
    for name in to {
        let _ = sinks.push(File::write(name).ok_or(Failure::File(name))?);
    }

    let mut all = Sha256::new();
    for run in 0..command.runs {
        let mut random = Lcg(command.seed.wrapping_add(run).into());
        for index in 0..inputs {
            let values = session.input_bytes(index as u32)?;
            match (sources.get_mut(index), from.get(index)) {
                (Some(file), Some(name)) => file.fill(values).ok_or(Failure::File(name))?,
                _ => values.fill_with(|| random.byte()),
            }
        }
        #[cfg(not(feature = "steps"))]
        meter.measure(|| session.run())?;
        #[cfg(feature = "steps")]
        meter.finish(session.begin_run()?)?;
        let mut one = Sha256::new();
        for index in 0..outputs {
            let values = session.output_bytes(index as u32)?;
            if command.sha256 {
                all.update(values);
            }
            if command.each {
                one.update(values);
            }
            if let (Some(file), Some(name)) = (sinks.get_mut(index), to.get(index)) {
                file.append(values).ok_or(Failure::File(name))?;
            }
        }
        if command.each {
            app::digest(&mut meter.board.console, "run_sha256", &one.finalize());
        }
    }

    let console = &mut meter.board.console;
    let dtype = image.ports().outputs().next().ok_or(Error::Port { index: 0 })?.dtype;
    let last = session.output_bytes(0)?;
    if command.text > 0 {
        text(console, last, dtype, command.text as usize);
    }
    print::number(console, "runs", command.runs.into());
    let instructions = meter.instructions.checked_div(command.runs.into()).unwrap_or(0);
    print::number(console, "instructions_per_inference", instructions);
    top(console, last, dtype, command.top);
    app::memory(console, arena_bytes, arena);
    if command.sha256 {
        app::digest(console, "output_sha256", &all.finalize());
    }
    #[cfg(feature = "steps")]
    meter.print_steps();
    Ok(())
}

/// Open files, as many as there may be names.
type Files = heapless::Vec<File, 8>;

/// Knuth's MMIX generator; a byte is the highest of the state.
struct Lcg(u64);

impl Lcg {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}

/// What the bytes of a port stand for.
fn integers(bytes: &[u8], dtype: Dtype) -> impl Iterator<Item = i32> {
    let width = match dtype {
        Dtype::I32 => 4,
        Dtype::I16 => 2,
        _ => 1,
    };
    bytes.chunks(width).map(move |b| match *b {
        [low] if dtype == Dtype::U8 => low.into(),
        [low] => (low as i8).into(),
        [low, high] => i16::from_le_bytes([low, high]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
        _ => 0,
    })
}

/// Prints the `count` largest values, the first of equal ones first. One pass for each: there is no room to sort in.
fn top(console: &mut impl Write, bytes: &[u8], dtype: Dtype, count: u32) {
    print::text(console, "top");
    let mut before = "=";
    let mut last = None;
    for _ in 0..count {
        // By falling value and rising index; what has been printed comes before `last`.
        let rest = (0u32..).zip(integers(bytes, dtype)).map(|(at, value)| (core::cmp::Reverse(value), at));
        let Some(next) = rest.filter(|key| last.is_none_or(|last| *key > last)).min() else { break };
        last = Some(next);
        let (core::cmp::Reverse(value), at) = next;
        print::text(console, before);
        print::decimal(console, at.into());
        print::text(console, ":");
        print::signed(console, value);
        before = ",";
    }
    print::text(console, "\n");
}

/// Prints values as characters, the least that the type has light and the largest dark, `width` in a line. Each twice:
/// characters are about twice as high as wide.
fn text(console: &mut impl Write, bytes: &[u8], dtype: Dtype, width: usize) {
    let mut column = 0;
    for value in integers(bytes, dtype) {
        let byte = match dtype {
            Dtype::U8 => value,
            Dtype::I16 => (value >> 8) + 128,
            Dtype::I32 => (value >> 24) + 128,
            _ => value + 128,
        };
        let shade = (byte as u32).wrapping_mul(SHADES.len() as u32) >> 8;
        let shade = SHADES.get(shade as usize).copied().unwrap_or(b'?');
        print::bytes(console, &[shade, shade]);
        column += 1;
        if column == width {
            print::text(console, "\n");
            column = 0;
        }
    }
    if column > 0 {
        print::text(console, "\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(print: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        print(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_largest_values_come_first() {
        let values = [3i8, -128, 127, 3, 127].map(|v| v as u8);
        assert_eq!(printed(|out| top(out, &values, Dtype::I8, 4)), "top=2:127,4:127,0:3,3:3\n");
        assert_eq!(printed(|out| top(out, &values, Dtype::I8, 9)), "top=2:127,4:127,0:3,3:3,1:-128\n");
        assert_eq!(printed(|out| top(out, &[], Dtype::I8, 3)), "top\n");
    }

    #[test]
    fn types() {
        let read = |bytes: &[u8], dtype| integers(bytes, dtype).collect::<Vec<_>>();
        assert_eq!(read(&[0xFF, 1], Dtype::I8), [-1, 1]);
        assert_eq!(read(&[0xFF, 1], Dtype::U8), [255, 1]);
        assert_eq!(read(&[0xFE, 0xFF, 0, 1], Dtype::I16), [-2, 256]);
        assert_eq!(read(&[0xFE, 0xFF, 0xFF, 0xFF], Dtype::I32), [-2]);
    }

    #[test]
    fn shades() {
        let values = [-128i8, 127, 0, -1, 12].map(|v| v as u8);
        assert_eq!(printed(|out| text(out, &values, Dtype::I8, 2)), "  @@\n++==\n++\n");
    }

    #[test]
    fn the_generator_is_that_of_the_golden_vectors() {
        // Of tests/golden/tflite/make.py: lcg(1, 4).
        let mut lcg = Lcg(1);
        assert_eq!([(); 4].map(|()| lcg.byte()), [0x6C, 0x82, 0xA5, 0x62]);
    }
}
