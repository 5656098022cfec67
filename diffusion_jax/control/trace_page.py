"""The page of ``trace``: HTML, style and script in one file, nothing fetched."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A sentence forming</title>
<style>
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --line: #8a8a8a;
  --hue: 152; --given: #6a4fb3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f0f0ee; --paper: #17181a; --line: #8f9296; --given: #b8a4f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
h2 { font-size: 1.05rem; margin: 1.25rem 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0 0 1rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
.controls { display: flex; gap: .75rem; align-items: center; flex-wrap: wrap; }
.controls input { flex: 1 1 14rem; min-height: 2rem; accent-color: hsl(var(--hue) 60% 35%); }
button { font: inherit; padding: .35rem 1rem; min-width: 6rem; cursor: pointer; }
:focus-visible { outline: 3px solid #1769e0; outline-offset: 2px; }
output { font-variant-numeric: tabular-nums; min-width: 15rem; }
ol { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem; margin: 0; padding: 0; }
li { padding: .2rem .45rem; border-radius: .3rem; border: 1px solid var(--line); color: #111;
  min-width: 2.2rem; text-align: center; }
li small { display: block; font-size: .7rem; font-variant-numeric: tabular-nums; }
li.given { border: 2px solid var(--given); }
li.special { font-style: italic; }
.legend span { display: inline-block; padding: .1rem .6rem; color: #111; border-radius: .3rem; }
.final { margin: .5rem 0 0; }
kbd { border: 1px solid var(--line); border-radius: .2rem; padding: 0 .3rem; }
.quiet { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
</style>
</head>
<body>
<main>
<h1>A sentence forming</h1>
<dl id="target" aria-label="What is asked"></dl>
<div class="controls" role="group" aria-label="Steps">
<button id="play" type="button" aria-pressed="false">Play</button>
<label for="step" class="quiet">Step of the reverse chain</label>
<input id="step" type="range" min="0" value="0" step="1">
<output id="where" for="step"></output>
</div>
<div id="chains"></div>
<p class="legend">Probability of a word given its own noisy vector:
<span id="low">0%</span> <span id="half">50%</span> <span id="high">100%</span>;
a thick border marks words that are given.</p>
<p>Keys: <kbd>&larr;</kbd> <kbd>&rarr;</kbd> one step, <kbd>Home</kbd> <kbd>End</kbd> first and last
step, <kbd>Space</kbd> play or stop.</p>
<p id="spoken" class="quiet" aria-live="polite"></p>
</main>
<script id="data" type="application/json">__DATA__</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const slider = document.getElementById("step");
const play = document.getElementById("play");
const where = document.getElementById("where");
const spoken = document.getElementById("spoken");
const last = data.steps.length - 1;
let timer = null;

function shade(p) { return `hsl(152 ${Math.round(15 + 55 * p)}% ${Math.round(94 - 38 * p)}%)`; }
for (const [id, p] of [["low", 0], ["half", 0.5], ["high", 1]]) {
  document.getElementById(id).style.background = shade(p);
}
for (const [name, value] of Object.entries(data.target)) {
  const term = document.createElement("dt"), text = document.createElement("dd");
  term.textContent = name;
  text.textContent = typeof value === "string" ? value : JSON.stringify(value);
  document.getElementById("target").append(term, text);
}
const lists = data.chains.map((chain) => {
  const section = document.createElement("section"), title = document.createElement("h2");
  const list = document.createElement("ol"), final = document.createElement("p");
  title.textContent = chain.name;
  list.id = chain.name;
  list.setAttribute("aria-label", chain.name + " words at this step");
  chain.words[0].forEach((_, i) => {
    const item = document.createElement("li");
    if (chain.anchored[i]) item.classList.add("given");
    item.append(document.createElement("span"), document.createElement("small"));
    list.append(item);
  });
  final.className = "final";
  final.textContent = "Ends as: " + chain.text;
  section.append(title, list, final);
  document.getElementById("chains").append(section);
  return list;
});

function show(step) {
  slider.value = step;
  data.chains.forEach((chain, c) => {
    chain.words[step].forEach((word, i) => {
      const item = lists[c].children[i], p = chain.probabilities[step][i];
      item.children[0].textContent = word === "\\n" ? "\\u21b5" : word;
      item.children[1].textContent = Math.round(100 * p) + "%";
      item.style.background = shade(p);
      item.classList.toggle("special", word.startsWith("[") && word.endsWith("]"));
    });
  });
  const label = `step ${step + 1} of ${last + 1}, t = ${data.steps[step]}`;
  where.textContent = label;
  slider.setAttribute("aria-valuetext", label);
}
function say() {
  const step = Number(slider.value);
  spoken.textContent = data.chains
    .map((chain) => `${chain.name}: ${chain.words[step].join(" ")}`).join(". ");
}
function stop() {
  if (timer !== null) clearInterval(timer);
  timer = null;
  play.textContent = "Play";
  play.setAttribute("aria-pressed", "false");
  say();
}
function start() {
  if (Number(slider.value) === last) show(0);
  play.textContent = "Stop";
  play.setAttribute("aria-pressed", "true");
  timer = setInterval(() => {
    const next = Number(slider.value) + 1;
    show(Math.min(next, last));
    if (next >= last) stop();
  }, 80);
}
function toggle() { if (timer === null) start(); else stop(); }

slider.max = last;
slider.addEventListener("input", () => { show(Number(slider.value)); });
slider.addEventListener("change", say);
play.addEventListener("click", toggle);
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const now = Number(slider.value);
  const target = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
  if (target !== undefined) {
    event.preventDefault();
    stop();
    show(Math.max(0, Math.min(last, target)));
    say();
  } else if (event.key === " ") {
    event.preventDefault();
    toggle();
  }
});
// A button that has the focus would be pressed once more when space is let go.
play.addEventListener("keyup", (event) => { if (event.key === " ") event.preventDefault(); });
show(last);
say();
</script>
</body>
</html>
"""
