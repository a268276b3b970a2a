// Tables that sort and filter; long ones show their first rows, because browsers lay out all.
const SHOWN = 300;

// columns: {title, key(row) -> sortable, cell(row) -> content, num, tight}
function table({ rows, columns, text, filters = [], open = null, empty = "Nothing here.", hint = "Filter" }) {
  let order = null, down = false, shown = SHOWN;
  const seek = h("input", { type: "search", placeholder: hint, "aria-label": hint });
  const picks = filters.map((f) => h("select", { "aria-label": f.title }, h("option", { value: "" }, f.title), ...f.options.map((o) => h("option", { value: o }, o))));
  const told = h("span", { class: "badge" });
  const body = h("tbody"), more = h("button", { class: "more", type: "button", onclick: () => { shown += SHOWN * 4; show(); } });
  const heads = columns.map((column, k) => h("th", { class: column.num ? "num" : "", scope: "col" }, h("button", { type: "button", onclick: () => {
    down = order === k && !down;
    order = k;
    show();
  } }, column.title)));
  function show() {
    const asked = seek.value.toLowerCase();
    let found = rows.filter((row) => (!asked || text(row).toLowerCase().includes(asked)) && filters.every((f, k) => !picks[k].value || f.of(row) === picks[k].value));
    if (order !== null) {
      const key = columns[order].key, sign = down ? -1 : 1;
      const empty = (v) => v === null || v === undefined || v === "";
      found = [...found].sort((a, b) => {
        const x = key(a), y = key(b);
        if (empty(x) || empty(y)) return empty(x) - empty(y);
        return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
      });
    }
    heads.forEach((head, k) => head.setAttribute("aria-sort", order !== k ? "none" : down ? "descending" : "ascending"));
    heads.forEach((head, k) => { head.firstChild.textContent = columns[k].title + (order !== k ? "" : down ? " ↓" : " ↑"); });
    body.replaceChildren(...found.slice(0, shown).map((row) => {
      const go = open && open(row);
      const line = h("tr", go ? { class: "go", tabindex: "0", onclick: (e) => { if (!e.target.closest("button")) go(); }, onkeydown: (e) => { if (e.key === "Enter" && e.target === line) go(); } } : {},
        ...columns.map((column) => h("td", { class: column.num ? "num" : column.tight ? "tight" : "" }, column.cell(row))));
      return line;
    }));
    if (!found.length) body.append(h("tr", null, h("td", { colspan: columns.length, class: "empty" }, rows.length ? "Nothing matches." : empty)));
    told.textContent = found.length === rows.length ? count(rows.length) : `${count(found.length)} of ${count(rows.length)}`;
    more.hidden = found.length <= shown;
    more.textContent = `Show more (${count(found.length - shown)} left)`;
  }
  seek.addEventListener("input", () => { shown = SHOWN; show(); });
  for (const pick of picks) pick.addEventListener("change", () => { shown = SHOWN; show(); });
  show();
  return [h("div", { class: "toolbar bar-row" }, seek, ...picks, told), h("div", { class: "wrap" }, h("table", null, h("thead", null, h("tr", null, ...heads)), body)), more];
}

const sub = (text) => (text ? h("span", { class: "sub" }, text) : null);

function findingsTable(goNode) {
  return table({
    rows: DATA.findings,
    text: (f) => [f.rule, f.severity, f.what, f.why, f.fix, ...f.nodes, ...f.tensors].join(" "),
    hint: "Filter findings",
    empty: "No findings: nothing in this file is refused or misread.",
    filters: [
      { title: "Any severity", options: ["error", "warning", "note"], of: (f) => f.severity },
      { title: "Any rule", options: [...new Set(DATA.findings.map((f) => f.rule))].sort(), of: (f) => f.rule },
    ],
    columns: [
      { title: "Severity", key: (f) => GRAVITY[f.severity], cell: (f) => badge(f.severity, f.severity), tight: true },
      { title: "Rule", key: (f) => f.rule, cell: (f) => f.rule, tight: true },
      { title: "Where", key: (f) => [...f.nodes, ...f.tensors].join(" "), cell: (f) => h("span", { class: "mono" }, [...f.nodes, ...f.tensors].join(", ")) },
      { title: "What happens", key: (f) => f.what, cell: (f) => [f.what, sub(f.why)] },
      { title: "Way out", key: (f) => f.fix, cell: (f) => f.fix },
    ],
    open: (f) => (f.at.length ? () => goNode(f.at[0]) : null),
  });
}

