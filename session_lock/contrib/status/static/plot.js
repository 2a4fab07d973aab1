// A plot of the last minutes as SVG: one or two lines over time, with gaps where nobody has looked.

import { make, text } from "./table.js";

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 132;
const MARGIN = { top: 10, right: 8, bottom: 20, left: 44 };
const GAP = 5; // Seconds between two looks, from which on the line is broken.
const SPANS = [60, 120, 300, 600]; // Seconds that are shown: the shortest that has them all.

function svg(name, attributes, parent) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

// A round number, not below `value`, whose half is round as well: 2, 4, 6, 8, 10, 20 ..
function ceiling(value, least) {
  let step = 10 ** Math.floor(Math.log10(Math.max(value, least)));
  for (const factor of [1, 2, 4, 6, 8, 10]) {
    if (step * factor >= value && step * factor >= least) return step * factor;
  }
  return step * 10;
}

// Times are round by other numbers.
const ROUND_TIMES = [4, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400];

export class Plot {
  // `lines`: of each its name, and where in a point it stands; `show` writes a value, `time` says that values are seconds.
  constructor(figure, lines, { show, time = false }) {
    this.figure = figure;
    this.lines = lines;
    this.show = show;
    this.time = time;
    this.points = [];
    this.hovered = null;
    this.legend = figure.querySelector(".legend");
    this.values = lines.map((line, index) => {
      const value = make("b", "");
      this.legend.append(make("span", lines.length > 1 ? `key line-${index}` : "", ...(lines.length > 1 ? [`${line.name} `] : []), value));
      return value;
    });
    const canvas = figure.querySelector(".canvas");
    this.svg = svg("svg", { role: "img", height: HEIGHT, width: "100%", "aria-labelledby": figure.querySelector("figcaption").id }, canvas);
    this.grid = svg("g", { class: "grid" }, this.svg);
    this.shapes = svg("g", {}, this.svg);
    this.cursor = svg("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" }, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.hover(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.hover(null));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  set(points) {
    this.points = points;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth;
    const last = this.points.at(-1);
    if (!width || !last) return;
    const length = SPANS.find((each) => each >= last[0] - this.points[0][0]) ?? SPANS.at(-1);
    const from = last[0] - length;
    const highest = Math.max(0, ...this.points.flatMap((point) => this.lines.map((line) => point[line.at] ?? 0)));
    const top = this.time ? ROUND_TIMES.find((each) => each >= highest) ?? Math.ceil(highest / 86_400) * 86_400 : ceiling(highest, 2);
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    this.x = (at) => MARGIN.left + ((at - from) / length) * (right - MARGIN.left);
    this.y = (value) => bottom - (value / top) * (bottom - MARGIN.top);
    this.from = from;
    this.drawGrid(right, bottom, top, length);
    this.shapes.replaceChildren();
    this.lines.forEach((line, index) => this.drawLine(line, index, bottom));
    this.tell();
  }

  drawGrid(right, bottom, top, length) {
    this.grid.replaceChildren();
    for (const value of [0, top / 2, top]) {
      const y = this.y(value);
      svg("line", { x1: MARGIN.left, x2: right, y1: y, y2: y }, this.grid);
      svg("text", { x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, this.grid).textContent = this.show(value);
    }
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      const ago = length * (1 - share);
      const label = ago === 0 ? "now" : ago % 60 === 0 ? `${ago / 60} min ago` : `${ago} s ago`;
      const x = MARGIN.left + share * (right - MARGIN.left);
      svg("text", { x, y: bottom + 16, "text-anchor": anchor }, this.grid).textContent = label;
    }
  }

  drawLine(line, index, bottom) {
    for (const run of this.runs(line.at)) {
      const path = run.map(([at, value], i) => `${i ? "L" : "M"}${this.x(at).toFixed(1)} ${this.y(value).toFixed(1)}`).join("");
      const [first, last] = [run[0], run.at(-1)].map((point) => this.x(point[0]).toFixed(1));
      if (index === 0) svg("path", { class: "area", d: `${path}L${last} ${bottom}L${first} ${bottom}Z` }, this.shapes);
      if (run.length === 1) svg("circle", { class: `dot line-${index}`, cx: first, cy: this.y(run[0][1]), r: 1.5 }, this.shapes);
      else svg("path", { class: `line line-${index}`, d: path }, this.shapes);
    }
  }

  // What can be drawn in one go.
  *runs(at) {
    let run = [];
    for (const point of this.points) {
      const value = point[at];
      const broken = value === null || value === undefined || (run.length && point[0] - run.at(-1)[0] > GAP);
      if (broken && run.length) {
        yield run;
        run = [];
      }
      if (value !== null && value !== undefined && point[0] >= this.from) run.push([point[0], value]);
    }
    if (run.length) yield run;
  }

  hover(x) {
    this.hovered = x;
    if (this.points.length) this.tell();
  }

  // The values: those at the cursor, or the newest.
  tell() {
    let point = this.points.at(-1);
    if (this.hovered !== null && this.x) {
      const distance = (each) => Math.abs(this.x(each[0]) - this.hovered);
      point = this.points.reduce((best, each) => (distance(each) < distance(best) ? each : best));
      const x = this.x(point[0]);
      this.cursor.setAttribute("x1", x);
      this.cursor.setAttribute("x2", x);
    }
    this.cursor.setAttribute("visibility", this.hovered === null ? "hidden" : "visible");
    this.lines.forEach((line, index) => text(this.values[index], this.show(point[line.at] ?? null)));
  }
}
