// Runs a firmware on rp2040js: `node run.mjs ELF LINE`. The exit code is the firmware's; 102 after a fault.
//
// Console, files, command line and the count of cycles are semihosting's, as a debugger would do them (boards/support/src/
// semihosting.rs). Cycles are those of the Cortex-M0+ with memory that never waits: rp2040js knows no cache of the flash.
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const [elf, line = ''] = process.argv.slice(2);
// `cargo xtask setup` installs it where firmware is built.
const { RP2040 } = createRequire(resolve(elf))('rp2040js');
const FLASH = 0x10000000;
const RAM = 0x20000000;
/** Behind the second stage of the boot ROM, as in memory.x. */
const VECTORS = 0x10000100;

const chip = new RP2040();
const { core } = chip;

function stop(why) {
  console.error(`rp2040js: ${why}, at ${core.PC.toString(16)}`);
  process.exit(102);
}
// What it complains of is a fault of the chip: an address that is not there, or not aligned.
const complain = (component, message) => stop(`${component}: ${message}`);
chip.logger = { debug() {}, info() {}, warn: complain, error: complain };

// Bytes of the ELF's segments, at the addresses that they are loaded to.
const file = readFileSync(elf);
for (let n = 0; n < file.readUInt16LE(44); n++) {
  const header = file.readUInt32LE(28) + n * file.readUInt16LE(42);
  const [type, offset, , physical, bytes] = [0, 4, 8, 12, 16].map((at) => file.readUInt32LE(header + at));
  if (type === 1 && bytes > 0) chip.flash.set(file.subarray(offset, offset + bytes), physical - FLASH);
}

/** The memory at an address, up to the end of RAM or flash. */
const memory = (address) => (address >= RAM ? chip.sram.subarray(address - RAM) : chip.flash.subarray(address - FLASH));
const word = (address, n) => chip.readUint32(address + 4 * n);

/** Opens as fopen's modes 0 to 11 say; the console is standard output. */
function open(name, mode) {
  if (name === ':tt') return 1;
  try {
    return openSync(name, ['r', 'r', 'r+', 'r+', 'w', 'w', 'w+', 'w+', 'a', 'a', 'a+', 'a+'][mode]);
  } catch {
    return -1;
  }
}

const text = (address, bytes) => Buffer.from(memory(address).subarray(0, bytes)).toString();

/** By number: functions of the block's address that return what r0 shall be. */
const CALLS = {
  0x01: (at) => open(text(word(at, 0), word(at, 2)), word(at, 1)),
  0x02: (at) => (closeSync(word(at, 0)), 0),
  0x05(at) {
    const bytes = memory(word(at, 1)).subarray(0, word(at, 2));
    for (let done = 0; done < bytes.length; ) done += writeSync(word(at, 0), bytes, done);
    return 0;
  },
  0x06: (at) => word(at, 2) - readSync(word(at, 0), memory(word(at, 1)), 0, word(at, 2), null),
  0x0c: (at) => fstatSync(word(at, 0)).size,
  0x15(at) {
    const bytes = Buffer.from(`${line}\0`);
    if (bytes.length > word(at, 1)) return -1;
    memory(word(at, 0)).set(bytes);
    chip.writeUint32(at + 4, bytes.length - 1);
    return 0;
  },
  0x20: (at) => process.exit(word(at, 1)),
  0x30(at) {
    chip.writeUint32(at, core.cycles >>> 0);
    chip.writeUint32(at + 4, Math.floor(core.cycles / 2 ** 32));
    return 0;
  },
};
chip.onBreak = (number) => {
  const call = number === 0xab && CALLS[core.registers[0]];
  if (!call) stop(`breakpoint ${number}, semihosting call ${core.registers[0]}`);
  core.registers[0] = call(core.registers[1] >>> 0);
};

core.VTOR = VECTORS;
core.reset();
for (;;) core.executeInstruction();
