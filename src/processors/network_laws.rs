//! The laws that hold on any network: the same specifications on a toy MM-DiT and a toy UNet. Those of the MM-DiT alone are
//! in `laws`, those of one control beside it.

use super::testing::*;
use super::toy_unet::ToyUnet;
use super::{BankPlan, BankSize, KvBank, Lifetime, Purpose, Ranges, RowGather, Setting, When, Window, build, parse};
use crate::attention::{
    AttentionProcessor, AttentionSite, Branch, Feature, FeatureSite, Half, Layout, Pass, Reference, Row, SiteKind, Time,
};
use candle_core::{DType, Device, Result, Tensor};
use std::cell::RefCell;
use std::rc::Rc;

type Stack = Vec<Box<dyn AttentionProcessor>>;

fn networks() -> [Box<dyn Network>; 2] {
    [Box::new(Toy::default()), Box::new(ToyUnet::default())]
}

/// Every word is token 3 of all prompts.
struct Words;

impl Setting for Words {
    fn positions(&self, _word: &str) -> anyhow::Result<Vec<Vec<u32>>> {
        Ok(vec![vec![3]; 10])
    }
}

fn stack(specs: &[&str]) -> Stack {
    let specs: Vec<_> = specs.iter().map(|spec| parse(spec).unwrap()).collect();
    build(&specs, &Words).unwrap().processors
}

fn pair(half: Half, first: usize) -> [Branch; 2] {
    [branch(half, 0, 0, None), branch(half, 1, 1, Some(first))]
}

fn all_same(a: &[Tensor], b: &[Tensor]) {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).for_each(|(a, b)| assert_same(a, b));
}

#[track_caller]
fn all_near(a: &[Tensor], b: &[Tensor], limit: f32) {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).for_each(|(a, b)| assert_near(a, b, limit));
}

#[test]
fn controls_in_their_neutral_settings_equal_no_control() {
    for network in networks() {
        let (rows, branches) = (network.input(1, 6), windows(3));
        let run = |mut stack: Stack| network.forward(pass(3), &rows, &branches, vec![fork(3, 2)], &mut stack).unwrap();
        let plain = run(Vec::new());
        assert_eq!(plain.len(), 8);
        let never = When::new(Ranges::none(), Ranges::all(), &[], Times(3.0));
        all_same(&run(vec![boxed(Nothing), boxed(never), boxed(Nothing)]), &plain);
        for spec in ["kv-share:steps=4-", "kv-share:layers=none", "reweight:words=moon:1", "window:size=9,stride=1"] {
            all_same(&run(stack(&[spec])), &plain);
        }
        assert!(distance(&run(stack(&["reweight:words=moon:-2"]))[7], &plain[7]) > 1e-3);
    }
}

#[test]
fn sharing_between_equals_makes_equals() {
    for network in networks() {
        let rows = network.input(2, 2);
        let equal = [rows[0].clone(), rows[0].clone()];
        let alone = network.forward(pass(0), &rows[..1], &pair(COND, 0)[..1], vec![], &mut []).unwrap();
        let run = |rows: &[Row]| {
            network.forward(pass(0), rows, &pair(COND, 0), vec![], &mut stack(&["kv-share:layers=1-3"])).unwrap()
        };
        let apart = [branch(COND, 0, 0, None), branch(COND, 1, 1, None)];
        let run_apart = |mut stack: Stack| network.forward(pass(0), &rows, &apart, vec![], &mut stack).unwrap();
        all_same(&run_apart(stack(&["kv-share"])), &run_apart(vec![])); // nobody refers to anybody
        let shared = run(&equal);
        assert_same(&shared[0], &shared[1]);
        assert_near(&shared[0], &alone[0], 1e-5);
        let plain = network.forward(pass(0), &rows, &pair(COND, 0), vec![], &mut []).unwrap();
        let shared = run(&rows);
        assert_same(&shared[0], &plain[0]);
        assert!(distance(&shared[1], &plain[1]) > 1e-3);
    }
}

