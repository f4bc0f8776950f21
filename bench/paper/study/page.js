// What happens on the page. Words from the study reach it as text only, never as markup.
const study = JSON.parse(document.getElementById("study").textContent);
const { title, per_person: perPerson } = study.head;
const byNumber = new Map(study.pairs.map((pair) => [pair.number, pair]));
// A second tap of an impatient finger is meant for the pair before.
const GUARD = 150;
// A double tap on "Next person" must not begin for that person as well.
const HANDOVER = 600;
const STAY = "Keep this page open and save before you leave.";

const find = (id) => document.getElementById(id);
const screens = ["start", "ask", "end"].map(find);
// Of the person whose turn it is; null between two.
let state;
let since = 0;
let handedOver = -Infinity;

// --- Which pairs a person gets, in which order and on which sides.

// Pairs without replacement; the first image as often on the left as on the right, but for one if
// the count is odd: whoever always chooses one side chooses both groups equally often.
function drawn() {
  const count = perPerson;
  const pairs = shuffled(study.pairs.map((pair) => pair.number)).slice(0, count);
  const odd = count % 2 ? [["left", "right"][below(2)]] : [];
  const sides = shuffled([...pairs.slice(odd.length).map((_, i) => ["left", "right"][i % 2]), ...odd]);
  return pairs.map((pair, i) => ({ pair, aSide: sides[i] }));
}

function shuffled(values) {
  for (let i = values.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [values[i], values[j]] = [values[j], values[i]];
  }
  return values;
}

// Integers below n, all equally likely: what would favour some is drawn again.
function below(n) {
  for (;;) {
    const [value] = crypto.getRandomValues(new Uint32Array(1));
    if (value < 2 ** 32 - (2 ** 32 % n)) return value % n;
  }
}

