// Mote for pages, workers and Node: opens a .mote image and writes text with it. Nothing is loaded but the module beside this file.
//
//     import { Mote } from "./mote.js";
//     const mote = await Mote.open(await (await fetch("llm.mote")).arrayBuffer());
//     for (const { text } of mote.write("Once upon a time", { tokens: 100, seed: 7 })) console.log(text);
//
// The same image, prompt and seed give the same text as `mote run`, whatever the engine: all arithmetic is of integers.

// A module that computes one number with an instruction, and what comes out. An engine that lacks the instruction refuses the module;
// V8's first compiler of 2023 had relaxed dot products that were twice as large.
const head = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7f, 3, 2, 1, 0, 7, 5, 1, 1, 0x66, 0, 0];
const module = (code) => new Uint8Array([...head, 10, code.length + 4, 1, code.length + 2, 0, ...code, 11]);
const splat = (of, value) => [0x41, value, 0xfd, of]; // i32.const, i8x16.splat (15), i16x8.splat (16) or i32x4.splat (17)
const lane0 = [0xfd, 27, 0]; // i32x4.extract_lane 0

// Name of the build, instruction, its result; the best first.
const builds = [
  // i32x4.relaxed_dot_i8x16_i7x16_add_s
  ["relaxed", module([...splat(15, 3), ...splat(15, 5), ...splat(17, 0), 0xfd, 0x93, 2, ...lane0]), 4 * 3 * 5],
  // i32x4.dot_i16x8_s
  ["simd128", module([...splat(16, 3), ...splat(16, 5), 0xfd, 0xba, 1, ...lane0]), 2 * 3 * 5],
  ["scalar", module([0x41, 1]), 1],
];

const works = (bytes, result) =>
  WebAssembly.validate(bytes) && new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports.f() === result;

// The best build for this engine.
export const best = () => builds.find(([, bytes, result]) => works(bytes, result))[0];

// Why a text ended: what `mote_step` returns.
const ends = [undefined, "end token", "length", "context full"];

const q16 = (fraction) => Math.round(fraction * 65536);

export class Mote {
  #exports;

  // What the image is: kernels in use, context (tokens), vocabulary (pieces), encoder (whether it takes a source), bytes.
  about;

  // Opens an image, an ArrayBuffer. `module` is a WebAssembly.Module of this example; without one, the best is fetched.
  static async open(image, { module, build = best() } = {}) {
    const mote = new Mote();
    module ??= await load(new URL(`mote-${build}.wasm`, import.meta.url));
    mote.#exports = (await WebAssembly.instantiate(module)).exports;
    const bytes = new Uint8Array(image);
    mote.#checked(() => mote.#exports.mote_open(mote.#put(bytes), bytes.length));
    mote.about = JSON.parse(mote.#text());
    return mote;
  }

  // Writes a text, a step after the other: { text, prompt, ended }. `text` is what came to be, `prompt` how many tokens of the prompt this
  // step has read (0: it wrote one), `ended` why there is no more ("end token", "length", "context full"). Who stops asking stops it.
  *write(prompt, { tokens = 128, temperature = 0.8, topK = 40, topP = 0.95, seed = 0 } = {}) {
    const bytes = new TextEncoder().encode(prompt);
    const { mote_prompt, mote_step } = this.#exports;
    const sampling = [q16(temperature), topK, q16(topP), BigInt(seed)];
    let left = this.#checked(() => mote_prompt(this.#put(bytes), bytes.length, tokens, ...sampling));
    for (;;) {
      const ended = ends[this.#checked(mote_step)];
      const read = Math.min(left, this.about.encoder ? left : 32);
      left -= read;
      yield { text: this.#text(), prompt: read, ended };
      if (ended) return;
    }
  }

  #checked(call) {
    const result = call();
    if (result < 0) throw new Error(this.#text());
    return result;
  }

  #put(bytes) {
    const at = this.#exports.mote_alloc(bytes.length) >>> 0;
    if (!at) throw new Error(`${bytes.length} bytes are too many for this browser's WebAssembly`);
    new Uint8Array(this.#exports.memory.buffer).set(bytes, at);
    return at;
  }

  #text() {
    const { memory, mote_text, mote_text_bytes } = this.#exports;
    return new TextDecoder().decode(new Uint8Array(memory.buffer, mote_text() >>> 0, mote_text_bytes() >>> 0));
  }
}

async function load(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return WebAssembly.compile(await response.arrayBuffer());
}
