// The page at `/`: each image goes to the server in a request of its own, and has a card with its classes.
// What comes from files or from the server becomes textContent, never HTML. Nothing is kept but the choice of language.

import { drawAttention } from "./attention.js";
import { currentLanguage, label, phrase, remember, say, sayPlain, setLanguage, translateAll } from "./words.js";

const TOP_K = 5;
const AT_ONCE = 4; // requests

const find = (selector, root = document) => root.querySelector(selector);
const cards = []; // in the order given
const waiting = []; // those that are to be sent
let sending = 0;
let isHeld = true; // nothing is sent before the model has been asked for, and while a key is
let model = null; // what /v1/model says
let key = null;

// The server

function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key !== null) headers["X-API-Key"] = key; // Authorization may be a proxy's
  return fetch(path, { ...options, headers, cache: "no-store" });
}

function parse(text) { // a proxy's own page is no JSON
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

async function loadModel() {
  const used = key, message = find("#message");
  try {
    const answer = await ask("v1/model");
    if (answer.status === 401) {
      askForKey(used);
      return;
    }
    if (answer.ok) model = parse(await answer.text());
    else say(message, "status", { status: answer.status });
  } catch {
    say(message, "unreachable");
  }
  isHeld = false;
  showModel();
  sendNext();
}

function showModel() {
  if (!model) return;
  const [, height, width] = model.preprocess.input_size;
  const classes = phrase("classes", { count: model.num_classes.toLocaleString(currentLanguage()) });
  const facts = [model.model, classes, phrase("input", { width, height }), model.engine];
  find("#model").replaceChildren(...facts.map(fact => {
    const item = document.createElement("li");
    item.textContent = fact;
    return item;
  }));
}

// The key, for servers that want one

const isAsking = () => !find("#key-form").hidden;

function askForKey(refused) { // the key that was sent; null: none
  if (refused !== key) return; // another one was given since then
  isHeld = true;
  say(find("#key-form label"), refused === null ? "keyLabel" : "keyWrong");
  if (!isAsking()) {
    find("#key-form").hidden = false;
    find("#key").focus();
  }
  for (const card of waiting) show(card, "needsKey");
}

find("#key-form").addEventListener("submit", event => {
  event.preventDefault();
  key = find("#key").value.trim();
  find("#key").value = "";
  if (!/^[\x20-\x7e]+$/.test(key)) { // no header can hold it, and no server has such a key
    askForKey(key);
    return;
  }
  find("#key-form").hidden = true;
  for (const card of waiting) show(card, "waiting");
  loadModel();
});

// Cards

function addFiles(files) {
  find("#message").hidden = true;
  for (const card of [...files].map(makeCard)) enqueue(card);
}

function makeCard(file) {
  const root = find("#card").content.cloneNode(true).firstElementChild;
  const card = { file, root, url: URL.createObjectURL(file), timer: 0, wasRetried: false, isDone: false, controller: null };
  const image = find("img", root), toggle = find(".attention", root);
  image.addEventListener("load", () => {
    find(".picture", root).style.setProperty("--ratio", image.naturalWidth / image.naturalHeight || 1);
  });
  image.addEventListener("error", () => { // no image, or of a format that only the server reads
    find(".preview", root).classList.add("empty");
  });
  image.src = card.url;
  find("h2", root).textContent = find("h2", root).title = file.name;
  translateAll(root);
  label(find(".remove", root), "remove", { name: file.name });
  find(".remove", root).addEventListener("click", () => removeCard(card));
  find(".again", root).addEventListener("click", () => {
    root.focus(); // the button goes away
    enqueue(card);
  });
  toggle.addEventListener("click", () => {
    const canvas = find("canvas", root);
    canvas.hidden = !canvas.hidden;
    toggle.setAttribute("aria-pressed", !canvas.hidden);
  });
  root.addEventListener("keydown", event => {
    if (event.key !== "Delete" && event.key !== "Backspace") return; // a Mac's "delete" is Backspace
    event.preventDefault();
    removeCard(card);
  });
  cards.push(card);
  find("#cards").append(root);
  return card;
}

function removeCard(card) {
  const place = cards.indexOf(card), hadFocus = card.root.contains(document.activeElement);
  cards.splice(place, 1);
  forget(card);
  const next = cards[place] ?? cards[place - 1];
  if (hadFocus) (next?.root ?? find("#pick")).focus();
  count();
}

function forget(card) {
  clearTimeout(card.timer);
  card.controller?.abort();
  if (waiting.includes(card)) waiting.splice(waiting.indexOf(card), 1);
  URL.revokeObjectURL(card.url);
  card.root.remove();
}

function count() {
  find("#bar").hidden = cards.length === 0;
  say(find("#count"), "count", { done: cards.filter(card => card.isDone).length, all: cards.length });
}

/** Shows how far a card is: waiting, sent, needsKey, later, failed or done. */
function show(card, state, values) {
  const { root } = card, isBusy = state === "waiting" || state === "sent";
  root.dataset.state = state;
  say(find(".state", root), state, values);
  find(".state", root).hidden = state === "done"; // its classes say so
  root.setAttribute("aria-busy", isBusy);
  find("progress", root).hidden = !isBusy;
  find(".again", root).hidden = state !== "later";
  if (isBusy) find(".reason", root).hidden = true;
  card.isDone = state === "failed" || state === "done";
  count();
}

// From a card to its classes

function enqueue(card) {
  clearTimeout(card.timer);
  waiting.push(card);
  show(card, isAsking() ? "needsKey" : "waiting");
  sendNext();
}

function sendNext() {
  while (!isHeld && sending < AT_ONCE && waiting.length) classify(waiting.shift());
}

async function classify(card) {
  const used = key;
  sending++;
  show(card, "sent");
  const received = await send(card);
  sending--;
  try {
    if (card.controller.signal.aborted) return;
    if (received === null) await breakDown(card);
    else if (received.answer.status === 401) waitForKey(card, used);
    else if (received.answer.ok && received.values.predictions) succeed(card, received);
    else fail(card, received);
  } finally {
    sendNext();
  }
}

/** Returns the server's answer, what it says, and the milliseconds until all of it was there; null: there was none. */
async function send(card) {
  card.controller = new AbortController();
  // The content decides what an image is. As JSON or a form, a file would be read as something else
  const type = card.file.type.startsWith("image/") ? card.file.type : "application/octet-stream";
  const query = new URLSearchParams({ top_k: TOP_K });
  if (model?.attention === true) query.set("attention", "true");
  const request = { method: "POST", body: card.file, headers: { "Content-Type": type }, signal: card.controller.signal };
  const begun = performance.now();
  try {
    const answer = await ask(`v1/classify?${query}`, request);
    const text = await answer.text();
    return { answer, values: parse(text), ms: Math.round(performance.now() - begun) };
  } catch {
    return null;
  }
}

function waitForKey(card, used) {
  askForKey(used);
  enqueue(card);
}

const percent = score => `${(100 * score).toFixed(1)}%`;

function succeed(card, { values, ms }) {
  const { root, file } = card, [prediction] = values.predictions;
  show(card, "done");
  say(find(".time", root), "time", { ms });
  find(".classes", root).hidden = false;
  find(".classes", root).replaceChildren(...prediction.label_names.map((name, i) => {
    const item = find("#class").content.cloneNode(true).firstElementChild;
    find(".label", item).textContent = name;
    find(".score", item).textContent = percent(prediction.scores[i]);
    find(".fill", item).style.width = `${100 * prediction.scores[i]}%`;
    return item;
  }));
  if (prediction.attention) {
    drawAttention(find("canvas", root), prediction.attention);
    find("canvas", root).hidden = false;
    find(".attention", root).hidden = false;
  }
  const best = { name: file.name, label: prediction.label_names[0], score: percent(prediction.scores[0]) };
  say(find("#news"), "newsDone", best);
  if (!model) loadModel(); // it could not be asked for at first
}

function fail(card, { answer, values }) {
  const reason = find(".reason", card.root);
  if (values.error) sayPlain(reason, String(values.error).replace(/^image 0: /, "")); // the only one of its request
  else say(reason, "status", { status: answer.status });
  if (answer.status === 503 && !card.wasRetried) {
    const seconds = Number(answer.headers.get("Retry-After")) || 1; // a proxy may give a date
    card.wasRetried = true;
    show(card, "later", { seconds });
    card.timer = setTimeout(() => enqueue(card), 1000 * seconds);
    return;
  }
  giveUp(card, answer.status >= 500 || answer.status === 408 || answer.status === 429);
}

async function breakDown(card) {
  const isReadable = await card.file.slice(0, 1).arrayBuffer().then(() => true, () => false);
  say(find(".reason", card.root), isReadable ? "unreachable" : "unreadable");
  giveUp(card, isReadable);
}

function giveUp(card, mayPass) {
  show(card, "failed");
  find(".again", card.root).hidden = !mayPass;
  say(find("#news"), "newsFailed", { name: card.file.name, reason: find(".reason", card.root).textContent });
}

// What the user does

for (const [button, input] of [["#pick", "#files"], ["#photo", "#camera"]]) {
  find(button).addEventListener("click", () => find(input).click());
  find(input).addEventListener("change", () => {
    addFiles(find(input).files);
    find(input).value = ""; // so that the same file can be chosen again
  });
}

/** Adds the files that were dropped or pasted, and says what became of the rest. */
function addTransferred(transfer) {
  const items = [...transfer.items].filter(item => item.kind === "file");
  const isFolder = item => item.webkitGetAsEntry()?.isDirectory === true;
  const files = items.filter(item => !isFolder(item)).map(item => item.getAsFile());
  const hasFolder = items.some(isFolder);
  addFiles(files);
  if (hasFolder) say(find("#message"), "folder");
  else if (files.length === 0) say(find("#message"), "noImage");
}

document.addEventListener("dragover", event => {
  event.preventDefault(); // or the browser would leave the page for the file
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", event => {
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
});
document.addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  addTransferred(event.dataTransfer);
});
document.addEventListener("paste", event => {
  if (event.target.closest?.("input")) return;
  event.preventDefault();
  addTransferred(event.clipboardData);
});

find("#clear").addEventListener("click", () => {
  cards.splice(0).forEach(forget);
  find("#message").hidden = true;
  find("#pick").focus();
  count();
});
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    setLanguage(button.dataset.language);
    remember(button.dataset.language);
    showModel();
  });
}

setLanguage(currentLanguage());
loadModel();
