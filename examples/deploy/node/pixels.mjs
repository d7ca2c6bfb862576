/* Pixels of a file as the library decodes them: upright, without color management, without alpha. */

import sharp from "sharp";

const FORMATS = ["jpeg", "png", "webp", "tiff", "gif"];
const SPACES = ["b-w", "srgb"];

/** { data, height, width, channels } of a file; data is a Uint8Array of (height, width, channels). */
export async function pixelsOf(path) {
  const image = sharp(path, { ignoreIcc: true, failOn: "error" });
  const { format, depth, space, pages } = await image.metadata();
  if (!FORMATS.includes(format)) throw new Error(`expected an image, got a file of ${format}.`);
  if (depth !== "uchar") {
    throw new Error(`expected 8 bits per channel, got ${depth}. Save the image with 8 bits.`);
  }
  if (!SPACES.includes(space)) throw new Error(`expected a gray or RGB image, got ${space}.`);
  if (pages > 1) throw new Error(`expected one image in the file, got ${pages} frames.`);
  const { data, info } = await image
    .autoOrient()
    .removeAlpha()
    .toColourspace(space) // gray stays gray
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { data, height: info.height, width: info.width, channels: info.channels };
}
