/* Copies into lib/ what the page loads from elsewhere; then this folder is the whole page. */

import { copyFileSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

const runtime = import.meta.resolve("onnxruntime-web/wasm");
const files = [
  new URL("ort.wasm.min.mjs", runtime),
  new URL("ort-wasm-simd-threaded.mjs", runtime),
  new URL("ort-wasm-simd-threaded.wasm", runtime),
  new URL("../sealed.mjs", import.meta.url),
];

const lib = new URL("lib/", import.meta.url);
mkdirSync(lib, { recursive: true });
for (const file of files) {
  copyFileSync(fileURLToPath(file), fileURLToPath(new URL(file.pathname.split("/").at(-1), lib)));
}
