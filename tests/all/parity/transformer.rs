//! The transformer against diffusers' CogVideoXTransformer3DModel (goldens: `tests/reference/transformer.py`).

use crate::common::{assert_close, golden, golden_dir, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vidgen::attention::{Branch, Half, Hooks, Pass};
use vidgen::models::cogvideox::config::TransformerConfig;
use vidgen::models::cogvideox::transformer::Transformer;
use vidgen::models::{Denoiser, Row, Time};
use vidgen::nn::kernel::Kernel;
use vidgen::nn::sdpa::Sdpa;

pub fn load(kind: &str) -> (TransformerConfig, Transformer) {
    let path = golden_dir().join(kind).join("transformer/config.json");
    let config: TransformerConfig = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let vb = VarBuilder::from_tensors(tiny::tensors(kind, "transformer", kind), DType::F32, &Device::Cpu);
    let transformer = Transformer::load(&config, vb).unwrap();
    (config, transformer)
}

fn branches(count: usize) -> Vec<Branch> {
    let row = |index| Branch::new(Half::COND, index, index);
    (0..count).map(row).collect()
}

/// `kind/FxHxW/tT` to the rows of that case, as `tests/reference/transformer.py` makes them.
fn case(config: &TransformerConfig, name: &str) -> Vec<Row> {
    let (case, timestep) = name.rsplit_once("/t").unwrap();
    let size: Vec<usize> = case.rsplit_once('/').unwrap().1.split('x').map(|n| n.parse().unwrap()).collect();
    let latents = tiny::unit(&format!("{case}/latents"), &[2, size[0], config.in_channels, size[1], size[2]]);
    let text = tiny::unit(&format!("{case}/text"), &[2, config.max_text_seq_length, config.text_embed_dim]);
    let timestep = timestep.parse().unwrap();
    let row = |index| Row::new(latents.get(index).unwrap(), text.get(index).unwrap(), timestep);
    (0..2).map(row).collect()
}

fn forward(model: &Transformer, rows: &[Row], kernel: Sdpa, micro_batch: usize) -> Tensor {
    let pass = Pass { step: 0, steps: 1 };
    let mut hooks = Hooks::new(pass, branches(rows.len()), vec![], &mut [], kernel, micro_batch).unwrap();
    Tensor::stack(&model.forward(rows, &mut hooks).unwrap(), 0).unwrap()
}

#[test]
fn equals_diffusers_for_each_kind() {
    let golden = golden("transformer");
    for kind in tiny::KINDS {
        let (config, model) = load(kind);
        for (name, want) in golden.iter().filter(|(name, _)| name.starts_with(&format!("{kind}/"))) {
            let rows = case(&config, name);
            assert_close(name, &forward(&model, &rows, Sdpa::default(), 1), want, 1e-5);
        }
    }
}

#[test]
fn micro_batches_and_attention_chunks_do_not_matter() {
    let golden = golden("transformer");
    for kind in tiny::KINDS {
        let (config, model) = load(kind);
        let name = golden.keys().find(|name| name.starts_with(&format!("{kind}/"))).unwrap();
        let rows = case(&config, name);
        let whole = forward(&model, &rows, Sdpa::default(), 1);
        let together = forward(&model, &rows, Sdpa::default(), 2);
        assert_close("rows in one batch", &together, &whole, 1e-6);
        let chunked = forward(&model, &rows, Sdpa { budget: 4096, kernel: Kernel::Math, bf16: false }, 1);
        assert_close("queries in chunks", &chunked, &whole, 1e-6);
    }
}

#[test]
fn a_fork_continues_the_rows_it_names() {
    let (config, model) = load("tiny-2b");
    let rows = case(&config, "tiny-2b/3x6x10/t999");
    let whole = forward(&model, &rows, Sdpa::default(), 1);
    let row = |index: usize| Branch::new(Half::COND, index, index);
    let fork = vidgen::attention::Fork { layer: 1, rows: vec![(1, row(1)), (0, row(0)), (1, row(1))] };
    let pass = Pass { step: 0, steps: 1 };
    let mut hooks = Hooks::new(pass, branches(2), vec![fork], &mut [], Sdpa::default(), 1).unwrap();
    let forked = model.forward(&rows, &mut hooks).unwrap();
    let windows: Vec<usize> = hooks.finish().unwrap().iter().map(|branch| branch.window).collect();
    assert_eq!(windows, [1, 0, 1]);
    for (got, window) in forked.iter().zip(windows) {
        let want = whole.get(window).unwrap();
        assert_eq!(
            got.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            want.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Rows of one pass may have other times; one for each frame is one where they are equal.
#[test]
fn times_are_those_of_the_rows_and_of_their_frames() {
    for (kind, name) in
        tiny::KINDS.into_iter().zip(["tiny-2b/3x6x10/t999", "tiny-5b/3x6x10/t999", "tiny-1.5/4x6x10/t999"])
    {
        let (config, model) = load(kind);
        let rows = case(&config, name);
        let with = |row: usize, time: Time| Row { time, ..rows[row].clone() };
        let run = |rows: &[Row], micro_batch| {
            let out = forward(&model, rows, Sdpa::default(), micro_batch);
            (0..rows.len()).map(|row| out.get(row).unwrap()).collect::<Vec<_>>()
        };
        let early = run(&[with(0, Time::One(999.0)), with(1, Time::One(999.0))], 1);
        let late = run(&[with(0, Time::One(499.0)), with(1, Time::One(499.0))], 1);
        let mixed = [with(0, Time::One(999.0)), with(1, Time::One(499.0))];
        let got = run(&mixed, 1);
        assert_eq!([bits(&got[0]), bits(&got[1])], [bits(&early[0]), bits(&late[1])], "{kind}");
        let together = run(&mixed, 2);
        assert_close("a batch of two times", &together[1], &late[1], 1e-6);

        let frames = rows[0].latents.dim(0).unwrap();
        let equal = run(&[with(0, Time::Frames(vec![999.0; frames])), with(1, Time::One(499.0))], 2);
        assert_close("equal times of frames", &equal[0], &early[0], 1e-6);
        assert_close("one time beside times of frames", &equal[1], &late[1], 1e-6);
        let mut times = vec![999.0; frames];
        times[..frames / 2].fill(0.0);
        let clean = run(&[with(0, Time::Frames(times)), with(1, Time::One(499.0))], 1);
        assert_ne!(bits(&clean[0]), bits(&early[0]));
        let wrong = with(0, Time::Frames(vec![999.0; frames + 1]));
        let mut hooks =
            Hooks::new(Pass { step: 0, steps: 1 }, branches(1), vec![], &mut [], Sdpa::default(), 1).unwrap();
        let error = model.forward(&[wrong], &mut hooks).unwrap_err().to_string();
        assert!(error.contains(&format!("{} times for a row of {frames} latent frames", frames + 1)), "{error}");
    }
}

/// Latents behind others on the channel axis are the network's further channels.
#[test]
fn concatenated_latents_are_further_channels() {
    let (config, model) = load("tiny-2b");
    let rows = case(&config, "tiny-2b/3x6x10/t999");
    let whole = forward(&model, &rows, Sdpa::default(), 1);
    let split = |row: &Row| {
        let part = |from, len| row.latents.narrow(1, from, len).unwrap();
        let channels = config.in_channels;
        Row { latents: part(0, channels - 1), concat: Some(part(channels - 1, 1)), ..row.clone() }
    };
    let parts: Vec<Row> = rows.iter().map(split).collect();
    assert_eq!(bits(&forward(&model, &parts, Sdpa::default(), 1)), bits(&whole));
    let mut hooks = Hooks::new(Pass { step: 0, steps: 1 }, branches(1), vec![], &mut [], Sdpa::default(), 1).unwrap();
    let more = Row { concat: Some(rows[0].latents.clone()), ..rows[0].clone() };
    assert!(model.forward(&[more], &mut hooks).unwrap_err().to_string().contains("do not fit the transformer"));
}

#[test]
fn half_precision_stays_near() {
    let golden = golden("transformer");
    for kind in tiny::KINDS {
        let path = golden_dir().join(kind).join("transformer/config.json");
        let config: TransformerConfig = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for (dtype, limit) in [(DType::BF16, 2e-2), (DType::F16, 3e-3)] {
            let vb = VarBuilder::from_tensors(tiny::tensors(kind, "transformer", kind), dtype, &Device::Cpu);
            let model = Transformer::load(&config, vb).unwrap();
            let (name, want) = golden.iter().find(|(name, _)| name.starts_with(&format!("{kind}/"))).unwrap();
            let rows = case(&config, name);
            let kernel = Sdpa { bf16: dtype == DType::BF16, ..Sdpa::default() };
            assert_close(&format!("{name} {dtype:?}"), &forward(&model, &rows, kernel, 2), want, limit);
        }
    }
}
