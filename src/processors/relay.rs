//! Several prompts inside one window, each in its own time (Prompt Relay, arXiv 2604.10030; written from its formula).
//!
//! The scenes of a window share one text. A penalty on the logits of its tokens says which frames listen to which scene: for a video
//! query in latent frame `f` and a token of the scene of frames `[a, b)`, with `m = (a + b - 1) / 2`, `h = (b - 1 - a) / 2`,
//! `w = inner h` and `sigma = (h - w + tail) / sqrt(-2 ln epsilon)`,
//!
//! `C = max(0, |f - m| - w)^2 / (2 sigma^2)`, and the logit is `q.k scale - C`.
//!
//! So a frame `tail` beyond the scene's last listens with weight `epsilon`. The authors' form for joint attention is `inner = 0.5`,
//! `tail = 0`, `epsilon = 0.1`. Only rows that see their text, only video queries, only text keys; tokens of no scene (a style, the end,
//! padding) are as they were. The penalty is a table of frames by tokens, which the kernel adds to the scores.
//!
//! Recorders come after it, so that maps show the words as they are routed. Where a row reads the keys of another window
//! ([`super::kv_share`]), the penalty is that of the text it reads, at the reader's own frames: a second one of these, before the
//! controls, says so there.

use super::builder::Builder;
use super::control::{Control, Kind, Parameter, Values};
use super::routes::{Profile, Route, Routes};
use super::word::Keys;
use crate::attention::{AttentionProcessor, AttentionSite, Branch, Next, Qkv, SiteKind};
use crate::nn::scores::{Bias, NONE, Scores};
use candle_core::{Result, Tensor, bail};
use std::collections::HashMap;
use std::rc::Rc;

pub static CONTROL: Control = Control {
    name: "relay",
    sites: &[SiteKind::Joint],
    help: "scenes of one window share a text, and frames listen to the words of their own (Prompt Relay): its numbers",
    parameters: &[
        Parameter {
            name: "inner",
            kind: Kind::Number(0.0..=1.0),
            default: "1",
            help: "share of a scene, around its middle, that listens without a penalty",
            ..Parameter::PLAIN
        },
        Parameter {
            name: "tail",
            kind: Kind::Number(0.0..=1000.0),
            default: "2",
            help: "latent frames beyond a scene's last after which its words count epsilon",
            ..Parameter::PLAIN
        },
        Parameter {
            name: "epsilon",
            kind: Kind::Number(1e-9..=1.0),
            default: "0.001",
            help: "what is left of a word's weight there",
            ..Parameter::PLAIN
        },
    ],
    routes_words: true,
    build,
    ..Control::PLAIN
};

fn build(values: &Values, builder: &mut Builder) -> anyhow::Result<()> {
    let Some(routes) = builder.setting().routes() else { return Ok(()) };
    let (routes, profile) = (Rc::new(routes), profile(values)?);
    builder.before_recorders(Relay::new(routes.clone(), profile));
    if let Some(keys) = builder.setting().keys(Vec::new()) {
        builder.before_controls(Relay { keys: Some(keys), ..Relay::new(routes, profile) });
    }
    Ok(())
}

/// The numbers of a specification.
///
/// # Errors
/// When the values are another control's.
pub fn profile(values: &Values) -> anyhow::Result<Profile> {
    let number = |name| values.number(name);
    Ok(Profile { inner: number("inner")?, tail: number("tail")?, epsilon: number("epsilon")? })
}

/// See the module.
pub struct Relay {
    routes: Rc<Routes>,
    profile: Profile,
    /// Whose keys rows read, where that is not always their own.
    keys: Option<Keys>,
    /// Penalties `[F, J]` by text, first latent frame, frames of the grid and tokens; none where there is none.
    tables: HashMap<(usize, usize, usize, usize), Option<Vec<f32>>>,
}

impl Relay {
    pub fn new(routes: Rc<Routes>, profile: Profile) -> Self {
        Self { routes, profile, keys: None, tables: HashMap::new() }
    }

