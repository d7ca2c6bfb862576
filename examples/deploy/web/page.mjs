/* What the page shows; the work is done in worker.mjs. */

const VERDICTS = ["anomalous", "normal", "undecided", "unreadable"];
const byId = (id) => document.getElementById(id);

const entries = new Map(); // by id: { file, element, score }
let worker = null; // of the detector that was chosen last
let nextId = 0;

// -- files that come in ---------------------------------------------------------------------------

byId("detector").addEventListener("change", ({ target }) => take(target));
byId("images").addEventListener("change", ({ target }) => take(target));
byId("clear").addEventListener("click", () => {
  if (worker) openDetector(worker.file); // whatever it still has to do
  entries.clear();
  byId("gallery").replaceChildren();
  summarize();
});
byId("opacity").addEventListener("input", ({ target }) => {
  byId("gallery").style.setProperty("--heat", target.value);
});
byId("order").addEventListener("change", arrange);

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  takeFiles([...event.dataTransfer.files]);
});

function take(input) {
  takeFiles([...input.files]);
  input.value = ""; // the same file again is a change
}

function takeFiles(files) {
  const isDetector = ({ name }) => name.toLowerCase().endsWith(".onnx");
  const detector = files.find(isDetector);
  if (detector) openDetector(detector);
  files.filter((file) => !isDetector(file)).forEach(addImage);
  summarize();
}

/** Begin anew with a detector: what was shown is said by another one. */
function openDetector(file) {
  worker?.terminate();
  worker = new Worker("worker.mjs", { type: "module" });
  worker.file = file;
  worker.onmessage = ({ data }) => HEARD[data.kind](data);
  worker.onerror = (event) => HEARD.refused({ reason: event.message ?? "the page is not whole." });
  byId("detector-problem").hidden = byId("facts").hidden = true;
  byId("detector-state").textContent = `Opening ${file.name} …`;
  worker.postMessage({ kind: "detector", file });
  for (const [id, entry] of entries) {
    reset(entry);
    worker.postMessage({ kind: "image", id, file: entry.file });
  }
}

function addImage(file) {
  const element = byId("entry").content.firstElementChild.cloneNode(true);
  const entry = { file, element };
  const frame = element.querySelector(".frame");
  frame.addEventListener("click", () => {
    frame.setAttribute("aria-pressed", frame.getAttribute("aria-pressed") !== "true");
  });
  frame.setAttribute("aria-label", `Heatmap of ${file.name}`);
  element.querySelector(".name").textContent = element.querySelector(".name").title = file.name;
  byId("gallery").append(element);
  entries.set(nextId, entry);
  worker?.postMessage({ kind: "image", id: nextId, file });
  nextId += 1;
}

// -- what the worker says -------------------------------------------------------------------------

const HEARD = {
  detector({ card, nThreads }) {
    byId("detector-state").textContent = worker.file.name;
    const rate = card.false_alarm_rate;
    fill(byId("facts"), [
      ["Method", card.method],
      ["Learned from", card.n_images === null ? null : `${card.n_images} images`],
      ["Looks at", card.image_size.join(" × ") + " pixels"],
      ["Threshold", card.offset === null ? "none" : shortened(-card.offset)],
      ["False alarms", rate === null ? null : `${shortened(100 * rate)} % of good parts asked for`],
      ["Promise", card.promise || null],
      ["Runs on", nThreads === 1 ? "1 thread" : `${nThreads} threads`],
    ]);
    byId("facts").hidden = false;
  },

  refused({ reason }) {
    byId("detector-problem").textContent = `${worker.file.name}: ${reason}`;
    byId("detector-problem").hidden = false;
    byId("detector-state").textContent = "None yet";
    worker.terminate();
    worker = null;
  },

  image({ id, verdict, severity, score, pValue, height, width, milliseconds, picture, heat }) {
    const entry = settled(id, verdict);
    const frame = entry.element.querySelector(".frame");
    frame.replaceChildren(drawn(picture, "picture"), drawn(heat, "heat"));
    frame.disabled = false;
    entry.score = score;
    fill(entry.element.querySelector(".numbers"), [
      ["Severity", severity === null ? null : severity.toFixed(2), severity],
      ["Score", shortened(score), score],
      ["P-value", pValue === null ? null : pValue.toFixed(4), pValue],
      ["Size", `${width} × ${height}`],
      ["Time", `${Math.round(milliseconds)} ms`, milliseconds],
    ]);
    arrange();
    summarize();
  },

  unreadable({ id, reason }) {
    const entry = settled(id, "unreadable");
    const text = document.createElement("span");
    text.textContent = reason;
    entry.element.querySelector(".frame").replaceChildren(text);
    summarize();
  },
};

function settled(id, verdict) {
  const entry = entries.get(id);
  entry.element.dataset.verdict = verdict;
  entry.element.querySelector(".chip").textContent = verdict;
  return entry;
}

function reset({ element }) {
  element.dataset.verdict = element.querySelector(".chip").textContent = "waiting";
  element.querySelector(".frame").replaceChildren();
  element.querySelector(".frame").disabled = true;
  element.querySelector(".numbers").replaceChildren();
}

// -- how it is shown ------------------------------------------------------------------------------

function drawn(bitmap, name) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height, canvas.className] = [bitmap.width, bitmap.height, name];
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  return canvas;
}

/** Rows of a list of terms: [name, text or null, number]. */
function fill(list, rows) {
  const known = rows.filter(([, text]) => text !== null);
  list.replaceChildren(
    ...known.flatMap(([name, text, number]) => {
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      value.textContent = text;
      if (number !== undefined) value.dataset.value = number;
      return [term, value];
    }),
  );
}

function arrange() {
  const each = [...entries.values()];
  if (byId("order").value === "worst") {
    each.sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  }
  const wanted = each.map(({ element }) => element);
  const isRight = wanted.every((element, i) => byId("gallery").children[i] === element);
  if (!isRight) byId("gallery").append(...wanted);
}

function summarize() {
  const verdicts = [...entries.values()].map(({ element }) => element.dataset.verdict);
  const count = (verdict) => verdicts.filter((each) => each === verdict).length;
  const nWaiting = count("waiting");
  const words = [`${entries.size} image${entries.size === 1 ? "" : "s"}`];
  if (nWaiting) words.push(worker ? `${nWaiting} to go` : "waiting for a detector");
  byId("images-state").textContent = entries.size ? words.join(", ") : "None yet";
  fill(byId("counts"), VERDICTS.map((name) => [name, count(name) ? String(count(name)) : null]));
  byId("counts").hidden = nWaiting === entries.size;
  byId("results").hidden = entries.size === 0;
}

function shortened(number) {
  return String(Number(number.toPrecision(4)));
}
