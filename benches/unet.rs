//! Speed of whole UNets, of pictures and of video, on random weights: one step, both halves of the guidance. With `--serve` the
//! program runs them as told on its standard input, which `tests/reference/bench_unet.py` uses to take turns with diffusers.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use serde_json::Value;
use std::io::{BufRead, Write};
use std::time::Instant;
use vidgen::attention::{Branch, Half, Hooks, Pass};
use vidgen::models::unet::{UNet2DConditionModel, UNet3DConditionModel};
use vidgen::models::{Denoiser, Row};
use vidgen::nn::sdpa::Sdpa;

/// Weights of any name and shape.
struct Random;

impl SimpleBackend for Random {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        // matrices of unit gain, norms that change nothing
        let gain = match shape.dims() {
            [_] if name.ends_with("weight") => return Tensor::ones(shape, dtype, device),
            [_] => return Tensor::zeros(shape, dtype, device),
            [_, rest @ ..] => (3.0 / rest.iter().product::<usize>() as f64).sqrt() as f32,
            [] => 1.0,
        };
        random(seed, shape.dims(), gain).to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: of no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn random(seed: u64, dims: &[usize], gain: f32) -> Tensor {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * gain
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(next).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// A network and what it is asked.
struct Case {
    denoiser: Box<dyn Denoiser>,
    rows: Vec<Row>,
    kernel: Sdpa,
}

impl Case {
    /// `{"op": "unet3d", "dtype": "f32", "config": {..}, "frames": 16, "height": 32, "width": 32, "tokens": 77}`.
    fn new(asked: &Value) -> Self {
        let dtype = if asked["dtype"] == "bf16" { DType::BF16 } else { DType::F32 };
        let vb = VarBuilder::from_backend(Box::new(Random), dtype, Device::Cpu);
        let config = asked["config"].clone();
        let denoiser: Box<dyn Denoiser> = match asked["op"].as_str().unwrap() {
            "unet2d" => {
                Box::new(UNet2DConditionModel::load(&serde_json::from_value(config).unwrap(), vb, false).unwrap())
            }
            _ => Box::new(UNet3DConditionModel::load(&serde_json::from_value(config).unwrap(), vb, false).unwrap()),
        };
        let size = |name: &str| asked[name].as_u64().unwrap() as usize;
        let latents = random(1, &[size("frames"), 4, size("height"), size("width")], 1.0);
        let width = asked["config"]["cross_attention_dim"].as_u64().unwrap() as usize;
        let row = |seed| Row::new(latents.clone(), random(seed, &[size("tokens"), width], 1.0), 501.0);
        Self { denoiser, rows: vec![row(2), row(3)], kernel: Sdpa { bf16: dtype == DType::BF16, ..Sdpa::default() } }
    }

    fn run(&self) {
        let branches = [Half::UNCOND, Half::COND].map(|half| Branch::new(half, 0, 0)).to_vec();
        let pass = Pass { step: 0, steps: 1 };
        let mut hooks = Hooks::new(pass, branches, vec![], &mut [], self.kernel.clone(), 2).unwrap();
        let done = self.denoiser.forward(&self.rows, &mut hooks).unwrap();
        hooks.finish().unwrap();
        let sum = done[1].sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(sum.is_finite() && sum > 0.0, "mean square {sum}");
    }
}

fn main() {
    if !std::env::args().any(|arg| arg == "--serve") {
        return eprintln!("not run: tests/reference/bench_unet.py does");
    }
    vidgen::nn::keep_memory(); // as the program does
    rayon::scope(|_| {
        let mut case = None;
        for line in std::io::stdin().lock().lines() {
            let line = line.unwrap();
            if line == "run" {
                let start = Instant::now();
                Case::run(case.as_ref().expect("a case comes first"));
                println!("{}", start.elapsed().as_secs_f64());
            } else {
                drop(case.take()); // its memory first
                case = Some(Case::new(&serde_json::from_str(&line).unwrap()));
                println!("ready");
            }
            std::io::stdout().flush().unwrap();
        }
    });
}