function boxTable(name, goRow) {
  const rows = VIEWS[name].rows.map((row, i) => ({ row, i })).filter(({ row }) => row.k !== "input" && row.k !== "output");
  const list = (uses) => (uses || []).map((use) => S[use[0]]).join(", ");
  const run = ({ row }) => (row.s ? `stand-alone ${row.s}` : row.e ? "nothing runs" : row.k);
  const precision = ({ row }) => (row.a === row.b ? PRECISION[row.a] : `${PRECISION[row.a]} → ${PRECISION[row.b]}`);
  return table({
    rows,
    text: (r) => [S[r.row.t], S[r.row.m], run(r), list(r.row.i), list(r.row.o), S[r.row.r] || "", ...(r.row.n || []).map((n) => S[DATA.nodes[n][0]])].join(" "),
    hint: "Filter by name, operator, tensor",
    filters: [
      { title: "Any precision", options: [...new Set(rows.map(precision))].sort(), of: precision },
      { title: "Any kind", options: [...new Set(rows.map(run))].sort(), of: run },
    ],
    columns: [
      { title: "#", key: (r) => r.i, cell: (r) => String(r.i), num: true },
      { title: name === "layers" ? "Layer" : "Node", key: (r) => S[r.row.t], cell: (r) => [h("b", null, S[r.row.t]), h("span", { class: "sub mono" }, S[r.row.m])] },
      { title: "Kind", key: run, cell: (r) => (r.row.s ? badge(run(r), "alone") : run(r)), tight: true },
      { title: "Precision", key: precision, cell: ({ row }) => (row.a === row.b ? precisionBadge(row.a) : [precisionBadge(row.a), " → ", precisionBadge(row.b)]), tight: true },
      ...(name === "layers" ? [
        { title: "Nodes", key: (r) => (r.row.n || []).length, cell: (r) => String((r.row.n || []).length), num: true },
        { title: "Est. bytes", key: (r) => r.row.z || 0, cell: (r) => bytes(r.row.z), num: true },
        { title: "Reason", key: (r) => S[r.row.r] || "", cell: (r) => S[r.row.r] || "" },
      ] : [
        { title: "Why", key: (r) => DATA.nodes[r.row.n[0]][4].map((n) => S[n]).join(" "), cell: (r) => DATA.nodes[r.row.n[0]][4].map((n) => h("span", { class: "sub" }, S[n])) },
      ]),
    ],
    open: (r) => () => goRow(r.i),
  });
}

function foldedTable() {
  const rows = DATA.nodes.map((node, i) => ({ node, i })).filter(({ node }) => node[5]);
  if (!rows.length) return [];
  const why = ({ node }) => [, "constant: computed while the engine is built", "shape arithmetic, or nothing reads it", "absorbed: the tensor stays int8 from layer to layer"][node[5]];
  return [h("h3", null, "ONNX nodes in no layer"), ...table({
    rows, text: (r) => S[r.node[0]] + S[r.node[1]], hint: "Filter nodes",
    columns: [
      { title: "Operator", key: (r) => S[r.node[1]], cell: (r) => S[r.node[1]], tight: true },
      { title: "Node", key: (r) => S[r.node[0]], cell: (r) => h("span", { class: "mono" }, S[r.node[0]]) },
      { title: "Why", key: why, cell: why },
    ],
  })];
}

function groupsTable(goNode) {
  const chip = (name, q) => {
    const at = q === undefined ? undefined : DATA.quantizers[q].n[0];
    return at === undefined ? h("span", { class: "badge mono" }, S[name]) : h("button", { class: "link mono", type: "button", onclick: () => goNode(at) }, S[name]);
  };
  return table({
    rows: DATA.groups,
    text: (g) => [...g.t, ...g.r].map((k) => S[k]).join(" "),
    hint: "Filter tensors",
    empty: DATA.grouped === "plan" ? "Every quantizer has a scale of its own." : "No two activations have the same scale.",
    columns: [
      { title: "Tensors", key: (g) => g.t.length, cell: (g) => String(g.t.length), num: true },
      { title: "Scale", key: (g) => g.s, cell: (g) => number(g.s), num: true },
      { title: "Members", key: (g) => S[g.t[0]], cell: (g) => h("div", { class: "chips" }, ...some(g.t, (name) => chip(name, g.q.find((q) => DATA.quantizers[q].t === name)), 40)) },
      { title: "Why", key: (g) => g.r.map((k) => S[k]).join(" "), cell: (g) => (g.r.length ? g.r.map((k) => h("span", { class: "sub" }, S[k])) : sub("equal scales in the file")) },
    ],
  });
}
