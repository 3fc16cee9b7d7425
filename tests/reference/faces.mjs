// Goldens of the face networks: what npm's @vladmandic/face-api 1.7.15 gives, with few channels on random weights and with its own.
//
//     npm pack @vladmandic/face-api@1.7.15 && tar xf vladmandic-face-api-1.7.15.tgz
//     node tests/reference/faces.mjs package FACES.safetensors    # the file that scripts/metrics makes
//
// Writes tests/golden/faces.safetensors: small networks with their outputs (small.*), and the outputs of the real ones (real.*), which
// a test compares where their file is at hand. Pictures have the sides that the networks see; they follow from a formula that the Rust
// test repeats.

import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const [, , folder, file] = process.argv;
class Canvas {}
// the bundle is for browsers
globalThis.window = globalThis;
globalThis.document = { createElement: () => new Canvas() };
const faceapi = await import(pathToFileURL(resolve(folder, 'dist/face-api.esm.js')));
faceapi.env.setEnv({ Canvas, CanvasRenderingContext2D: Canvas, Image: Canvas, ImageData: Canvas, Video: Canvas });
const tf = faceapi.tf;
await tf.setBackend('cpu');
const SIDES = { detector: 416, landmarks: 112, recognition: 150 };
const NETS = { detector: faceapi.TinyFaceDetector, landmarks: faceapi.FaceLandmark68TinyNet, recognition: faceapi.FaceRecognitionNet };

// [side, side, 3], 0 to 255
function picture(side) {
  const byte = (i) => {
    const [x, y, c] = [Math.floor(i / 3) % side, Math.floor(i / 3 / side), i % 3];
    return (x * (2 + c) + y * 3 + Math.floor((x * y) / 40) + c * 70) % 256;
  };
  return tf.tensor3d(Float32Array.from({ length: side * side * 3 }, (_, i) => byte(i)), [side, side, 3]);
}

// [out, in, k, k] to [k, k, in, out]; [out, in] to [in, out]
function turned(name, shape, values) {
  const x = tf.tensor(values, shape);
  if (shape.length === 4) return name.includes('depthwise') ? x.transpose([2, 3, 1, 0]) : x.transpose([2, 3, 1, 0]);
  return shape.length === 2 ? x.transpose() : x;
}

async function outputs(kind, weights) {
  const net = new NETS[kind]();
  const map = {};
  for (const [name, { shape, values }] of Object.entries(weights)) map[name.replaceAll('.', '/')] = turned(name, shape, values);
  net.loadFromWeightMap(map);
  const x = picture(SIDES[kind]);
  if (kind === 'detector') {
    const input = await faceapi.toNetInput(x);
    const raw = net.forwardInput(input, SIDES[kind]);
    return { output: raw.transpose([0, 3, 1, 2]) };
  }
  if (kind === 'landmarks') return { output: net.forwardInput(await faceapi.toNetInput(x)).squeeze() };
  return { output: net.forwardInput(await faceapi.toNetInput(x)).squeeze() };
}

function read(path) {
  const data = readFileSync(path);
  const length = Number(data.readBigUInt64LE(0));
  const header = JSON.parse(data.subarray(8, 8 + length));
  const nets = { detector: {}, landmarks: {}, recognition: {} };
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [from, to] = entry.data_offsets;
    const bytes = data.buffer.slice(data.byteOffset + 8 + length + from, data.byteOffset + 8 + length + to);
    const [kind, ...rest] = name.split('.');
    nets[kind][rest.join('.')] = { shape: entry.shape, values: new Float32Array(bytes) };
  }
  return nets;
}

// a generator of its own, so that the file is the same each time
let state = 5;
function random() {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}

// the same layers with fewer channels; values that f16 holds nearly, rounded to steps of 2^-9
function smaller(kind, weights) {
  const less = (count) => (count === 3 || count === 25 || count === 136 || count === 1 ? count : Math.max(1, Math.floor(count / (kind === 'recognition' ? 32 : 16))));
  const small = {};
  for (const [name, { shape }] of Object.entries(weights)) {
    const output = name === 'fc' ? 12 : less(shape[0]);
    const plain = shape.length === 1 ? [less(shape[0])] : [output, less(shape[1]), ...shape.slice(2)];
    const count = plain.reduce((a, b) => a * b, 1);
    const fan = plain.length > 1 ? count / plain[0] : 1;
    const size = name.endsWith('scale.weights') ? 0.5 : plain.length > 1 ? 2.2 / Math.sqrt(fan) : 0.3;
    const base = name.endsWith('scale.weights') ? 1 : 0;
    const values = Float32Array.from({ length: count }, () => Math.round((base + size * random()) * 512) / 512);
    small[name] = { shape: plain, values };
  }
  return small;
}

function save(path, tensors) {
  const header = {}, parts = [];
  let at = 0;
  for (const name of Object.keys(tensors).sort()) {
    const { shape, values } = tensors[name];
    const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
    header[name] = { dtype: values instanceof Float32Array ? 'F32' : 'F16', shape, data_offsets: [at, at + bytes.length] };
    parts.push(bytes);
    at += bytes.length;
  }
  let text = Buffer.from(JSON.stringify(header));
  text = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

// of numbers that are steps of 2^-9 below 4
function half(values) {
  const bits = (x) => {
    if (x === 0) return 0;
    const sign = x < 0 ? 0x8000 : 0;
    const exponent = Math.floor(Math.log2(Math.abs(x)));
    return sign | ((exponent + 15) << 10) | Math.round((Math.abs(x) / 2 ** exponent - 1) * 1024);
  };
  return Uint16Array.from(values, bits);
}

const golden = {};
for (const [kind, weights] of Object.entries(read(file))) {
  const small = smaller(kind, weights);
  for (const [name, { shape, values }] of Object.entries(small)) golden[`small.weights.${kind}.${name}`] = { shape, values: half(values) };
  for (const [which, net] of [['small', small], ['real', weights]]) {
    const { output } = await outputs(kind, net);
    golden[`${which}.${kind}`] = { shape: output.shape, values: Float32Array.from(output.dataSync()) };
    console.log(which, kind, output.shape, output.abs().max().dataSync()[0]);
  }
}
const place = join(dirname(fileURLToPath(import.meta.url)), '../golden/faces.safetensors');
save(place, golden);
console.log(place, readFileSync(place).length);
