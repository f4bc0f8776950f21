// What happens on the page. Words from the study reach it as text only, never as markup.
const study = JSON.parse(document.getElementById("study").textContent);
const byNumber = new Map(study.pairs.map((pair) => [pair.number, pair]));
// A second tap of an impatient finger is meant for the pair before.
const GUARD = 150;
// A double tap on "Next person" must not begin for that person as well.
const HANDOVER = 600;
const STAY = "Keep this page open and save before you leave.";

const find = (id) => document.getElementById(id);
const screens = ["start", "ask", "end"].map(find);
let state, order;
let since = 0;
let handedOver = -Infinity;

// --- Screens.

function show() {
  const done = state && state.answers.length === study.perPerson;
  const screen = !state ? "start" : done || state.stopped ? "end" : "ask";
  for (const each of screens) each.hidden = each.id !== screen;
  promise();
  if (screen === "start") start();
  if (screen === "ask") ask();
  if (screen === "end") end();
  window.scrollTo(0, 0);
}

// Whoever turns it is, as the device has it.
function refresh() {
  state = kept(study, turn(study));
  order = state && drawn(study, state);
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
  const before = everyone(study);
  find("earlier").hidden = !before.length;
  find("people").replaceChildren(...before.map(entry));
}

// Of somebody who was here before; without the name, which is not for those who come next.
function entry(person) {
  const button = document.createElement("button");
  const begun = new Date(person.started).toLocaleString();
  const unsaved = person.saved ? "" : ", not saved yet";
  button.type = "button";
  button.textContent = `Begun ${begun}: ${person.answers.length} of ${study.perPerson}${unsaved}`;
  button.addEventListener("click", () => {
    if (performance.now() - handedOver < HANDOVER) return;
    pass(study, person.seed);
    refresh();
  });
  return button;
}

function ask() {
  const at = state.answers.length;
  const { pair: number, aSide } = order[at];
  const pair = byNumber.get(number);
  for (const side of ["left", "right"]) {
    const which = side === aSide ? 0 : 1;
    const button = find(side);
    button.querySelector("img").src = pair.images[which];
    button.querySelector(".label").textContent = pair.labels[which];
  }
  find("place").textContent = `${at + 1} of ${study.perPerson}`;
  find("status").textContent = `Pair ${at + 1} of ${study.perPerson}`;
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
  const complete = count === study.perPerson;
  find("thanks").textContent = complete ? "Thank you" : "Stopped for now";
  const goOn = lasting()
    ? "You can go on, now or later, or save these."
    : "You can go on now, or save these.";
  find("answered").textContent = complete
    ? `All ${count} pairs are answered.`
    : `${count} of ${study.perPerson} pairs are answered. ${goOn}`;
  if (!lasting()) find("answered").append(` ${STAY}`);
  find("file").textContent = fileName(study, state);
  find("text").value = resultText(study, state);
  find("saved").textContent = "";
  find("thanks").focus({ preventScroll: true });
}

// --- Answers.

function choose(side) {
  if (find("ask").hidden || performance.now() - since < GUARD) return;
  const { pair, aSide } = order[state.answers.length];
  const chosen = side === aSide ? "a" : "b";
  const ms = Math.round(performance.now() - since);
  state.answers.push({ pair, a_side: aSide, chosen, side, ms });
  state.saved = false;
  if (state.answers.length === study.perPerson) state.finished = new Date().toISOString();
  keep(study, state);
  show();
}

function undo() {
  if (!state || !state.answers.length || (find("ask").hidden && find("end").hidden)) return;
  state.answers.pop();
  Object.assign(state, { finished: null, stopped: false, saved: false });
  keep(study, state);
  show();
}

function stop(stopped) {
  state.stopped = stopped;
  keep(study, state);
  show();
}

// --- The end.

// Browsers inside other apps ignore downloads, and no page learns of it.
function save() {
  const name = fileName(study, state);
  download(name, resultText(study, state));
  done(`Look for ${name} in your downloads. If it is not there, copy the text instead: see below.`);
}

async function copy() {
  if (await copied(find("text"))) done("The text is copied.");
}

function done(words) {
  state.saved = true;
  keep(study, state);
  find("saved").textContent = words;
}

// What was answered stays, and the first screen leads back to it.
function next() {
  pass(study, "");
  handedOver = performance.now();
  find("name").value = "";
  refresh();
}

// --- Fingers and keys.

for (const side of ["left", "right"]) find(side).addEventListener("click", () => choose(side));
find("undo").addEventListener("click", undo);
find("stop").addEventListener("click", () => stop(true));
find("back").addEventListener("click", () => (state.stopped ? stop(false) : undo()));
find("save").addEventListener("click", save);
find("copy").addEventListener("click", copy);
find("next").addEventListener("click", next);
find("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  if (performance.now() - handedOver < HANDOVER) return;
  const person = find("name").value.trim();
  const started = new Date().toISOString();
  state = { seed: newSeed(), person, started, finished: null, stopped: false, saved: false };
  state.answers = [];
  keep(study, state);
  pass(study, state.seed);
  refresh();
});
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
  if (event.key?.startsWith(keyOf(study, ""))) refresh();
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) refresh();
});
window.addEventListener("beforeunload", (event) => {
  if (!atRisk(study)) return;
  event.preventDefault();
  event.returnValue = true; // for browsers before 2024
});
window.addEventListener("resize", () => {
  if (!find("ask").hidden) fit(byNumber.get(order[state.answers.length].pair));
});

for (const each of document.querySelectorAll(".title")) each.textContent = study.title;
for (const each of document.querySelectorAll(".count")) each.textContent = study.perPerson;
const minutes = Math.max(1, Math.round((study.perPerson * 6) / 60));
for (const each of document.querySelectorAll(".minutes")) {
  each.textContent = minutes === 1 ? "a minute" : `${minutes} minutes`;
}
find("question").textContent = study.question;
find("progress").max = study.perPerson;
pass(study, turn(study)); // whether the browser keeps anything shows by trying
refresh();
