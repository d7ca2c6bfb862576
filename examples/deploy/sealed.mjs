/* What an exported file says of its detector, and what its answers mean; for Node.js and browsers. */

const FORMAT = 1; // of the file: a later one is refused
const START = new TextEncoder().encode("rJ\n\x06sha256\x12@"); // field 14: key and a value of 64 bytes
const LENGTH = START.length + 64; // of the seal

/** The card of a sealed file (a Uint8Array), which is checked to the last byte. */
export async function cardOf(bytes) {
  await checkSeal(bytes);
  const text = entriesOf(bytes).get("anomalib_lite");
  if (text === undefined) throw new Error("not a file written by export: it has no card.");
  const card = JSON.parse(text);
  if (!(card.format <= FORMAT)) {
    throw new Error(`written in format ${card.format}; this page or program reads up to ${FORMAT}.`);
  }
  if (card.input !== "uint8") {
    throw new Error(`takes ${card.input} images; this page or program decodes 8 bits per channel.`);
  }
  return card;
}

/** Verdict and severity (0: the median normal image, 1: the threshold; null without one). */
export function verdictOf(card, score, label) {
  if (card.offset === null) return { verdict: "undecided", severity: null };
  const reach = -card.offset - card.normal;
  return {
    verdict: label < 0 ? "anomalous" : "normal",
    severity: card.normal !== null && reach > 0 ? (score - card.normal) / reach : null,
  };
}

/** Refuse an image that the detector would refuse where it was trained. */
export function checkSize(card, height, width) {
  if (Math.min(height, width) < card.smallest_side) {
    const expected = `at least ${card.smallest_side} pixels per side (one patch)`;
    throw new Error(`expected ${expected}, got ${height} x ${width}. Use larger images.`);
  }
}

/** Score, label, map and p-value of one image; `outputs` are those of a session of ONNX Runtime. */
export function answerOf(outputs) {
  const score = outputs.anomaly_score.data[0];
  const map = outputs.anomaly_map.data;
  if (!Number.isFinite(score) || !map.every(Number.isFinite)) {
    throw new Error("its score or map is not finite.");
  }
  return {
    score,
    label: Number(outputs.label.data[0]),
    map,
    pValue: outputs.p_value?.data[0] ?? null,
  };
}

async function checkSeal(bytes) {
  if (!globalThis.crypto?.subtle) {
    throw new Error("cannot be checked here: serve the page over https, or open it on localhost.");
  }
  const end = bytes.subarray(-LENGTH);
  if (bytes.length <= LENGTH || START.some((byte, i) => end[i] !== byte)) {
    throw new Error(
      "not a file written by export, or cut off: it does not end with a seal. Export it again, or " +
        "copy it again.",
    );
  }
  const digest = await crypto.subtle.digest("SHA-256", bytes.subarray(0, -LENGTH));
  const hex = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0"));
  if (hex.join("") !== new TextDecoder().decode(end.subarray(START.length))) {
    throw new Error(
      "altered or damaged since it was exported: its SHA-256 is wrong. Export it again.",
    );
  }
}

/** Metadata of a model: field 14 of its protocol buffer, each entry with a key (1) and a value (2). */
function entriesOf(bytes) {
  const text = new TextDecoder();
  const entries = [...fields(bytes)].filter(([number]) => number === 14);
  return new Map(
    entries.map(([, entry]) => {
      const parts = new Map(fields(entry));
      return [text.decode(parts.get(1)), text.decode(parts.get(2))];
    }),
  );
}

/** [number, bytes] of the fields of a protocol buffer that have a length. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, unit = 1; ; unit *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * unit;
      if (!(byte & 128)) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const [number, kind] = [Math.floor(key / 8), key % 8];
    if (kind === 0) varint();
    else if (kind === 2) {
      const length = varint();
      yield [number, bytes.subarray(at, at + length)];
      at += length;
    } else at += kind === 1 ? 8 : 4;
  }
}
