// Tokens a second in Chromium, on one thread: the three builds of examples/web, and wllama (llama.cpp in WebAssembly) on the same model.
//
//     node web_speed.mjs PAGE [WLLAMA MODEL.gguf]
//
// PAGE is the folder that `cargo xtask web` makes, WLLAMA the `esm` folder of the npm package. Prints a Markdown table: medians of
// ROUNDS rounds in which each has its turn, [lowest to highest]. A prompt is read whole, then tokens are taken greedily; wllama's
// times are its own (llama.cpp's timings), without what its messages take.

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { argv, exit, stderr } from "node:process";

const ROUNDS = 9;
const [, , page, wllama, gguf] = argv;
const prompt =
  "Once upon a time, there was a little girl named Lily who lived in a small house near the big forest. She had a red ball, a blue " +
  "hat and a green frog that could sing. Every day, she went to the park with her mom and her dog. One day, it was raining, and Lily " +
  "could not go outside. She was sad. Her mom said, \"Do not be sad, Lily. We can play a game.\" Lily was happy and they played.";
const tokens = 64;

// What runs in the page. Each returns [tokens of the prompt, milliseconds, tokens written, milliseconds].
const script = `
const prompt = ${JSON.stringify(prompt)}, tokens = ${tokens};
self.models = {};
const { Mote } = await import("/page/mote.js");
const image = await (await fetch("/page/llm.mote")).arrayBuffer();
for (const build of ["relaxed", "simd128", "scalar"]) {
  const mote = await Mote.open(image, { build });
  models["Mote, " + build] = async () => {
    const counts = [0, 0, 0, 0];
    let start = performance.now();
    for (const { prompt: read } of mote.write(prompt, { tokens, temperature: 0 })) {
      const now = performance.now(), at = read ? 0 : 2;
      counts[at] += read || 1;
      counts[at + 1] += now - start;
      start = performance.now();
    }
    return counts;
  };
}
if (${Boolean(wllama)}) {
  const { Wllama } = await import("/wllama/index.js");
  const silent = { debug() {}, log() {}, warn() {}, error: console.error };
  const peer = new Wllama({ default: "/wllama/wasm/wllama.wasm" }, { logger: silent, suppressNativeLog: true });
  const blob = await (await fetch("/model.gguf")).blob();
  await peer.loadModel([blob], { n_ctx: 256, n_threads: 1, n_gpu_layers: 0 });
  models["wllama (llama.cpp), Q4_0"] = async () => {
    const { timings } = await peer.createCompletion({ prompt, max_tokens: tokens, temperature: 0, cache_prompt: false });
    return [timings.prompt_n, timings.prompt_ms, timings.predicted_n, timings.predicted_ms];
  };
}
Object.keys(models)`;

const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
const server = createServer(({ url }, response) => {
  const path = normalize(new URL(url, "http://x").pathname);
  const places = [["/page/", page], ["/wllama/", wllama]];
  const [at, folder] = places.find(([at]) => path.startsWith(at)) ?? [];
  try {
    const body = path === "/" ? "<!doctype html><title>bench</title>"
      : path === "/model.gguf" ? readFileSync(gguf)
      : readFileSync(join(folder, path.slice(at.length)));
    response.writeHead(200, { "Content-Type": types[path === "/" ? ".html" : extname(path)] ?? "application/octet-stream" });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((listens) => server.listen(0, "127.0.0.1", listens));

// Chromium over the pipe of its DevTools protocol: JSON with a zero byte after each.
const name = ["chromium", "chromium-browser", "google-chrome"].find((name) => spawnSync(name, ["--version"]).status === 0);
if (!name) {
  stderr.write("there is no Chromium\n");
  exit(1);
}
const profile = mkdtempSync(join(tmpdir(), "mote-web-"));
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"];
const browser = spawn(name, [...flags, `--user-data-dir=${profile}`, "about:blank"], {
  stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
});
const waiting = new Map();
let heard = "";
browser.stdio[4].setEncoding("utf8").on("data", (data) => {
  const answers = (heard + data).split("\0");
  heard = answers.pop();
  for (const answer of answers.map((text) => JSON.parse(text))) waiting.get(answer.id)?.(answer);
});
let last = 0;
const ask = (method, params, sessionId) =>
  new Promise((resolve, reject) => {
    last += 1;
    waiting.set(last, ({ result, error }) => (error ? reject(new Error(`${method}: ${error.message}`)) : resolve(result)));
    browser.stdio[3].write(`${JSON.stringify({ id: last, method, params, sessionId })}\0`);
  });

try {
  const url = `http://127.0.0.1:${server.address().port}/`;
  const { targetId } = await ask("Target.createTarget", { url });
  const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
  const run = async (expression) => {
    const how = { expression, awaitPromise: true, returnByValue: true, replMode: true };
    const { result, exceptionDetails } = await ask("Runtime.evaluate", how, sessionId);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  while ((await run("location.href + document.readyState")) !== `${url}complete`);
  const names = await run(script);
  const rates = Object.fromEntries(names.map((name) => [name, { prompt: [], text: [] }]));
  let lengths;
  for (let round = -1; round < ROUNDS; round += 1) {
    for (const name of names) {
      const [read, readMs, written, writtenMs] = await run(`await models[${JSON.stringify(name)}]()`);
      lengths ??= [read, written];
      // The first is for the compiler. A runtime may count the token that begins texts or not.
      if (Math.abs(read - lengths[0]) > 1 || Math.abs(written - lengths[1]) > 1) {
        throw new Error(`${name}: ${read} and ${written} tokens, others ${lengths.join(" and ")}`);
      }
      if (round < 0) continue;
      rates[name].prompt.push((1000 * read) / readMs);
      rates[name].text.push((1000 * written) / writtenMs);
    }
  }
  const cell = (values) => {
    const [low, middle, high] = [0, 0.5, 1].map((at) => values.sort((a, b) => a - b)[Math.round(at * (values.length - 1))]);
    return `${middle.toFixed(0)} [${low.toFixed(0)} to ${high.toFixed(0)}]`;
  };
  console.log(`| ${(await ask("Browser.getVersion")).product}, one thread | prompt of ${lengths[0]} tokens/s | ${lengths[1]} tokens of text/s |`);
  console.log("| --- | ---: | ---: |");
  for (const name of names) console.log(`| ${name} | ${cell(rates[name].prompt)} | ${cell(rates[name].text)} |`);
} finally {
  const gone = new Promise((resolve) => browser.on("exit", resolve));
  browser.kill();
  await gone;
  rmSync(profile, { recursive: true, force: true });
  server.close();
}
