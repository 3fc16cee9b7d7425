//! CLIP as transformers computes it, and its images as Pillow makes them; goldens by `tests/reference/clip.py`.

use crate::common::{assert_close, clip, golden};
use candle_core::{Device, Tensor};
use vidgen::eval::clip::ClipEmbedder;
use vidgen::text::Tokenizer;
use vidgen::video::Frame;
use vidgen::weights::NetworkFolder;

const LIMIT: f64 = 1e-5;
const SIZES: [(usize, usize); 4] = [(144, 96), (181, 139), (50, 61), (21, 20)];
const PROMPTS: [&str; 4] = [
    "a red ball rolls to the right in a green meadow on a sunny day",
    "The Dark  Knight's horse, in 1080p: don't!",
    "",
    "Café crème brûlée à Zürich — 東京の夜",
];

fn frame(index: usize, (width, height): (usize, usize)) -> Frame {
    let byte = |i: usize| {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        ((x * 5 + y * 3 * (c + 1) + (x * y + index * 40) / 7 + c * 60) % 256) as u8
    };
    Frame { width, height, data: (0..width * height * 3).map(byte).collect() }
}

#[test]
fn images_and_texts() {
    let golden = golden("clip");
    let folder = tempfile::tempdir().unwrap();
    clip::write_folder(folder.path());
    let opened = NetworkFolder::open(folder.path().to_str().unwrap(), "clip", true).unwrap();
    let embedder = ClipEmbedder::open(&opened, &Device::Cpu).unwrap();
    let square = |(index, &size): (usize, &(usize, usize))| embedder.square(&frame(index, size)).unwrap();
    let looks = embedder.look(&SIZES.iter().enumerate().map(square).collect::<Vec<_>>()).unwrap();
    let rows = |part: fn(&vidgen::eval::clip::ClipFeatures) -> &Vec<f32>, name: &str| {
        let values: Vec<f32> = looks.iter().flat_map(|look| part(look).clone()).collect();
        assert_close(
            name,
            &Tensor::from_vec(values, golden[name].shape(), &Device::Cpu).unwrap(),
            &golden[name],
            LIMIT,
        );
    };
    rows(|look| &look.pooled, "pooled");
    rows(|look| &look.projected, "projected");
    for (index, prompt) in PROMPTS.iter().enumerate() {
        let want = &golden[&format!("text/{index}/projected")];
        let (values, cut) = embedder.text(prompt).unwrap();
        assert_eq!(cut, index == 3);
        assert_close(prompt, &Tensor::new(values, &Device::Cpu).unwrap(), want, LIMIT);
    }
}

#[test]
fn token_ids() {
    let golden = golden("clip");
    let folder = crate::common::golden_dir().join("clip");
    let tokenizer = Tokenizer::from_files(&|name| Ok(std::fs::read(folder.join(name)).ok())).unwrap();
    for (index, prompt) in PROMPTS.iter().enumerate() {
        let want = golden[&format!("text/{index}/ids")].to_vec1::<u32>().unwrap();
        let tokens = tokenizer.encode(prompt, 40).unwrap();
        assert_eq!(tokens.ids[..tokens.pieces.len()], want, "{prompt}");
    }
}
