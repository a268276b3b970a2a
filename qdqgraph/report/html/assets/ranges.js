// Ranges as small pictures: histograms of calibration, profiles and boxes of weight channels.
const LARGEST = Math.max(...DATA.quantizers.map((q) => q.a || 0), 1e-30);
const SMALLEST = Math.min(...DATA.quantizers.map((q) => q.a || LARGEST), LARGEST);

function plotOf(q, width) {
  if (q.h) return histogramPlot(q, width);
  if (q.ch) return channelPlot(q, width);
  return rangePlot(q, width);
}

function titled(plot, text) { plot.prepend(s("title", null, text)); return plot; }

// Counts on a log scale; lines where the codes end.
function histogramPlot(q, width) {
  const both = q.h.m.length > 0, sides = both ? [...q.h.m].reverse().map((v) => [v, "m"]) : [];
  const bars = [...sides, ...q.h.p.map((v) => [v, "p"])], step = width / bars.length, tall = 34;
  const plot = s("svg", { class: "plot", width, height: tall + 13, role: "img" });
  bars.forEach(([value, kind], k) => {
    const high = (value / 99) * tall;
    if (value) plot.append(s("rect", { class: kind, x: (k * step).toFixed(1), y: (tall - high).toFixed(1), width: Math.max(0.5, step - 0.6).toFixed(1), height: high.toFixed(1) }));
  });
  const zero = both ? width / 2 : 0, unit = (both ? width / 2 : width) / q.h.top;
  plot.append(s("line", { class: "axis", x1: 0, x2: width, y1: tall + 0.5, y2: tall + 0.5 }));
  for (const sign of both ? [-1, 1] : [1]) {
    const at = Math.min(width, Math.max(0, zero + sign * q.a * unit));
    plot.append(s("line", { class: "clip", x1: at, x2: at, y1: 0, y2: tall + 3 }));
  }
  plot.append(s("text", { x: both ? zero : 0, y: tall + 12, "text-anchor": both ? "middle" : "start" }, "0"), s("text", { x: width, y: tall + 12, "text-anchor": "end" }, number(q.h.top)));
  return titled(plot, `counts on a log scale; codes reach ${number(q.a)}, data ${number(q.o)}`);
}

// Along the channels, and their spread as a box from the first to the third quartile.
function channelPlot(q, width) {
  const { p, q: [low, first, middle, third, high], count: n } = q.ch, tall = 24;
  const plot = s("svg", { class: "plot", width, height: tall + 18, role: "img" }), step = width / p.length;
  p.forEach((value, k) => {
    const size = Math.max(0.5, (value / 99) * tall);
    plot.append(s("rect", { class: "p", x: (k * step).toFixed(1), y: (tall - size).toFixed(1), width: Math.max(0.5, step - 0.5).toFixed(1), height: size.toFixed(1) }));
  });
  const at = (v) => (high ? (v / high) * width : 0), y = tall + 10;
  plot.append(s("line", { class: "axis", x1: 0, x2: width, y1: tall + 0.5, y2: tall + 0.5 }),
    s("line", { class: "whisker", x1: at(low), x2: width, y1: y, y2: y }),
    s("rect", { class: "box", x: at(first), y: y - 4, width: Math.max(1, at(third) - at(first)), height: 8 }),
    s("line", { class: "median", x1: at(middle), x2: at(middle), y1: y - 4, y2: y + 4 }));
  return titled(plot, `${count(n)} channels of axis ${q.ch.axis}: ${[low, first, middle, third, high].map(number).join(" / ")} (min, quartiles, max)`);
}

// One number: where it lies among all ranges of the model, on a log scale.
function rangePlot(q, width) {
  const plot = s("svg", { class: "plot", width, height: 14, role: "img" });
  plot.append(s("rect", { class: "track", x: 0, y: 4, width, height: 6, rx: 3 }));
  if (q.a) {
    const share = LARGEST > SMALLEST ? Math.log(q.a / SMALLEST) / Math.log(LARGEST / SMALLEST) : 1;
    plot.append(s("rect", { class: "p", x: 0, y: 4, width: Math.max(3, (0.04 + 0.96 * share) * width).toFixed(1), height: 6, rx: 3 }));
  }
  return titled(plot, `amax ${number(q.a)}; all ranges: ${number(SMALLEST)} to ${number(LARGEST)}, log scale`);
}

function rangesTable(goNode) {
  const grain = (q) => (q.ch ? `${count(q.ch.count)} channels, axis ${q.ch.axis}` : "per tensor");
  const sort = (q) => (q.w ? "weight" : "activation");
  return table({
    rows: DATA.quantizers,
    text: (q) => [S[q.t], q.y, sort(q), ...q.r.map((k) => S[k])].join(" "),
    hint: "Filter tensors",
    empty: "No quantizers.",
    filters: [{ title: "Weights and activations", options: ["activation", "weight"], of: sort }, { title: "Any type", options: [...new Set(DATA.quantizers.map((q) => q.y))].sort(), of: (q) => q.y }],
    columns: [
      { title: "Tensor", key: (q) => S[q.t], cell: (q) => [h("span", { class: "mono" }, S[q.t]), ...q.r.map((k) => sub(S[k]))] },
      { title: "Of", key: sort, cell: sort, tight: true },
      { title: "Type", key: (q) => q.y, cell: (q) => [q.y, sub(grain(q))], tight: true },
      { title: "Scale", key: (q) => q.s, cell: (q) => [number(q.s), q.ch && sub("largest")], num: true },
      { title: "Zero", key: (q) => q.z, cell: (q) => String(q.z), num: true },
      { title: "amax", key: (q) => q.a, cell: (q) => number(q.a), num: true },
      { title: "Data reach", key: (q) => q.o, cell: (q) => [number(q.o), q.o && q.a && q.o > q.a * 1.001 ? sub(`clipped ${number(q.o / q.a)}×`) : null], num: true },
      { title: "Range", key: (q) => (q.ch && q.ch.q[2] ? q.ch.q[4] / q.ch.q[2] : q.a), cell: (q) => (q.a === null ? "" : plotOf(q, 240)), tight: true },
    ],
    open: (q) => (q.n.length ? () => goNode(q.n[q.n.length - 1]) : null),
  });
}
