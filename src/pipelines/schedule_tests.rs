//! The de-duplicated schedule (spec/ditctrl.md 10.3): how many layers the rows of a run really go through, counted in the
//! network itself, against the closed formula.

use super::denoise::{Denoising, Input, Network, NoiseSource, Reporting, Sampling, denoise};
use crate::attention::{AttentionProcessor, Feature, FeatureSite};
use crate::guidance::{GuidanceSchedule, Rule};
use crate::job::{Controls, Sharing, Timeline, bank_size};
use crate::models::registry::family;
use crate::models::{Architecture, Denoiser};
use crate::nn::sdpa::Sdpa;
use crate::noise::Noise;
use crate::processors::{KvBank, Ranges, Setting, Spec, build};
use crate::schedulers::{ScheduleKeys, SchedulerKind, Table};
use crate::timeline::{BlendMode, ChunkPlan};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

const DEPTH: usize = 5;
const STEPS: usize = 4;
const LATENTS: (usize, usize, usize) = (4, 2, 4);

/// Counts the rows that have gone through a layer, by half of the guidance.
#[derive(Debug, Clone, Default)]
struct Counter {
    cond: Rc<Cell<usize>>,
    uncond: Rc<Cell<usize>>,
}

impl AttentionProcessor for Counter {
    fn inject(&mut self, hidden: Tensor, site: &FeatureSite) -> Result<Tensor> {
        assert!(matches!(site.feature, Feature::Block(_)));
        assert_eq!(hidden.dim(0)?, site.site.rows.len());
        for &row in site.site.rows {
            let count = if site.branches[row].half.text { &self.cond } else { &self.uncond };
            count.set(count.get() + 1);
        }
        Ok(hidden)
    }
}

struct Run<'a> {
    architecture: &'a dyn Architecture,
    plan: &'a ChunkPlan,
    controls: &'a Controls,
}

impl Setting for Run<'_> {
    fn positions(&self, _word: &str) -> anyhow::Result<Vec<Vec<u32>>> {
        Ok(Vec::new())
    }

    fn bank(&self, _layers: &Ranges) -> anyhow::Result<Option<KvBank>> {
        let Some(bank) = self.controls.bank(self.plan, DType::F32, &Device::Cpu) else { return Ok(None) };
        Ok(Some(KvBank::new(bank, &bank_size(self.plan, self.architecture, (LATENTS.1, LATENTS.2), 2))?))
    }
}

/// The tiny model of the goldens, with another depth.
fn architecture() -> Arc<dyn Architecture> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-2b");
    let read = |path: &str| {
        let mut value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(format!("{folder}/{path}"))?)?;
        if path.starts_with("transformer") {
            value["num_layers"] = DEPTH.into();
        }
        Ok(value)
    };
    let index: serde_json::Value = read("model_index.json").unwrap();
    (family(index["_class_name"].as_str().unwrap()).unwrap().read)(&read).unwrap()
}

