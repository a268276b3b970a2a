"use strict";
// Data, elements and formats that all parts of the page share. Text enters the page as text only.
window.addEventListener("error", (event) => {
  document.documentElement.dataset.error = event.message;
});
const DATA = JSON.parse(document.getElementById("data").textContent);
const S = DATA.strings;
const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [key, value] of Object.entries(props || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}
const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

const PRECISION = ["float", "int8"];
const count = (n) => n.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
function bytes(n) {
  if (!n) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let k = 0;
  while (n >= 1000 && k < 4) { n /= 1000; k += 1; }
  return `${k ? n.toPrecision(n >= 100 ? 4 : 3) : n} ${units[k]}`;
}
function number(x) {
  if (x === null || x === undefined) return "";
  const size = Math.abs(x);
  return size && (size < 1e-3 || size >= 1e5) ? x.toExponential(3) : String(Number(x.toPrecision(5)));
}
// The end of a path tells more than its start.
function tail(text, room) {
  return text.length <= room ? text : `…${text.slice(text.length - room + 1)}`;
}

const TYPES = new Map(DATA.types.map(([name, dtype, shape]) => [name, { dtype: S[dtype], shape: S[shape] }]));
const FLOATS = new Set(DATA.floats);
const QUANTIZER_OF_CODES = new Map(DATA.quantizers.map((q, i) => [q.c, i]));
const QUANTIZERS_OF_NODE = new Map();
DATA.quantizers.forEach((q, i) => {
  for (const node of q.n) {
    if (!QUANTIZERS_OF_NODE.has(node)) QUANTIZERS_OF_NODE.set(node, []);
    QUANTIZERS_OF_NODE.get(node).push(i);
  }
});
const FINDINGS_OF_NODE = new Map();
DATA.findings.forEach((finding, i) => {
  for (const node of finding.at) {
    if (!FINDINGS_OF_NODE.has(node)) FINDINGS_OF_NODE.set(node, []);
    FINDINGS_OF_NODE.get(node).push(i);
  }
});
const GRAVITY = { error: 0, warning: 1, note: 2 };

// A view: its boxes (those drawn), rows (all of them), and where nodes and tensors are found.
function openView(raw) {
  const boxes = raw.boxes || raw.rows;
  const view = { ...raw, boxes, ofNode: new Map(), writer: new Map(), readers: new Map(), boxOfRow: null };
  if (raw.boxes) {
    view.boxOfRow = new Array(raw.rows.length);
    boxes.forEach((box, i) => { for (let k = box.parts[0]; k <= box.parts[1]; k += 1) view.boxOfRow[k] = i; });
  }
  raw.rows.forEach((row, i) => {
    const at = view.boxOfRow ? view.boxOfRow[i] : i;
    // A DQ of several readers is in the boxes of all; the product is where one wants to go.
    for (const node of row.n || []) if (!view.ofNode.has(node)) view.ofNode.set(node, at);
    for (const use of row.o || []) if (!view.writer.has(use[0])) view.writer.set(use[0], at);
    for (const use of row.i || []) if (!view.readers.has(use[0])) view.readers.set(use[0], at);
  });
  // A pair between two int8 layers is in neither: it goes to the box that reads what it writes.
  DATA.nodes.forEach(([, , reads, writes], node) => {
    if (view.ofNode.has(node)) return;
    for (const [tensors, place] of [[writes, view.readers], [writes, view.writer], [reads, view.readers], [reads, view.writer]]) {
      const name = tensors.find((tensor) => place.has(tensor));
      if (name !== undefined) { view.ofNode.set(node, place.get(name)); return; }
    }
  });
  const found = boxes.map((box) => new Set((box.n || []).flatMap((node) => FINDINGS_OF_NODE.get(node) || [])));
  for (const [node, list] of FINDINGS_OF_NODE) for (const i of list) found[view.ofNode.get(node)]?.add(i);
  view.findings = found.map((set) => [...set].sort((a, b) => a - b));
  return view;
}
const VIEWS = Object.fromEntries(Object.entries(DATA.views).map(([name, raw]) => [name, openView(raw)]));
const VIEW_NAMES = { layers: "Engine layers", nodes: "ONNX nodes" };

// What is shown lives in the address, so that a place in the report can be linked to.
const STATE = { tab: "graph", view: Object.keys(VIEWS)[0], box: null, find: null, theme: null };
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(STATE)) if (given.has(key)) STATE[key] = given.get(key);
  if (!VIEWS[STATE.view]) STATE.view = Object.keys(VIEWS)[0];
  const box = Number.parseInt(STATE.box, 10);
  STATE.box = box >= 0 && box < VIEWS[STATE.view].boxes.length ? box : null;
}
function writeAddress() {
  const kept = Object.entries(STATE).filter(([, value]) => value !== null).map(([key, value]) => [key, String(value)]);
  try { history.replaceState(null, "", `#${new URLSearchParams(kept)}`); } catch { /* about:srcdoc has no history */ }
}
readAddress();

function showTheme() {
  const dark = STATE.theme ? STATE.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
showTheme();
function ink(name) { return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(); }
