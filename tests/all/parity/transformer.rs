//! The transformer against diffusers' CogVideoXTransformer3DModel (goldens: `tests/reference/transformer.py`).

use crate::common::{assert_close, golden, golden_dir, tiny};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vidgen::attention::{Branch, Guidance, Hooks, Pass};
use vidgen::models::cogvideox::config::TransformerConfig;
use vidgen::models::cogvideox::transformer::Transformer;
use vidgen::models::{Denoiser, DenoiserRow};
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
    let row = |index| Branch { guidance: Guidance::Cond, window: index, prompt: index, reference: None };
    (0..count).map(row).collect()
}

/// `kind/FxHxW/tT` to the rows of that case, as `tests/reference/transformer.py` makes them.
fn case(config: &TransformerConfig, name: &str) -> (Vec<DenoiserRow>, f64) {
    let (case, timestep) = name.rsplit_once("/t").unwrap();
    let size: Vec<usize> = case.rsplit_once('/').unwrap().1.split('x').map(|n| n.parse().unwrap()).collect();
    let latents = tiny::unit(&format!("{case}/latents"), &[2, size[0], config.in_channels, size[1], size[2]]);
    let text = tiny::unit(&format!("{case}/text"), &[2, config.max_text_seq_length, config.text_embed_dim]);
    let row = |index| DenoiserRow { latents: latents.get(index).unwrap(), text: text.get(index).unwrap() };
    ((0..2).map(row).collect(), timestep.parse().unwrap())
}

fn forward(model: &Transformer, rows: &[DenoiserRow], timestep: f64, kernel: Sdpa, micro_batch: usize) -> Tensor {
    let pass = Pass { step: 0, steps: 1, timestep };
    let mut hooks = Hooks::new(pass, branches(rows.len()), vec![], &mut [], kernel, micro_batch).unwrap();
    Tensor::stack(&model.forward(rows, &mut hooks).unwrap(), 0).unwrap()
}

#[test]
fn equals_diffusers_for_each_kind() {
    let golden = golden("transformer");
    for kind in tiny::KINDS {
        let (config, model) = load(kind);
        for (name, want) in golden.iter().filter(|(name, _)| name.starts_with(&format!("{kind}/"))) {
            let (rows, timestep) = case(&config, name);
            assert_close(name, &forward(&model, &rows, timestep, Sdpa::default(), 1), want, 1e-5);
        }
    }
}

#[test]
fn micro_batches_and_attention_chunks_do_not_matter() {
    let golden = golden("transformer");
    for kind in tiny::KINDS {
        let (config, model) = load(kind);
        let name = golden.keys().find(|name| name.starts_with(&format!("{kind}/"))).unwrap();
        let (rows, timestep) = case(&config, name);
        let whole = forward(&model, &rows, timestep, Sdpa::default(), 1);
        let together = forward(&model, &rows, timestep, Sdpa::default(), 2);
        assert_close("rows in one batch", &together, &whole, 1e-6);
        let chunked = forward(&model, &rows, timestep, Sdpa { budget: 4096, kernel: Kernel::Math, bf16: false }, 1);
        assert_close("queries in chunks", &chunked, &whole, 1e-6);
    }
}

#[test]
fn a_fork_continues_the_rows_it_names() {
    let (config, model) = load("tiny-2b");
    let (rows, timestep) = case(&config, "tiny-2b/3x6x10/t999");
    let whole = forward(&model, &rows, timestep, Sdpa::default(), 1);
    let row = |index: usize| Branch { guidance: Guidance::Cond, window: index, prompt: index, reference: None };
    let fork = vidgen::attention::Fork { layer: 1, rows: vec![(1, row(1)), (0, row(0)), (1, row(1))] };
    let pass = Pass { step: 0, steps: 1, timestep };
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
            let (rows, timestep) = case(&config, name);
            let kernel = Sdpa { bf16: dtype == DType::BF16, ..Sdpa::default() };
            assert_close(&format!("{name} {dtype:?}"), &forward(&model, &rows, timestep, kernel, 2), want, limit);
        }
    }
}
