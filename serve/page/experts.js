// Which experts the draft's tokens went to: a sentence, and a table of layers and experts.

const at = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(share * 100)} %`;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** Show how often each expert was chosen, layer by layer; nothing where the engine does not tell. */
export function showExperts({ expert_counts: counts }) {
  at("experts-part").hidden = counts === null;
  if (counts === null) return;
  const all = counts[0].map((_, expert) => sum(counts.map((layer) => layer[expert])));
  const rows = [...counts.map((layer, number) => [number, shares(layer)]), ["all", shares(all)]];
  const largest = Math.max(...rows.flatMap(([, row]) => row));
  at("experts-said").textContent = said(shares(all));
  at("experts-count").colSpan = all.length;
  at("experts-head").replaceChildren(...all.map((_, number) => heading(number, "col")));
  at("experts").replaceChildren(...rows.map(([name, row]) => {
    const line = document.createElement("tr");
    line.append(heading(name, "row"), ...row.map((share) => cell(share, share / largest)));
    return line;
  }));
}

function shares(counts) {
  const total = sum(counts);
  return counts.map((count) => count / total);
}

function said(total) {
  const named = (share) => `expert ${total.indexOf(share)} (${percent(share)})`;
  return `Over all layers ${named(Math.max(...total))} was used most and ${named(Math.min(...total))} least; `
    + `evenly each would have ${percent(1 / total.length)}.`;
}

function heading(text, scope) {
  const made = document.createElement("th");
  made.scope = scope;
  made.textContent = text;
  return made;
}

function cell(share, length) {
  const made = document.createElement("td");
  made.textContent = percent(share);
  made.style.setProperty("--length", length);
  return made;
}
