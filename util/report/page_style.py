"""How a report looks, and the few lines that answer the pointer. The page says all it has to say without them."""

# The colours of runs keep their distance under all common kinds of colour blindness (Okabe and Ito, 2008), darker on
# white where the originals are too pale for a line.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --grey: #5b6572; --line: #dde2e8; --paper: #ffffff; --box: #f5f7f9;
  --bad: #b3261e; --good: #1b6e3c; --open: #8a5a00;
  --c0: #0072b2; --c1: #d55e00; --c2: #008a65; --c3: #b0558a; --c4: #b37f00; --c5: #3a9fd8; --c6: #444c57;
  --c7: #7a5cc6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --grey: #9aa5b3; --line: #323b47; --paper: #14181e;
  --box: #1d232b; --bad: #ff8a80; --good: #6fd19a; --open: #f0c060;
  --c0: #58a9f0; --c1: #ff8c42; --c2: #2fc79a; --c3: #e38fc0; --c4: #e6b32e; --c5: #8fd3ff; --c6: #c3ccd6;
  --c7: #b39ef2 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; overflow-wrap: anywhere }
p { margin: .3rem 0 }
.note { color: var(--grey); font-size: .87rem; max-width: 60rem }
.good { color: var(--good) } .bad { color: var(--bad) } .open { color: var(--open) }
.state { font-weight: 600; overflow-wrap: anywhere }
.warnings { border-left: 4px solid var(--open); background: var(--box); padding: .6rem 1rem; margin: 1rem 0 }
.warnings ul { margin: .2rem 0; padding-left: 1.2rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { text-align: left; vertical-align: top; padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } thead th { color: var(--grey) }
td { max-width: 38rem; overflow-wrap: anywhere }
.numbers td { text-align: right; white-space: nowrap } .numbers th { text-align: right }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.2rem }
figure { margin: 0; break-inside: avoid }
figcaption { font-weight: 600 }
.readout { color: var(--grey); font-size: .82rem; min-height: 1.3em; font-variant-numeric: tabular-nums }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--grey); font-size: 12px }
.grid, .axis, .tick { stroke: var(--line); fill: none } .axis, .tick { stroke: var(--grey) }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.dashed { stroke-dasharray: 5 4 } .faint { stroke-width: 1; opacity: .32 }
.restart, .fail { fill: none; stroke-width: 1.2 } .restart { stroke-dasharray: 2 4 } .fail { stroke-width: 2 }
.cross { fill: none; stroke-width: 1.8 }
svg .end { font-weight: 700 }
.pointer { stroke: var(--grey); fill: none }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; margin: .5rem 0; list-style: none }
.legend svg { display: inline-block; width: 2.2rem; height: .8rem; vertical-align: middle }
.legend label { overflow-wrap: anywhere }
.off { display: none }
.run0 { stroke: var(--c0) } .run1 { stroke: var(--c1) } .run2 { stroke: var(--c2) } .run3 { stroke: var(--c3) }
.run4 { stroke: var(--c4) } .run5 { stroke: var(--c5) } .run6 { stroke: var(--c6) } .run7 { stroke: var(--c7) }
svg .end { stroke: none } .end.run0 { fill: var(--c0) } .end.run1 { fill: var(--c1) } .end.run2 { fill: var(--c2) }
.end.run3 { fill: var(--c3) } .end.run4 { fill: var(--c4) } .end.run5 { fill: var(--c5) } .end.run6 { fill: var(--c6) }
.end.run7 { fill: var(--c7) } .cross, svg .fail { stroke: var(--bad) }
details { margin: .4rem 0 } summary { cursor: pointer }
@media print { body { max-width: none; padding: 0; font-size: 11px } .pictures { grid-template-columns: 1fr 1fr }
  input, .readout { display: none } h2 { break-after: avoid } tr { break-inside: avoid } }
"""

# Numbers at the pointer, and check boxes that hide runs. Text goes in as text, never as HTML.
SCRIPT = """
"use strict";
function points(path) {
  path.points ??= [...path.getAttribute("d").matchAll(/(-?[\\d.]+),(-?[\\d.]+)/g)].map(m => [+m[1], +m[2]]);
  return path.points;
}
function scale(svg, name, part, log) {
  const [low, high] = svg.dataset[name].split(" ").map(Number);
  return log ? low * (high / low) ** part : low + (high - low) * part;
}
function nearest(list, x) {
  let a = 0, b = list.length - 1;
  while (b - a > 1) { const m = (a + b) >> 1; if (list[m][0] < x) a = m; else b = m; }
  return Math.abs(list[a][0] - x) < Math.abs(list[b][0] - x) ? list[a] : list[b];
}
for (const svg of document.querySelectorAll("figure > svg")) {
  const readout = svg.parentNode.querySelector(".readout");
  const pointer = document.createElementNS("http://www.w3.org/2000/svg", "path");
  pointer.setAttribute("class", "pointer");
  svg.append(pointer);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * WIDTH / box.width;
    const found = [];
    for (const path of svg.querySelectorAll(".curve:not(.off)")) {
      const list = points(path);
      if (x < list[0][0] - 15 || x > list[list.length - 1][0] + 15) continue;
      const [left, top] = nearest(list, x);
      const epochs = scale(svg, "x", (left - LEFT) / PLOT_WIDTH, false);
      const value = scale(svg, "y", 1 - (top - TOP) / PLOT_HEIGHT, svg.dataset.log === "1");
      const name = path.querySelector("title").textContent;
      found.push(`${name} ${Number(value.toPrecision(4))} at ${epochs.toFixed(2)}`);
    }
    pointer.setAttribute("d", "M" + x + "," + TOP + " v" + PLOT_HEIGHT);
    readout.textContent = found.join(" · ");
  });
  svg.addEventListener("pointerleave", () => { pointer.removeAttribute("d"); readout.textContent = ""; });
}
for (const box of document.querySelectorAll(".legend input")) {
  box.addEventListener("change", () => {
    for (const part of document.querySelectorAll('figure [data-run="' + box.value + '"]'))
      part.classList.toggle("off", !box.checked);
  });
}
"""
