// Charts over the last five minutes, and the small lines in tables.

import uPlot from "./vendor/uPlot.js";
import { h, s, setText } from "./dom.js";
import { KEPT_S, RECENT_S } from "./store.js";

const LEAST_S = 60;
const charts = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Draws all anew, after the colours have changed. */
export function repaint() {
  for (const chart of charts) chart.rebuild();
}

/**
 * A chart with a title and a legend that tells the newest values, for who does not see the lines.
 *
 * `lines` is a list of {name, column, colour, fill}, `show` makes a text of a value.
 */
export function chart({ title, lines, show, height = 132 }) {
  const values = lines.map(() => h("strong", {}, "–"));
  const legend = h("p", { class: "legend" }, lines.map((line, i) => h(
    "span",
    { class: `key ${line.colour.slice(2)}` },
    `${line.name} `,
    values[i],
  )));
  const place = h("div", { class: "plot", "aria-hidden": "true" });
  const node = h("figure", { class: "panel chart" },
    h("figcaption", {}, h("h2", {}, title), legend), place);
  let plot = null;
  let data = [[], ...lines.map(() => [])];

  function build() {
    plot?.destroy();
    plot = new uPlot(options(), data, place);
  }

  function options() {
    const axis = { stroke: colour("--muted"), font: "11px system-ui, sans-serif",
      grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    return {
      width: Math.max(place.clientWidth, 120),
      height,
      padding: [8, 28, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: {
        x: { time: true, range: (_, from, to) => span(from, to) },
        y: { range: (_, __, most) => [0, Math.max(1, (most || 0) * 1.15)] },
      },
      axes: [
        { ...axis, size: 20, space: 70, values: "{HH}:{mm}:{ss}", grid: { show: false } },
        { ...axis, size: 52, space: 34, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? "0" : show(tick))) },
      ],
      series: [{}, ...lines.map((line) => ({
        stroke: colour(line.colour),
        width: 1.5,
        fill: line.fill ? `${colour(line.colour)}22` : undefined,
        points: { show: false, size: 4, filter: lonely },
        spanGaps: false,
      }))],
    };
  }

  const watch = new ResizeObserver(() => {
    if (!plot) build();
    else if (place.clientWidth) plot.setSize({ width: place.clientWidth, height });
  });
  watch.observe(place);

  const self = {
    node,
    rebuild: () => plot && build(),
    update(points) {
      data = [points.at, ...lines.map((line) => points[line.column])];
      plot?.setData(data);
      lines.forEach((line, i) => {
        setText(values[i], show(newest(points[line.column])));
      });
    },
    close() {
      watch.disconnect();
      plot?.destroy();
      charts.delete(self);
    },
  };
  charts.add(self);
  return self;
}

/** The newest value of a column, unless nothing was measured for some seconds. */
function newest(column) {
  return column.slice(-RECENT_S).findLast((value) => value !== null);
}

/** The points that have no line to either side: a call now and then is to be seen too. */
function lonely(plot, series) {
  const values = plot.data[series];
  const [first, last] = plot.series[0].idxs ?? [0, -1];
  const found = [];
  for (let i = first; i <= last; i += 1) {
    const alone = (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null;
    if (values[i] !== null && alone) found.push(i);
  }
  return found.length ? found : null;
}

/** From the first point on, but never less than a minute: a second alone is no picture. */
function span(from, to) {
  const end = to ?? Date.now() / 1000;
  return [Math.min(Math.max(from ?? end, end - KEPT_S), end - LEAST_S), end];
}

const SPARK = { width: 72, height: 20, points: 60 };

/** A line as small as a word: the last minute of a column. */
export function spark() {
  const line = s("polyline", { class: "spark-line", points: "" });
  const node = s("svg", { class: "spark", width: SPARK.width, height: SPARK.height,
    viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, "aria-hidden": "true" }, line);
  let drawn = "";
  return {
    node,
    update(column) {
      const values = column.slice(-SPARK.points);
      const most = Math.max(...values, 0);
      const step = SPARK.width / (SPARK.points - 1);
      const left = SPARK.points - values.length;
      const points = most === 0 ? "" : values.map((value, i) => {
        const y = SPARK.height - 1.5 - (value / most) * (SPARK.height - 3);
        return `${((left + i) * step).toFixed(1)},${y.toFixed(1)}`;
      }).join(" ");
      if (points !== drawn) line.setAttribute("points", (drawn = points));
    },
  };
}
