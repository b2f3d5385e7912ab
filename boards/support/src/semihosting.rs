//! Semihosting: console, command line and exit code through the debugger or emulator.
//!
//! Source: Arm, "Semihosting for AArch32 and AArch64", 2.0; RISC-V International, "RISC-V Semihosting", 1.0 (the same
//! calls behind another trap).

// The trap is an instruction, and the calls take pointers.
#![allow(unsafe_code)]

use core::convert::Infallible;
use embedded_io::{ErrorType, Write};

const OPEN: u32 = 0x01;
const WRITE: u32 = 0x05;
const READ: u32 = 0x06;
const FLEN: u32 = 0x0C;
#[cfg(target_os = "none")]
const GET_CMDLINE: u32 = 0x15;
const ELAPSED: u32 = 0x30;
#[cfg(target_os = "none")]
const EXIT_EXTENDED: u32 = 0x20;
/// `ADP_Stopped_ApplicationExit`: the reason of an exit that the program wanted.
#[cfg(target_os = "none")]
const APPLICATION_EXIT: usize = 0x2_0026;

/// Traps to the debugger.
///
/// # Safety
/// `block` is what `operation` takes: words, some of them addresses of memory that stays valid during the call.
#[cfg(target_arch = "arm")]
unsafe fn call(operation: u32, block: &mut [usize]) -> usize {
    let result;
    // SAFETY: BKPT 0xAB is the semihosting trap; it returns in r0 and preserves everything else.
    unsafe {
        core::arch::asm!(
            "bkpt #0xAB",
            inlateout("r0") operation => result,
            in("r1") block.as_mut_ptr(),
            options(nostack),
        );
    }
    result
}

/// Traps to the debugger.
///
/// # Safety
/// `block` is what `operation` takes: words, some of them addresses of memory that stays valid during the call.
#[cfg(target_arch = "riscv32")]
unsafe fn call(operation: u32, block: &mut [usize]) -> usize {
    let result;
    // SAFETY: these three uncompressed instructions are the semihosting trap; the alignment keeps them on one page.
    unsafe {
        core::arch::asm!(
            ".option push", ".option norvc", ".balign 16",
            "slli x0, x0, 0x1f", "ebreak", "srai x0, x0, 7",
            ".option pop",
            inlateout("a0") operation => result,
            in("a1") block.as_mut_ptr(),
            options(nostack),
        );
    }
    result
}

/// No debugger on a host.
#[cfg(not(target_os = "none"))]
unsafe fn call(_: u32, _: &mut [usize]) -> usize {
    usize::MAX
}

/// The debugger's console.
#[derive(Debug)]
pub struct Console {
    handle: usize,
}

impl Console {
    /// Opens the console for writing.
    #[must_use]
    pub fn open() -> Self {
        let name = c":tt";
        let mode_write = 4;
        let mut block = [name.as_ptr().expose_provenance(), mode_write, name.count_bytes()];
        // SAFETY: OPEN takes the address of a NUL-terminated name, a mode and the name's length.
        Self { handle: unsafe { call(OPEN, &mut block) } }
    }
}

impl ErrorType for Console {
    type Error = Infallible;
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let mut block = [self.handle, bytes.as_ptr().expose_provenance(), bytes.len()];
        // SAFETY: WRITE takes a handle, an address and a length. What could not be written is dropped.
        unsafe { call(WRITE, &mut block) };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Longest name of a file in bytes.
const NAME_BYTES: usize = 255;

/// A file on the debugger's machine. It is closed when the program ends.
#[derive(Debug)]
pub struct File {
    handle: usize,
}

impl File {
    /// Opens a file for reading; `None` if that fails.
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        Self::open(name, 1) // "rb"
    }

    /// Makes a file, empty if there was one; `None` if that fails.
    #[must_use]
    pub fn write(name: &str) -> Option<Self> {
        Self::open(name, 5) // "wb"
    }

    fn open(name: &str, mode: usize) -> Option<Self> {
        let mut terminated = [0u8; NAME_BYTES + 1];
        if name.len() > NAME_BYTES {
            return None;
        }
        for (to, from) in terminated.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let mut block = [terminated.as_ptr().expose_provenance(), mode, name.len()];
        // SAFETY: OPEN takes the address of a NUL-terminated name, a mode and the name's length.
        let handle = unsafe { call(OPEN, &mut block) };
        (handle != usize::MAX).then_some(Self { handle })
    }

    /// Bytes in it; `usize::MAX` if the debugger cannot tell.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        // SAFETY: FLEN takes a handle.
        unsafe { call(FLEN, &mut [self.handle]) }
    }

    /// Reads just as many bytes; `None` if there are not as many.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        let mut block = [self.handle, bytes.as_mut_ptr().expose_provenance(), bytes.len()];
        // SAFETY: READ takes a handle, an address and a length, and returns how many of the bytes it did not fill.
        (unsafe { call(READ, &mut block) } == 0).then_some(())
    }

    /// Writes all the bytes; `None` if that fails.
    pub fn append(&mut self, bytes: &[u8]) -> Option<()> {
        let mut block = [self.handle, bytes.as_ptr().expose_provenance(), bytes.len()];
        // SAFETY: WRITE takes a handle, an address and a length, and returns how many bytes it did not write.
        (unsafe { call(WRITE, &mut block) } == 0).then_some(())
    }
}

/// The debugger's ticks since the program began; 0 if it does not count.
#[must_use]
pub fn elapsed() -> u64 {
    let mut block = [0; 2];
    // SAFETY: ELAPSED fills two words, the low one first.
    let failed = unsafe { call(ELAPSED, &mut block) } != 0;
    let [low, high] = block.map(|word| word as u64);
    if failed { 0 } else { high << 32 | low }
}

/// Reads the command line into `buffer`; empty if there is none, it does not fit, or it is no UTF-8.
#[cfg(target_os = "none")]
pub fn command_line(buffer: &mut [u8]) -> &str {
    let mut block = [buffer.as_mut_ptr().expose_provenance(), buffer.len()];
    // SAFETY: GET_CMDLINE takes the address and size of a buffer, and returns the length in the second word.
    let failed = unsafe { call(GET_CMDLINE, &mut block) } != 0;
    let [_, len] = block;
    let line = if failed { None } else { buffer.get(..len) };
    let line = line.map(|line| if let [line @ .., 0] = line { line } else { line });
    line.and_then(|l| core::str::from_utf8(l).ok()).unwrap_or("")
}

/// Ends the program.
#[cfg(target_os = "none")]
pub fn exit(code: u8) -> ! {
    let mut block = [APPLICATION_EXIT, usize::from(code)];
    loop {
        // SAFETY: EXIT_EXTENDED takes a reason and a code. Where nobody listens it returns, and this waits.
        unsafe { call(EXIT_EXTENDED, &mut block) };
    }
}

/// A fault ends the program with code 102 instead of hanging it.
#[cfg(target_arch = "arm")]
#[cortex_m_rt::exception]
unsafe fn HardFault(_: &cortex_m_rt::ExceptionFrame) -> ! {
    exit(102)
}

/// A fault ends the program with code 102 instead of hanging it.
#[cfg(target_arch = "riscv32")]
#[unsafe(export_name = "ExceptionHandler")]
fn exception(_: &riscv_rt::TrapFrame) -> ! {
    exit(102)
}