#[test]
fn the_forked_schedule_equals_pairs_of_windows() {
    for network in networks() {
        for (count, layer) in [(2, 0), (3, 2), (4, 3)] {
            let spec = format!("kv-share:layers={layer}-");
            let rows = network.input(3, 2 * count);
            let forks = vec![fork(count, layer)];
            let branches: Vec<_> = forks[0].rows.iter().map(|(_, branch)| branch.clone()).collect();
            let got = network.forward(pass(3), &rows, &windows(count), forks, &mut stack(&[&spec])).unwrap();
            for (half, start) in [(UNCOND, 0), (COND, count)] {
                for k in 0..count - 1 {
                    let two = &rows[start + k..start + k + 2];
                    let expected = network.forward(pass(3), two, &pair(half, 0), vec![], &mut stack(&[&spec])).unwrap();
                    for (window, shared, expected) in [(k, false, &expected[0]), (k + 1, true, &expected[1])] {
                        let is = |b: &Branch| (b.half, b.window, b.reference.is_some()) == (half, window, shared);
                        assert_near(&got[branches.iter().position(is).unwrap()], expected, 5e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn micro_batches_chunks_and_separate_halves_change_nothing() {
    for mut network in networks() {
        let rows = network.input(4, 4);
        let both = [pair(UNCOND, 0), pair(COND, 2)].concat();
        let masked = || stack(&["kv-share:layers=1-2,subject=knight,threshold=0.3", "reweight:words=moon:-0.5"]);
        network.batch(100, 1 << 28);
        let whole = network.forward(pass(1), &rows, &both, vec![], &mut masked()).unwrap();
        for (micro_batch, budget) in [(1, 1 << 28), (3, 1), (100, 5000)] {
            network.batch(micro_batch, budget);
            all_near(&network.forward(pass(1), &rows, &both, vec![], &mut masked()).unwrap(), &whole, 2e-5);
        }
        network.batch(1, 1 << 28);
        let controls = || stack(&["kv-share:layers=1-2", "reweight:words=moon:-0.5"]);
        let together = network.forward(pass(1), &rows, &both, vec![], &mut controls()).unwrap();
        for (half, start) in [(UNCOND, 0), (COND, 2)] {
            let rows = &rows[start..start + 2];
            let alone = network.forward(pass(1), rows, &pair(half, 0), vec![], &mut controls()).unwrap();
            all_near(&alone, &together[start..start + 2], 1e-6);
        }
    }
}

#[test]
fn controls_act_in_their_places_only() {
    for (network, kinds) in networks().into_iter().zip([&[SiteKind::Joint][..], &UNET_KINDS]) {
        let rows = network.input(6, 1);
        let run = |mut stack: Stack| {
            network.forward(pass(3), &rows, &[branch(COND, 0, 0, None)], vec![], &mut stack).unwrap().remove(0)
        };
        let plain = run(vec![]);
        let when = |steps: &str, layers: &str, kinds: &[SiteKind]| {
            boxed(When::new(steps.parse().unwrap(), layers.parse().unwrap(), kinds, Times(2.0)))
        };
        for (steps, layers) in [("4-", "all"), ("all", "5-9")] {
            assert_same(&run(vec![when(steps, layers, &[])]), &plain);
        }
        for kind in [SiteKind::Joint, SiteKind::SelfSpatial, SiteKind::Cross, SiteKind::Temporal] {
            let acts = distance(&run(vec![when("3", "2", &[kind])]), &plain) > 1e-3;
            assert_eq!(acts, kinds.contains(&kind), "{kind:?}");
        }
        let (a, b) = (|| when("all", "0-1", &[]), || when("all", "2-", &[]));
        assert_same(&run(vec![a(), b()]), &run(vec![b(), a()]));
        for (spec, kind) in [
            ("cross-frame:frame=first", SiteKind::SelfSpatial),
            ("cross-frame:frame=previous", SiteKind::SelfSpatial),
            ("window:size=2,stride=1", SiteKind::Temporal),
        ] {
            let acts = distance(&run(stack(&[spec])), &plain) > 1e-4;
            assert_eq!(acts, kinds.contains(&kind), "{spec}");
        }
    }
}

const UNET_KINDS: [SiteKind; 3] = [SiteKind::SelfSpatial, SiteKind::Cross, SiteKind::Temporal];

/// A network beside the denoiser is controlled only where that is said.
#[test]
fn layers_are_those_of_the_denoiser() {
    let unet = ToyUnet { network: 1, ..ToyUnet::default() };
    let (rows, branches) = (unet.input(7, 1), [branch(COND, 0, 0, None)]);
    let run = |mut stack: Stack| unet.forward(pass(0), &rows, &branches, vec![], &mut stack).unwrap().remove(0);
    let mut when = When::new(Ranges::all(), Ranges::all(), &[], Times(2.0));
    let plain = run(vec![]);
    assert_same(&run(stack(&["kv-share", "window:size=2,stride=1"])), &plain);
    assert!(distance(&run(stack(&["cross-frame"])), &plain) > 1e-3);
    when.everywhere = true;
    assert!(distance(&run(vec![boxed(when)]), &plain) > 1e-3);
}

/// Adds to chosen features and to the text what it computes from the rows of the pass, and notes where it was called.
#[derive(Default)]
struct Residual {
    factor: f64,
    chosen: Option<fn(&Feature) -> bool>,
    text: bool,
    means: Vec<f64>,
    seen: Rc<RefCell<Vec<(Feature, Layout, usize)>>>,
}

impl AttentionProcessor for Residual {
    fn begin(&mut self, _pass: &Pass, branches: &[Branch], rows: &[Row]) -> Result<()> {
        assert_eq!(rows.len(), branches.len());
        let mean = |row: &Row| {
            let time = match &row.time {
                Time::One(time) => *time,
                Time::Frames(times) => times.iter().sum(),
            };
            Ok(row.latents.mean_all()?.to_scalar::<f32>()? as f64 + 0.1 * time + row.context.dim(0)? as f64)
        };
        self.means = rows.iter().map(mean).collect::<Result<_>>()?;
        Ok(())
    }

    fn context(&mut self, context: Tensor, site: &AttentionSite) -> Result<Tensor> {
        assert_eq!((site.kind, context.dim(0)?, context.dim(1)?), (SiteKind::Cross, site.rows.len(), site.text.len()));
        if self.text { context.affine(1.0, self.factor) } else { Ok(context) }
    }

    fn inject(&mut self, hidden: Tensor, site: &FeatureSite) -> Result<Tensor> {
        let entries = site.site.inner.last().unwrap().end;
        assert_eq!(hidden.dim(0)?, entries);
        assert_eq!(hidden.rank(), if site.layout == Layout::Maps { 4 } else { 3 });
        if site.layout == Layout::Maps {
            assert_eq!((hidden.dim(2)?, hidden.dim(3)?), (site.site.grid.1, site.site.grid.2));
        }
        self.seen.borrow_mut().push((site.feature, site.layout, site.number()));
        if !self.chosen.is_some_and(|chosen| chosen(&site.feature)) {
            return Ok(hidden);
        }
        let parts = site.site.rows.iter().zip(site.site.inner).map(|(&row, inner)| {
            hidden.narrow(0, inner.start, inner.len())?.affine(1.0, self.factor * self.means[row])
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }
}

#[test]
fn features_and_texts_take_additions() {
    let unet = ToyUnet::default();
    let (rows, branches) = (unet.input(8, 1), [branch(COND, 0, 0, None)]);
    let run = |mut stack: Stack| unet.forward(pass(0), &rows, &branches, vec![], &mut stack).unwrap().remove(0);
    let plain = run(vec![]);
    let seen = Rc::new(RefCell::new(Vec::new()));
    assert_same(&run(vec![boxed(Residual { seen: seen.clone(), ..Residual::default() })]), &plain);
    let attended = |block| UNET_KINDS.map(|kind| (Feature::Attended(kind), Layout::Tokens, block));
    let mut expected: Vec<_> = Vec::new();
    for block in 0..5 {
        if block == 2 {
            expected.extend([0, 1].map(|skip| (Feature::Skip(skip), Layout::Maps, skip)));
        }
        expected.extend(attended(block));
        expected.push(if block == 2 {
            (Feature::Mid, Layout::Maps, 0)
        } else {
            (Feature::Block(block), Layout::Maps, block)
        });
    }
    assert_eq!(*seen.borrow(), expected);

    let features: [fn(&Feature) -> bool; 5] = [
        |feature| matches!(feature, Feature::Attended(SiteKind::Cross)),
        |feature| matches!(feature, Feature::Skip(1)),
        |feature| matches!(feature, Feature::Mid),
        |feature| matches!(feature, Feature::Block(3)),
        |_| false,
    ];
    for (index, chosen) in features.into_iter().enumerate() {
        let residual = |factor| Residual { factor, chosen: Some(chosen), text: index == 4, ..Residual::default() };
        assert_same(&run(vec![boxed(residual(0.0))]), &plain);
        assert!(distance(&run(vec![boxed(residual(0.1))]), &plain) > 1e-3, "{index}");
        // `layers` counts features by their own numbers
        let layers = ["4", "1", "0", "3", "4"][index].parse().unwrap();
        let at = |layers: Ranges| run(vec![boxed(When::new(Ranges::all(), layers, &[], residual(0.1)))]);
        assert!(distance(&at(layers), &plain) > 1e-3, "{index}");
        assert_same(&at("5-".parse().unwrap()), &plain);
    }
    let skip = || Residual { factor: 0.1, chosen: Some(features[1]), ..Residual::default() };
    assert_same(&run(vec![boxed(When::new(Ranges::all(), "2".parse().unwrap(), &[], skip()))]), &plain);
}

/// A row of one frame at time 0 beside rows of several.
#[test]
fn a_companion_of_one_frame_serves_rows_of_many() {
    let mut unet = ToyUnet::default();
    let mut rows = unet.input(9, 2);
    let branches = [branch(COND, 1, 0, Some(2)), branch(COND, 2, 0, Some(2)), branch(COND, 0, 0, None)];
    let plain = unet.forward(pass(0), &rows, &windows(2)[2..], vec![], &mut []).unwrap();
    rows.push(unet.still(30));
    for micro_batch in [1, 3] {
        unet.batch(micro_batch, 1 << 28);
        let run = |stack: &mut Stack| unet.forward(pass(0), &rows, &branches, vec![], stack).unwrap();
        let beside = run(&mut vec![]);
        assert_eq!(beside[2].dim(0).unwrap(), 1);
        all_near(&beside[..2], &plain, 5e-6);
        let shared = run(&mut stack(&["kv-share"]));
        assert_near(&shared[2], &beside[2], 1e-5);
        assert!(distance(&shared[1], &beside[1]) > 1e-3);
        all_near(&run(&mut stack(&["cross-frame"]))[2..], &beside[2..], 5e-6);
    }
}

/// The companion goes through once; its keys and values serve all steps, and equal those of a companion in every pass.
#[test]
fn what_a_companion_left_in_a_bank_serves_the_run() {
    let mut unet = ToyUnet { grid: (3, 2, 4), ..ToyUnet::default() };
    unet.batch(3, 1 << 28);
    let mut rows = unet.input(10, 2);
    let still = unet.still(30);
    let spatial = |inner| boxed(When::new_boxed(Ranges::all(), Ranges::all(), &[SiteKind::SelfSpatial], inner));
    let size = BankSize { windows: 3, halves: 1, text: 0, networks: vec![unet.spatial_layers()] };
    let plan = |replace| {
        let (windows, frames) = (Ranges::from(0..=0), Ranges::from(0..=0));
        let purpose = Purpose::Anchor { timeline: 0, windows, frames, replace, lifetime: Lifetime::Run };
        BankPlan { purpose, layers: Ranges::all(), dtype: DType::F32, device: Device::Cpu, budget: 1 << 20 }
    };
    let readers = [1, 2].map(|window| Branch {
        reference: Some(Reference::Banked { timeline: 0, window: 0 }),
        ..branch(COND, window, 0, None)
    });
    let mut results = Vec::new();
    for replace in [true, false] {
        let bank = KvBank::new(plan(replace), &size).unwrap();
        let mut stack = vec![spatial(boxed(bank.clone()))];
        let first = [branch(COND, 0, 0, None)];
        unet.forward(pass(0), std::slice::from_ref(&still), &first, vec![], &mut stack).unwrap();
        let held = bank.held();
        assert_eq!(held, plan(replace).bytes(&size));
        unet.forward(pass(1), std::slice::from_ref(&still), &first, vec![], &mut stack).unwrap();
        results.push(unet.forward(pass(2), &rows, &readers, vec![], &mut stack).unwrap());
        assert_eq!(bank.held(), held);
    }
    rows.push(still);
    let branches = [branch(COND, 1, 0, Some(2)), branch(COND, 2, 0, Some(2)), branch(COND, 0, 0, None)];
    let mut beside = vec![spatial(boxed(RowGather::kv_sharing()))];
    let expected = unet.forward(pass(2), &rows, &branches, vec![], &mut beside).unwrap();
    all_near(&results[0], &expected[..2], 5e-6);
    assert!(distance(&results[0][0], &results[1][0]) > 1e-3);
}

/// A first frame in a bank, and how much the bank then holds.
struct FirstFrame(KvBank);

impl Setting for FirstFrame {
    fn positions(&self, word: &str) -> anyhow::Result<Vec<Vec<u32>>> {
        Words.positions(word)
    }

    fn anchor(&self, _layers: &Ranges) -> anyhow::Result<Option<KvBank>> {
        Ok(Some(self.0.clone()))
    }
}

/// Text2Video-Zero: chunks of any length, of a denoiser and of a network beside it, equal all frames in one pass; the first
/// frame goes through once a step.
#[test]
fn chunks_that_read_the_first_frame_equal_one_pass() {
    const FRAMES: usize = 8;
    let unet = ToyUnet { grid: (FRAMES, 2, 4), temporal: false, ..ToyUnet::default() };
    let beside = ToyUnet { network: 1, ..unet.clone() };
    let rows = unet.input(12, 2);
    let frames_of = |row: &Row, start: usize, len: usize| {
        let latents = row.latents.narrow(0, start, len).unwrap();
        Row { latents, ..row.clone() }
    };
    // what the second network makes is added to what the first is given
    let run = |step: usize, rows: &[Row], branches: &[Branch], stacks: &mut [Stack; 2]| {
        let added = beside.forward(pass(step), rows, branches, vec![], &mut stacks[1]).unwrap();
        let with = |(row, added): (&Row, &Tensor)| {
            let latents = (&row.latents + (added * 0.1).unwrap()).unwrap();
            Row { latents, ..row.clone() }
        };
        let rows: Vec<Row> = rows.iter().zip(&added).map(with).collect();
        unet.forward(pass(step), &rows, branches, vec![], &mut stacks[0]).unwrap()
    };
    let branches = [UNCOND, COND].map(|half| branch(half, 0, 0, None));
    let expected = run(0, &rows, &branches, &mut [(); 2].map(|()| stack(&["cross-frame"])));
    let plain = run(0, &rows, &branches, &mut [(); 2].map(|()| Stack::new()));
    assert!(distance(&plain[1], &expected[1]) > 1e-3);

    for chunk in [1, 3, 8] {
        let first = Ranges::from(0..=0);
        let (windows, frames, lifetime) = (first.clone(), first, Lifetime::Step);
        let purpose = Purpose::Anchor { timeline: 0, windows, frames, replace: true, lifetime };
        let layers = Ranges::all();
        let plan = BankPlan { purpose, layers, dtype: DType::F32, device: Device::Cpu, budget: 1 << 20 };
        let networks = vec![unet.spatial_layers(), beside.spatial_layers()];
        let size = BankSize { windows: FRAMES.div_ceil(chunk), halves: 2, text: 0, networks };
        let bank = KvBank::new(plan.clone(), &size).unwrap();
        let spec = [parse("cross-frame").unwrap()];
        let mut stacks = [(); 2].map(|()| build(&spec, &FirstFrame(bank.clone())).unwrap().processors);
        for step in [0, 1] {
            let mut parts = [Vec::new(), Vec::new()];
            for (window, start) in (0..FRAMES).step_by(chunk).enumerate() {
                let len = chunk.min(FRAMES - start);
                let rows: Vec<Row> = rows.iter().map(|row| frames_of(row, start, len)).collect();
                let reference = (window > 0).then_some(Reference::Banked { timeline: 0, window: 0 });
                let branches = [UNCOND, COND].map(|half| Branch { reference, ..branch(half, window, 0, None) });
                let out = run(step, &rows, &branches, &mut stacks);
                parts.iter_mut().zip(out).for_each(|(parts, out)| parts.push(out));
                assert_eq!(bank.held(), plan.bytes(&size));
            }
            for (parts, expected) in parts.iter().zip(&expected) {
                assert_near(&Tensor::cat(parts, 0).unwrap(), expected, 1e-6);
            }
        }
    }
    let previous = [parse("cross-frame:frame=previous").unwrap()];
    let purpose = Purpose::HandOver { windows: Ranges::all() };
    let plan = BankPlan { purpose, layers: Ranges::all(), dtype: DType::F32, device: Device::Cpu, budget: 0 };
    let size = BankSize { windows: 1, halves: 2, text: 0, networks: vec![] };
    let error = build(&previous, &FirstFrame(KvBank::new(plan, &size).unwrap())).err().unwrap().to_string();
    assert!(error.contains("frame=previous needs all frames in one chunk"), "{error}");
}

/// Foreground and background apart: nothing to part is sharing, and micro-batches change nothing.
#[test]
fn sharing_by_the_mask_of_a_word() {
    for mut network in networks() {
        let rows = network.input(13, 4);
        let both = [pair(UNCOND, 0), pair(COND, 2)].concat();
        let run = |network: &dyn Network, spec: &str| {
            network.forward(pass(1), &rows, &both, vec![], &mut stack(&[spec])).unwrap()
        };
        let shared = run(&*network, "kv-share");
        all_same(&run(&*network, "kv-share:subject=knight,threshold=0"), &shared);
        let masked = run(&*network, "kv-share:subject=knight,threshold=0.5");
        assert!(distance(&masked[1], &shared[1]) > 1e-3 && distance(&masked[3], &shared[3]) > 1e-3);
        assert_same(&masked[2], &shared[2]);
        for micro_batch in [3, 100] {
            network.batch(micro_batch, 1 << 28);
            all_near(&run(&*network, "kv-share:subject=knight,threshold=0.5"), &masked, 2e-5);
        }
    }
}

/// One full window of frames is plain attention over frames, beside a companion too.
#[test]
fn one_window_of_all_frames_is_plain() {
    let unet = ToyUnet::default();
    let rows = [unet.input(11, 1), vec![unet.still(3)]].concat();
    let run = |mut stack: Stack| unet.forward(pass(0), &rows, &windows(1), vec![], &mut stack).unwrap();
    all_same(&run(vec![boxed(Window::new(3, 1).unwrap())]), &run(vec![]));
}
