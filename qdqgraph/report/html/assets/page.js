// Header, tabs, search: the parts put together.
const INPUTS = new Set(Object.values(VIEWS)[0].rows.filter((row) => row.k === "input").map((row) => row.o[0][0]));
const atInput = (box) => box.s === "quantize" && INPUTS.has(box.i[0][0]);

function tiles() {
  const { before, after } = DATA, made = [];
  const tile = (what, now, was, mood = "", extra = null) => made.push(h("div", { class: `tile ${mood}` }, h("span", { class: "what" }, what), h("span", { class: "now" }, now), " ", h("span", { class: "was" }, was), extra));
  const was = (key, show) => (before && before[key] !== null && before[key] !== undefined ? `was ${show(before)}` : "");
  const share = (c) => `${count(c.int8_products)} / ${count(c.products)}`;
  tile("int8 products", share(after), was("int8_products", share), after.int8_products === after.products && after.products ? "good" : "bad");
  tile("ONNX nodes", count(after.nodes), was("nodes", (c) => count(c.nodes)));
  tile("Q / DQ nodes", count(after.quantizers), was("quantizers", (c) => count(c.quantizers)));
  if (after.bytes) tile("File", bytes(after.bytes), was("bytes", (c) => bytes(c.bytes)));
  if (VIEWS.layers) {
    const layers = VIEWS.layers.rows.filter((row) => row.k !== "input" && row.k !== "output");
    const inside = layers.filter((row) => row.s && !atInput(row));
    tile("Engine layers", count(layers.length), "predicted");
    tile("Stand-alone Q/DQ", count(inside.length), "beyond the input", inside.length ? "bad" : "good");
    tile("Float between int8", count(DATA.floats.length), "tensors", DATA.floats.length ? "bad" : "good");
    const moved = [0, 0];
    for (const row of layers) {
      if (row.e) continue;
      for (const use of [...(row.i || []), ...(row.o || [])]) moved[use[1]] += use[2];
      moved[row.a] += row.w || 0;
    }
    const all = moved[0] + moved[1];
    if (all) {
      const part = (k) => { const i = h("i", { class: PRECISION[k] }); i.style.width = `${(100 * moved[k]) / all}%`; return i; };
      tile("Est. bytes moved", bytes(all), `${Math.round((100 * moved[1]) / all)} % in int8`, "", h("span", { class: "bar" }, part(1), part(0)));
    }
  }
  document.getElementById("tiles").append(...made);
}

const hasViews = (...names) => names.every((name) => VIEWS[name]);

function legend() {
  const item = (kind, text) => h("span", null, h("i", { class: kind }), text);
  return h("div", { class: "legend" },
    item("p8", "int8 product"), item("pf", "float product"), item("o8", "other, int8"), item("of", "other, float"),
    item("mix", "reads int8, writes float"), item("al", VIEWS.layers ? "stand-alone Q/DQ, requantize" : "Q or DQ"), VIEWS.layers && item("el", "nothing runs"),
    item("w8", "int8 tensor"), item("wf", "float tensor"), hasViews("layers", "nodes") && item("wi", "inside one layer"));
}

