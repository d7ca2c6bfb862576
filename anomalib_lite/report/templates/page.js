"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const own = $("columns") && JSON.parse($("columns").textContent);  // of a page with a table of its own
  const KINDS = own ? own.kinds : ["anomalous", "normal", "undecided", "unreadable"];
  const PAGE = 100;

  // -- theme: as the system has it, until the button says otherwise --

  const theme = $("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const order = ["auto", "dark", "light"];
    const now = document.documentElement.dataset.theme || "auto";
    const next = order[(order.indexOf(now) + 1) % order.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    theme.lastElementChild.textContent = next;
  });

  // -- pictures --

  const pictures = $("pictures");
  if (pictures) {
    $("tools").hidden = false;
    const frames = [...pictures.querySelectorAll("button.frame")];
    for (const frame of frames) {
      frame.addEventListener("click", () => {
        frame.setAttribute("aria-pressed", String(frame.getAttribute("aria-pressed") !== "true"));
      });
    }
    $("heat").addEventListener("input", (event) => {
      pictures.style.setProperty("--heat", event.target.value / 100);
      for (const frame of frames) frame.setAttribute("aria-pressed", "true");
    });
    $("boxes").addEventListener("change", (event) => {
      pictures.classList.toggle("no-boxes", !event.target.checked);
    });
    $("large").addEventListener("change", (event) => {
      pictures.classList.toggle("large", event.target.checked);
    });
  }

  // -- the table: rows are made for the page that is looked at --

  const rows = JSON.parse($("rows").textContent);
  const table = $("images");
  const shown = new Set([...document.querySelectorAll(".picture")].map((each) => each.id));
  const number = (value) => (value === null ? "" : String(Number(value.toPrecision(4))).replace("-", "−"));
  const two = (value) => String(value).padStart(2, "0");
  const time = (seconds) => {
    if (!seconds) return "";
    const date = new Date(seconds * 1000);
    return Number.isNaN(date.getTime()) ? "" : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
      `${two(date.getHours())}:${two(date.getMinutes())}`;
  };
  for (const each of document.querySelectorAll("[data-seconds]")) {
    each.textContent = time(each.dataset.seconds);  // as the clock is here, not UTC
  }
  const has = (i) => rows.some((row) => row[i]);
  const ownColumn = (name, at) => {
    if (at === 0) return { name, at, isText: true };
    if (at === 1) return { name, at, text: (row) => KINDS[row[1]] };
    const key = at === own.change ? (row) => row[at] && Math.abs(row[at]) : undefined;
    return { name, at, text: (row) => number(row[at]), isAmount: true, key };
  };
  const columns = own ? own.columns.map(ownColumn) : [
    { name: "Name", at: 0, isText: true },
    { name: "Verdict", at: 1, text: (row) => KINDS[row[1]] },
    { name: "Severity", at: 2, text: (row) => number(row[2]), isAmount: true },
    { name: "Score", at: 3, text: (row) => number(row[3]), isAmount: true },
    { name: "p-value", at: 4, text: (row) => number(row[4]), isAmount: true },
    { name: "By", at: 10, title: "members of the ensemble that flagged it", text: (row) => row[10] || "", key: (row) => row[10] || null, isText: true },
    { name: "Box", at: 5, title: "left, top, right, bottom, in pixels", text: (row) => (row[5] ? row[5].join(", ") : ""), key: (row) => row[5] && row[5][0] },
    { name: "Area", at: 6, text: (row) => (row[6] ? String(row[6]) : ""), isAmount: true },
    { name: "Size", at: 7, text: (row) => (row[7] ? row[7].join(" × ") : ""), key: (row) => row[7] && row[7][0] * row[7][1] },
    { name: "Written", at: 8, text: (row) => time(row[8]) },
  ].filter((column) => column.at < 2 || has(column.at));
  if ("labels" in table.dataset) {
    columns.splice(2, 0, { name: "Label", at: 9, text: (row) => (row[9] === 1 ? "good" : "defective") });
  }
  for (const column of columns) {
    column.text = column.text || ((row) => row[column.at]);
    column.key = column.key || ((row) => row[column.at]);
  }
  const names = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const state = { column: null, sign: 1, text: "", kind: -1, page: 0, found: [] };

  const sorted = (indices) => {
    const keys = rows.map(state.column.key);
    const compare = state.column.isText ? names.compare : (a, b) => a - b;
    const isAbsent = (key) => key === null;
    return indices.sort((i, j) => {
      if (isAbsent(keys[i]) || isAbsent(keys[j])) return isAbsent(keys[i]) - isAbsent(keys[j]) || i - j;
      return state.sign * compare(keys[i], keys[j]) || i - j;
    });
  };

  const find = () => {
    const text = state.text.toLowerCase();
    const indices = [];
    rows.forEach((row, i) => {
      if ((state.kind < 0 || row[1] === state.kind) && row[0].toLowerCase().includes(text)) indices.push(i);
    });
    state.found = sorted(indices);
    state.page = 0;
    render();
  };

  const cell = (row, index, column) => {
    const element = document.createElement(column.at === 0 ? "th" : "td");
    let inside = element;
    if (column.at === 0) {
      element.scope = "row";
      if (shown.has(`picture-${index}`)) {
        inside = document.createElement("a");
        inside.href = `#picture-${index}`;
      }
    } else if (column.at === 1) {
      inside = document.createElement("span");
      inside.className = `chip ${KINDS[row[1]]}`;
    }
    inside.textContent = column.text(row);
    if (inside !== element) element.append(inside);
    if (column.isAmount) element.className = "amount";
    return element;
  };

  const render = () => {
    const n = state.found.length;
    const nPages = Math.max(1, Math.ceil(n / PAGE));
    const first = state.page * PAGE;
    const lines = state.found.slice(first, first + PAGE).map((i) => {
      const line = document.createElement("tr");
      line.append(...columns.map((column) => cell(rows[i], i, column)));
      return line;
    });
    table.tBodies[0].replaceChildren(...lines);
    $("found").textContent = n === rows.length ? `${n.toLocaleString("en")} images` : `${n.toLocaleString("en")} of ${rows.length.toLocaleString("en")} images`;
    $("pages").hidden = nPages === 1;
    $("page").textContent = `${first + 1} to ${Math.min(first + PAGE, n)} of ${n.toLocaleString("en")}`;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page === nPages - 1;
  };

  const turn = (step) => {
    state.page += step;
    render();
    table.scrollIntoView({ block: "start", behavior: "auto" });
  };

  const sortBy = (column, sign) => {
    if (state.column) state.column.head.removeAttribute("aria-sort");
    column.head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    state.column = column;
    state.sign = sign;
    find();
  };

  for (const column of columns) {
    const head = document.createElement("th");
    head.scope = "col";
    if (column.isAmount) head.className = "amount";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.name;
    if (column.title) button.title = column.title;
    button.addEventListener("click", () => {
      // the first click on an amount shows the largest, on anything else the first
      const first = column.isAmount && column.name !== "p-value" ? -1 : 1;
      sortBy(column, state.column === column ? -state.sign : first);
    });
    column.head = head;
    head.append(button);
    table.tHead.rows[0].append(head);
  }
  $("unscripted").hidden = true;
  $("filters").hidden = false;
  $("text").addEventListener("input", (event) => { state.text = event.target.value; find(); });
  $("verdict").addEventListener("change", (event) => { state.kind = KINDS.indexOf(event.target.value); find(); });
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  const amount = columns.find((column) => column.at === (own ? own.change : 3));
  sortBy(amount || columns[0], amount ? -1 : 1);
})();
