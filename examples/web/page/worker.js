// Runs a model beside the page, which stays responsive: one message a request, one or more an answer.
//
//     { open: ArrayBuffer, build }                     -> { about } or { error }
//     { write: prompt, id, tokens, temperature, ... }  -> { id, text, prompt, milliseconds, ended }... or { id, error }
//     { stop: true }                                   -> { id, ended: "stopped" } from the text that is being written

import { Mote, best } from "./mote.js";

let mote;
let writing = 0;

// Lets messages in, without the delay of timers.
const { port1, port2 } = new MessageChannel();
const pause = () =>
  new Promise((resolve) => {
    port1.onmessage = resolve;
    port2.postMessage(0);
  });

async function open(image, build = best()) {
  try {
    mote = await Mote.open(image, { build });
    postMessage({ about: { ...mote.about, build } });
  } catch (why) {
    postMessage({ error: said(why) });
  }
}

async function write({ write: prompt, id, ...how }) {
  writing = id;
  try {
    const steps = mote.write(prompt, how);
    for (;;) {
      const start = performance.now();
      const { value } = steps.next();
      postMessage({ id, ...value, milliseconds: performance.now() - start });
      if (value.ended) break;
      await pause();
      if (writing !== id) {
        postMessage({ id, ended: "stopped" });
        break;
      }
    }
  } catch (why) {
    postMessage({ id, error: said(why) });
  }
}

const said = (why) =>
  why instanceof WebAssembly.RuntimeError ? `The module stopped: ${why.message}. Open the file again.` : why.message;

onmessage = ({ data }) => {
  if (data.stop) writing = 0;
  else if (data.open) open(data.open, data.build);
  else write(data);
};
