/* node serve.mjs [port]: serves this folder to this computer alone, with the headers for threads. */

import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL(".", import.meta.url));
const PORT = Number(process.argv[2] ?? 8000);
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
};
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cache-Control": "no-cache",
};

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://localhost"); // without any ..
  const path = join(ROOT, pathname === "/" ? "index.html" : pathname);
  const type = TYPES[extname(path)];
  if (!type || !statSync(path, { throwIfNoEntry: false })?.isFile()) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { ...HEADERS, "Content-Type": type });
  createReadStream(path).pipe(response);
});
server.listen(PORT, "127.0.0.1", () => {
  console.log(`http://localhost:${server.address().port}/`);
});
