// What is known about one box: reason, findings, tensors, scales, ONNX nodes with the plan's words.
const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);
const precisionBadge = (bit) => badge(PRECISION[bit], PRECISION[bit]);

function tensorItem(view, use, toWriter, go) {
  const [name, bit, size] = use;
  const type = TYPES.get(name) || {};
  const at = (toWriter ? view.writer : view.readers).get(name);
  const quantizer = QUANTIZER_OF_CODES.get(name);
  const scale = quantizer === undefined ? null : DATA.quantizers[quantizer].s;
  const facts = [type.dtype, type.shape, bytes(size), scale === null ? "" : `scale ${number(scale)}`].filter(Boolean).join(" · ");
  return h("li", null,
    h("div", { class: "row" }, precisionBadge(bit), at === undefined ? h("span", null, S[name]) : h("button", { class: "link", type: "button", onclick: () => go(at) }, S[name])),
    h("div", { class: "sub" }, facts, FLOATS.has(name) ? (facts ? " · " : "") + "float between int8 layers" : ""));
}

function quantizerItem(i) {
  const q = DATA.quantizers[i];
  return h("li", null, S[q.t],
    h("div", { class: "sub" }, [q.w ? "weight" : "activation", q.y, q.ch ? `${count(q.ch.count)} scales, largest ${number(q.s)}` : q.s === null ? "no scale yet" : `scale ${number(q.s)}`, q.z ? `zero point ${q.z}` : "", q.a === null ? "" : `amax ${number(q.a)}`].filter(Boolean).join(" · ")),
    q.a === null ? null : plotOf(q, 330), ...q.r.map((remark) => h("span", { class: "why" }, S[remark])));
}

function nodeItem(i) {
  const [name, op, , , notes] = DATA.nodes[i];
  return h("li", null, h("b", null, S[op]), " ", h("span", { class: "sub mono" }, S[name]),
    ...notes.map((note) => h("span", { class: "why" }, S[note])));
}

function findingItem(i) {
  const f = DATA.findings[i];
  return h("li", null, badge(f.severity, f.severity), " ", h("b", null, f.rule), h("div", null, f.what),
    f.why && h("div", { class: "sub" }, f.why), f.fix && h("span", { class: "why" }, f.fix));
}

function part(title, items, kind = "ul") {
  return items.length ? [h("h3", null, title), h(kind, null, ...items)] : [];
}

// At most `most` items, the rest on request: a stretch of a large graph has thousands.
function some(list, make, most = 60) {
  const items = list.slice(0, most).map(make);
  if (list.length > most) {
    const more = h("li", null, h("button", { class: "link", type: "button", onclick: () => more.replaceWith(...list.slice(most).map(make)) }, `${plural(list.length - most, "more")}`));
    items.push(more);
  }
  return items;
}

function panelOf(view, i, go, close) {
  const box = view.boxes[i], quantizers = new Set();
  for (const node of box.n || []) for (const q of QUANTIZERS_OF_NODE.get(node) || []) quantizers.add(q);
  const kinds = [];
  if (box.k !== "stretch" && box.k !== "input" && box.k !== "output") {
    kinds.push(precisionBadge(box.a));
    if (box.a !== box.b) kinds.push("→", precisionBadge(box.b));
  }
  kinds.push(badge(box.k));
  if (box.s) kinds.push(badge(`stand-alone ${box.s}`, "alone"));
  if (box.e) kinds.push(badge("nothing runs"));
  if (box.z) kinds.push(badge(`est. ${bytes(box.z)} moved`));
  if (box.w) kinds.push(badge(`weights ${bytes(box.w)}`));
  const rows = box.parts ? view.rows.slice(box.parts[0], box.parts[1] + 1) : [];
  return h("div", null,
    h("button", { class: "close", type: "button", title: "Close", onclick: close }, "×"),
    h("h2", null, S[box.t]),
    h("p", { class: "path mono" }, S[box.m]),
    h("div", { class: "badges" }, ...kinds),
    box.r !== undefined && h("p", { class: `callout ${box.b && !box.s ? "" : box.k === "stretch" || (box.s && atInput(box)) ? "" : "warn"}` }, S[box.r]),
    part("Findings", view.findings[i].map(findingItem)),
    part("Stretch", some(rows, (row) => h("li", null, precisionBadge(row.a), " ", h("b", null, S[row.t]), h("div", { class: "sub mono" }, S[row.m]), row.r !== undefined && h("div", { class: "sub" }, S[row.r])))),
    part("Reads", some(box.i || [], (use) => tensorItem(view, use, true, go))),
    box.d !== undefined && h("p", { class: "sub" }, "Residual operand: ", S[box.d]),
    part("Writes", some(box.o || [], (use) => tensorItem(view, use, false, go))),
    box.parts ? [] : part("Scales and ranges", some([...quantizers], quantizerItem, 12)),
    box.parts ? [] : part(`ONNX nodes (${(box.n || []).length})`, some(box.n || [], nodeItem)));
}
