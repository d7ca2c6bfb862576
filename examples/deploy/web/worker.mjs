/* Decodes and inspects images by one detector, one after the other, away from the page. */

import { answerOf, cardOf, checkSize, verdictOf } from "./lib/sealed.mjs";
import { heatmap } from "./heat.mjs";
import * as ort from "./lib/ort.wasm.min.mjs";
import { checkBrowser, pixelsOf } from "./pixels.mjs";

const SIDE = 640; // the longest side of pictures that are shown

ort.env.wasm.wasmPaths = new URL("./lib/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

let card = null;
let session = null;
let earlier = Promise.resolve();

self.onmessage = ({ data }) => {
  earlier = earlier.then(() => (data.kind === "detector" ? open(data) : inspect(data)));
};

async function open({ file }) {
  try {
    await checkBrowser();
    const bytes = new Uint8Array(await file.arrayBuffer());
    const read = await cardOf(bytes);
    session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 });
    card = read;
    self.postMessage({ kind: "detector", card, nThreads: ort.env.wasm.numThreads });
  } catch (error) {
    self.postMessage({ kind: "refused", reason: error.message });
  }
}

async function inspect({ id, file }) {
  if (!session) return; // what it was for has been refused
  try {
    const { bitmap, data, height, width } = await pixelsOf(file);
    checkSize(card, height, width);
    const image = new ort.Tensor("uint8", new Uint8Array(data.buffer), [1, height, width, 4]);
    const start = performance.now();
    const answer = answerOf(await session.run({ image }));
    const milliseconds = performance.now() - start;
    const pictures = await shown(bitmap, answer.map);
    const { score, label, pValue } = answer;
    const said = { score, label, pValue, ...verdictOf(card, score, label), milliseconds };
    self.postMessage({ kind: "image", id, height, width, ...said, ...pictures }, [
      pictures.picture,
      pictures.heat,
    ]);
  } catch (error) {
    self.postMessage({ kind: "unreadable", id, reason: error.message });
  }
}

/** The image, and its map as a picture, small enough for a screen. */
async function shown(bitmap, map) {
  const { height: rows, width: columns } = bitmap;
  const scale = Math.min(1, SIDE / Math.max(rows, columns));
  const height = Math.max(1, Math.round(scale * rows));
  const width = Math.max(1, Math.round(scale * columns));
  const heat = heatmap({ map, rows, columns, height, width, levels: card.map_levels });
  const size = { resizeHeight: height, resizeWidth: width, resizeQuality: "high" };
  return { picture: await createImageBitmap(bitmap, size), heat: await createImageBitmap(heat) };
}
