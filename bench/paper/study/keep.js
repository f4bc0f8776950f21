// What the device keeps, so that a reload goes on: each person's answers under their seed, and whose
// turn it is. Nothing is ever deleted: the next person's turn leaves all answers where they are.

// What the browser's storage does not take; a reload forgets it.
const memory = new Map();

function lasting() {
  return memory.size === 0;
}

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

function keyOf(study, what) {
  return `scotoma-study-${study.digest}-${what}`;
}

// The seed of the person whose turn it is; "" between two.
function turn(study) {
  return read(keyOf(study, "turn")) ?? "";
}

function pass(study, seed) {
  write(keyOf(study, "turn"), seed);
}

function keep(study, state) {
  write(keyOf(study, state.seed), JSON.stringify(state));
}

// The answers of a seed, or null.
function kept(study, seed) {
  try {
    const state = JSON.parse(read(keyOf(study, seed)));
    return state && state.seed === seed && fits(study, state) ? state : null;
  } catch {
    return null;
  }
}

// Of all who answered on this device, as they began.
function everyone(study) {
  const keys = [...memory.keys()];
  try {
    keys.push(...Object.keys(localStorage));
  } catch {
    // None but those in memory.
  }
  const before = keyOf(study, "");
  const seeds = keys.filter((key) => key.startsWith(before)).map((key) => key.slice(before.length));
  const states = [...new Set(seeds)].map((seed) => kept(study, seed));
  return states
    .filter((state) => state && state.answers.length)
    .sort((one, other) => (one.started < other.started ? -1 : 1));
}

// Whether answers would be lost with the page, as no page learns whether a file was saved.
function atRisk(study) {
  return everyone(study).some((state) => memory.has(keyOf(study, state.seed)));
}

function fits(study, state) {
  if (!/^[0-9a-f]{16}$/.test(state.seed) || typeof state.person !== "string") return false;
  const order = drawn(study, state);
  return (
    state.answers.length <= order.length &&
    state.answers.every((a, i) => a.pair === order[i].pair && a.a_side === order[i].aSide)
  );
}

function drawn(study, state) {
  const numbers = study.pairs.map((pair) => pair.number);
  return assignment(numbers, study.perPerson, state.seed);
}
