//! Stable Diffusion's networks against diffusers and transformers (goldens: `tests/reference/sd.py`).

use crate::common::{assert_close, golden, golden_dir, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use vidgen::models::Autoencoder;
use vidgen::models::autoencoder::{DecodeOptions, EncodeOptions, TileOptions};
use vidgen::models::autoencoder_kl::{AutoencoderKL, VaeConfig};
use vidgen::text::{ClipEncoder, TextEncoder, Tokenizer};

const KINDS: [&str; 2] = ["tiny-sd1", "tiny-sd2"];
const LIMIT: f64 = 1e-5;

fn config<T: serde::de::DeserializeOwned>(kind: &str, part: &str) -> T {
    let path = golden_dir().join(kind).join(part).join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn builder(tensors: HashMap<String, Tensor>, dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)
}

/// Every p-th value, as `vae.thin` of the reference keeps them.
fn thin(x: &Tensor) -> Tensor {
    let values = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let prime = |p: usize| (2..p).all(|d| !p.is_multiple_of(d));
    let fits = |p: &usize| values.len().div_ceil(*p) <= 1500;
    let step = std::iter::once(1).chain((11..).filter(|&p| prime(p))).find(fits).unwrap();
    Tensor::new(values.into_iter().step_by(step).collect::<Vec<f32>>(), &Device::Cpu).unwrap()
}

const TEXTS: [&str; 8] = [
    "a red ball rolls to the right in a green meadow on a sunny day",
    "The Dark  Knight's horse, in 1080p: don't!",
    "",
    "Café crème brûlée à Zürich — 東京の夜",
    "hello! a RED ball!! <|endoftext|> and more",
    "a <|ENDOFTEXT|> b",
    "it's 12,5 mm\t wide\n— naïve Ünïcode",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen one two three four \
     five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen ",
];

fn tokenizer(kind: &str) -> Tokenizer {
    let read = |name: &str| {
        let folder = if name.starts_with("vocab") || name.starts_with("merges") { "clip" } else { kind };
        let folder = if folder == kind { golden_dir().join(kind).join("tokenizer") } else { golden_dir().join(folder) };
        Ok(std::fs::read(folder.join(name)).ok())
    };
    Tokenizer::from_files(&read).unwrap()
}

#[test]
fn token_ids_equal_transformers() {
    let golden = golden("sd/text");
    for kind in KINDS {
        let (tokenizer, want) = (tokenizer(kind), &golden[&format!("{kind}/ids")]);
        for (index, text) in TEXTS.iter().enumerate() {
            let tokens = tokenizer.encode(text, 24).unwrap();
            assert_eq!(tokens.ids, want.get(index).unwrap().to_vec1::<u32>().unwrap(), "{kind} {text:?}");
            assert_eq!(tokens.cut.is_some(), [3, 6, 7].contains(&index), "{kind} {text:?}: {:?}", tokens.cut);
        }
    }
}

#[test]
fn texts_equal_transformers() {
    let golden = golden("sd/text");
    for kind in KINDS {
        let (ids, want) = (&golden[&format!("{kind}/ids")], &golden[&format!("{kind}/hidden")]);
        let ids: Vec<Vec<u32>> = [0, 1, 2, 4].map(|text| ids.get(text).unwrap().to_vec1().unwrap()).to_vec();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let tensors = tiny::tensors(kind, "text_encoder", kind);
        let mut bare: HashMap<String, Tensor> =
            tensors.iter().map(|(name, x)| (name.strip_prefix("text_model.").unwrap().to_owned(), x.clone())).collect();
        let places = Tensor::arange(0i64, 24, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        bare.insert("embeddings.position_ids".to_owned(), places);
        for (names, tensors) in [("with their prefix", tensors), ("without it", bare)] {
            let encoder = ClipEncoder::new(config(kind, "text_encoder"), builder(tensors, DType::F32)).unwrap();
            let got = Tensor::stack(&encoder.encode_all(&ids).unwrap(), 0).unwrap();
            assert_close(&format!("{kind}, names {names}"), &got, want, LIMIT);
            let error = encoder.encode(&[0; 25]).unwrap_err().to_string();
            assert!(error.contains("25 tokens") && error.contains("1 to 24"), "{error}");
            assert!(encoder.encode(&[100_000]).unwrap_err().to_string().contains("token id 100000"));
        }
    }
}

fn autoencoder(kind: &str, tensors: HashMap<String, Tensor>) -> AutoencoderKL {
    let config: VaeConfig = config(kind, "vae");
    AutoencoderKL::load(&config, builder(tensors, DType::F32), true).unwrap()
}

/// The names that attention had in older files, and its layers as 1x1 convolutions.
fn old_names(tensors: &HashMap<String, Tensor>, convolutions: bool) -> HashMap<String, Tensor> {
    let renamed = tensors.iter().map(|(name, tensor)| {
        let pairs = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
        let pair = pairs.iter().find(|(new, _)| name.contains(new));
        let tensor = match pair {
            Some(_) if convolutions && tensor.rank() == 2 => tensor.unsqueeze(2).unwrap().unsqueeze(3).unwrap(),
            _ => tensor.clone(),
        };
        (pair.map_or(name.clone(), |(new, old)| name.replace(new, old)), tensor)
    });
    renamed.collect()
}

fn decode(vae: &AutoencoderKL, latents: &Tensor, options: &DecodeOptions) -> Tensor {
    let (frames, _, h, w) = latents.dims4().unwrap();
    let latents = (latents * vae.scaling_factor()).unwrap();
    let mut session = vae.decoding(h, w, options).unwrap();
    let chunks = options.chunks(frames).into_iter();
    let frames = chunks.map(|chunk| session.decode(&latents.narrow(0, chunk.start, chunk.len()).unwrap()).unwrap());
    Tensor::cat(&frames.collect::<Vec<_>>(), 0).unwrap()
}

#[test]
fn pictures_equal_diffusers() {
    let golden = golden("sd/vae");
    for (kind, unit) in KINDS.into_iter().zip([8, 4]) {
        let tensors = tiny::tensors(kind, "vae", kind);
        let variants = [tensors.clone(), old_names(&tensors, false), old_names(&tensors, true)];
        let models = variants.map(|tensors| autoencoder(kind, tensors));
        for (h, w) in [(9, 7), (4, 6)] {
            let name = format!("{kind}/{h}x{w}");
            let video = tiny::unit(&format!("{name}/video"), &[2, 3, h * unit, w * unit]);
            let latents = tiny::unit(&format!("{name}/latents"), &[2, 4, h, w]);
            for vae in &models {
                let check = |what: &str, got: &Tensor| {
                    assert_close(&format!("{name}/{what}"), &thin(got), &golden[&format!("{name}/{what}")], LIMIT);
                };
                let whole = vae.distribution(&video, &EncodeOptions::default()).unwrap();
                check("mean", &whole.mean);
                check("logvar", &whole.logvar);
                check("frames", &decode(vae, &latents, &DecodeOptions::default()));
                let tile = TileOptions {
                    sample_height: 4 * unit,
                    sample_width: 4 * unit,
                    overlap_factor_h: 0.25,
                    overlap_factor_w: 0.25,
                };
                check(
                    "tiled",
                    &decode(vae, &latents, &DecodeOptions { tile: Some(tile.clone()), ..DecodeOptions::default() }),
                );
                let tiled = EncodeOptions { tile: Some(tile), ..EncodeOptions::default() };
                check("tiled-mean", &vae.distribution(&video, &tiled).unwrap().mean);
                let scaled = vae.encode(&video, &EncodeOptions::default()).unwrap();
                assert_close("scaled", &scaled, &(&whole.mean * vae.scaling_factor()).unwrap(), 1e-7);
            }
        }
    }
}

#[test]
fn frames_of_a_decode_do_not_depend_on_each_other() {
    let vae = autoencoder(KINDS[0], tiny::tensors(KINDS[0], "vae", KINDS[0]));
    let latents = tiny::unit("frames", &[3, 4, 3, 5]);
    let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let decoded = |chunk| values(decode(&vae, &latents, &DecodeOptions { chunk, ..DecodeOptions::default() }));
    assert_eq!(decoded(1), decoded(3));
    let mut session = vae.decoding(3, 5, &DecodeOptions::default()).unwrap();
    assert!(session.state().is_empty());
    assert!(session.decode(&tiny::unit("other", &[1, 4, 3, 4])).unwrap_err().to_string().contains("4x3x5"));
    let half = AutoencoderKL::load(
        &config(KINDS[0], "vae"),
        builder(tiny::tensors(KINDS[0], "vae", KINDS[0]), DType::F32),
        false,
    );
    let error = half.unwrap().encode(&tiny::unit("video", &[1, 3, 8, 8]), &EncodeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("without its encoder"), "{error}");
}