function graphSection() {
  const sheet = h("div", { class: "sheet" }), map = h("div", { class: "map", title: "The whole graph; click to go there" }), aside = h("aside", { hidden: "" });
  const graph = new GraphView(sheet, map, (i) => select(i));
  const notice = h("p", { class: "notice", hidden: "" });
  const buttons = Object.keys(VIEWS).map((name) => h("button", { type: "button", onclick: () => { select(null); openIn(name); } }, VIEW_NAMES[name]));
  const seek = h("input", { type: "search", placeholder: "Find node, tensor or operator  ( / )", "aria-label": "Find" });
  const hits = h("div", { class: "hits", hidden: "" });
  let found = [], on = -1;

  function openIn(name) {
    STATE.view = name;
    graph.selected = null;
    graph.open(VIEWS[name]);
    notice.hidden = !VIEWS[name].notice;
    notice.textContent = VIEWS[name].notice;
    Object.keys(VIEWS).forEach((key, k) => buttons[k].setAttribute("aria-pressed", String(key === name)));
    listProblems();
    search();
    writeAddress();
  }
  function select(i, centre = false) {
    graph.selected = i;
    STATE.box = i;
    aside.hidden = i === null;
    if (i !== null) {
      aside.replaceChildren(panelOf(VIEWS[STATE.view], i, (at) => select(at, true), () => select(null)));
      aside.scrollTop = 0;
    }
    graph.resize();
    if (centre && i !== null) graph.centre(i);
    graph.draw();
    writeAddress();
  }
  function search() {
    const asked = seek.value.trim().toLowerCase();
    found = [];
    on = -1;
    const view = VIEWS[STATE.view], seen = new Set();
    if (asked) {
      view.rows.forEach((row, i) => {
        const texts = [S[row.t], S[row.m], ...(row.n || []).flatMap((n) => [S[DATA.nodes[n][0]], S[DATA.nodes[n][1]]]), ...[...(row.i || []), ...(row.o || [])].map((use) => S[use[0]])];
        const k = texts.findIndex((t) => t.toLowerCase().includes(asked));
        if (k < 0) return;
        const at = view.boxOfRow ? view.boxOfRow[i] : i;
        found.push({ at, title: S[row.t], text: texts[k], by: k < 2 + 2 * (row.n || []).length ? 0 : 1 });
        seen.add(at);
      });
    }
    found.sort((a, b) => a.by - b.by); // names first, then tensors
    graph.hits = seen;
    hits.hidden = !asked;
    hits.replaceChildren(h("p", null, found.length ? plural(found.length, "match").replace("matchs", "matches") : "Nothing found"),
      ...found.slice(0, 80).map((hit) => h("button", { type: "button", onclick: () => { hits.hidden = true; select(hit.at, true); } }, h("b", null, hit.title), h("span", { class: "mono" }, tail(hit.text, 120)))));
    graph.draw();
  }
  seek.addEventListener("input", () => { STATE.find = seek.value || null; search(); writeAddress(); });
  seek.value = STATE.find || "";
  seek.addEventListener("focus", () => { hits.hidden = !seek.value.trim(); });
  seek.addEventListener("keydown", (e) => {
    if (e.key === "Escape") { seek.value = ""; STATE.find = null; search(); seek.blur(); }
    const step = { Enter: e.shiftKey ? -1 : 1, ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (!step || !found.length) return;
    e.preventDefault();
    on = (on + step + found.length) % found.length;
    [...hits.querySelectorAll("button")].forEach((b, k) => b.classList.toggle("on", k === on));
    select(found[on].at, true);
  });
  document.addEventListener("pointerdown", (e) => { if (!e.target.closest(".seek")) hits.hidden = true; });
  document.addEventListener("keydown", (e) => { if (e.key === "/" && !e.target.closest("input, select")) { e.preventDefault(); showTab("graph"); seek.focus(); } });

  let bad = [];
  const problems = h("button", { type: "button", title: "Next float product, stand-alone Q/DQ beyond the input, or finding", onclick: () => select(bad.find((i) => STATE.box === null || i > STATE.box) ?? bad[0], true) });
  function listProblems() {
    const view = VIEWS[STATE.view];
    bad = view.boxes.map((_, i) => i).filter((i) => {
      const box = view.boxes[i];
      return (box.p && !box.a) || (box.s && !atInput(box)) || (box.h && box.h[1] + box.h[2]) || view.findings[i].length;
    });
    problems.disabled = !bad.length;
    problems.textContent = bad.length ? `Next problem (${count(bad.length)})` : "No problems";
  }
  const zooms = h("span", { class: "pair" }, h("button", { type: "button", title: "Smaller", onclick: () => graph.zoom(0.8) }, "−"), h("button", { type: "button", title: "Larger", onclick: () => graph.zoom(1.25) }, "+"));
  const node = h("section", { class: "graph" },
    h("div", { class: "toolbar" }, buttons.length > 1 && h("span", { class: "pair" }, ...buttons), h("span", { class: "seek" }, seek, hits), problems, h("span", { class: "gap" }), zooms,
      h("button", { type: "button", onclick: () => graph.fitAll() }, "Whole graph"), h("button", { type: "button", onclick: () => graph.fit() }, "Top")),
    legend(), notice, h("div", { class: "stage" }, sheet, map, aside));
  return { node, graph, openIn, select };
}

const lead = (text) => h("p", { class: "lead" }, text);
const goNode = (node) => {
  const name = VIEWS[STATE.view].ofNode.has(node) ? STATE.view : Object.keys(VIEWS).find((key) => VIEWS[key].ofNode.has(node));
  if (!name) return;
  showTab("graph");
  if (name !== STATE.view) main.openIn(name);
  main.select(VIEWS[name].ofNode.get(node), true);
};
const goRow = (name) => (row) => {
  showTab("graph");
  if (name !== STATE.view) main.openIn(name);
  main.select(VIEWS[name].boxOfRow ? VIEWS[name].boxOfRow[row] : row, true);
};
const main = graphSection();
const table_view = VIEWS.layers ? "layers" : "nodes";
const worst = DATA.findings.length ? DATA.findings[0].severity : "";
const TABS = [
  ["graph", "Graph", null, () => main.node],
  ["findings", "Findings", DATA.findings.length, () => h("section", null, DATA.notices.length ? lead(`From the plan: ${DATA.notices.join("; ")}`) : null, ...findingsTable(goNode)), worst],
  ["layers", VIEWS.layers ? "Layers" : "Nodes", VIEWS[table_view].rows.length - VIEWS[table_view].rows.filter((r) => r.k === "input" || r.k === "output").length, () => h("section", null, ...boxTable(table_view, goRow(table_view)), ...(VIEWS.layers ? foldedTable() : []))],
  ["groups", "Scale groups", DATA.groups.length, () => h("section", null, lead(DATA.grouped === "plan" ? "Tensors that the plan gave one scale, and why." : "Activations of the file whose scales are equal. Without a plan there is no saying whether on purpose."), ...groupsTable(goNode))],
  ["ranges", "Ranges", DATA.quantizers.length, () => h("section", null, lead("What each quantizer can represent. Activations with calibration statistics show a histogram (log counts, zeros left out; the orange line is where codes end). Per-channel weights show amax along the channels, and the channels' spread."), ...rangesTable(goNode))],
];
const opened = new Map();
const holder = document.getElementById("main");
const heads = TABS.map(([name, title, n, , mood]) => h("button", { type: "button", role: "tab", id: `tab-${name}`, onclick: () => showTab(name) }, title, n === null ? null : h("span", { class: `count ${mood || ""}` }, count(n))));
document.getElementById("tabs").append(...heads);

function showTab(name) {
  const tab = TABS.find(([key]) => key === name) || TABS[0];
  if (!opened.has(tab[0])) { opened.set(tab[0], tab[3]()); holder.append(opened.get(tab[0])); }
  for (const [key, node] of opened) node.hidden = key !== tab[0];
  TABS.forEach(([key], k) => heads[k].setAttribute("aria-selected", String(key === tab[0])));
  STATE.tab = tab[0];
  main.graph.resize();
  writeAddress();
}
document.getElementById("theme").addEventListener("click", () => {
  STATE.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  showTheme();
  main.graph.colours();
  writeAddress();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showTheme(); main.graph.colours(); });

tiles();
const asked = { ...STATE };
showTab("graph");
main.openIn(asked.view);
if (asked.box !== null) main.select(asked.box, true);
if (asked.tab !== "graph") showTab(asked.tab);
document.documentElement.dataset.ready = String(Object.values(VIEWS).reduce((sum, view) => sum + view.boxes.length, 0));
