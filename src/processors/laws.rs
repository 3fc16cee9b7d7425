//! The laws of the seam on random tensors and on a toy MM-DiT. Those of any network are in `network_laws`, those of one
//! control beside it.

use super::attention_map::{AttentionMap, AttentionMaps};
use super::testing::*;
use super::{BankPlan, BankSize, KeyMask, KvBank, LayerSize, Purpose, Ranges, Reweight, RowGather, When, Word};
use crate::attention::{
    AttentionProcessor, AttentionSite, Branch, Fork, Half, Hooks, Pass, Qkv, Queries, Reference, Row, Site, SiteKind,
};
use crate::nn::sdpa::Sdpa;
use candle_core::{DType, Device, Tensor};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

type Stack = Vec<Box<dyn AttentionProcessor>>;

fn ranges(text: &str) -> Ranges {
    text.parse().unwrap()
}

fn knight(prompts: usize) -> Vec<Word> {
    vec![Word { text: "knight".into(), positions: (0..prompts as u32).map(|prompt| vec![prompt % 3, 3]).collect() }]
}

/// DiTCtrl's stack: sharing in some steps and layers, mask-guided where a threshold is given.
fn ditctrl(steps: &str, layers: &str, threshold: Option<f64>) -> Stack {
    ditctrl_through(steps, layers, threshold, None)
}

fn ditctrl_through(steps: &str, layers: &str, threshold: Option<f64>, bank: Option<&KvBank>) -> Stack {
    let when =
        |control: Box<dyn AttentionProcessor>| boxed(When::new_boxed(ranges(steps), ranges(layers), &[], control));
    let share = when(bank.map_or(boxed(RowGather::kv_sharing()), |bank| boxed(bank.clone())));
    let Some(threshold) = threshold else { return vec![share] };
    let maps = AttentionMaps::default();
    let recorder = When::new(ranges(steps), ranges(layers).filled(), &[], AttentionMap::new(&maps, knight(10)));
    let mask = KeyMask::new(&maps, threshold);
    vec![boxed(recorder), share, when(boxed(if bank.is_some() { mask.with_bank() } else { mask }))]
}

/// The reference's loop: every adjacent pair of windows as one batch of four.
fn pair_loop(toy: &Toy, at: &Pass, rows: &[Row], stack: &mut Stack) -> Vec<(Half, usize, bool, Tensor)> {
    let count = rows.len() / 2;
    let mut results = Vec::new();
    for k in 0..count - 1 {
        let branches: Vec<Branch> = [(UNCOND, 0), (COND, 2)]
            .into_iter()
            .flat_map(|(half, first)| [branch(half, k, k, None), branch(half, k + 1, k + 1, Some(first))])
            .collect();
        let of = |index: usize| rows[index].clone();
        let batch = [of(k), of(k + 1), of(count + k), of(count + k + 1)];
        let together = Toy { micro_batch: 4, ..toy.clone() };
        let out = together.forward(*at, &batch, &branches, Vec::new(), stack).unwrap();
        results.extend(branches.iter().zip(out).map(|(b, x)| (b.half, b.window, b.reference.is_some(), x)));
    }
    results
}