function newSeed() {
  const words = crypto.getRandomValues(new Uint32Array(2));
  return [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
}

// --- What the device keeps, so that a reload goes on: each person's answers under their seed, and
// whose turn it is. Nothing is ever deleted: the next person's turn leaves all answers as they are.

// What the browser's storage does not take; a reload forgets it.
const memory = new Map();
const KEYS = `scotoma-study-${study.digest}-`;
const TURN = `${KEYS}turn`;

const lasting = () => memory.size === 0;

function write(key, text) {
  try {
    localStorage.setItem(key, text);
    if (localStorage.getItem(key) !== text) throw new Error("not kept");
    memory.delete(key);
  } catch {
    memory.set(key, text);
  }
}

function read(key) {
  if (memory.has(key)) return memory.get(key);
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function keep() {
  write(KEYS + state.seed, JSON.stringify(state));
}

// The answers of a seed, or null where they are none of this study's.
function kept(seed) {
  try {
    const found = JSON.parse(read(KEYS + seed));
    const { order, answers } = found;
    const fits =
      found.seed === seed &&
      typeof found.person === "string" &&
      order.length === perPerson &&
      order.every((one) => byNumber.has(one.pair)) &&
      answers.length <= order.length &&
      answers.every((one, i) => one.pair === order[i].pair && one.a_side === order[i].aSide);
    return fits ? found : null;
  } catch {
    return null;
  }
}

// All who answered on this device, as they began.
function everyone() {
  const keys = [...memory.keys()];
  try {
    keys.push(...Object.keys(localStorage));
  } catch {
    // None but those in memory.
  }
  const seeds = keys.filter((key) => key.startsWith(KEYS)).map((key) => key.slice(KEYS.length));
  return [...new Set(seeds)]
    .map(kept)
    .filter((one) => one?.answers.length)
    .sort((one, other) => (one.started < other.started ? -1 : 1));
}

// --- Screens.

function show() {
  const done = state && state.answers.length === perPerson;
  const screen = !state ? "start" : done || state.stopped ? "end" : "ask";
  for (const each of screens) each.hidden = each.id !== screen;
  promise();
  ({ start, ask, end })[screen]();
  window.scrollTo(0, 0);
}

// Whoever turns it is, as the device has it.
function refresh() {
  state = kept(read(TURN) ?? "");
  show();
}

// Nothing that the browser does not keep.
function promise() {
  find("later").textContent = lasting()
    ? "No hurry; you can stop and go on later."
    : `This browser keeps no answers. ${STAY}`;
  const where = lasting() ? "on this device" : "in this open page";
  for (const each of document.querySelectorAll(".where")) each.textContent = where;
}

function start() {
  const before = everyone();
  find("earlier").hidden = !before.length;
  find("people").replaceChildren(...before.map(entry));
}

// Of somebody who was here before; without the name, which is not for those who come next.
function entry(person) {
  const button = document.createElement("button");
  const begun = new Date(person.started).toLocaleString();
  const unsaved = person.saved ? "" : ", not saved yet";
  button.type = "button";
  button.textContent = `Begun ${begun}: ${person.answers.length} of ${perPerson}${unsaved}`;
  button.addEventListener("click", () => {
    if (performance.now() - handedOver < HANDOVER) return;
    write(TURN, person.seed);
    refresh();
  });
  return button;
}

function ask() {
  const at = state.answers.length;
  const { pair: number, aSide } = state.order[at];
  const pair = byNumber.get(number);
  for (const side of ["left", "right"]) {
    const which = side === aSide ? 0 : 1;
    const button = find(side);
    button.querySelector("img").src = pair.images[which];
    button.querySelector(".label").textContent = pair.labels[which];
  }
  find("place").textContent = `${at + 1} of ${perPerson}`;
  find("status").textContent = `Pair ${at + 1} of ${perPerson}`;
  find("progress").value = at;
  find("undo").disabled = at === 0;
  find("stop").disabled = at === 0;
  fit(pair);
  // Away from the button that was pressed: a ring around one image would favour it.
  find("question").focus({ preventScroll: true });
  since = performance.now();
}

// The largest whole number of screen pixels for a pixel of the image that both directions allow.
function fit(pair) {
  const card = getComputedStyle(find("left"));
  const across = find("left").clientWidth - 2 * parseFloat(card.paddingLeft);
  // What stands above and below the images, in page.css, with two lines of label.
  const down = Math.max(96, window.innerHeight - (window.innerHeight < 480 ? 195 : 290));
  const room = Math.min(across, down, 320);
  const dots = window.devicePixelRatio || 1;
  const longest = Math.max(pair.width, pair.height);
  const whole = Math.floor((room * dots) / longest) / dots;
  const scale = whole > 0 ? whole : room / longest;
  for (const image of document.querySelectorAll(".picture img")) {
    image.style.width = `${pair.width * scale}px`;
    image.style.height = `${pair.height * scale}px`;
    image.classList.toggle("smooth", whole <= 0);
  }
}

function end() {
  const count = state.answers.length;
  const complete = count === perPerson;
  find("thanks").textContent = complete ? "Thank you" : "Stopped for now";
  const goOn = lasting()
    ? "You can go on, now or later, or save these."
    : "You can go on now, or save these.";
  find("answered").textContent = complete
    ? `All ${count} pairs are answered.`
    : `${count} of ${perPerson} pairs are answered. ${goOn}`;
  if (!lasting()) find("answered").append(` ${STAY}`);
  find("file").textContent = fileName();
  find("text").value = resultText();
  find("saved").textContent = "";
  find("thanks").focus({ preventScroll: true });
}

// --- Answers.

function choose(side) {
  if (find("ask").hidden || performance.now() - since < GUARD) return;
  const { pair, aSide } = state.order[state.answers.length];
  const chosen = side === aSide ? "a" : "b";
  const ms = Math.round(performance.now() - since);
  state.answers.push({ pair, a_side: aSide, chosen, side, ms });
  state.saved = false;
  if (state.answers.length === perPerson) state.finished = new Date().toISOString();
  keep();
  show();
}

function undo() {
  if (!state || !state.answers.length || (find("ask").hidden && find("end").hidden)) return;
  state.answers.pop();
  Object.assign(state, { finished: null, stopped: false, saved: false });
  keep();
  show();
}

function stop(stopped) {
  state.stopped = stopped;
  keep();
  show();
}

// --- The end. The file that a person saves; score.py reads it.

function resultText() {
  const { person, seed, started, finished, answers } = state;
  const given = { person, person_seed: seed, started, finished, answers };
  const result = { study: study.digest, ...study.head, ...given };
  return `${JSON.stringify(result, null, 1)}\n`;
}

function fileName() {
  const plain = state.person.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "");
  return `study-${study.digest.slice(0, 8)}-${plain || state.seed.slice(0, 8)}.json`;
}

// Browsers inside other apps ignore downloads, and no page learns of it.
function save() {
  const name = fileName();
  const url = URL.createObjectURL(new Blob([resultText()], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  done(`Look for ${name} in your downloads. If it is not there, copy the text instead: see below.`);
}

async function copy() {
  find("text").select();
  try {
    await navigator.clipboard.writeText(find("text").value);
  } catch {
    if (!document.execCommand("copy")) return;
  }
  done("The text is copied.");
}

function done(words) {
  state.saved = true;
  keep();
  find("saved").textContent = words;
}

// What was answered stays, and the first screen leads back to it.
function next() {
  write(TURN, "");
  handedOver = performance.now();
  find("name").value = "";
  refresh();
}

function begin(event) {
  event.preventDefault();
  if (performance.now() - handedOver < HANDOVER) return;
  const started = new Date().toISOString();
  state = { seed: newSeed(), person: find("name").value.trim(), started, finished: null };
  Object.assign(state, { stopped: false, saved: false, order: drawn(), answers: [] });
  keep();
  write(TURN, state.seed);
  refresh();
}

// --- Fingers and keys.

for (const side of ["left", "right"]) find(side).addEventListener("click", () => choose(side));
for (const [id, action] of Object.entries({ undo, save, copy, next })) {
  find(id).addEventListener("click", action);
}
find("stop").addEventListener("click", () => stop(true));
find("back").addEventListener("click", () => (state.stopped ? stop(false) : undo()));
find("begin").addEventListener("submit", begin);
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  const sides = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right" };
  if (event.key in sides && !find("ask").hidden) choose(sides[event.key]);
  else if (event.key === "Backspace") undo();
  else return;
  event.preventDefault();
});
// The same page in another tab went on; or did, while this one was put away.
window.addEventListener("storage", (event) => {
  if (event.key?.startsWith(KEYS)) refresh();
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) refresh();
});
// Answers would be lost with the page, as no page learns whether a file was saved.
window.addEventListener("beforeunload", (event) => {
  if (!everyone().some((one) => memory.has(KEYS + one.seed))) return;
  event.preventDefault();
  event.returnValue = true; // for browsers before 2024
});
window.addEventListener("resize", () => {
  if (!find("ask").hidden) fit(byNumber.get(state.order[state.answers.length].pair));
});

for (const each of document.querySelectorAll(".title")) each.textContent = title;
for (const each of document.querySelectorAll(".count")) each.textContent = perPerson;
const minutes = Math.max(1, Math.round((perPerson * 6) / 60));
for (const each of document.querySelectorAll(".minutes")) {
  each.textContent = minutes === 1 ? "a minute" : `${minutes} minutes`;
}
find("question").textContent = study.question;
find("progress").max = perPerson;
write(TURN, read(TURN) ?? ""); // whether the browser keeps anything shows by trying
refresh();