    /// What is added to the logits of a row's video queries, by frame of the grid and token of the text it reads.
    fn table(&mut self, branch: &Branch, site: &AttentionSite) -> Result<Option<Vec<f32>>> {
        if !branch.half.text {
            return Ok(None);
        }
        let text = self.keys.as_ref().map_or(branch.prompt, |keys| keys.text(branch, site));
        let Some(scenes) = self.routes.texts.get(text).filter(|scenes| !scenes.is_empty()) else { return Ok(None) };
        let Some(&start) = self.routes.starts.get(branch.timeline).and_then(|starts| starts.get(branch.window)) else {
            bail!("{}: window {} of timeline {} has no time", site.path, branch.window, branch.timeline)
        };
        let (frames, tokens) = (site.grid.0, site.text.len());
        let key = (text, start, frames, tokens);
        if let Some(table) = self.tables.get(&key) {
            return Ok(table.clone());
        }
        let mut table = vec![0f32; frames * tokens];
        for Route { tokens: of_scene, time } in scenes {
            for frame in 0..frames {
                // the mean of the latent frames that a token stands for
                let at = (start + frame * self.routes.patch) as f64 + (self.routes.patch - 1) as f64 / 2.0;
                let penalty = self.profile.penalty(*time, at);
                for &token in of_scene {
                    match table[frame * tokens..(frame + 1) * tokens].get_mut(token as usize) {
                        Some(to) => *to = -penalty as f32,
                        None => bail!("{}: token {token} of a text of {tokens}", site.path),
                    }
                }
            }
        }
        let table = Some(table).filter(|table| table.iter().any(|&value| value != 0.0));
        self.tables.insert(key, table.clone());
        Ok(table)
    }

    /// The bias of a micro-batch; none where no row has one.
    fn bias(&mut self, qkv: &Qkv, site: &AttentionSite) -> Result<Option<Bias>> {
        let tables = site.batch().map(|branch| self.table(branch, site)).collect::<Result<Vec<_>>>()?;
        if tables.iter().all(Option::is_none) {
            return Ok(None);
        }
        let (frames, height, width) = site.grid;
        let size = frames * site.text.len();
        let values: Vec<f32> = tables.into_iter().flat_map(|table| table.unwrap_or_else(|| vec![0.0; size])).collect();
        let table = Tensor::from_vec(values, (site.rows.len(), frames, site.text.len()), qkv.q.device())?;
        let queries = qkv.q.dim(2)?;
        let video = site.video_queries(queries)?;
        if video.len() != frames * height * width {
            bail!("{}: {} video queries are no grid of {:?}", site.path, video.len(), site.grid)
        }
        let sort = |query: usize| match query.checked_sub(video.start) {
            Some(token) if token < video.len() => (token / (height * width)) as u32,
            _ => NONE,
        };
        Bias::new(&table, site.text.start, (0..queries).map(sort).collect()).map(Some)
    }
}

impl AttentionProcessor for Relay {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        if site.kind != SiteKind::Joint || site.text.is_empty() {
            return next.attend(qkv, site);
        }
        let bias = self.bias(&qkv, site)?;
        next.attend(Qkv { scores: Scores { bias, ..qkv.scores }, ..qkv }, site)
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention_map::{AttentionMap, AttentionMaps};
    use super::super::key_mask::KeyMask;
    use super::super::reweight::Reweight;
    use super::super::row_gather::RowGather;
    use super::super::testing::*;
    use super::super::when::Ranges;
    use super::super::word::Word;
    use super::*;
    use crate::attention::AttentionProcessor;
    use candle_core::Device;

    const DEFAULT: Profile = Profile { inner: 1.0, tail: 2.0, epsilon: 0.001 };
    const AUTHORS: Profile = Profile { inner: 0.5, tail: 0.0, epsilon: 0.1 };

    /// Two texts of two scenes each; the toy's three frames are the first's from latent frame 0, the second's from 2.
    fn routes() -> Rc<Routes> {
        let route = |tokens: &[u32], time| Route { tokens: tokens.to_vec(), time };
        Rc::new(Routes {
            texts: vec![
                vec![route(&[0, 1], (0, 2)), route(&[3], (2, 4))],
                vec![route(&[2], (2, 4)), route(&[4], (1, 6))],
            ],
            starts: vec![vec![0, 2]],
            patch: 1,
        })
    }

    fn relay(profile: Profile) -> Box<dyn AttentionProcessor> {
        boxed(Relay::new(routes(), profile))
    }

