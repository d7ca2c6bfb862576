/* Pixels of a file as the library decodes them: upright, without color management, without alpha. */

const AS_THEY_ARE = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** { bitmap, data, height, width } of a Blob; data is RGBA, of which the detector drops A. */
export async function pixelsOf(blob) {
  checkKind(new Uint8Array(await blob.arrayBuffer()));
  const bitmap = await createImageBitmap(blob, AS_THEY_ARE).catch(() => {
    throw new Error("cannot be read as an image. Repair or remove the file.");
  });
  const { height, width } = bitmap;
  const data = readBack(bitmap);
  for (let i = 3; i < data.length; i += 4) {
    if (data[i] !== 255) return { bitmap, data: readBelowAlpha(bitmap), height, width };
  }
  return { bitmap, data, height, width };
}

/** Refuse to work in a browser that adds noise to what pages read of pictures. */
export async function checkBrowser() {
  const colors = Uint8ClampedArray.from({ length: 4096 }, (_, i) => (i % 4 === 3 ? 255 : i * 7));
  const bitmap = await createImageBitmap(new ImageData(colors, 32), AS_THEY_ARE);
  if (readBack(bitmap).some((value, i) => value !== colors[i])) {
    throw new Error(
      "This browser changes the pixels that pages read, to protect its user from being " +
        "recognized. Scores would be wrong: allow this page to read them, or use another browser.",
    );
  }
}

function readBack(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("is too large for this browser.");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

/** The same where there is transparency: below it a 2D canvas forgets colors, and this one does not. */
function readBelowAlpha(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new Error("is transparent in places, which this browser cannot undo. Save it without.");
  }
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8ClampedArray(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return data;
}

// -- what is refused before a browser decodes it in a way of its own ------------------------------

const NOT_ONE_PICTURE = "expected one image in the file, got an animation.";

function checkKind(bytes) {
  const begins = (text, at = 0) => textAt(bytes, at, text.length) === text;
  if (begins("\x89PNG")) checkPng(bytes);
  else if (begins("\xff\xd8")) checkJpeg(bytes);
  else if (begins("RIFF") && begins("WEBP", 8)) {
    if (begins("VP8X", 12) && bytes[20] & 2) throw new Error(NOT_ONE_PICTURE);
  } else if (!begins("BM")) throw new Error("expected a PNG, JPEG, WebP or BMP image.");
}

function checkPng(bytes) {
  if (bytes[24] > 8) {
    throw new Error("expected 8 bits per channel, got 16. Save the image with 8 bits.");
  }
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 8 <= bytes.length; at += view.getUint32(at) + 12) {
    const kind = textAt(bytes, at + 4, 4);
    if (kind === "acTL") throw new Error(NOT_ONE_PICTURE);
    if (kind === "IDAT") return;
  }
}

function checkJpeg(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 2; at + 9 < bytes.length; at += view.getUint16(at + 2) + 2) {
    const marker = bytes[at + 1];
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      if (bytes[at + 9] === 4) throw new Error("expected a gray or RGB image, got CMYK.");
      return;
    }
  }
}

function textAt(bytes, at, length) {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}
