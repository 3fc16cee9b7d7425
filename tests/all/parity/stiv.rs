//! STIV's transformer in every form of its configuration against the plain PyTorch of `training/stiv.py`, and its texts (goldens:
//! `tests/reference/stiv.py`).

use crate::common::{assert_close, golden, golden_dir, thin, tiny};
use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use serde_json::{Value, json};
use vidgen::attention::{AttentionProcessor, Branch, Half, Hooks, Pass, Reference};
use vidgen::models::stiv::{StivConfig, Transformer};
use vidgen::models::{Added, Denoiser, Row, Time};
use vidgen::nn::sdpa::Sdpa;
use vidgen::text::{ClipEncoder, TextEncoder, Tokenizer};
use vidgen::weights::ModelFolder;

const KIND: &str = "tiny-stiv";
const LIMIT: f64 = 1e-5;
const TOKENS: usize = 24;
const WIDTH: usize = 20;
/// Frames, height and width of latents, time, given frames.
const FORWARD: [(usize, usize, usize, f64, &[usize]); 4] =
    [(5, 4, 6, 0.0, &[0]), (4, 2, 4, 0.37, &[]), (1, 6, 4, 0.9, &[]), (6, 4, 4, 0.5, &[0, 1, 5])];

/// Weights that follow from their names, of any shape.
struct Named(String);