    /// The penalty as a matrix over all tokens.
    fn penalties(toy: &Toy, profile: Profile, text: usize, start: usize) -> Tensor {
        let (l, frame) = (toy.tokens(), toy.grid.1 * toy.grid.2);
        let mut matrix = vec![0f32; l * l];
        for Route { tokens, time } in &routes().texts[text] {
            for (index, query) in toy.video_range().enumerate() {
                for &token in tokens {
                    let penalty = profile.penalty(*time, (start + index / frame) as f64);
                    matrix[query * l + toy.text_range().start + token as usize] = -penalty as f32;
                }
            }
        }
        Tensor::from_vec(matrix, (l, l), &Device::Cpu).unwrap()
    }

    /// Dense attention under a matrix that is added to the scores.
    fn dense(qkv: &Qkv, added: &Tensor) -> Tensor {
        let p = candle_nn::ops::softmax_last_dim(&dense_scores(qkv).broadcast_add(added).unwrap()).unwrap();
        p.matmul(&qkv.v.contiguous().unwrap()).unwrap()
    }

    fn row(x: &Tensor, row: usize) -> Tensor {
        x.narrow(0, row, 1).unwrap()
    }

    fn of_row(qkv: &Qkv, index: usize) -> Qkv {
        qkv.narrow(&(index..index + 1)).unwrap()
    }

    #[test]
    fn weights_are_those_of_the_formula() {
        let weight = |profile: Profile, time, frame| (-profile.penalty(time, frame)).exp();
        for frame in [3.0, 4.0, 7.0] {
            assert_eq!(weight(DEFAULT, (3, 8), frame), 1.0);
        }
        assert!(
            (weight(DEFAULT, (3, 8), 9.0) - 0.001).abs() < 1e-12
                && (weight(DEFAULT, (3, 8), 1.0) - 0.001).abs() < 1e-12
        );
        // the authors': epsilon at a scene's ends
        assert!((weight(AUTHORS, (0, 13), 12.0) - 0.1).abs() < 1e-12 && weight(AUTHORS, (0, 13), 9.0) == 1.0);
        // one frame, no tail
        let alone = Profile { tail: 0.0, ..DEFAULT };
        assert_eq!((weight(alone, (5, 6), 5.0), weight(alone, (5, 6), 6.0)), (1.0, 0.0));
        for (profile, time, frame) in [(DEFAULT, (3, 8), 1e9), (AUTHORS, (0, 2), 1e9)] {
            assert_eq!(weight(profile, time, frame), 0.0);
        }
        assert_eq!(Profile { epsilon: 1.0, ..DEFAULT }.penalty((0, 2), 50.0), 0.0);
    }

    #[test]
    fn video_rows_that_see_their_text_are_biased_and_nothing_else_is() {
        let branches = [branch(UNCOND, 0, 0, None), branch(COND, 0, 0, None), branch(COND, 1, 1, None)];
        for (profile, text_behind) in [(DEFAULT, false), (AUTHORS, true), (Profile { tail: 0.0, ..DEFAULT }, false)] {
            let toy = Toy { text_behind, ..Toy::default() };
            let qkv = toy.qkv(31, 3);
            let got = toy.attend(&qkv, &branches, &mut [relay(profile)]).unwrap();
            assert_same(&row(&got, 0), &row(&toy.plain(&qkv), 0));
            for (index, text, start) in [(1, 0, 0), (2, 1, 2)] {
                let added = penalties(&toy, profile, text, start);
                assert_near(&row(&got, index), &dense(&of_row(&qkv, index), &added), 2e-6);
                let part = |x: &Tensor| row(x, index).narrow(2, toy.text_range().start, toy.text).unwrap();
                assert_same(&part(&got), &part(&toy.plain(&qkv)));
            }
            assert!(distance(&got, &toy.plain(&qkv)) > 1e-2);
        }
    }

