// Requests to this server, with the key of this tab; what goes wrong becomes a sentence.

const KEY = "sonoloop-key";

const PLAIN = {
  "phi-suspected": "This study cannot be shown: names or other text in the pictures could not be removed for certain.",
  "not-ultrasound": "These files are not ultrasound.",
  "not-an-image": "These files are no pictures that can be read.",
  "empty-object": "The file is empty.",
  "unreadable": "The files are damaged or of a kind that cannot be read.",
  "truncated": "The files are cut off. Send them again, whole.",
  "too-large": "The study is larger than this server reads at once.",
  "document": "The file is a document, not a picture.",
  "no-pixels": "There are no pictures in these files.",
  "bad-entry": "These are files of more than one study. Send one study at a time.",
  "crashed": "Reading these files took too long or failed.",
  "invalid-output": "The model wrote no usable draft of this study.",
  "model-failed": "The model failed on this study. Try again.",
  "invalid_api_key": "The key is not this server's.",
  "insufficient_scope": "This key may not do that.",
  "rate_limit_exceeded": "This key has asked for all it may for now. Try again in a minute.",
  "keys_unavailable": "The server cannot check keys just now. Try again in a minute.",
  "body_timeout": "Sending the files took too long.",
  "overloaded": "The server is busy. Try again in a few seconds.",
  "timeout": "It took too long and was given up.",
  "body_too_large": "The files are larger than this server takes.",
  "cannot_keep": "This server cannot keep studies: it has no key to name them with.",
  "replica_lost": "The model was lost meanwhile. Try again.",
  "context_length_exceeded": "The conversation has become too long. Draft the study again to start a new one.",
};

/** A failure as the page tells it, with the server's code where it gave one. */
export class Failure extends Error {
  constructor(message, code = null) {
    super(message);
    this.code = code;
  }
}

/** The key of this tab, or null. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

function failure(error) {
  return new Failure(sentence(error), error?.code);
}

function sentence(error) {
  const plain = PLAIN[error?.code];
  if (!plain) return error?.message ? `The server says: ${error.message}` : "The server failed.";
  return error.message ? `${plain} (${error.message})` : plain;
}

/** Ask the server; throws a Failure with a sentence for people. */
export async function send(path, options = {}) {
  const headers = { Authorization: `Bearer ${key.get() ?? ""}`, ...options.headers };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Check that it runs and that the network is up.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw failure(body?.error);
}

/** The server-sent events of a response, as [name, data]. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2)).join("\n");
      const data = field("data");
      if (data === "" || data === "[DONE]") continue;
      const parsed = JSON.parse(data);
      if (parsed.error) throw failure(parsed.error);
      yield [field("event"), parsed];
    }
  }
}
