//! The loop with a companion and with concatenated latents, on a network that remembers what it was asked about.

use super::denoise::{Denoising, Input, Network, NoiseSource, Reporting, Sampling, denoise};
use super::known::Known;
use crate::attention::{Hooks, Row, Time};
use crate::guidance::{GuidanceSchedule, Rule};
use crate::job::{Reads, Sharing, Timeline};
use crate::models::Denoiser;
use crate::nn::sdpa::Sdpa;
use crate::noise::{Noise, Stream};
use crate::schedulers::{self, ScheduleConfig, SchedulerKind, Table};
use crate::timeline::{BlendMode, ChunkPlan};
use candle_core::{DType, Device, Result, Tensor};
use std::sync::Mutex;

const SHAPE: (usize, usize, usize) = (2, 3, 4);
const STEPS: usize = 4;

/// Answers with the sine of what it is asked about.
#[derive(Default)]
struct Witness(Mutex<Vec<Vec<Row>>>);

impl Denoiser for Witness {
    fn forward(&self, rows: &[Row], _: &mut Hooks) -> Result<Vec<Tensor>> {
        self.0.lock().unwrap().push(rows.to_vec());
        rows.iter().map(|row| row.latents.sin()).collect()
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn latents(seed: u64, frames: usize) -> Tensor {
    Noise::new(seed).latents(Stream::Encode, 0..frames, 0, SHAPE, &Device::Cpu).unwrap()
}

fn input<'a>(timeline: &'a Timeline, known: Option<Known>, concat: Option<Tensor>) -> Input<'a> {
    let config = ScheduleConfig::zero_snr(3.0);
    let scheduler = schedulers::build(&config, SchedulerKind::Ddim, Table::Diffusers, STEPS, 0.0).unwrap();
    let texts = vec![Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap()];
    Input { timeline, texts, concat, told: None, start: 0, known, refined: None, scheduler }
}

fn run(timelines: Vec<Input>, rule: &Rule) -> (Vec<Tensor>, Vec<Vec<Row>>) {
    let (witness, device) = (Witness::default(), Device::Cpu);
    let run = Denoising {
        network: Network {
            denoiser: &witness,
            stack: &mut [],
            kernel: Sdpa::default(),
            micro_batch: 2,
            device: &device,
        },
        sampling: Sampling {
            rule,
            table: Table::Diffusers,
            draws: None,
            blend: BlendMode::Reference,
            sharing: None,
            noise: &NoiseSource::Seeded(Noise::new(1)),
            shape: SHAPE,
            first: 0,
            until: usize::MAX,
            caching: None,
        },
        timelines,
        uncond: &Tensor::zeros((1, 1), DType::F32, &device).unwrap(),
        from: None,
        reporting: Reporting { hook: &mut (), part: 0, steps: (0, 1000), begins: true, after: 0.0 },
    };
    let made = denoise(run, &mut ()).unwrap();
    (made, witness.0.into_inner().unwrap())
}

#[test]
fn a_clean_frame_at_a_time_of_its_own_stands_in_the_passes_that_read_it() {
    let (steps, layers) = ("1-2".parse().unwrap(), "all".parse().unwrap());
    let reads = Some(Reads { timeline: 0, sharing: Sharing { steps, layers, depth: 2 } });
    let reference = Timeline::reference(ChunkPlan::single(1), 0.0);
    let output = Timeline { reads, ..Timeline::output(ChunkPlan::even(&[3], 5, 2, 0)) };
    let clean = latents(7, 1);
    let known = Known::noised(0, clean.clone()).unwrap();
    let rule = Rule::classifier_free(GuidanceSchedule::Constant(3.0));
    let (made, passes) = run(vec![input(&reference, Some(known), None), input(&output, None, None)], &rule);
    assert_eq!((made[0].dim(0).unwrap(), made[1].dim(0).unwrap()), (1, 11));
    assert_eq!(values(&made[0]), values(&clean));
    assert_eq!(passes.len(), 3 * STEPS);
    for (pass, rows) in passes.iter().enumerate() {
        let step = pass / 3;
        let frames: Vec<usize> = rows.iter().map(|row| row.latents.dim(0).unwrap()).collect();
        let texts: Vec<f32> = rows.iter().map(|row| values(&row.context)[0]).collect();
        if !(1..=2).contains(&step) {
            assert_eq!((frames, texts), (vec![5, 5], vec![0.0, 1.0]), "step {step}");
            continue;
        }
        assert_eq!((frames, texts), (vec![1, 1, 5, 5], vec![0.0, 1.0, 0.0, 1.0]), "step {step}");
        for (row, other) in [(0, 2), (1, 3)] {
            assert_eq!(values(&rows[row].latents), values(&clean));
            assert_eq!(rows[row].time, Time::One(0.0));
            assert_ne!(rows[other].time, Time::One(0.0));
        }
    }
    // it is only read: the output of this network is what it is without
    let alone = Timeline { reads: None, ..output.clone() };
    assert_eq!(values(&run(vec![input(&alone, None, None)], &rule).0[0]), values(&made[1]));
}

#[test]
fn halves_without_the_image_see_zeros_in_its_place() {
    let output = Timeline::output(ChunkPlan::even(&[2], 5, 2, 0));
    let image = latents(9, 8);
    let rule = Rule::ThreePart { text: GuidanceSchedule::Constant(7.5), image: 1.5, text_decides: true };
    let (_, passes) = run(vec![input(&output, None, Some(image.clone()))], &rule);
    for (pass, rows) in passes.iter().enumerate() {
        let own = values(&image.narrow(0, 3 * (pass % 2), 5).unwrap());
        let seen: Vec<_> = rows.iter().map(|row| values(row.concat.as_ref().unwrap())).collect();
        assert_eq!(seen, [vec![0.0; own.len()], own.clone(), own]);
        let texts: Vec<f32> = rows.iter().map(|row| values(&row.context)[0]).collect();
        assert_eq!(texts, [0.0, 0.0, 1.0]); // neither, the image, both
    }
}