    #[test]
    fn without_penalties_nothing_changes_bit_for_bit() {
        let toy = Toy::default();
        let qkv = toy.qkv(32, 1);
        let whole = |time| {
            let texts = vec![vec![Route { tokens: vec![0, 1, 2], time }]];
            Rc::new(Routes { texts, starts: vec![vec![0]], patch: 1 })
        };
        let run = |routes, profile| {
            let mut stack = [boxed(Relay::new(routes, profile))];
            toy.attend(&qkv, &[branch(COND, 0, 0, None)], &mut stack).unwrap()
        };
        assert_same(&run(whole((0, 3)), DEFAULT), &toy.plain(&qkv));
        assert_same(&run(routes(), Profile { epsilon: 1.0, ..DEFAULT }), &toy.plain(&qkv));
        let near = run(routes(), Profile { epsilon: 1.0 - 1e-7, ..DEFAULT });
        assert_near(&near, &toy.plain(&qkv), 1e-6);
        // infinitely far: as if the words were not there
        let text = toy.text_range();
        let far = run(whole((1_000_000, 1_000_001)), DEFAULT).narrow(2, text.end, toy.video()).unwrap();
        let rest = |x: &Tensor| x.narrow(2, text.start + 3, toy.tokens() - 3).unwrap();
        let q = qkv.q.narrow(2, text.end, toy.video()).unwrap();
        assert_near(&far, &toy.plain(&Qkv { q, k: rest(&qkv.k), v: rest(&qkv.v), ..qkv.clone() }), 1e-6);
    }

    #[test]
    fn a_token_of_a_patch_stands_at_the_mean_of_its_frames() {
        let toy = Toy::default();
        let qkv = toy.qkv(33, 1);
        let scene = |time| vec![vec![Route { tokens: vec![1], time }]];
        let run = |patch, time| {
            let routes = Routes { texts: scene(time), starts: vec![vec![0]], patch };
            let mut stack = [boxed(Relay::new(Rc::new(routes), Profile { tail: 1.0, ..DEFAULT }))];
            toy.attend(&qkv, &[branch(COND, 0, 0, None)], &mut stack).unwrap()
        };
        let mut relay = Relay::new(
            Rc::new(Routes { texts: scene((0, 2)), starts: vec![vec![0]], patch: 2 }),
            Profile { tail: 1.0, ..DEFAULT },
        );
        let (branches, rows, pass) = ([branch(COND, 0, 0, None)], [0], pass(0));
        let site = toy.site(0, &rows);
        let site =
            AttentionSite { site: &site, queries: crate::attention::Queries::All, branches: &branches, pass: &pass };
        let table = relay.table(&branches[0], &site).unwrap().unwrap();
        // frames 0.5, 2.5, 4.5; the scene ends with frame 1
        let of = |frame: f64| -(Profile { tail: 1.0, ..DEFAULT }.penalty((0, 2), frame)) as f32;
        assert_eq!([table[1], table[6], table[11]], [0.5, 2.5, 4.5].map(of));
        assert!(distance(&run(2, (0, 2)), &run(1, (0, 2))) > 1e-3);
    }

    #[test]
    fn shared_keys_bring_the_penalty_of_their_own_text() {
        let toy = Toy::default();
        let qkv = toy.qkv(34, 2);
        let branches = [branch(COND, 0, 0, None), branch(COND, 1, 1, Some(0))];
        let everywhere = || (Ranges::all(), Ranges::all());
        let keys =
            Keys { rows: everywhere(), banked: everywhere(), texts: Vec::new(), words: Vec::new(), own_only: false };
        let mut stack = [
            relay(DEFAULT),
            boxed(Relay { keys: Some(keys), ..Relay::new(routes(), DEFAULT) }),
            boxed(RowGather::kv_sharing()),
        ];
        let got = toy.attend(&qkv, &branches, &mut stack).unwrap();
        let (source, reader) = (of_row(&qkv, 0), of_row(&qkv, 1));
        assert_near(&row(&got, 0), &dense(&source, &penalties(&toy, DEFAULT, 0, 0)), 2e-6);
        // the reader's frames begin at 2, and the words are the source's
        let shared = Qkv { q: reader.q, ..source };
        assert_near(&row(&got, 1), &dense(&shared, &penalties(&toy, DEFAULT, 0, 2)), 2e-6);
    }