/// Windows once, forked at the first sharing layer, in micro-batches of one pair, equal the reference's pair loop.
#[test]
fn the_de_duplicated_schedule_equals_the_pair_loop() {
    for count in 2..=5 {
        for (steps, layers, threshold) in [
            ("2-4", "2-3", None),
            ("3", "0,2", None),
            ("all", "3", Some(0.3)),
            ("2-9", "1,3", Some(0.5)),
            ("3-", "0-", Some(0.3)),
        ] {
            let toy = Toy { text: 4, grid: (3, 2, 2), ..Toy::default() };
            let rows = toy.input(count as u64, 2 * count);
            let expected = pair_loop(&toy, &pass(3), &rows, &mut ditctrl(steps, layers, threshold));
            let layer = ranges(layers).first().unwrap();
            let mut stack = ditctrl(steps, layers, threshold);
            let mut hooks_rows = fork(count, layer).rows.into_iter().map(|(_, branch)| branch);
            let got = toy.forward(pass(3), &rows, &windows(count), vec![fork(count, layer)], &mut stack).unwrap();
            assert_eq!(got.len(), expected.len());
            for got in got {
                let of = hooks_rows.next().unwrap();
                let key = (of.half, of.window, of.reference.is_some());
                let (.., expected) = expected.iter().find(|(g, w, s, _)| (*g, *w, *s) == key).unwrap();
                assert_near(&got, expected, 1e-5);
            }
            // Outside its steps sharing does nothing, so windows once are enough.
            let outside =
                toy.forward(pass(0), &rows, &windows(count), Vec::new(), &mut ditctrl("2-4", layers, threshold));
            for (half, window, _, expected) in pair_loop(&toy, &pass(0), &rows, &mut ditctrl("2-4", layers, threshold))
            {
                let row = window + if half == COND { count } else { 0 };
                assert_near(&outside.as_ref().unwrap()[row], &expected, 1e-5);
            }
        }
    }
}

/// The same with the windows one after the other, keys and values handed over by a bank that holds those of one window.
#[test]
fn a_walk_over_the_windows_equals_the_pair_loop() {
    for count in 2..=5 {
        for (steps, layers, threshold) in
            [("2-4", "2-3", None), ("3", "0,2", None), ("all", "3", Some(0.3)), ("3-", "0-2", Some(0.5))]
        {
            let toy = Toy { text: 4, grid: (3, 2, 2), ..Toy::default() };
            let rows = toy.input(count as u64, 2 * count);
            let expected = pair_loop(&toy, &pass(3), &rows, &mut ditctrl(steps, layers, threshold));
            let plan = BankPlan {
                purpose: Purpose::HandOver { windows: Ranges::all() },
                layers: ranges(layers),
                dtype: DType::F32,
                device: Device::Cpu,
                budget: 1 << 20,
            };
            let layer = plan.layers.first().unwrap();
            let each = LayerSize { channels: toy.heads * toy.width, grid: toy.grid };
            let size = BankSize { windows: count, halves: 2, text: toy.text, networks: vec![vec![each; toy.layers]] };
            let bank = KvBank::new(plan.clone(), &size).unwrap();
            let mut stack = ditctrl_through(steps, layers, threshold, Some(&bank));
            let mut results = Vec::new();
            for window in 0..count {
                let start = [UNCOND, COND].map(|half| branch(half, window, window, None));
                let state = [rows[window].clone(), rows[count + window].clone()];
                let mut forked: Vec<(usize, Branch)> = Vec::new();
                for (row, plain) in start.iter().enumerate() {
                    let reference = window.checked_sub(1).map(|window| Reference::Banked { timeline: 0, window });
                    forked.extend((window + 1 < count).then(|| (row, plain.clone())));
                    forked.extend(reference.map(|_| (row, Branch { reference, ..plain.clone() })));
                }
                let forks = vec![Fork { layer, rows: forked.clone() }];
                let out = toy.forward(pass(3), &state, &start, forks, &mut stack).unwrap();
                let keys = forked.into_iter().map(|(_, b)| (b.half, b.window, b.reference.is_some()));
                results.extend(keys.zip(out));
                assert_eq!(bank.held(), if window + 1 < count { plan.bytes(&size) } else { 0 });
            }
            assert_eq!(results.len(), expected.len());
            for (half, window, shared, expected) in expected {
                let (_, got) = results.iter().find(|(key, _)| *key == (half, window, shared)).unwrap();
                assert_near(got, &expected, 1e-5);
            }
        }
    }
}

/// 2 halves x (l0 S + (layers - l0) 2 (S - 1)) rows pass a layer in a sharing step, spec/ditctrl.md 10.3.
#[test]
fn a_sharing_step_costs_what_the_closed_formula_says() {
    for count in 2..=5 {
        for layer in 0..4 {
            let toy = Toy::default();
            let calls = Rc::new(Cell::new(0));
            let counted = calls.clone();
            let spy = Spy(move |_: &_, site: &AttentionSite| {
                counted.set(counted.get() + site.rows.len());
                Ok(())
            });
            toy.forward(
                pass(0),
                &toy.input(1, 2 * count),
                &windows(count),
                vec![fork(count, layer)],
                &mut [boxed(spy)],
            )
            .unwrap();
            assert_eq!(calls.get(), 2 * (layer * count + (4 - layer) * 2 * (count - 1)));
        }
    }
}

