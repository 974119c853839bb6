// Where the model looked: a map of numbers from 0 to 1, drawn upon the image.

const CELL = 16; // pixels of the canvas that a cell of the map takes; the browser scales them to the image
const SIDE = 512; // pixels at most
const COLOURS = [
  [0.00, 10, 12, 48], [0.20, 72, 18, 108], [0.42, 160, 38, 102], [0.62, 222, 82, 62], [0.80, 248, 150, 36],
  [0.92, 250, 214, 92], [1.00, 254, 252, 214],
]; // place in a map's values, red, green, blue: as util/seeing/colours.py draws them
const OPACITY = 0.6;

/**
 * Draws a map on a canvas, and lays it over the part of the image that the model saw.
 *
 * map: {rows, cols, values}, values row by row; box: that part's left, top, right and bottom, as fractions of the image.
 */
export function drawAttention(canvas, { rows, cols, values, box = [0, 0, 1, 1] }) {
  canvas.width = Math.min(SIDE, CELL * cols);
  canvas.height = Math.min(SIDE, CELL * rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0; y < canvas.height; y++) {
    const [top, bottom, down] = between((y + 0.5) * rows / canvas.height, rows);
    for (let x = 0; x < canvas.width; x++) {
      const [left, right, across] = between((x + 0.5) * cols / canvas.width, cols);
      const upper = mix(values[top * cols + left], values[top * cols + right], across);
      const lower = mix(values[bottom * cols + left], values[bottom * cols + right], across);
      image.data.set([...colour(mix(upper, lower, down)), 255 * OPACITY], 4 * (y * canvas.width + x));
    }
  }
  context.putImageData(image, 0, 0);
  const [left, top, right, bottom] = box.map(part => 100 * part);
  Object.assign(canvas.style, {
    left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%`,
  });
}

/** Returns the two neighbouring cells at a place, and how far it is from the first one's centre to the second's. */
function between(place, count) {
  const from = Math.min(Math.max(place - 0.5, 0), count - 1); // the outermost centres go on to the edge
  const first = Math.floor(from);
  return [first, Math.min(first + 1, count - 1), from - first];
}

const mix = (a, b, part) => a + (b - a) * part;

function colour(value) {
  const last = COLOURS.length - 1;
  const next = Math.max(1, COLOURS.findIndex(([place]) => value <= place));
  const [from, to] = value >= 1 ? [COLOURS[last - 1], COLOURS[last]] : [COLOURS[next - 1], COLOURS[next]];
  const part = Math.min(Math.max((value - from[0]) / (to[0] - from[0]), 0), 1);
  return [1, 2, 3].map(i => mix(from[i], to[i], part));
}