/// Rows of either half that pass a layer in a run over `windows` windows, all joined.
fn counted(denoiser: &dyn Denoiser, windows: usize, layers: &str, steps: &str, blend: BlendMode) -> (usize, usize) {
    let (architecture, device) = (architecture(), Device::Cpu);
    let plan = ChunkPlan::even(&[windows], 3, 1, 0);
    let spec: Spec = format!("kv-share:layers={layers},steps={steps}").parse().unwrap();
    let mut controls = Controls::default();
    controls.sharing = Some(Sharing { steps: spec.steps.clone(), layers: spec.layers.clone(), depth: DEPTH });
    controls.specs = vec![spec];
    let mut stack =
        build(&controls.specs, &Run { architecture: &*architecture, plan: &plan, controls: &controls }).unwrap();
    let counter = Counter::default();
    stack.processors.insert(0, Box::new(counter.clone()));

    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/tiny-2b/scheduler/scheduler_config.json"
    ));
    let keys: ScheduleKeys = serde_json::from_str(&text.unwrap()).unwrap();
    let schedule = keys.config(crate::models::registry::FAMILIES[0].schedulers, None).unwrap();
    let table = Table::Diffusers;
    let scheduler = crate::schedulers::build(&schedule, SchedulerKind::Ddim, table, STEPS, 0.0).unwrap();
    let text = architecture.text();
    let embedding = Tensor::zeros((text.length, text.width), DType::F32, &device).unwrap();
    let timeline = Timeline::output(plan.clone());
    let texts = vec![embedding.clone()];
    let run = Denoising {
        network: Network {
            denoiser,
            stack: &mut stack.processors,
            kernel: Sdpa::default(),
            micro_batch: 2,
            device: &device,
        },
        sampling: Sampling {
            rule: &Rule::classifier_free(GuidanceSchedule::Constant(6.0)),
            table,
            draws: None,
            blend,
            sharing: controls.sharing.as_ref(),
            noise: &NoiseSource::Seeded(Noise::new(1)),
            shape: LATENTS,
            first: 0,
            until: usize::MAX,
            caching: None,
        },
        timelines: vec![Input {
            timeline: &timeline,
            texts,
            concat: None,
            told: None,
            start: 0,
            known: None,
            refined: None,
            scheduler,
        }],
        uncond: &embedding,
        from: None,
        reporting: Reporting { hook: &mut (), part: 0, steps: (0, 1000), begins: true, after: 0.0 },
    };
    let latents = denoise(run, &mut ()).unwrap();
    assert_eq!(latents[0].dim(0).unwrap(), plan.frames);
    (counter.cond.get(), counter.uncond.get())
}

/// Layers times windows. `first`, `last`: of the layers that share; `sharing`: steps that do.
///
/// In a step without sharing each window passes each layer once. In one with sharing it passes those before the first sharing
/// layer once; from there on the plain row of every window but the last and the shared row of every one but the first go on,
/// to the end where both are blended (`repo`), and where one estimate is (`paper`) to the last layer that a source is read in.
fn formula(
    windows: usize,
    depth: usize,
    steps: usize,
    first: usize,
    last: usize,
    sharing: usize,
    blend: BlendMode,
) -> usize {
    let pairs = 2 * (windows - 1);
    let step = match blend {
        BlendMode::Reference => first * windows + (depth - first) * pairs,
        BlendMode::Paper => first * windows + (last + 1 - first) * pairs + (depth - last - 1) * windows,
    };
    (steps - sharing) * depth * windows + sharing * step
}

#[test]
fn the_formula_is_that_of_the_specification() {
    // spec/ditctrl.md 10.3, the model of 30 layers: layer-windows and their share of the reference's, to the digits printed there
    for (windows, share) in [(2, 1.00), (3, 0.77), (4, 0.69), (5, 0.65), (7, 0.615), (10, 0.59), (13, 0.577)] {
        let ours = formula(windows, 30, 50, 25, 29, 23, BlendMode::Reference);
        assert_eq!(ours, 27 * 30 * windows + 23 * (25 * windows + 5 * 2 * (windows - 1)));
        let reference = 50 * 30 * 2 * (windows - 1);
        let got = ours as f64 / reference as f64;
        assert!((got - share).abs() < 5.1e-3, "{windows}: {got} not {share}");
    }
}

#[test]
fn windows_pass_layers_as_often_as_the_formula_says() {
    let denoiser = architecture().load_denoiser(VarBuilder::zeros(DType::F32, &Device::Cpu), false).unwrap();
    for (layers, steps, first, last, sharing) in [
        ("3-4", "1-2", 3, 4, 2),
        ("4", "all", 4, 4, 4),
        ("0", "0", 0, 0, 1),
        ("1,3", "0,2-3", 1, 3, 3),
        ("all", "3", 0, 4, 1),
        ("2-4", "none", 2, 4, 0),
        ("none", "all", 0, 0, 0),
    ] {
        for blend in [BlendMode::Reference, BlendMode::Paper] {
            for windows in [2, 3, 5, 7, 13] {
                let want = formula(windows, DEPTH, STEPS, first, last, sharing, blend);
                let got = counted(&*denoiser, windows, layers, steps, blend);
                assert_eq!(got, (want, want), "{windows} windows, layers={layers}, steps={steps}, {blend}");
            }
        }
    }
}