#[test]
fn probed_columns_are_those_of_the_dense_softmax() {
    let toy = Toy::default();
    let qkv = toy.qkv(3, 2);
    let dense = dense_probabilities(&qkv);
    for budget in [1, 4096, 1 << 20] {
        let mut kernel = toy.kernel.clone();
        kernel.budget = budget;
        let columns = Tensor::new(&[4u32, 0, 22], &Device::Cpu).unwrap();
        let probed = kernel.probe(&qkv.q, &qkv.k, qkv.scale, &columns).unwrap();
        assert_near(&probed, &dense.index_select(&columns, 3).unwrap(), 1e-6);
        let all = Tensor::arange(0u32, toy.tokens() as u32, &Device::Cpu).unwrap();
        let sums = kernel.probe(&qkv.q, &qkv.k, qkv.scale, &all).unwrap().sum(3).unwrap();
        assert_near(&sums, &sums.ones_like().unwrap(), 1e-6);
    }
}

/// The parts in which the key mask calls on say what they hold.
#[test]
fn controls_after_the_key_mask_know_their_tokens() {
    for text_behind in [false, true] {
        let toy = Toy { text_behind, ..Toy::default() };
        let qkv = toy.qkv(7, 2);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (calls, range, source) = (seen.clone(), toy.text_range(), qkv.k.narrow(0, 0, 1).unwrap());
        let spy = Spy(move |qkv: &Qkv, site: &AttentionSite| {
            let (queries, keys) = (qkv.q.dim(2)?, qkv.k.dim(2)?);
            calls.borrow_mut().push((site.rows.to_vec(), site.queries, site.text_queries(queries).len()));
            if site.rows == [1] {
                let text = qkv.k.narrow(2, site.text.start, site.text.len())?;
                assert_same(&text, &source.narrow(2, range.start, range.len())?);
                assert_eq!(site.video_keys(keys)?.len() + site.text.len(), keys);
            }
            Ok(())
        });
        let mut stack = ditctrl("all", "all", Some(0.3));
        stack.push(boxed(spy));
        toy.attend(&qkv, &[branch(COND, 0, 0, None), branch(COND, 1, 1, Some(0))], &mut stack).unwrap();
        let expected = [
            (vec![0], Queries::All, 5),
            (vec![1], Queries::Text, 5),
            (vec![1], Queries::Video, 0),
            (vec![1], Queries::Video, 0),
        ];
        assert_eq!(*seen.borrow(), expected);
    }
}