impl SimpleBackend for Named {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        tiny::weight(&format!("{}/{name}", self.0), shape.dims()).to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: a weight without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// The configuration and the weights of a form.
fn network(form: &str, changes: &Value, streamed: bool) -> (StivConfig, Transformer) {
    let path = golden_dir().join(KIND).join("transformer/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let config: StivConfig = serde_json::from_value(config).unwrap();
    let place = if form == "tiny" { format!("{KIND}/transformer") } else { format!("{KIND}/transformer/{form}") };
    let vb = VarBuilder::from_backend(Box::new(Named(place)), DType::F32, Device::Cpu);
    let load =
        if streamed { Transformer::load_streamed } else { |config: &StivConfig, vb| Transformer::load(config, vb) };
    (config.clone(), load(&config, vb).unwrap())
}

fn forms() -> [(&'static str, Value); 3] {
    let bare = json!({
        "qk_norm": null, "sandwich_norm": false, "temporal_gate": false, "adaln_tables": false, "micro_conditions": [],
        "patch_size": 1, "patch_size_t": 1, "prediction": "noise_minus_data", "time_direction": "data_at_0",
        "timestep_scale": 1.0, "mlp_ratio": 3.0, "norm_eps": 1e-5
    });
    let other = json!({
        "cond_time": "clean", "rope_axes_dim": [6, 2], "rope_interpolation": [0.5, 0.75, 1.25], "rope_theta": 100.0,
        "temporal_gate": false, "micro_conditions": ["frames", "h", "stride"]
    });
    [("tiny", json!({})), ("bare", bare), ("other", other)]
}

/// A row of the reference.
fn row(form: &str, index: usize) -> (String, Row) {
    let (frames, h, w, time, given) = FORWARD[index];
    let name = format!("{form}/{frames}x{h}x{w}");
    let unit = |what: &str, shape: &[usize]| tiny::unit(&format!("stiv/{name}/{what}"), shape);
    let tokens = unit("tokens", &[1, TOKENS, WIDTH]).squeeze(0).unwrap();
    let pooled = unit("pooled", &[1, WIDTH]).squeeze(0).unwrap();
    let (height, width, count) = (8.0 * h as f64, 8.0 * w as f64, frames as f64);
    let numbers = match form {
        "tiny" => vec![height, width, 0.0, 0.0, 7.0, count],
        "bare" => vec![],
        _ => vec![count, height, 7.0],
    };
    let time = match form {
        "other" => Time::Frames((0..frames).map(|frame| if given.contains(&frame) { 1.0 } else { time }).collect()),
        _ => Time::One(time),
    };
    let added = Some(Added { pooled: Some(pooled), numbers });
    (name.clone(), Row { time, added, ..Row::new(unit("latents", &[frames, 4, h, w]), tokens, 0.0) })
}

fn forward(network: &Transformer, rows: &[Row], branches: Vec<Branch>) -> Result<Vec<Tensor>> {
    let mut stack: [Box<dyn AttentionProcessor>; 0] = [];
    let mut hooks = Hooks::new(Pass { step: 0, steps: 1 }, branches, vec![], &mut stack, Sdpa::default(), 2).unwrap();
    network.forward(rows, &mut hooks)
}

#[test]
fn every_form_equals_the_reference() {
    let golden = golden("stiv/parts");
    for (form, changes) in forms() {
        let (_, network) = network(form, &changes, false);
        for index in 0..FORWARD.len() {
            let (name, row) = row(form, index);
            let got = forward(&network, &[row], vec![Branch::new(Half::COND, 0, 0)]).unwrap().remove(0);
            assert_close(&name, &thin(&got), &golden[&name], LIMIT);
        }
    }
}

/// Rows that meet, rows that do not, and blocks that are read when their turn comes give the same.
#[test]
fn rows_together_equal_rows_alone() {
    for (form, changes) in forms() {
        let (_, network) = network(form, &changes, false);
        let (_, streamed) = self::network(form, &changes, true);
        let (_, first) = row(form, 3);
        let second = Row { latents: first.latents.sin().unwrap(), ..first.clone() };
        let second = Row { time: Time::One(0.25), context: second.context.sqr().unwrap(), ..second };
        let rows = [first, second];
        let branch = |reference| Branch { reference, ..Branch::new(Half::COND, 0, 0) };
        let alone: Vec<Tensor> = rows
            .iter()
            .map(|row| forward(&network, std::slice::from_ref(row), vec![branch(None)]).unwrap().remove(0))
            .collect();
        for (network, reference) in [(&network, None), (&network, Some(Reference::Row(0))), (&streamed, None)] {
            let got = forward(network, &rows, vec![branch(None), branch(reference)]).unwrap();
            for (got, want) in got.iter().zip(&alone) {
                assert_close(form, got, want, 1e-6);
            }
        }
    }
}

#[test]
fn rows_that_do_not_fit_are_errors() {
    let (_, network) = network("tiny", &json!({}), false);
    let (_, fits) = row("tiny", 0);
    let refused = |row: Row, words: &str| {
        let error = forward(&network, &[row], vec![Branch::new(Half::COND, 0, 0)]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(Row { added: None, ..fits.clone() }, "as one vector");
    let added = fits.added.clone().unwrap();
    refused(Row { added: Some(Added { numbers: vec![1.0], ..added }), ..fits.clone() }, "takes 6 numbers");
    refused(Row { time: Time::Frames(vec![0.5; 3]), ..fits.clone() }, "3 times");
    refused(Row { latents: fits.latents.narrow(2, 0, 3).unwrap(), ..fits.clone() }, "multiples of 2");
    refused(Row { concat: Some(fits.latents.clone()), ..fits }, "something else");
}

#[test]
fn texts_are_tokens_and_the_end_of_them() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_stiv(folder.path());
    let model = ModelFolder::open(folder.path().to_str().unwrap(), true).unwrap();
    let golden = golden("stiv/parts");
    let encoder = ClipEncoder::open(&model.part("text_encoder").unwrap(), DType::F32, &Device::Cpu).unwrap();
    let tokenizer = Tokenizer::open(&model).unwrap();
    let texts = ["", "a red ball rolls"].map(|text| {
        let tokens = tokenizer.encode(text, TOKENS).unwrap();
        let embedding = encoder.encode(&tokens.ids).unwrap();
        (embedding.get(tokens.end()).unwrap(), embedding)
    });
    let (pooled, tokens): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
    assert_close("tokens", &thin(&Tensor::stack(&tokens, 0).unwrap()), &golden["text/tokens"], LIMIT);
    assert_close("pooled", &Tensor::stack(&pooled, 0).unwrap(), &golden["text/pooled"], LIMIT);
}
