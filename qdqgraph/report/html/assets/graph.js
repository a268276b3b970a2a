// Moving about in the graph: pan, zoom, select, keys; the drawing is `Painter`'s.
class GraphView extends Painter {
  constructor(sheet, map, onSelect) {
    super();
    this.sheet = sheet;
    this.map = map;
    this.onSelect = onSelect;
    this.canvas = sheet.appendChild(h("canvas", { tabindex: "0", "aria-label": "Graph; arrow keys follow the wires" }));
    this.small = map.appendChild(h("canvas", { "aria-hidden": "true" }));
    this.scale = 1;
    this.hits = new Set();
    this.hover = null;
    this.waiting = false;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(sheet);
  }

  open(view) {
    this.view = view;
    this.hits = new Set();
    this.hover = null;
    const { boxes, x, rank } = view;
    if (!view.rows_at) {
      view.rows_at = [];
      boxes.forEach((_, i) => (view.rows_at[rank[i]] ||= []).push(i));
      view.into = boxes.map(() => []);
      view.from = boxes.map(() => []);
      view.wires.forEach((wire, w) => {
        view.from[wire[0]].push(w);
        for (const target of wire[3]) view.into[target].push(w);
      });
      view.last = view.wires.map((wire) => wire[3].reduce((row, target) => Math.max(row, view.rank[target]), 0));
      let right = 0;
      boxes.forEach((box, i) => { right = Math.max(right, x[i] + wide(box) / 2); });
      view.wires.forEach((wire) => { for (const lane of wire[4] || []) right = Math.max(right, lane); });
      view.width = right;
      view.height = view.rows_at.length * ROW - (ROW - BOX_H);
      this.ports(view);
    }
    this.colours();
    this.fit();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    for (const [canvas, parent] of [[this.canvas, this.sheet], [this.small, this.map]]) {
      canvas.width = Math.max(1, parent.clientWidth * ratio);
      canvas.height = Math.max(1, parent.clientHeight * ratio);
    }
    this.ratio = ratio;
    this.w = this.sheet.clientWidth;
    this.h = this.sheet.clientHeight;
    if (this.unseen && this.w) this.fit();
    this.draw();
  }

  // The whole graph if it stays readable; else its width, from the top.
  fit() {
    this.unseen = !this.w;
    if (this.unseen || !this.view) return;
    const across = this.w / (this.view.width + 2 * PAD), down = this.h / (this.view.height + 2 * PAD);
    const all = Math.min(across, down);
    this.scale = all >= 0.62 ? Math.min(all, 1.25) : Math.min(1, Math.max(across, 0.62));
    this.tx = (this.w - this.view.width * this.scale) / 2;
    this.ty = all >= 0.62 ? (this.h - this.view.height * this.scale) / 2 : PAD * this.scale;
    if (this.view.width * this.scale > this.w && this.view.boxes.length) {
      this.tx = this.w / 2 - this.view.x[this.view.rows_at[0][0]] * this.scale;
    }
    this.draw();
  }

  fitAll() {
    this.scale = Math.min(1.25, this.w / (this.view.width + 2 * PAD), this.h / (this.view.height + 2 * PAD));
    this.tx = (this.w - this.view.width * this.scale) / 2;
    this.ty = (this.h - this.view.height * this.scale) / 2;
    this.draw();
  }

  zoom(by, px = this.w / 2, py = this.h / 2) {
    const next = Math.min(3, Math.max(0.01, this.scale * by));
    this.tx = px - ((px - this.tx) * next) / this.scale;
    this.ty = py - ((py - this.ty) * next) / this.scale;
    this.scale = next;
    this.draw();
  }

  centre(i) {
    if (this.scale < 0.62) this.scale = 0.9;
    this.tx = this.w / 2 - this.view.x[i] * this.scale;
    this.ty = this.h / 2 - (this.view.rank[i] * ROW + BOX_H / 2) * this.scale;
    this.draw();
  }

  at(px, py) {
    const x = (px - this.tx) / this.scale, y = (py - this.ty) / this.scale;
    const row = Math.floor(y / ROW);
    if (y - row * ROW > BOX_H) return null;
    const found = (this.view.rows_at[row] || []).find((i) => Math.abs(x - this.view.x[i]) <= wide(this.view.boxes[i]) / 2);
    return found === undefined ? null : found;
  }

  listen() {
    const canvas = this.canvas, held = new Map();
    let moved = 0;
    const place = (e) => { const r = canvas.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
    canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); held.set(e.pointerId, place(e)); moved = 0; canvas.classList.add("drag"); });
    canvas.addEventListener("pointermove", (e) => {
      const now = place(e), before = held.get(e.pointerId);
      if (!before) {
        const over = this.at(...now);
        if (over !== this.hover) { this.hover = over; canvas.classList.toggle("over", over !== null); this.draw(); }
        return;
      }
      if (held.size === 2) {
        const other = [...held].find(([id]) => id !== e.pointerId)[1];
        const far = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.zoom(far(now) / far(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      this.tx += (now[0] - before[0]) / held.size;
      this.ty += (now[1] - before[1]) / held.size;
      moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      held.set(e.pointerId, now);
      this.draw();
    });
    const release = (e) => {
      if (held.delete(e.pointerId) && e.type === "pointerup" && moved < 5) this.onSelect(this.at(...place(e)));
      if (!held.size) canvas.classList.remove("drag");
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      const step = e.deltaMode === 1 ? 16 : 1;
      if (e.ctrlKey || e.metaKey) this.zoom(Math.exp(-e.deltaY * step * 0.01), ...place(e));
      else if (e.shiftKey || e.deltaX) { this.tx -= (e.deltaX || e.deltaY) * step; this.ty -= e.shiftKey ? 0 : e.deltaY * step; this.draw(); }
      else this.zoom(Math.exp(-e.deltaY * step * 0.0016), ...place(e));
    }, { passive: false });
    canvas.addEventListener("dblclick", (e) => this.zoom(1.6, ...place(e)));
    canvas.addEventListener("keydown", (e) => this.key(e));
    const jump = (e) => {
      if (!e.buttons) return;
      const r = this.small.getBoundingClientRect();
      const x = ((e.clientX - r.left) / r.width) * this.view.width, y = ((e.clientY - r.top) / r.height) * this.view.height;
      this.tx = this.view.width * this.scale <= this.w ? this.tx : this.w / 2 - x * this.scale;
      this.ty = this.h / 2 - y * this.scale;
      this.draw();
    };
    this.map.addEventListener("pointerdown", (e) => { this.map.setPointerCapture(e.pointerId); jump(e); });
    this.map.addEventListener("pointermove", jump);
  }

  key(e) {
    const { view } = this, from = this.selected;
    const step = { ArrowDown: () => view.from[from]?.flatMap((w) => view.wires[w][3])[0], ArrowUp: () => view.into[from]?.map((w) => view.wires[w][0])[0] };
    const side = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    let next;
    if (from !== null && step[e.key]) next = step[e.key]();
    else if (from !== null && side) {
      const row = [...view.rows_at[view.rank[from]]].sort((a, b) => view.x[a] - view.x[b]);
      next = row[row.indexOf(from) + side];
    } else if (e.key === "Escape") { this.onSelect(null); return; }
    else if (e.key === "+" || e.key === "-") { this.zoom(e.key === "+" ? 1.25 : 0.8); return; }
    else if (from === null && step[e.key]) next = view.rows_at[0]?.[0];
    if (next === undefined) return;
    e.preventDefault();
    this.onSelect(next);
    this.centre(next);
  }
}
