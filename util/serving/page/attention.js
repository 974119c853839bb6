// Where the model looked: a map of numbers from 0 to 1, drawn upon the image.

const CELL = 16; // pixels of the canvas that a cell of the map takes; the browser scales them to the image
const SIDE = 512; // pixels at most
// Red, green, blue from 0 to 1 by equal steps. Each is lighter than the one before, so that shades of grey keep the order
const COLOURS = [[22, 12, 64], [140, 36, 110], [236, 104, 54], [255, 236, 130]];
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
  const place = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1);
  const first = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[first].map((part, i) => mix(part, COLOURS[first + 1][i], place - first));
}