    #[test]
    fn maps_masks_and_weights_see_the_penalty() {
        let toy = Toy::default();
        let qkv = toy.qkv(35, 1);
        let branches = [branch(COND, 0, 0, None)];
        let word = Word { text: "moon".into(), positions: vec![vec![3], vec![3]] };
        let added = penalties(&toy, DEFAULT, 0, 0);
        let p = candle_nn::ops::softmax_last_dim(&dense_scores(&qkv).broadcast_add(&added).unwrap()).unwrap();
        let maps = AttentionMaps::default();
        let mut stack = [relay(DEFAULT), boxed(AttentionMap::new(&maps, vec![word.clone()]))];
        let rows = [0];
        let mut hooks = toy.hooks(&branches, &mut stack);
        hooks.attend(qkv.clone(), &toy.site(0, &rows)).unwrap();
        let want = p.mean(1).unwrap().narrow(2, 3, 1).unwrap().narrow(1, toy.text, toy.video()).unwrap();
        let seen = maps.foreground(0, 0, (2, 3)).unwrap();
        seen.iter().zip(values(&want)).for_each(|(got, want)| assert!((got - want).abs() < 1e-6, "{got} not {want}"));
        // the last of the toy's frames hears the word most
        let of_frame = |frame: usize| seen[frame * 6..(frame + 1) * 6].iter().sum::<f32>();
        assert!(of_frame(2) > 10.0 * of_frame(0));

        let mut stack = [relay(DEFAULT), boxed(Reweight::new(vec![(word, 0.25)]))];
        let got = toy.attend(&qkv, &branches, &mut stack).unwrap();
        let mut dense = values(&p);
        let l = toy.tokens();
        for matrix in dense.chunks_mut(l * l) {
            for video in toy.video_range() {
                matrix[video * l + 3] *= 0.25;
                matrix[3 * l + video] *= 0.25;
            }
        }
        let weighed = Tensor::from_vec(dense, p.shape(), &Device::Cpu).unwrap();
        assert_near(&got, &weighed.matmul(&qkv.v.contiguous().unwrap()).unwrap(), 2e-6);

        // a mask that parts queries and keys leaves each its frame: with everything in one part it is the unmasked run
        let pair = [branch(COND, 0, 0, None), branch(COND, 1, 1, Some(0)), branch(COND, 0, 0, None)];
        let two = toy.qkv(36, 3);
        let run = |threshold: Option<f64>| {
            let maps = AttentionMaps::default();
            let subject = Word { text: "moon".into(), positions: vec![vec![2], vec![2]] };
            let mut stack = vec![relay(DEFAULT), boxed(AttentionMap::new(&maps, vec![subject]))];
            stack.extend(threshold.map(|threshold| boxed(KeyMask::new(&maps, threshold))));
            toy.attend(&two, &pair, &mut stack).unwrap()
        };
        assert_same(&run(Some(0.0)), &run(None));
        let text = |x: &Tensor| x.narrow(2, 0, toy.text).unwrap();
        assert_near(&text(&run(Some(0.4))), &text(&run(None)), 1e-6);
        assert!(distance(&run(Some(0.4)), &run(None)) > 1e-2);
    }

    #[test]
    fn whole_passes_are_the_same_in_any_micro_batch() {
        let branches = [
            branch(UNCOND, 0, 0, None),
            branch(UNCOND, 1, 1, None),
            branch(COND, 0, 0, None),
            branch(COND, 1, 1, None),
        ];
        let run = |micro_batch: usize, order: [usize; 4]| {
            let toy = Toy { micro_batch, ..Toy::default() };
            let rows = toy.input(9, 4);
            let rows: Vec<_> = order.iter().map(|&index| rows[index].clone()).collect();
            let branches: Vec<_> = order.iter().map(|&index| branches[index].clone()).collect();
            let out = toy.forward(pass(2), &rows, &branches, Vec::new(), &mut [relay(DEFAULT)]).unwrap();
            let mut sorted = vec![out[0].clone(); 4];
            order.iter().zip(out).for_each(|(&index, out)| sorted[index] = out);
            sorted
        };
        let one = run(1, [0, 1, 2, 3]);
        for (micro_batch, order) in [(2, [0, 1, 2, 3]), (4, [3, 1, 0, 2]), (3, [2, 3, 1, 0])] {
            run(micro_batch, order).iter().zip(&one).for_each(|(got, want)| assert_near(got, want, 1e-6));
        }
    }

    #[test]
    fn a_token_beyond_the_text_is_an_error() {
        let toy = Toy::default();
        let texts = vec![vec![Route { tokens: vec![5], time: (0, 1) }]];
        let mut stack = [boxed(Relay::new(Rc::new(Routes { texts, starts: vec![vec![0]], patch: 1 }), DEFAULT))];
        let error = toy.attend(&toy.qkv(1, 1), &[branch(COND, 0, 0, None)], &mut stack).unwrap_err().to_string();
        assert!(error.contains("token 5 of a text of 5"), "{error}");
    }
}
