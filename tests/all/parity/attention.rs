//! Attention control in whole networks: against diffusers' transformer with dense, literal attention in place of its own
//! (goldens: `tests/reference/attention.py`), and every way of scheduling the rows against the others.

use crate::common::{assert_close, golden, tiny};
use crate::parity::transformer::load;
use candle_core::{DType, Device, Tensor};
use vidgen::attention::{AttentionProcessor, Branch, Fork, Half, Hooks, Pass, Reference, SiteKind};
use vidgen::models::cogvideox::config::TransformerConfig;
use vidgen::models::cogvideox::transformer::Transformer;
use vidgen::models::{Denoiser, Row};
use vidgen::nn::sdpa::Sdpa;
use vidgen::processors::attention_map::{AttentionMap, AttentionMaps, View};
use vidgen::processors::{
    BankPlan, BankSize, Builder, KvBank, LayerSize, Purpose, Ranges, Recording, Setting, Stack, Word, build, parse,
};

const KINDS: [&str; 2] = ["tiny-2b", "tiny-5b"];

const COND: Half = Half::COND;
const UNCOND: Half = Half::UNCOND;

fn branch(half: Half, window: usize, reference: Option<Reference>) -> Branch {
    Branch { reference, ..Branch::new(half, window, window) }
}

fn row(row: usize) -> Option<Reference> {
    Some(Reference::Row(row))
}

/// UNCOND source, uncond target, cond source, cond target.
fn pair() -> [Branch; 4] {
    [branch(UNCOND, 0, None), branch(UNCOND, 1, row(0)), branch(COND, 0, None), branch(COND, 1, row(2))]
}

/// `count` windows: their unconditional rows, then the conditional ones.
fn windows(kind: &str, config: &TransformerConfig, count: usize) -> Vec<Row> {
    let latents = tiny::unit(&format!("{kind}/attention/latents"), &[count, 3, config.in_channels, 6, 10]);
    let shape = [count, config.max_text_seq_length, config.text_embed_dim];
    let text = tiny::unit(&format!("{kind}/attention/text"), &shape);
    let of = |text: &Tensor| {
        let row = |index| Row::new(latents.get(index).unwrap(), text.get(index).unwrap(), 501.0);
        (0..count).map(row).collect::<Vec<_>>()
    };
    [of(&text.zeros_like().unwrap()), of(&text)].concat()
}

/// Words of the tiny texts, and a bank where rows are to go through one.
#[derive(Default)]
struct Words {
    bank: Option<KvBank>,
}

impl Setting for Words {
    fn positions(&self, word: &str) -> anyhow::Result<Vec<Vec<u32>>> {
        Ok(match word {
            "knight" => vec![vec![2, 3], vec![7], vec![0], vec![7, 8]],
            // only the target's
            position => vec![vec![], vec![position.parse()?]],
        })
    }

    fn bank(&self, _layers: &Ranges) -> anyhow::Result<Option<KvBank>> {
        Ok(self.bank.clone())
    }
}

fn stack(specs: &[&str], setting: &Words) -> Stack {
    let specs: Vec<_> = specs.iter().map(|spec| parse(spec).unwrap()).collect();
    specs.iter().for_each(|spec| spec.check(50, &[(SiteKind::Joint, 3)]).unwrap());
    build(&specs, setting).unwrap()
}

/// As [`stack`], with the maps of "knight" and of `views` kept at `layers`.
fn recording(specs: &[&str], views: Vec<View>, layers: Ranges) -> Stack {
    let setting = Words::default();
    let mut builder = Builder::new(&setting);
    let words = vec![builder.word("knight").unwrap()];
    builder.keep(Recording { words, views, steps: Ranges::all(), layers, single_layer: false });
    specs.iter().for_each(|spec| parse(spec).unwrap().build(&mut builder).unwrap());
    builder.stack()
}

struct Run<'a> {
    model: &'a Transformer,
    micro_batch: usize,
}

impl Run<'_> {
    fn forward(
        &self,
        rows: &[Row],
        branches: &[Branch],
        forks: Vec<Fork>,
        stack: &mut [Box<dyn AttentionProcessor>],
    ) -> Vec<Tensor> {
        let pass = Pass { step: 2, steps: 50 };
        let mut hooks = Hooks::new(pass, branches.to_vec(), forks, stack, Sdpa::default(), self.micro_batch).unwrap();
        let out = self.model.forward(rows, &mut hooks).unwrap();
        hooks.finish().unwrap();
        out
    }
}

