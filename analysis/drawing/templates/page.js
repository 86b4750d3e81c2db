"use strict";

// Plots: drawn when they come near the viewport, and all of them before the page is printed.

const PAPER_WIDTH = 680;
const PAPER_COLOURS = {text: "#000000", line: "#d1d5db", page: "#ffffff"};
const figures = [...document.querySelectorAll("figure")].filter(figure => figure.querySelector(".plot"));
let printing = false;

const specOf = figure => JSON.parse(figure.querySelector("script").textContent);

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = name => style.getPropertyValue(name).trim();
  return printing ? PAPER_COLOURS : {text: of("--text"), line: of("--line"), page: of("--page")};
}

// What of a layout depends on light, dark and paper, with dots as Plotly.relayout takes it.
function appearance(layout) {
  const {text, line, page} = colours();
  const changes = {"font.color": text, "hoverlabel.bgcolor": page, "hoverlabel.font.color": text, "hoverlabel.bordercolor": line};
  for (const axis of Object.keys(layout).filter(name => /^[xy]axis\d*$/.test(name))) {
    Object.assign(changes, {[axis + ".gridcolor"]: line, [axis + ".zerolinecolor"]: line, [axis + ".linecolor"]: line});
  }
  return printing ? {...changes, autosize: false, width: PAPER_WIDTH} : {...changes, autosize: true};
}

function put(target, path, value) {
  const names = path.split("."), last = names.pop();
  names.reduce((inner, name) => inner[name] ??= {}, target)[last] = value;
}

function draw(figure) {
  const plot = figure.querySelector(".plot");
  if (plot.dataset.drawn) return;
  plot.dataset.drawn = "yes";
  const {data, layout} = specOf(figure);
  for (const [path, value] of Object.entries(appearance(layout))) put(layout, path, value);
  Plotly.newPlot(plot, data, layout, {responsive: true, displaylogo: false});
}

function repaint() {
  for (const plot of document.querySelectorAll(".plot[data-drawn]")) {
    if (!printing) delete plot.layout.width; // plotly cannot reset the width of a plot that was first drawn for paper
    Plotly.relayout(plot, appearance(plot.layout));
  }
}

const observer = new IntersectionObserver(entries => {
  for (const entry of entries.filter(each => each.isIntersecting)) {
    observer.unobserve(entry.target);
    draw(entry.target);
  }
}, {rootMargin: "400px"});
figures.forEach(figure => {
  // Room for the plot. The page's policy allows no style in the markup.
  figure.querySelector(".plot").style.height = specOf(figure).layout.height + "px";
  observer.observe(figure);
});

function print(begins) {
  if (begins === printing) return;
  printing = begins;
  repaint();
  if (begins) figures.forEach(draw);
}
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
matchMedia("print").addEventListener("change", event => print(event.matches));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// CSV, made here from what is shown.

const plain = text => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");

// A spreadsheet takes a cell that begins like a formula for one, and a name from a store may be anything.
function quoted(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text) && !(text.trim() !== "" && Number.isFinite(Number(text)))) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
}

function save(name, rows) {
  const text = rows.map(row => row.map(quoted).join(",") + "\r\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv;charset=utf-8"}));
  link.download = name.replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 100) + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const at = (values, index) => values === undefined || values === null ? null : values[index];
const unescaped = value => typeof value === "string" ? plain(value) : value;

function pointRows(trace, yTitle) {
  const sideways = trace.orientation === "h";
  const values = sideways ? trace.x : trace.y;
  return values.map((value, index) => {
    const error = trace.error_y || {};
    const [more, less] = [at(error.array, index), at(error.arrayminus, index)];
    const low = sideways ? trace.base[index] : less === null ? null : value - less;
    const high = sideways ? trace.base[index] + value : more === null ? null : value + more;
    const x = sideways ? trace.y[index] : trace.x ? trace.x[index] : trace.x0 + index * trace.dx;
    return [plain(trace.name), trace.meta ? trace.meta.quantity : yTitle, unescaped(x), value, low, high];
  });
}

function rowsOf({data, layout}) {
  const xTitle = layout.xaxis.title.text || "configuration";
  const yTitle = layout.yaxis.title ? layout.yaxis.title.text : "";
  if (data[0].type === "heatmap") {
    const {x, y, z} = data[0];
    return [["rank", xTitle, "ms a step"], ...y.flatMap((rank, row) => x.map((step, column) => [plain(rank), step, z[row][column]]))];
  }
  if (data[0].type === "box") {
    const columns = ["lowerfence", "q1", "median", "q3", "upperfence"];
    const titles = ["p1", "p25", "p50", "p75", "p99"].map(name => `${name} ${yTitle}`);
    return [["series", xTitle, ...titles],
      ...data.flatMap(box => box.x.map((name, index) => [plain(box.name), plain(name), ...columns.map(column => box[column][index])]))];
  }
  return [["series", "quantity", xTitle, "value", "low", "high"], ...data.flatMap(trace => pointRows(trace, yTitle))];
}

// Numbers without their thousands separators, nothing for what is unknown.
function cellOf(cell) {
  const text = cell.textContent, bare = text.replace(/,/g, "");
  if (text === "-") return null;
  return cell.dataset.value !== undefined && Number.isFinite(Number(bare)) ? bare : text;
}

function tableRows(table) {
  const heads = [...table.tHead.rows[0].cells].map(cell => cell.textContent.trim());
  const body = [...table.tBodies[0].rows].filter(row => !row.hidden);
  return [heads, ...body.map(row => [...row.cells].map(cellOf))];
}

for (const button of document.querySelectorAll("button.csv")) {
  button.addEventListener("click", () => {
    if (button.dataset.table) return save("trainscale", tableRows(document.getElementById(button.dataset.table)));
    const figure = button.closest("figure");
    return save(figure.querySelector(".plot").getAttribute("aria-label"), rowsOf(specOf(figure)));
  });
}

// The table: sorted by a click on a heading, filtered by words that a row must hold.

const results = document.getElementById("results");
const body = results.tBodies[0];
const heads = [...results.tHead.rows[0].cells];
const shown = document.getElementById("shown");

function compare(a, b, column, sign, unknown) {
  const [left, right] = [a.cells[column], b.cells[column]];
  const [x, y] = [left.dataset.value, right.dataset.value];
  // What is unknown comes last either way.
  if (unknown(left) || unknown(right)) return unknown(left) - unknown(right);
  if (x !== undefined && y !== undefined) return sign * (Number(x) - Number(y));
  return sign * left.textContent.localeCompare(right.textContent, undefined, {numeric: true});
}

heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const cells = [...body.rows].map(row => row.cells[column]);
  // Among numbers words such as "failed" or "0.9 not reached" stand for none.
  const numbers = cells.some(cell => cell.dataset.value !== undefined);
  const unknown = cell => cell.dataset.value === undefined && (numbers || cell.textContent === "-");
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  heads.forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  body.append(...[...body.rows].sort((a, b) => compare(a, b, column, ascending ? 1 : -1, unknown)));
}));

document.getElementById("filter").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
  const left = [...body.rows].filter(row => !row.hidden).length;
  shown.textContent = words.length ? `${left} of ${body.rows.length} rows` : "";
});
