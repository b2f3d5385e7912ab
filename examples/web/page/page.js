// The page: a form, a text that grows, a file that may be dropped. All that computes is in worker.js.

const $ = (id) => document.getElementById(id);
const [form, prompt, text, error, about] = ["form", "prompt", "text", "error", "about"].map($);
const worker = new Worker("worker.js", { type: "module" });
const bundled = "llm.mote";
// `?build=scalar` (simd128, relaxed) takes that one, to compare them.
const build = new URLSearchParams(location.search).get("build") ?? undefined;

let asked = ""; // name of the file that is being opened
let name = ""; // of the one that is open
let id = 0; // of the text that is being written
let busy = false;
let counts;

function show() {
  $("write").disabled = !name || busy;
  $("stop").disabled = !busy;
}

function fail(what) {
  error.textContent = what;
  error.hidden = false;
}

// Opens an image from a file's or a response's bytes. If it is none, the one before stays.
async function open(file, bytes) {
  [asked, error.hidden] = [file, true];
  if (busy) worker.postMessage({ stop: true });
  try {
    const image = await bytes();
    worker.postMessage({ open: image, build }, [image]);
  } catch (why) {
    fail(`${file} cannot be read: ${why.message}`);
  }
}

function describe({ kernels, context, vocabulary, encoder, bytes }) {
  const facts = {
    Model: name,
    Size: bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(1)} MB`,
    Context: `${context} tokens`,
    Vocabulary: `${vocabulary} pieces`,
    Kernels: kernels,
  };
  const row = ([term, value]) => {
    const [div, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    [dt.textContent, dd.textContent] = [term, value];
    div.append(dt, dd);
    return div;
  };
  about.replaceChildren(...Object.entries(facts).map(row));
  $("prompt-label").textContent = encoder ? "Source" : name === bundled ? "Begin a story" : "Begin a text";
}

function begin() {
  const { seed, tokens, temperature } = form;
  [busy, id, error.hidden] = [true, id + 1, true];
  counts = { read: 0, readMs: 0, written: 0, writtenMs: 0 };
  text.className = "";
  text.replaceChildren();
  const how = { tokens: tokens.valueAsNumber, temperature: temperature.valueAsNumber, seed: BigInt(seed.value) };
  worker.postMessage({ write: prompt.value, id, ...how });
  show();
}

// The prompt, as the model has read it, is set off from what it has written.
function add(piece, given) {
  const last = text.lastChild;
  if (given && last?.nodeName !== "B") text.append(document.createElement("b"));
  if (!given && last?.nodeName !== "#text") text.append("");
  (given ? text.lastChild.firstChild ?? text.lastChild.appendChild(new Text()) : text.lastChild).data += piece;
}

const rate = (count, milliseconds) => Math.round((1000 * count) / Math.max(milliseconds, 1e-3)).toLocaleString("en");

function report(ended) {
  const { read, readMs, written, writtenMs } = counts;
  const parts = [`${read} prompt tokens`, readMs && `${rate(read, readMs)} tokens/s`];
  parts.push(`${written} written`, writtenMs && `${rate(written, writtenMs)} tokens/s`, ended);
  $("speed").textContent = parts.filter(Boolean).join(" · ");
}

worker.onmessage = ({ data }) => {
  if (data.about) {
    name = asked;
    describe(data.about);
    document.body.dataset.ready = name; // for tests
  } else if (data.id === undefined) {
    fail(`${asked} cannot be opened: ${data.error}`);
  } else if (data.id === id) {
    if (data.error) fail(data.error);
    if (data.text) add(data.text, data.prompt > 0);
    if (data.prompt > 0) [counts.read, counts.readMs] = [counts.read + data.prompt, counts.readMs + data.milliseconds];
    else if (data.prompt === 0) [counts.written, counts.writtenMs] = [counts.written + 1, counts.writtenMs + data.milliseconds];
    if (data.ended || data.error) busy = false;
    report(data.ended);
  }
  show();
};
worker.onerror = ({ message }) => fail(`The worker has stopped${message ? `: ${message}` : ""}. Reload the page.`);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (name && !busy) begin();
});
$("stop").addEventListener("click", () => worker.postMessage({ stop: true }));
$("again").addEventListener("click", () => {
  form.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
});
$("temperature").addEventListener("input", ({ target }) => {
  $("shown").value = target.valueAsNumber.toFixed(1);
});
$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (file) open(file.name, () => file.arrayBuffer());
  target.value = ""; // so that the same file can be chosen again
});

// A file may be dropped anywhere.
for (const [event, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(event, (what) => {
    what.preventDefault();
    document.body.classList.toggle("over", over);
  });
}
addEventListener("drop", ({ dataTransfer }) => {
  const [file] = dataTransfer.files;
  if (file) open(file.name, () => file.arrayBuffer());
});

open(bundled, async () => {
  const response = await fetch(bundled);
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return response.arrayBuffer();
});
