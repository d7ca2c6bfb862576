#!/usr/bin/env node
/* node inspect.mjs [--json] [--threads N] part.onnx image.png ...

   A line an image. Exit code 0: all images are good; 1: some are called anomalous; 2: something could
   not be read or decided. */

import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";

import { InferenceSession, Tensor } from "onnxruntime-node";

import { answerOf, cardOf, checkSize, verdictOf } from "../sealed.mjs";
import { pixelsOf } from "./pixels.mjs";

const USAGE = "usage: node inspect.mjs [--json] [--threads N] part.onnx image.png ...";
const EXIT_CODES = { normal: 0, anomalous: 1, undecided: 2, unreadable: 2 };

async function main() {
  const { options, file, images } = parsed();
  const bytes = await readFile(file);
  const card = await cardOf(bytes).catch((error) => {
    throw new Error(`${file}: ${error.message}`);
  });
  const intraOpNumThreads = Number(options.threads ?? Math.min(4, availableParallelism()));
  const settings = { intraOpNumThreads, logSeverityLevel: 3 }; // errors; loading warns of map_size
  const session = await InferenceSession.create(bytes, settings);
  let code = 0;
  for (const path of images) {
    const record = await inspect(session, card, path).catch((error) => unreadable(path, error));
    console.log(options.json ? JSON.stringify(record) : described(record));
    code = Math.max(code, EXIT_CODES[record.verdict]);
  }
  return code;
}

function parsed() {
  const { values, positionals } = parseArgs({
    options: { json: { type: "boolean" }, threads: { type: "string" } },
    allowPositionals: true,
  });
  const [file, ...images] = positionals;
  if (images.length === 0) throw new Error(USAGE);
  return { options: values, file, images };
}

async function inspect(session, card, path) {
  const { data, height, width, channels } = await pixelsOf(path);
  checkSize(card, height, width);
  const image = new Tensor("uint8", data, [1, height, width, channels]);
  const { score, label, pValue } = answerOf(await session.run({ image }));
  const { verdict, severity } = verdictOf(card, score, label);
  const record = { path, verdict, anomaly_score: score, severity, label };
  return pValue === null ? record : { ...record, p_value: pValue };
}

function unreadable(path, error) {
  const nothing = { anomaly_score: null, severity: null, label: 0 };
  return { path, verdict: "unreadable", ...nothing, reason: error.message };
}

function described({ path, verdict, anomaly_score, severity, p_value, reason }) {
  const parts = [verdict.padEnd(10)];
  if (verdict === "unreadable") return [...parts, path, `(${reason})`].join("  ");
  if (severity !== null) parts.push(`severity ${severity.toFixed(2).padStart(5)}`);
  parts.push(`score ${String(Number(anomaly_score.toPrecision(4))).padEnd(8)}`);
  if (p_value !== undefined) parts.push(`p ${p_value.toFixed(4)}`);
  return [...parts, path].join("  ");
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
}
