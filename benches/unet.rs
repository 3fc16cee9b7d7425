//! Speed of whole denoisers on random weights: one step of UNets of pictures and of video, both halves of the guidance; all steps of
//! a chunk that goes on from frames before it; one forward pass of STIV's transformer. With `--serve` the
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
use std::rc::Rc;
use std::time::Instant;
use vidgen::attention::{AttentionProcessor, Branch, Feature, Half, Hooks, Pass};
use vidgen::models::unet::streaming::{Cam, CamConfig, Memory, Mergers, Mixers, StreamingUNetConfig};
use vidgen::models::unet::{UNet2DConditionModel, UNet3DConditionModel};
use vidgen::models::{Added, Denoiser, Row, stiv};
use vidgen::nn::sdpa::Sdpa;
use vidgen::processors::mix::{Kept, Mix};
use vidgen::processors::{FeatureResiduals, Residual};

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
    chunk: Option<Chunk>,
}

/// What stands beside the denoiser of a chunk that goes on from frames before it (StreamingT2V).
struct Chunk {
    cam: Rc<Cam>,
    mergers: Rc<Mergers>,
    mixers: Rc<Mixers>,
    before: usize,
    steps: usize,
    /// Of the frames before, from -1 to 1.
    pixels: Tensor,
    /// Of the anchor.
    tokens: Tensor,
}

impl Chunk {
    fn new(asked: &Value, dtype: DType) -> Self {
        let vb = |seed: &'static str| VarBuilder::from_backend(Box::new(Random), dtype, Device::Cpu).pp(seed);
        let unet: StreamingUNetConfig = serde_json::from_value(asked["config"].clone()).unwrap();
        let config: CamConfig = serde_json::from_value(asked["cam"].clone()).unwrap();
        let size = |name: &str| asked[name].as_u64().unwrap() as usize;
        let before = config.num_frames;
        Self {
            cam: Rc::new(Cam::load(&config, &vb("cam")).unwrap()),
            mergers: Rc::new(Mergers::load(&unet, &vb("unet")).unwrap()),
            mixers: Rc::new(Mixers::load(&unet, &vb("unet")).unwrap()),
            before,
            steps: size("steps"),
            pixels: random(4, &[before, 3, config.ratio() * size("height"), config.ratio() * size("width")], 1.0),
            tokens: random(5, &[unet.image_tokens, unet.unet.cross_attention_dim], 1.0),
        }
    }

    /// As the program's own loop puts them together.
    fn stack(&self, kernel: &Sdpa) -> Vec<Box<dyn AttentionProcessor>> {
        let look = self.cam.look(&self.pixels).unwrap();
        let (cam, mergers, mixers) = (self.cam.clone(), self.mergers.clone(), self.mixers.clone());
        let (before, kernel) = (self.before, kernel.clone());
        let source = move |pass: &Pass, branches: &[Branch], rows: &[Row]| {
            let first = |row: &Row| Ok(Row { latents: row.latents.narrow(0, 0, before)?, ..row.clone() });
            let rows = rows.iter().map(first).collect::<Result<Vec<_>>>()?;
            let mut hooks = Hooks::new(*pass, branches.to_vec(), vec![], &mut [], kernel.clone(), 2)?;
            let memories = cam.forward(&rows, &look, 1, &mut hooks)?;
            hooks.finish()?;
            let features = |memory: Memory| FeatureResiduals { skips: memory.skips, mid: Some(memory.mid) };
            Ok(memories.into_iter().map(features).collect())
        };
        let reader = move |feature, x: &Tensor, memory: &Tensor| match feature {
            Feature::Skip(index) => mergers.skip(index, x, memory),
            _ => mergers.mid(x, memory),
        };
        let mixer = move |layer, text: &Tensor, tokens: &Tensor| mixers.mix(layer, text, tokens);
        let tokens = || self.tokens.clone();
        vec![
            Box::new(Residual::read(Box::new(source), Box::new(reader))),
            Box::new(Mix::new(tokens(), tokens(), Box::new(mixer)).keeping(Kept::default())),
        ]
    }
}

impl Case {
    /// `{"op": "unet3d", "dtype": "f32", "config": {..}, "frames": 16, "height": 32, "width": 32, "tokens": 77}`.
    fn new(asked: &Value) -> Self {
        let dtype = if asked["dtype"] == "bf16" { DType::BF16 } else { DType::F32 };
        let vb = VarBuilder::from_backend(Box::new(Random), dtype, Device::Cpu);
        let config = asked["config"].clone();
        let denoiser: Box<dyn Denoiser> = match asked["op"].as_str().unwrap() {
            "stiv" => Box::new(stiv::Transformer::load(&serde_json::from_value(config).unwrap(), vb).unwrap()),
            "unet2d" => {
                Box::new(UNet2DConditionModel::load(&serde_json::from_value(config).unwrap(), vb, false).unwrap())
            }
            _ => Box::new(UNet3DConditionModel::load(&serde_json::from_value(config).unwrap(), vb, false).unwrap()),
        };
        let chunk = (asked["op"] == "stream").then(|| Chunk::new(asked, dtype));
        let size = |name: &str| asked[name].as_u64().unwrap() as usize;
        let latents = random(1, &[size("frames"), 4, size("height"), size("width")], 1.0);
        let of = |name: &str| asked["config"][name].as_u64().map(|width| width as usize);
        let rows = match (of("cross_attention_dim"), of("caption_channels")) {
            (Some(width), _) => {
                let row = |seed| Row::new(latents.clone(), random(seed, &[size("tokens"), width], 1.0), 501.0);
                vec![row(2), row(3)]
            }
            (None, width) => {
                let width = width.unwrap();
                let added =
                    Added { pooled: Some(random(4, &[width], 1.0)), numbers: vec![256.0, 256.0, 0.0, 0.0, 1.0, 16.0] };
                vec![Row { added: Some(added), ..Row::new(latents, random(2, &[size("tokens"), width], 1.0), 0.5) }]
            }
        };
        let kernel = Sdpa { bf16: dtype == DType::BF16, ..Sdpa::default() };
        Self { denoiser, rows, kernel, chunk }
    }

    fn run(&self) {
        let mut stack = self.chunk.as_ref().map_or_else(Vec::new, |chunk| chunk.stack(&self.kernel));
        let mut rows = self.rows.clone();
        let halves = if rows.len() == 1 { &[Half::COND][..] } else { &[Half::UNCOND, Half::COND] };
        for step in 0..self.chunk.as_ref().map_or(1, |chunk| chunk.steps) {
            let branches = halves.iter().map(|&half| Branch::new(half, 0, 0)).collect();
            let pass = Pass { step, steps: 1 };
            let mut hooks = Hooks::new(pass, branches, vec![], &mut stack, self.kernel.clone(), 2).unwrap();
            let done = self.denoiser.forward(&rows, &mut hooks).unwrap();
            hooks.finish().unwrap();
            // guidance and a step, of which the next begins
            let (none, both) = (&done[0], &done[done.len() - 1]);
            let guided = (none + ((both - none).unwrap() * 7.5).unwrap()).unwrap();
            let next = ((&rows[0].latents * 0.99).unwrap() + (guided * 0.01).unwrap()).unwrap();
            rows.iter_mut().for_each(|row| row.latents = next.clone());
        }
        let sum = rows[rows.len() - 1].latents.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
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
