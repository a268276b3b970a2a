// Drawing on the canvas, for a view that `graph.js` moves about: wires, boxes, words, overview.
const ROW = 80, BOX_H = 46, BOX_W = 216, PILL_W = 120, PAD = 40;
const SHORT = { BatchNormalization: "BatchNorm", LayerNormalization: "LayerNorm", InstanceNormalization: "InstanceNorm", QuantizeLinear: "Quantize", DequantizeLinear: "Dequantize", GlobalAveragePool: "GlobalAvgPool", AveragePool: "AvgPool", ReduceMean: "Mean" };
const shortened = (label) => label.split(" + ").map((op) => SHORT[op] || op).join(" + ");
const wide = (box) => (box.k === "input" || box.k === "output" ? PILL_W : BOX_W);

class Painter {
  // Wires reach a box side by side, in the order in which they come, each as straight as it can.
  ports(view) {
    view.port = new Map();
    const beside = (list, come, place, i) => {
      if (list.length === 1) { view.port.set(place(list[0]), view.x[i]); return; }
      const room = wide(view.boxes[i]) - 32, left = view.x[i] - room / 2, gap = Math.min(18, room / Math.max(1, list.length - 1));
      const sorted = [...list].sort((a, b) => come(a) - come(b));
      const blocks = [];
      sorted.forEach((w, k) => {
        const aim = Math.min(left + room, Math.max(left, come(w)));
        // A wire from straight above keeps its place; others make room.
        let [mean, weight, members] = [aim - k * gap, Math.abs(come(w) - view.x[i]) < 3 ? 20 : 1, 1];
        while (blocks.length && blocks[blocks.length - 1][0] > mean) {
          const [before, heavy, more] = blocks.pop();
          mean = (mean * weight + before * heavy) / (weight + heavy);
          weight += heavy;
          members += more;
        }
        blocks.push([mean, weight, members]);
      });
      const spread = blocks.flatMap(([mean, , members]) => Array(members).fill(mean));
      const slack = room - (sorted.length - 1) * gap;
      sorted.forEach((w, k) => view.port.set(place(w), Math.min(left + slack, Math.max(left, spread[k])) + k * gap));
    };
    view.boxes.forEach((box, i) => {
      const come = (w) => {
        const [source, , , , lanes] = view.wires[w], k = view.rank[i] - view.rank[source] - 2;
        return k < 0 || !lanes ? view.x[source] : lanes[k];
      };
      beside(view.into[i], come, (w) => `${w}>${i}`, i);
      beside(view.from[i], (w) => view.wires[w][4]?.[0] ?? view.x[view.wires[w][3][0]], (w) => `<${w}`, i);
    });
  }

  colours() {
    this.c = {};
    for (const name of ["bg", "card", "ink", "muted", "line", "int8", "int8-soft", "int8-ink", "int8-text", "float", "float-soft", "float-ink", "float-text", "alone", "alone-soft", "alone-text", "idle", "idle-soft", "accent", "error", "warning", "note", "map"]) this.c[name] = ink(name);
    this.draw();
  }

