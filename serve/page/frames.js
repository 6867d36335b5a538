// The key frames: one is shown, the slider goes through them, boxes lie over it.

const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

let frames = [];
let boxes = [];

/** Show the frames of a study; boxes come later. */
export function showFrames(shown) {
  frames = shown;
  boxes = [];
  const scrub = at("scrub");
  scrub.max = frames.length;
  scrub.value = 1;
  scrub.disabled = frames.length < 2;
  draw();
}

/** Draw the lesion boxes, and go to the first frame that has one. */
export function showBoxes(found) {
  boxes = found;
  if (boxes.length) at("scrub").value = Math.min(...boxes.map((box) => box.image_index)) + 1;
  draw();
}

/** The frames as data URIs. */
export const pictures = () => frames.map((frame) => frame.image);

function draw() {
  const place = Number(at("scrub").value) - 1;
  const frame = frames[place];
  if (!frame) return;
  const own = boxes.filter((box) => box.image_index === place);
  const masked = frame.masks.length ? " Text in it was made black." : "";
  const lesions = own.length ? ` ${own.length === 1 ? "One lesion box." : `${own.length} lesion boxes.`}` : "";
  const caption = `Key frame ${place + 1} of ${frames.length}, ${frame.width} × ${frame.height} pixels.`;
  at("frame").src = frame.image;
  at("frame").width = frame.width;
  at("frame").height = frame.height;
  at("frame").alt = `De-identified ultrasound. ${caption}${lesions}`;
  at("frame-caption").textContent = caption + masked + lesions;
  at("scrub").setAttribute("aria-valuetext", `${place + 1} of ${frames.length}`);
  drawBoxes(frame, at("show-boxes").checked ? own : []);
}

function drawBoxes(frame, own) {
  const svg = at("boxes");
  svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  svg.replaceChildren(...own.flatMap((box) => ["edge", "line"].map((kind) => {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", kind);
    rect.setAttribute("x", box.x * frame.width);
    rect.setAttribute("y", box.y * frame.height);
    rect.setAttribute("width", box.width * frame.width);
    rect.setAttribute("height", box.height * frame.height);
    return rect;
  })));
}

at("scrub").addEventListener("input", draw);
at("show-boxes").addEventListener("change", draw);
