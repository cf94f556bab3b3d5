// Puts each newer rendering of <main> in place of the older one, touching only what differs, and draws the curves.

const HISTORY = 60;
const curves = new Map();

function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || key(old) !== key(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.classList.contains("spark")) return;  // what is in it is ours
  const theirs = [...fresh.childNodes];
  const ours = [...old.childNodes];
  theirs.forEach((child, index) => (index < ours.length ? morph(ours[index], child) : old.append(child)));
  ours.slice(theirs.length).forEach((child) => child.remove());
}

const key = (node) => node.dataset?.key;

function remember() {
  const seen = new Set();
  for (const svg of document.querySelectorAll(".spark")) {
    const name = svg.dataset.spark;
    seen.add(name);
    const values = curves.get(name) ?? [];
    if (svg.dataset.value !== undefined) values.push(Number(svg.dataset.value));
    curves.set(name, values.slice(-HISTORY));
    draw(svg, curves.get(name));
  }
  for (const name of curves.keys()) if (!seen.has(name)) curves.delete(name);
}

function draw(svg, values) {
  const top = Math.max(...values, 1);
  const points = values.map((value, index) => `${HISTORY - values.length + index + 0.5},${19 - (value / top) * 18}`);
  svg.firstElementChild.setAttribute("points", points.length > 1 ? points.join(" ") : "");
}

function live(state, text) {
  document.body.dataset.live = state;
  const sign = document.getElementById("live");
  if (sign) sign.title = text;
}

function title() {
  const name = document.querySelector("h1 span")?.textContent.trim();
  document.title = `${name} · ${document.querySelector("main").dataset.state} · Onward`;
}

let stream;

function connect() {
  stream = new EventSource("/live");
  stream.addEventListener("page", (event) => {
    const template = document.createElement("template");
    template.innerHTML = event.data;
    morph(document.querySelector("main"), template.content.querySelector("main"));
    remember();
    title();
    live("yes", "live: follows the director every second");
  });
  stream.addEventListener("error", () => {
    live("no", "the director does not answer; what you see is old");
    // The browser tries again by itself after a broken connection, but not after an answer such as 503.
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  });
}

// A page that is left must not keep a stream open in the back/forward cache.
addEventListener("pagehide", () => stream.close());
addEventListener("pageshow", (event) => event.persisted && location.reload());
remember();
connect();