  draw() {
    if (this.waiting || !this.view || !this.w) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); this.paintMap(); });
  }

  paint() {
    const { view, c } = this, g = this.canvas.getContext("2d");
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    g.fillStyle = c.bg;
    g.fillRect(0, 0, this.w, this.h);
    g.setTransform(this.ratio * this.scale, 0, 0, this.ratio * this.scale, this.ratio * this.tx, this.ratio * this.ty);
    const top = Math.floor(-this.ty / this.scale / ROW) - 1, bottom = Math.ceil((this.h - this.ty) / this.scale / ROW) + 1;
    const chosen = this.selected, near = new Set(chosen === null ? [] : [...view.into[chosen], ...view.from[chosen]]);
    for (let pass = 0; pass < (near.size ? 2 : 1); pass += 1) {
      for (const bit of [2, 0, 1]) {
        g.beginPath();
        view.wires.forEach((wire, w) => {
          if (wire[2] === bit && (near.size === 0 || near.has(w) === (pass === 1))) this.trace(g, view, wire, w, top, bottom, pass === 1 ? chosen : null);
        });
        g.strokeStyle = [c.float, c.int8, c.idle][bit];
        g.globalAlpha = near.size && !pass ? 0.16 : this.scale < 0.3 ? 0.6 : 0.85;
        g.lineWidth = (pass ? 2.6 : 1.5) / Math.min(1, Math.max(this.scale, 0.35));
        g.setLineDash(bit || this.scale < 0.3 ? [] : [6, 4]);
        g.stroke();
      }
    }
    g.setLineDash([]);
    const linked = new Set(chosen === null ? [] : [chosen, ...view.into[chosen].map((w) => view.wires[w][0]), ...view.from[chosen].flatMap((w) => view.wires[w][3])]);
    for (let r = Math.max(0, top); r <= Math.min(bottom, view.rows_at.length - 1); r += 1) {
      for (const i of view.rows_at[r] || []) {
        g.globalAlpha = linked.size && !linked.has(i) ? 0.55 : 1;
        this.box(g, i);
      }
    }
    g.globalAlpha = 1;
  }

  // One tensor: down its lane, a branch to each reader. `only` limits it to what touches that box.
  trace(g, view, wire, w, top, bottom, only) {
    const [source, , , targets, lanes] = wire;
    const first = view.rank[source], last = view.last[w];
    if (last < top || first > bottom) return;
    const start = view.port.get(`<${w}`), y0 = first * ROW + BOX_H;
    if (!lanes) {
      g.moveTo(start, y0);
      g.lineTo(start, y0 + 14);
      for (const t of targets) {
        const x = view.port.get(`${w}>${t}`), y = view.rank[t] * ROW;
        if (only !== null) { g.moveTo(start, y0); g.bezierCurveTo(start, y0 + 60, x, y - 60, x, y); } else { g.moveTo(x, y - 14); g.lineTo(x, y); }
      }
      return;
    }
    const reach = only !== null && only !== source ? view.rank[only] : last;
    const bend = (x1, y1, x2, y2) => { g.moveTo(x1, y1); const m = (y1 + y2) / 2; g.bezierCurveTo(x1, m, x2, m, x2, y2); };
    for (let k = 0; k < lanes.length; k += 1) {
      const row = first + 1 + k;
      if (row >= reach || row < top - 1 || row > bottom + 1) continue;
      bend(k ? lanes[k - 1] : start, (row - 1) * ROW + BOX_H, lanes[k], row * ROW);
      g.lineTo(lanes[k], row * ROW + BOX_H);
    }
    for (const t of targets) {
      if (only !== null && only !== source && t !== only) continue;
      const row = view.rank[t], k = row - first - 2;
      if (row < top || row > bottom + 1) continue;
      const x = view.port.get(`${w}>${t}`);
      bend(k < 0 ? start : lanes[k], (row - 1) * ROW + BOX_H, x, row * ROW);
      if (this.scale > 0.4) { g.moveTo(x - 3.5, row * ROW - 6); g.lineTo(x, row * ROW); g.lineTo(x + 3.5, row * ROW - 6); }
    }
  }

  box(g, i) {
    const { view, c } = this, box = view.boxes[i], w = wide(box), x = view.x[i] - w / 2, y = view.rank[i] * ROW;
    if ((x + w) * this.scale + this.tx < 0 || x * this.scale + this.tx > this.w) return;
    const pill = box.k === "input" || box.k === "output", alone = Boolean(box.s) || (box.k === "reformat" && !pill);
    const read = PRECISION[box.a], write = PRECISION[box.b], round = pill || alone ? BOX_H / 2 : 7;
    let face = c[`${read}-soft`], text = c.ink, edge = c[read];
    if (box.p) { face = c[read]; text = c[`${read}-ink`]; }
    if (alone) { face = c["alone-soft"]; edge = c.alone; text = c["alone-text"]; }
    if (box.e) { face = c.card; edge = c[read]; text = c.muted; }
    if (pill) { face = c.card; edge = c.idle; text = c.muted; }
    g.beginPath();
    g.roundRect(x, y, w, BOX_H, round);
    g.fillStyle = face;
    g.fill();
    if (!alone && !pill && box.a !== box.b) {
      g.save();
      g.clip();
      g.fillStyle = c[write];
      g.fillRect(x, y + BOX_H - 8, w, 8);
      g.restore();
      g.beginPath();
      g.roundRect(x, y, w, BOX_H, round);
    }
    if (box.h) this.share(g, box.h, x, y, w, round);
    g.lineWidth = 1.5;
    g.setLineDash(box.e || alone ? [5, 3] : []);
    g.strokeStyle = edge;
    g.stroke();
    g.setLineDash([]);
    if (this.hits.has(i) || i === this.selected || i === this.hover) {
      g.beginPath();
      g.roundRect(x - 4, y - 4, w + 8, BOX_H + 8, round + 4);
      g.lineWidth = i === this.selected ? 3 : 2;
      g.strokeStyle = i === this.hover && i !== this.selected ? c.muted : i === this.selected ? c.ink : c.accent;
      g.stroke();
    }
    if (this.scale >= 0.38) this.words(g, box, x, y, w, text, pill, alone);
    const found = view.findings[i];
    if (found.length) {
      g.beginPath();
      g.arc(x + w - 3, y + 3, 8, 0, 7);
      g.fillStyle = c[DATA.findings[found[0]].severity];
      g.fill();
      g.fillStyle = c.card;
      g.font = "bold 12px system-ui, sans-serif";
      g.textAlign = "center";
      g.fillText("!", x + w - 3, y + 7.4);
      g.textAlign = "left";
    }
  }

  // How much of a stretch is int8, float, stand-alone: a band at the foot.
  share(g, parts, x, y, w, round) {
    const whole = parts[0] + parts[1] + parts[2] || 1;
    g.save();
    g.clip();
    ["int8", "float", "alone"].forEach((name, k) => {
      g.fillStyle = this.c[name];
      g.fillRect(x, y + BOX_H - 7, (w * parts[k]) / whole + 0.5, 7);
      x += (w * parts[k]) / whole;
    });
    g.restore();
    g.beginPath();
    g.roundRect(x - w, y, w, BOX_H, round);
  }

  words(g, box, x, y, w, text, pill, alone) {
    const inset = pill || alone ? 18 : 11;
    g.fillStyle = text;
    g.textBaseline = "alphabetic";
    const badge = pill ? "" : box.k === "stretch" ? "" : box.a === box.b ? (box.a ? "int8" : "float") : box.a ? "int8→float" : "float→int8";
    g.font = "10.5px system-ui, sans-serif";
    const taken = badge ? g.measureText(badge).width + 8 : 0;
    g.globalAlpha *= 0.85;
    if (badge) g.fillText(badge, x + w - inset - taken + 8, y + 18);
    g.globalAlpha /= 0.85;
    g.font = "600 12.5px system-ui, sans-serif";
    g.fillText(this.cut(g, shortened(S[box.t]), w - 2 * inset - taken, false), x + inset, y + 19);
    g.font = "10.5px system-ui, sans-serif";
    g.globalAlpha *= 0.85;
    g.fillText(this.cut(g, S[box.m], w - 2 * inset, true), x + inset, y + 34);
    g.globalAlpha /= 0.85;
  }

  cut(g, text, room, fromStart) {
    if (text.length > 60) text = fromStart ? text.slice(-60) : text.slice(0, 60);
    if (g.measureText(text).width <= room) return text;
    let low = 0, high = text.length;
    const shown = (k) => (fromStart ? `…${text.slice(text.length - k)}` : `${text.slice(0, k)}…`);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (g.measureText(shown(middle)).width <= room) low = middle; else high = middle - 1;
    }
    return shown(low);
  }

  // Stretched to the strip: float runs and stand-alone layers show at a glance in any graph.
  paintMap() {
    const { view, c } = this, g = this.small.getContext("2d"), W = this.map.clientWidth, H = this.map.clientHeight;
    if (!W) return;
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    g.clearRect(0, 0, W, H);
    const sx = (W - 12) / view.width, sy = H / Math.max(view.height, 1), tall = Math.max(1, Math.min(12, BOX_H * sy));
    view.boxes.forEach((box, i) => {
      const w = Math.max(3, wide(box) * sx);
      if (box.h && box.h[1] + box.h[2]) {
        const whole = box.h[0] + box.h[1] + box.h[2];
        let left = 6 + view.x[i] * sx - w / 2;
        ["int8", "float", "alone"].forEach((name, k) => { g.fillStyle = c[name]; g.globalAlpha = 1; g.fillRect(left, view.rank[i] * ROW * sy, (w * box.h[k]) / whole, tall); left += (w * box.h[k]) / whole; });
        return;
      }
      g.fillStyle = box.s || box.k === "reformat" ? c.alone : box.k === "input" || box.k === "output" ? c.idle : c[PRECISION[box.a]];
      g.globalAlpha = box.p || box.s || box.k === "stretch" ? 1 : box.e ? 0.2 : 0.45;
      g.fillRect(6 + view.x[i] * sx - w / 2, view.rank[i] * ROW * sy, w, tall);
    });
    g.globalAlpha = 1;
    const mark = (i, colour) => { g.fillStyle = colour; g.fillRect(0, view.rank[i] * ROW * sy - 1, W, Math.max(3, tall)); };
    for (const i of this.hits) { g.globalAlpha = 0.5; mark(i, c.accent); }
    g.globalAlpha = 1;
    view.findings.forEach((found, i) => { if (found.length) { g.fillStyle = c[DATA.findings[found[0]].severity]; g.fillRect(W - 5, view.rank[i] * ROW * sy, 5, Math.max(3, tall)); } });
    if (this.selected !== null) mark(this.selected, c.ink);
    g.strokeStyle = c.ink;
    g.lineWidth = 1.5;
    const y = (-this.ty / this.scale) * sy, tallView = (this.h / this.scale) * sy;
    g.strokeRect(1, Math.max(1, y), W - 2, Math.min(H - 2, y + tallView) - Math.max(1, y));
  }
}