const SHARE: &str = "kv-share:layers=1-2,steps=2-24";
const MASK: &str = "kv-share:layers=1-2,steps=2-24,subject=knight,threshold=0.4";
const REWEIGHT: &str = "reweight:words=1:0.5,4:-2,9:0";

#[test]
fn controls_equal_dense_attention_in_the_reference_network() {
    let golden = golden("attention");
    for kind in KINDS {
        let (config, model) = load(kind);
        let rows = windows(kind, &config, 2);
        for (case, specs) in [
            ("share", &[SHARE][..]),
            ("mask", &[MASK]),
            ("reweight", &[REWEIGHT]),
            ("share-reweight", &[SHARE, REWEIGHT]),
        ] {
            let want = &golden[&format!("{kind}/{case}")];
            for micro_batch in [1, 4] {
                let out = Run { model: &model, micro_batch }.forward(
                    &rows,
                    &pair(),
                    vec![],
                    &mut stack(specs, &Words::default()).processors,
                );
                assert_close(&format!("{kind}/{case}"), &Tensor::stack(&out, 0).unwrap(), want, 1e-5);
            }
        }
    }
}

#[test]
fn maps_equal_columns_of_the_reference_network() {
    let golden = golden("attention");
    for kind in KINDS {
        let (config, model) = load(kind);
        let rows = windows(kind, &config, 2);
        for (case, spec) in [("share", SHARE), ("mask", MASK)] {
            let mut stack = recording(&[spec], Vec::new(), Ranges::from(2..=2));
            Run { model: &model, micro_batch: 1 }.forward(&rows, &pair(), vec![], &mut stack.processors);
            let kept: Vec<Tensor> = stack.take_maps().iter().map(|kept| kept.map.get(0).unwrap()).collect();
            let what = format!("{kind}/{case}/maps");
            assert_close(&what, &Tensor::stack(&kept, 0).unwrap(), &golden[&what], 1e-5);
        }
    }
}

#[test]
fn neutral_controls_are_plain_bit_for_bit() {
    for kind in KINDS {
        let (config, model) = load(kind);
        let rows = windows(kind, &config, 2);
        let run = |stack: &mut [_]| {
            let out = Run { model: &model, micro_batch: 2 }.forward(&rows, &pair(), vec![], stack);
            Tensor::stack(&out, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let plain = run(&mut []);
        for specs in [&["kv-share:layers=1-2,steps=3-24"][..], &["kv-share:layers=none"], &["reweight:words=1:1,4:1"]] {
            let got = run(&mut stack(specs, &Words::default()).processors);
            assert!(plain.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()), "{specs:?}");
        }
        let got = run(&mut recording(&[], vec![View::Text, View::Frame(1)], Ranges::all()).processors);
        assert!(plain.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()), "maps");
        let shared = run(&mut stack(&[SHARE], &Words::default()).processors);
        assert!(plain.iter().zip(&shared).any(|(a, b)| (a - b).abs() > 1e-3));
        let all = run(&mut stack(&["kv-share:layers=1-2,subject=knight,threshold=0"], &Words::default()).processors);
        assert!(shared.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()), "all foreground");
    }
}

#[test]
fn equal_windows_stay_equal_under_sharing() {
    let (config, model) = load("tiny-5b");
    let rows = windows("tiny-5b", &config, 1);
    let rows = [&rows[..1], &rows[..1], &rows[1..], &rows[1..]].concat();
    for spec in [SHARE, MASK] {
        let same = pair().map(|branch| Branch { prompt: 0, ..branch });
        let out = Run { model: &model, micro_batch: 1 }.forward(
            &rows,
            &same,
            vec![],
            &mut stack(&[spec], &Words::default()).processors,
        );
        let plain = Run { model: &model, micro_batch: 1 }.forward(&rows, &same, vec![], &mut []);
        assert_close("source", &out[2], &plain[2], 1e-6);
        if spec == SHARE {
            assert_close("target", &out[3], &out[2], 1e-6);
        }
    }
}