/// Sharing, masking and reweighting together, against one dense matrix of probabilities.
#[test]
fn reweighting_behind_the_key_mask_scales_the_kept_probabilities() {
    for text_behind in [false, true] {
        let toy = Toy { text_behind, ..Toy::default() };
        let qkv = toy.qkv(8, 2);
        let (own, source) = (dense_mask(&toy, &qkv, 1, &[1, 3], 0.3), dense_mask(&toy, &qkv, 0, &[0, 3], 0.3));
        let (moon, factor) = (toy.text_range().start + 4, -1.5);
        let word = Word { text: "moon".into(), positions: vec![vec![], vec![4]] };
        let mut stack = ditctrl("all", "all", Some(0.3));
        stack.push(boxed(Reweight::new(vec![(word, factor)])));
        let pair = [branch(COND, 0, 0, None), branch(COND, 1, 1, Some(0))];
        let got = toy.attend(&qkv, &pair, &mut stack).unwrap().narrow(0, 1, 1).unwrap();

        let of = |x: &Tensor, row| x.narrow(0, row, 1).unwrap();
        let shared =
            Qkv { q: of(&qkv.q, 1), k: of(&qkv.k, 0), v: of(&qkv.v, 0), scale: qkv.scale, scores: qkv.scores.clone() };
        let (tokens, video) = (toy.tokens(), toy.video_range());
        let inside = |token: usize| video.contains(&token).then(|| token - video.start);
        let mut p = values(&dense_scores(&shared));
        for scores in p.chunks_mut(tokens * tokens) {
            for (query, row) in scores.chunks_mut(tokens).enumerate() {
                for (key, score) in row.iter_mut().enumerate() {
                    let kept = inside(query).zip(inside(key)).is_none_or(|(query, key)| own[query] == source[key]);
                    *score = if kept { score.exp() } else { 0.0 };
                }
                let sum: f32 = row.iter().sum();
                for (key, p) in row.iter_mut().enumerate() {
                    let (a, b) = (inside(query), inside(key));
                    let scaled = (a.is_some() && key == moon) || (b.is_some() && query == moon);
                    *p *= if scaled { factor as f32 } else { 1.0 } / sum;
                }
            }
        }
        let p = Tensor::from_vec(p, (1, toy.heads, tokens, tokens), &Device::Cpu).unwrap();
        assert_near(&got, &p.matmul(&shared.v.contiguous().unwrap()).unwrap(), 5e-6);
    }
}

#[test]
fn groups_keep_references_together_and_put_the_conditional_half_first() {
    let mut stack: Stack = Vec::new();
    let branches: Vec<Branch> = fork(4, 0).rows.into_iter().map(|(_, branch)| branch).collect();
    for (micro_batch, expected) in [
        (1, vec![vec![6, 9], vec![7, 10], vec![8, 11], vec![0, 3], vec![1, 4], vec![2, 5]]),
        (4, vec![vec![6, 7, 9, 10], vec![0, 3, 8, 11], vec![1, 2, 4, 5]]),
        (100, vec![(0..12).collect()]),
    ] {
        let hooks =
            Hooks::new(pass(0), branches.clone(), Vec::new(), &mut stack, Sdpa::default(), micro_batch).unwrap();
        assert_eq!(hooks.groups(), expected);
    }
    let chain = vec![
        branch(UNCOND, 0, 0, None),
        branch(COND, 0, 0, Some(2)),
        branch(COND, 1, 0, Some(3)),
        branch(COND, 2, 0, None),
    ];
    let hooks = Hooks::new(pass(0), chain, Vec::new(), &mut stack, Sdpa::default(), 1).unwrap();
    assert_eq!(hooks.groups(), [vec![1, 2, 3], vec![0]]);
}

#[test]
fn tokens_of_a_call_are_told_apart() {
    let toy = Toy::default();
    let (branches, at) = ([branch(COND, 0, 0, None)], pass(0));
    let check = |site: Site, queries, count, text: std::ops::Range<usize>, video: std::ops::Range<usize>| {
        let site = AttentionSite { site: &site, queries, branches: &branches, pass: &at };
        assert_eq!((site.text_queries(count), site.video_queries(count).unwrap()), (text, video));
    };
    check(toy.site(0, &[0]), Queries::All, 23, 0..5, 5..23);
    check(toy.site(0, &[0]), Queries::Text, 5, 0..5, 5..5);
    check(toy.site(0, &[0]), Queries::Video, 7, 0..0, 0..7);
    check(Site { text: 18..23, ..toy.site(0, &[0]) }, Queries::All, 23, 18..23, 0..18);
    check(Site { kind: SiteKind::Cross, ..toy.site(0, &[0]) }, Queries::All, 18, 0..0, 0..18);
    check(Site { kind: SiteKind::SelfSpatial, text: 0..0, ..toy.site(0, &[0]) }, Queries::All, 18, 0..0, 0..18);
    let inside = Site { text: 3..8, ..toy.site(0, &[0]) };
    let site = AttentionSite { site: &inside, queries: Queries::All, branches: &branches, pass: &at };
    let error = site.video_keys(23).unwrap_err().to_string();
    assert!(error.contains("3..8 are at neither end of 23 tokens"), "{error}");
}
