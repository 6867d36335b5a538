// The page's order of events: a key, a study, its draft, and what one may do with it.

import { events, Failure, key, send } from "/page/api.js";
import { allowQuestions, beginTalk, endTalk } from "/page/asking.js";
import { showExperts } from "/page/experts.js";
import { pictures, showBoxes, showFrames } from "/page/frames.js";
import { addPiece, beginReport, endReport, showEntities, showReport, showWarnings } from "/page/report.js";

const at = (id) => document.getElementById(id);

let files = [];
let shown = null; // the files and the organ of the result, whatever is chosen since
let running = null;

// --- the key ---

async function useKey(value) {
  key.set(value);
  at("model").hidden = true;
  at("key-status").textContent = "";
  let code = null;
  try {
    const { data } = await (await send("/v1/models")).json();
    at("model").textContent = `Model ${data[0].id}`;
    at("model").hidden = false;
  } catch (error) {
    code = error.code;
    if (code === "invalid_api_key") key.forget();
    if (code !== "insufficient_scope") at("key-status").textContent = error.message;
  }
  allowQuestions(code !== "insufficient_scope");
  showKey();
}

function showKey() {
  const isSet = key.get() !== null;
  at("key-form").hidden = isSet;
  at("key-set").hidden = !isSet;
}

at("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const value = at("key").value.trim();
  at("key").value = "";
  await useKey(value);
  at(key.get() === null ? "key" : "files").focus();
});

at("key-forget").addEventListener("click", () => {
  key.forget();
  at("model").hidden = true;
  showKey();
  at("key").focus();
});

// --- the study ---

function choose(list) {
  files = [...list];
  const size = files.reduce((sum, file) => sum + file.size, 0) / 2 ** 20;
  const count = files.length === 1 ? "1 file" : `${files.length} files`;
  at("study-status").textContent = files.length ? `${count}, ${size.toFixed(1)} MB. Ready to draft.` : "";
  at("study-error").textContent = "";
}

function post(study, wishes, signal) {
  const form = new FormData();
  for (const file of study.files) form.append("files", file, "file");
  const query = new URLSearchParams(wishes);
  if (study.organ) query.set("organ", study.organ);
  return send(`/v1/drafts?${query}`, { method: "POST", body: form, signal });
}

function beginDraft() {
  shown = { files, organ: at("organ").value };
  endTalk();
  for (const id of ["result", "experts-part", "keep-part"]) at(id).hidden = true;
  for (const id of ["study-error", "keep-error", "keep-status"]) at(id).textContent = "";
  at("study-status").textContent = "Reading the files and removing text from the pictures…";
  at("stop").hidden = false;
  at("stop").focus();
  at("draft").disabled = true;
  beginReport();
}

function endDraft() {
  endReport();
  const wasOnStop = document.activeElement === at("stop");
  at("draft").disabled = false;
  if (wasOnStop) at("draft").focus();
  at("stop").hidden = true;
}

const SHOW = {
  frames(study) {
    at("result").hidden = false;
    showFrames(study.frames);
    showWarnings(study.warnings, shown.files.map((file) => file.name));
    at("study-status").textContent = "The frames are clean. The model writes…";
  },
  report({ text }) {
    addPiece(text);
  },
  entities(drafted) {
    showEntities(drafted);
    showBoxes(drafted.boxes);
  },
  done(draft) {
    showReport(draft);
    showExperts(draft);
    beginTalk(draft, pictures());
    at("keep").removeAttribute("aria-disabled");
    at("keep-part").hidden = false;
    at("study-status").textContent = `Drafted by ${draft.model}.`;
  },
};

async function draft() {
  beginDraft();
  running = new AbortController();
  try {
    const response = await post(shown, { stream: true }, running.signal);
    for await (const [name, data] of events(response)) SHOW[name](data);
  } catch (error) {
    const stopped = error.name === "AbortError";
    at("study-status").textContent = stopped ? "Stopped." : "";
    if (!stopped) at("study-error").textContent = error instanceof Failure ? error.message : "The connection broke.";
  } finally {
    endDraft();
  }
}

at("files").addEventListener("change", () => choose(at("files").files));
at("stop").addEventListener("click", () => running?.abort());
at("study-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (key.get() === null) {
    at("study-error").textContent = "Enter the server's API key first.";
    at("key").focus();
  } else if (!files.length) {
    at("study-error").textContent = "Choose the files of a study first.";
    at("files").focus();
  } else {
    draft();
  }
});

const drop = at("drop");
for (const name of ["dragenter", "dragover"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  at("files").files = event.dataTransfer.files;
  choose(event.dataTransfer.files);
  at("draft").focus();
});

// --- keeping ---

const KEPT = {
  "new": "Kept. The next sonoloop push brings it to Label Studio.",
  "there before": "The workspace has this study already. The next sonoloop push brings it to Label Studio if it is not there.",
  "there with other frames": "The workspace has this study with more or other files; nothing was changed.",
  withdrawn: "Somebody saw patient data in this study; it was withdrawn and is not kept again.",
};

// Marked as disabled rather than disabled, so that the keyboard stays where it is.
at("keep").addEventListener("click", async () => {
  if (at("keep").ariaDisabled === "true") return;
  const kept = shown;
  at("keep").ariaDisabled = "true";
  at("keep-error").textContent = "";
  at("keep-status").textContent = "Reading and drafting once more, to keep it…";
  const said = { status: "", error: "" };
  try {
    const response = await post(kept, { keep: true, images: "none" });
    said.status = KEPT[(await response.json()).kept.case];
  } catch (error) {
    said.error = error.message;
  }
  if (kept !== shown) return; // another study is shown, of which this says nothing
  at("keep-status").textContent = said.status;
  at("keep-error").textContent = said.error;
  if (said.error) at("keep").ariaDisabled = null;
});

showKey();
if (key.get() !== null) useKey(key.get());