/// Four windows: all in one pass with a fork, or one after the other through a bank, equal the reference's loop of pairs.
#[test]
fn every_schedule_of_a_sharing_step_equals_the_pair_loop() {
    const COUNT: usize = 4;
    for kind in KINDS {
        let (config, model) = load(kind);
        let rows = windows(kind, &config, COUNT);
        let run = Run { model: &model, micro_batch: 1 };
        for spec in [SHARE, MASK] {
            let mut expected = Vec::new();
            for k in 0..COUNT - 1 {
                let rows = [k, k + 1, COUNT + k, COUNT + k + 1].map(|row| rows[row].clone());
                let pair =
                    pair().map(|branch| Branch { window: branch.window + k, prompt: branch.prompt + k, ..branch });
                let out = run.forward(&rows, &pair, vec![], &mut stack(&[spec], &Words::default()).processors);
                expected.extend(pair.iter().zip(out).map(|(b, x)| ((b.half, b.window, b.reference.is_some()), x)));
            }
            let check = |what: &str, branches: &[Branch], out: &[Tensor]| {
                assert_eq!(branches.len(), out.len());
                for (branch, out) in branches.iter().zip(out) {
                    let key = (branch.half, branch.window, branch.reference.is_some());
                    let (_, want) = expected.iter().find(|(other, _)| *other == key).unwrap();
                    assert_close(&format!("{kind} {what} {key:?}"), out, want, 1e-5);
                }
            };

            let start: Vec<Branch> = [UNCOND, COND]
                .iter()
                .flat_map(|&half| (0..COUNT).map(move |window| branch(half, window, None)))
                .collect();
            let mut forked: Vec<(usize, Branch)> = Vec::new();
            for (half, first) in [(UNCOND, 0), (COND, COUNT)] {
                let plain = forked.len();
                forked.extend((0..COUNT - 1).map(|k| (first + k, branch(half, k, None))));
                forked.extend((1..COUNT).map(|k| (first + k, branch(half, k, row(plain + k - 1)))));
            }
            let fork = Fork { layer: 1, rows: forked.clone() };
            let out = run.forward(&rows, &start, vec![fork], &mut stack(&[spec], &Words::default()).processors);
            check("forked", &forked.into_iter().map(|(_, branch)| branch).collect::<Vec<_>>(), &out);

            let plan = BankPlan {
                purpose: Purpose::HandOver { windows: Ranges::all() },
                layers: "1-2".parse().unwrap(),
                dtype: DType::F32,
                device: Device::Cpu,
                budget: 1 << 20,
            };
            let channels = config.num_attention_heads * config.attention_head_dim;
            let layers = vec![LayerSize { channels, grid: (3, 3, 5) }; config.num_layers];
            let size = BankSize { windows: COUNT, halves: 2, text: config.max_text_seq_length, networks: vec![layers] };
            let bank = KvBank::new(plan.clone(), &size).unwrap();
            let mut stack = stack(&[spec], &Words { bank: Some(bank.clone()) });
            for k in 0..COUNT {
                let start = [branch(UNCOND, k, None), branch(COND, k, None)];
                let mut forked = Vec::new();
                for (row, plain) in start.iter().enumerate() {
                    let reference = k.checked_sub(1).map(|window| Reference::Banked { timeline: 0, window });
                    forked.extend((k + 1 < COUNT).then(|| (row, plain.clone())));
                    forked.extend(reference.map(|_| (row, Branch { reference, ..plain.clone() })));
                }
                let rows = [rows[k].clone(), rows[COUNT + k].clone()];
                let fork = Fork { layer: 1, rows: forked.clone() };
                let out = run.forward(&rows, &start, vec![fork], &mut stack.processors);
                check("walked", &forked.into_iter().map(|(_, branch)| branch).collect::<Vec<_>>(), &out);
                assert_eq!(bank.held(), if k + 1 < COUNT { plan.bytes(&size) } else { 0 });
            }
        }
    }
}

#[test]
fn a_recorder_alone_leaves_its_maps_until_the_pass_ends() {
    let (config, model) = load("tiny-2b");
    let rows = windows("tiny-2b", &config, 1);
    let maps = AttentionMaps::default();
    let word = Word { text: "knight".into(), positions: vec![vec![2, 3]] };
    let recorder = AttentionMap::new(&maps, vec![word]).keep(&[], Ranges::all(), "1".parse().unwrap(), 1 << 16);
    let branches = [branch(UNCOND, 0, None), branch(COND, 0, None)];
    Run { model: &model, micro_batch: 2 }.forward(&rows, &branches, vec![], &mut [Box::new(recorder)]);
    let kept = maps.take();
    assert_eq!((kept.len(), kept[0].layer, kept[0].map.dims()), (1, 1, &[1, 3, 3, 5][..]));
    assert!(maps.foreground(1, 2, (3, 5)).is_err());
}
