// A conversation about the shown frames. The first turn shows the frames, the draft is the first answer.

import { events, send } from "/page/api.js";

const at = (id) => document.getElementById(id);

let model = "";
let turns = [];
let running = null;

/** Offer questions, or say that this key opens none. */
export function allowQuestions(isAllowed) {
  at("ask-form").hidden = !isAllowed;
  at("ask-refused").hidden = isAllowed;
}

/** End the conversation; a question under way is given up. */
export function endTalk() {
  running?.abort();
  at("ask-part").hidden = true;
}

/** Begin a conversation about a draft. */
export function beginTalk(draft, pictures) {
  model = draft.model.split("/")[0];
  const images = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  turns = [
    { role: "user", content: [...images, { type: "text", text: "Write the report." }] },
    { role: "assistant", content: `${draft.findings}\n\n${draft.impression}` },
  ];
  at("talk").replaceChildren();
  at("talk").hidden = true;
  at("ask-error").textContent = "";
  at("ask-part").hidden = false;
}

function say(who, className, text) {
  const line = document.createElement("p");
  line.className = className;
  const name = document.createElement("b");
  name.textContent = who;
  line.append(name, text);
  at("talk").append(line);
  at("talk").hidden = false;
  line.scrollIntoView({ block: "nearest" });
  return line;
}

async function ask(question, signal) {
  say("You", "asked", question);
  const line = say("Model", "answered", "");
  line.setAttribute("aria-busy", "true");
  const asked = [...turns, { role: "user", content: question }];
  let answer = "";
  try {
    const body = JSON.stringify({ model, messages: asked, stream: true });
    const headers = { "Content-Type": "application/json" };
    const response = await send("/v1/chat/completions", { method: "POST", headers, body, signal });
    for await (const [, chunk] of events(response)) {
      const piece = chunk.choices[0]?.delta.content ?? "";
      answer += piece;
      line.append(piece);
    }
    signal.throwIfAborted();
    turns = [...asked, { role: "assistant", content: answer }];
  } catch (error) {
    if (!answer) line.remove();
    throw error;
  } finally {
    line.removeAttribute("aria-busy");
  }
}

at("ask-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question) return;
  at("ask").disabled = true;
  at("ask-error").textContent = "";
  running = new AbortController();
  try {
    await ask(question, running.signal);
    at("question").value = "";
  } catch (error) {
    if (error.name !== "AbortError") at("ask-error").textContent = error.message;
  }
  at("ask").disabled = false;
  at("question").focus();
});
