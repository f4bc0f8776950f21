// Which pairs a person gets, in which order and on which sides. draw.py computes the same: change
// both or neither.

function assignment(numbers, count, seed) {
  const below = equally(generator(seed));
  const chosen = [...numbers];
  shuffle(chosen, count, below);
  const sides = [];
  for (let i = 0; i < count - (count % 2); i++) sides.push(["left", "right"][i % 2]);
  if (count % 2) sides.push(["left", "right"][below(2)]);
  shuffle(sides, count, below);
  return sides.map((side, i) => ({ pair: chosen[i], aSide: side }));
}

function shuffle(values, count, below) {
  for (let i = 0; i < count; i++) {
    const j = i + below(values.length - i);
    [values[i], values[j]] = [values[j], values[i]];
  }
}

function equally(random) {
  return (n) => {
    for (;;) {
      const value = random();
      if (value < 2 ** 32 - (2 ** 32 % n)) return value % n;
    }
  };
}

function generator(seed) {
  let a = 0, b = parseInt(seed.slice(0, 8), 16) | 0, c = parseInt(seed.slice(8), 16) | 0;
  let counter = 1;
  const random = () => {
    const found = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + found) | 0;
    return found >>> 0;
  };
  for (let i = 0; i < 12; i++) random();
  return random;
}

function newSeed() {
  const words = crypto.getRandomValues(new Uint32Array(2));
  return [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
}
