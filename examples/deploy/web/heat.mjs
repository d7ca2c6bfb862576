/* Anomaly maps as pictures to lay over images, in the colors of the library's reports. */

const COLORS = [
  [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85],
  [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164],
]; // matplotlib's inferno
const PLACE = 0.4; // of the threshold among the colors, from 0 to 1
const REACH = 8; // how far above the threshold colors go on, in distances from normal to threshold
const ALPHA = 0.7 * 255; // from the threshold on

/** RGBA (height, width) of a map (rows, columns); levels are [normal, threshold] or null. */
export function heatmap({ map, rows, columns, height, width, levels }) {
  const values = resampled({ map, rows, columns, height, width });
  const { place, opacity, threshold } = scaleOf(values, levels);
  const image = new ImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    const at = place(values[i]);
    image.data.set([...colorOf(at), ALPHA * opacity(at)], 4 * i);
  }
  drawContour(image, values, threshold);
  return image;
}

/** Nearest values: maps are smooth. */
function resampled({ map, rows, columns, height, width }) {
  const values = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * rows) / height) * columns;
    for (let x = 0; x < width; x++) {
      values[y * width + x] = map[row + Math.floor(((x + 0.5) * columns) / width)];
    }
  }
  return values;
}

function scaleOf(values, levels) {
  if (levels) {
    const threshold = levels[1];
    const normal = Math.min(levels[0], threshold - 1e-6 * Math.max(Math.abs(threshold), 1e-6));
    const reach = threshold - normal;
    const place = (value) => {
      if (value <= threshold) return (PLACE * Math.max(value - normal, 0)) / reach;
      return PLACE + (1 - PLACE) * Math.sqrt(Math.min((value - threshold) / (REACH * reach), 1));
    };
    return { place, opacity: (at) => Math.min(at / PLACE, 1), threshold };
  }
  const sorted = values.slice().sort();
  const lowest = sorted[sorted.length >> 1];
  const range = Math.max(sorted.at(-1) - lowest, 1e-12);
  const place = (value) => Math.max(value - lowest, 0) / range;
  return { place, opacity: Math.sqrt, threshold: Infinity };
}

function colorOf(at) {
  const steps = at * (COLORS.length - 1);
  const i = Math.min(Math.floor(steps), COLORS.length - 2);
  return COLORS[i].map((low, channel) => low + (steps - i) * (COLORS[i + 1][channel] - low));
}

/** White pixels where a region above the threshold ends. */
function drawContour({ data, width, height }, values, threshold) {
  const isInside = (x, y) => values[y * width + x] > threshold;
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++) {
      const isCore = isInside(x - 1, y) && isInside(x + 1, y) && isInside(x, y - 1) && isInside(x, y + 1);
      if (isInside(x, y) && !isCore) data.fill(255, 4 * (y * width + x), 4 * (y * width + x) + 4);
    }
  }
}
