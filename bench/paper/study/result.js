// The file that a person saves; results.py reads it.

function resultText(study, state) {
  const result = {
    format: study.format,
    study: study.digest,
    title: study.title,
    groups: study.groups,
    settings: study.settings,
    seed: study.seed,
    per_person: study.perPerson,
    person: state.person,
    person_seed: state.seed,
    started: state.started,
    finished: state.finished,
    answers: state.answers,
  };
  return `${JSON.stringify(result, null, 1)}\n`;
}

function fileName(study, state) {
  const plain = state.person.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "");
  return `study-${study.digest.slice(0, 8)}-${plain || state.seed.slice(0, 8)}.json`;
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

async function copied(area) {
  area.select();
  try {
    await navigator.clipboard.writeText(area.value);
    return true;
  } catch {
    return document.execCommand("copy");
  }
}
