// The report as it is written, and what the draft says field by field.

const at = (id) => document.getElementById(id);
const SURE = 0.9;
const LIKELY = 0.7;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Begin an empty report. */
export function beginReport() {
  at("report").replaceChildren();
  at("report").setAttribute("aria-busy", "true");
  at("entities-part").hidden = true;
}

/** Add a piece; it is read aloud once the report is whole. */
export function addPiece(text) {
  at("report").append(text);
}

/** The report is over, whole or not. */
export function endReport() {
  at("report").setAttribute("aria-busy", "false");
}

/** The whole report in its two parts. */
export function showReport({ findings, impression, language }) {
  const parts = [["Findings", findings], ["Impression", impression]].flatMap(([title, text]) => {
    const body = element("p", text || "nothing was written");
    body.lang = language;
    return [element("h3", title), body];
  });
  at("report").replaceChildren(...parts);
  endReport();
}

/** What the model says field by field, each with how sure it is in words and per cent. */
export function showEntities({ entities, confidence, calibrated }) {
  at("entities").replaceChildren(...entities.map(chip));
  const whole = confidence === null ? "" : `About ${percent(confidence)} of these values should stay as they are. `;
  at("confidence").textContent = calibrated
    ? `${whole}Confidences are calibrated on what readers kept.`
    : "Confidences are the model's own and not calibrated: take them as an order, not as a rate.";
  at("entities-part").hidden = false;
}

function chip({ field, value, confidence }) {
  const [word, kind] = wording(confidence);
  const item = element("li", "", kind);
  item.append(element("b", field === "bi_rads" ? "BI-RADS" : field.replaceAll("_", " ")), `: ${value}`, element("span", word));
  return item;
}

function wording(confidence) {
  if (confidence === null) return ["no other value possible", "given"];
  const share = percent(confidence);
  if (confidence >= SURE) return [`● sure, ${share}`, "sure"];
  if (confidence >= LIKELY) return [`◐ likely, ${share}`, "likely"];
  return [`○ unsure, ${share}`, "unsure"];
}

const percent = (share) => `${Math.round(share * 100)} %`;

/** What the asker should know about the files. */
export function showWarnings(warnings, names) {
  at("warnings").replaceChildren(...warnings.map(({ message, file }) =>
    element("li", file === null ? message : `${names[file] ?? `file ${file + 1}`}: ${message}`)));
  at("notes-title").textContent = `Notes on the files (${warnings.length})`;
  at("notes").hidden = warnings.length === 0;
  at("notes").open = warnings.length > 0;
}
