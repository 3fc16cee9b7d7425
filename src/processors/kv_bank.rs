//! A bounded store of keys and values for references that are not in the batch: windows of a long video that go through
//! the network one after the other in a step, or frames that everything attends to.
//!
//! Rows that meet in one pass need none of this ([`super::row_gather`]). The bank is for rows whose reference is
//! [`Reference::Banked`]: what rows without a reference attend with is put in, by kind of site, layer, half of the guidance
//! and window; what a reference names is read. Two uses:
//! - [`Purpose::HandOver`]: DiTCtrl's sharing along a walk over the windows. A reader's whole keys and values, text
//!   included, are replaced by its source's, and each entry is taken out by its one reader, so the bank never holds much
//!   more than one window, however many there are. The plan names the windows that have a reader; others put nothing in.
//! - [`Purpose::Anchor`]: chosen frames of chosen windows of a timeline, without text, follow a reader's own keys or replace
//!   them. They stay until the step ends (Text2Video-Zero's first frame, for all chunks after the one that has it), or to the
//!   end of the run: those of a row that never changes (an anchor frame at time 0) are computed once.
//!
//! Where frames attend each within itself, every frame of a reader attends to all frames of an anchor, or to the frame
//! that stands where it does of what is handed over (to the only one where there is one).
//!
//! Layers of different networks have entries of their own: one bank serves a denoiser and a ControlNet beside it.
//!
//! The need is computed when the bank is made, layer by layer, and refused above the budget; nothing is evicted. A new step
//! starts with an empty bank, but for what lives as long as the run. Banked keys carry the rotary positions they had in their
//! own window: the reader sees them at those local positions, which is what DiTCtrl's sharing means. They are not rotated on
//! by the distance between the windows.

use super::when::Ranges;
use crate::attention::{
    AttentionProcessor, AttentionSite, Branch, Half, Next, Pass, Qkv, Reference, Row, Site, SiteKind, inner_ranges,
};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// What the bank is for; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    HandOver {
        /// Windows of the plan that a later one reads.
        windows: Ranges,
    },
    Anchor {
        timeline: usize,
        /// Windows of that timeline's plan.
        windows: Ranges,
        /// Frames of their token grid.
        frames: Ranges,
        /// Whether they replace a reader's own keys and values instead of following them.
        replace: bool,
        lifetime: Lifetime,
    },
}

/// How long an entry stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    Step,
    /// From the first pass that has it; what later passes would put in its place is ignored.
    Run,
}

/// What the bank holds.
#[derive(Debug, Clone)]
pub struct BankPlan {
    pub purpose: Purpose,
    pub layers: Ranges,
    /// What entries are stored as; the network's own type makes reading exact.
    pub dtype: DType,
    /// Where entries are stored.
    pub device: Device,
    /// Most bytes it may hold.
    pub budget: usize,
}

/// The networks and the run it is for.
#[derive(Debug, Clone)]
pub struct BankSize {
    pub windows: usize,
    /// Halves of the guidance that are computed.
    pub halves: usize,
    /// Tokens of the text, where it is part of the sequence.
    pub text: usize,
    /// The layers of each network; the first is the denoiser's.
    pub networks: Vec<Vec<LayerSize>>,
}

/// One attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSize {
    /// Heads times their width.
    pub channels: usize,
    /// Frames, height and width of the token grid.
    pub grid: (usize, usize, usize),
}

impl Purpose {
    /// Whether what a row attends with is kept.
    fn keeps(&self, branch: &Branch) -> bool {
        match self {
            Self::HandOver { windows } => windows.contains(branch.window),
            Self::Anchor { timeline, windows, frames, .. } => {
                *timeline == branch.timeline && windows.contains(branch.window) && frames.first().is_some()
            }
        }
    }
}

impl BankPlan {
    /// Bytes of the keys and values of one row at each layer that puts some in, of all networks.
    fn entries(&self, size: &BankSize) -> Vec<usize> {
        let of_layer = |layer: &LayerSize| {
            let (frames, height, width) = layer.grid;
            let tokens = match &self.purpose {
                Purpose::HandOver { .. } => size.text + frames * height * width,
                Purpose::Anchor { frames: kept, .. } => kept.below(frames).count() * height * width,
            };
            2 * tokens * layer.channels * self.dtype.size_in_bytes()
        };
        let chosen = |layers: &Vec<LayerSize>| -> Vec<usize> {
            self.layers.below(layers.len()).map(|layer| of_layer(&layers[layer])).collect()
        };
        size.networks.iter().flat_map(chosen).collect()
    }

    /// Bytes between two passes of a step.
    pub fn bytes(&self, size: &BankSize) -> usize {
        let windows = match &self.purpose {
            Purpose::HandOver { windows } => windows.below(size.windows).count().min(1),
            Purpose::Anchor { windows, .. } => windows.below(size.windows).count(),
        };
        windows * size.halves * self.entries(size).iter().sum::<usize>()
    }

    /// Most bytes at any time: at a layer, a window may put its entries in before its predecessor's are taken out.
    pub fn peak(&self, size: &BankSize) -> usize {
        let waiting = match &self.purpose {
            Purpose::HandOver { windows } if windows.below(size.windows).count() > 1 => {
                size.halves * self.entries(size).into_iter().max().unwrap_or(0)
            }
            _ => 0,
        };
        self.bytes(size) + waiting
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    network: usize,
    kind: SiteKind,
    layer: usize,
    half: Half,
    timeline: usize,
    window: usize,
}

#[derive(Debug)]
struct BankState {
    plan: BankPlan,
    peak: usize,
    held: usize,
    step: Option<usize>,
    entries: HashMap<Key, (Tensor, Tensor)>, // each [entries, N, L, D]
}

/// The bank and its control in one. Clones share: one goes into the stack, in the place of
/// [`super::row_gather::RowGather`]; another may be kept to ask what it holds.
#[derive(Debug, Clone)]
pub struct KvBank(Rc<RefCell<BankState>>);

impl KvBank {
    /// # Errors
    /// When the bank could outgrow its budget; the message has both numbers.
    pub fn new(plan: BankPlan, size: &BankSize) -> Result<Self> {
        let peak = plan.peak(size);
        if peak > plan.budget {
            let layers = plan.entries(size).len();
            bail!(
                "shared keys and values of {layers} layers need {peak} bytes, {} are allowed: share fewer layers",
                plan.budget
            )
        }
        Ok(Self(Rc::new(RefCell::new(BankState { plan, peak, held: 0, step: None, entries: HashMap::new() }))))
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.borrow().held
    }
}

impl BankState {
    fn key(site: &AttentionSite, half: Half, (timeline, window): (usize, usize)) -> Key {
        Key { network: site.network, kind: site.kind, layer: site.layer, half, timeline, window }
    }

    /// Puts in what a row attends with, if it is to be kept.
    fn put(&mut self, qkv: &Qkv, index: usize, branch: &Branch, site: &AttentionSite) -> Result<()> {
        if !self.plan.purpose.keeps(branch) {
            return Ok(());
        }
        let key = Self::key(site, branch.half, (branch.timeline, branch.window));
        if matches!(self.plan.purpose, Purpose::Anchor { lifetime: Lifetime::Run, .. })
            && self.entries.contains_key(&key)
        {
            return Ok(());
        }
        let inner = &site.inner[index];
        let take = |x: &Tensor| {
            let own = x.narrow(0, inner.start, inner.len())?;
            let kept = match &self.plan.purpose {
                Purpose::HandOver { .. } => own,
                Purpose::Anchor { frames: kept, .. } if site.kind == SiteKind::SelfSpatial => {
                    let frames = kept.below(inner.len()).map(|frame| own.narrow(0, frame, 1));
                    Tensor::cat(&frames.collect::<Result<Vec<_>>>()?, 2)?
                }
                Purpose::Anchor { frames: kept, .. } => {
                    let (frames, height, width) = site.grid;
                    let keys = site.video_keys(x.dim(2)?)?;
                    if keys.len() != frames * height * width {
                        bail!("{}: {} video keys are no grid of {:?}", site.path, keys.len(), site.grid)
                    }
                    let frame = |frame: usize| own.narrow(2, keys.start + frame * height * width, height * width);
                    Tensor::cat(&kept.below(frames).map(frame).collect::<Result<Vec<_>>>()?, 2)?
                }
            };
            // A copy in any case: a view would keep the whole batch alive.
            let kept = kept.to_dtype(self.plan.dtype)?.to_device(&self.plan.device)?;
            kept.force_contiguous()
        };
        let (k, v) = (take(&qkv.k)?, take(&qkv.v)?);
        self.held += bytes(&k) + bytes(&v);
        if self.held > self.peak {
            bail!("{}: the bank would hold {} bytes, {} were planned", site.path, self.held, self.peak)
        }
        match self.entries.insert(key, (k, v)) {
            Some(_) => bail!("{}: window {} has two rows for one place in the bank", site.path, branch.window),
            None => Ok(()),
        }
    }

    /// What a row that refers to a window of a timeline is to attend with, in place of or after its own `k` and `v`, each
    /// `[entries, N, L, D]`.
    fn read(&mut self, own: Qkv, branch: &Branch, place: (usize, usize), site: &AttentionSite) -> Result<Qkv> {
        let key = Self::key(site, branch.half, place);
        let entry = match self.plan.purpose {
            Purpose::HandOver { .. } => self.entries.remove(&key),
            Purpose::Anchor { .. } => self.entries.get(&key).cloned(),
        };
        let Some((k, v)) = entry else {
            bail!("{}: the bank has nothing of window {} for the half {}", site.path, place.1, branch.half)
        };
        let back = |x: &Tensor, own: &Tensor| {
            let x = x.to_device(own.device())?.to_dtype(own.dtype())?;
            match (x.dim(0)?, own.dim(0)?) {
                (banked, entries) if banked == entries => Ok(x),
                (1, entries) => x.broadcast_as((entries, x.dim(1)?, x.dim(2)?, x.dim(3)?)), // no copy
                (banked, entries) => bail!(
                    "{}: the bank has {banked} frames of window {} for a row of {entries}: one frame or as many",
                    site.path,
                    place.1
                ),
            }
        };
        let (banked_k, banked_v) = (back(&k, &own.k)?, back(&v, &own.v)?);
        if matches!(self.plan.purpose, Purpose::HandOver { .. }) {
            self.held -= bytes(&k) + bytes(&v);
            return Ok(Qkv { k: banked_k, v: banked_v, ..own });
        }
        if matches!(self.plan.purpose, Purpose::Anchor { replace: true, .. }) {
            return Ok(Qkv { k: banked_k, v: banked_v, ..own });
        }
        Ok(Qkv { k: Tensor::cat(&[&own.k, &banked_k], 2)?, v: Tensor::cat(&[&own.v, &banked_v], 2)?, ..own })
    }
}

fn bytes(x: &Tensor) -> usize {
    x.elem_count() * x.dtype().size_in_bytes()
}

impl AttentionProcessor for KvBank {
    fn begin(&mut self, pass: &Pass, _branches: &[Branch], _rows: &[Row]) -> Result<()> {
        let mut state = self.0.borrow_mut();
        if matches!(state.plan.purpose, Purpose::Anchor { lifetime: Lifetime::Run, .. }) {
            return Ok(());
        }
        if state.step.replace(pass.step) != Some(pass.step) {
            state.entries.clear();
            state.held = 0;
        }
        Ok(())
    }

    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        if !self.0.borrow().plan.layers.contains(site.layer) {
            return next.attend(qkv, site);
        }
        let fits = match site.kind {
            SiteKind::Joint => site.text.is_empty() || site.text.start == 0,
            kind => kind == SiteKind::SelfSpatial,
        };
        if !fits {
            bail!("{}: the bank is for joint attention with the text in front and for frames by themselves", site.path)
        }
        let mut parts = Vec::with_capacity(site.rows.len());
        let mut read = false;
        for (index, branch) in site.batch().enumerate() {
            let own = qkv.narrow(&site.inner[index])?;
            let mut state = self.0.borrow_mut();
            parts.push(match branch.reference {
                Some(Reference::Banked { timeline, window }) => {
                    read = true;
                    state.read(own, branch, (timeline, window), site)?
                }
                Some(Reference::Row(_)) => own,
                None => {
                    state.put(&qkv, index, branch, site)?;
                    own
                }
            });
        }
        if !read {
            return next.attend(qkv, site);
        }
        // rows that refer to others of the batch are served by a control after this one, which must see the whole batch
        if site.batch().any(|branch| branch.reference_row().is_some()) {
            let all = |part: fn(&Qkv) -> &Tensor| Tensor::cat(&parts.iter().map(part).collect::<Vec<_>>(), 0);
            let (k, v) = (all(|part| &part.k)?, all(|part| &part.v)?);
            return next.attend(Qkv { k, v, ..qkv }, site);
        }
        let mut done = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let inner = inner_ranges([site.inner[index].len()]);
            let alone = Site { rows: &site.rows[index..=index], inner: &inner, ..site.site.clone() };
            done.push(next.attend(part, &AttentionSite { site: &alone, ..*site })?);
        }
        Tensor::cat(&done, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn plan(purpose: Purpose, layers: &str, dtype: DType, budget: usize) -> BankPlan {
        BankPlan { purpose, layers: layers.parse().unwrap(), dtype, device: Device::Cpu, budget }
    }

    fn hand_over(windows: &str) -> Purpose {
        Purpose::HandOver { windows: windows.parse().unwrap() }
    }

    fn anchor(windows: &str, frames: &str) -> Purpose {
        let (windows, frames) = (windows.parse().unwrap(), frames.parse().unwrap());
        Purpose::Anchor { timeline: 0, windows, frames, replace: false, lifetime: Lifetime::Step }
    }

    fn size(toy: &Toy, windows: usize) -> BankSize {
        let Toy { layers, heads, width, text, grid, .. } = *toy;
        let networks = vec![vec![LayerSize { channels: heads * width, grid }; layers]];
        BankSize { windows, halves: 2, text, networks }
    }

    fn halves(window: usize, source: Option<usize>) -> [Branch; 2] {
        let reference = source.map(|window| Reference::Banked { timeline: 0, window });
        [UNCOND, COND].map(|half| Branch { reference, ..branch(half, window, window, None) })
    }

    #[test]
    fn anchors_are_keys_after_a_rows_own_and_stay() {
        let toy = Toy::default();
        let bank = KvBank::new(plan(anchor("0", "0,2"), "0", DType::F32, 1 << 20), &size(&toy, 3)).unwrap();
        let mut stack = [boxed(bank.clone())];
        let (first, second) = (toy.qkv(1, 2), toy.qkv(2, 2));
        assert_same(&toy.attend(&first, &halves(0, None), &mut stack).unwrap(), &toy.plain(&first));
        let frame = |x: &Tensor, frame: usize| x.narrow(2, 5 + 6 * frame, 6).unwrap();
        let with = |own: &Tensor, x: &Tensor| Tensor::cat(&[own, &frame(x, 0), &frame(x, 2)], 2).unwrap();
        let expected = Qkv { k: with(&second.k, &first.k), v: with(&second.v, &first.v), ..second.clone() };
        for _ in 0..2 {
            let got = toy.attend(&second, &halves(1, Some(0)), &mut stack).unwrap();
            assert_near(&got, &toy.plain(&expected), 1e-6);
            assert_same(&toy.attend(&second, &halves(1, None), &mut stack).unwrap(), &toy.plain(&second));
        }
        assert_eq!(bank.held(), 2 * 2 * 12 * 16 * 4); // keys and values, halves, tokens, heads x width, bytes
    }

    #[test]
    fn a_handed_over_entry_is_read_once() {
        let toy = Toy::default();
        let bank = KvBank::new(plan(hand_over("all"), "0", DType::F32, 1 << 20), &size(&toy, 3)).unwrap();
        let mut stack = [boxed(bank.clone())];
        let (first, second) = (toy.qkv(1, 2), toy.qkv(2, 2));
        toy.attend(&first, &halves(0, None), &mut stack).unwrap();
        assert!(bank.held() > 0);
        let got = toy.attend(&second, &halves(1, Some(0)), &mut stack).unwrap();
        assert_near(&got, &toy.plain(&Qkv { q: second.q.clone(), ..first }), 1e-6);
        assert_eq!(bank.held(), 0);
        let error = toy.attend(&second, &halves(1, Some(0)), &mut stack).unwrap_err().to_string();
        assert!(error.contains("toy: the bank has nothing of window 0 for the half without text"), "{error}");
    }

    #[test]
    fn windows_without_a_reader_put_nothing_in() {
        let toy = Toy::default();
        let size = size(&toy, 3);
        let plan = plan(hand_over("1"), "0", DType::F32, 1 << 20);
        assert_eq!((plan.peak(&size), plan.bytes(&size)), (2 * 2 * 23 * 16 * 4, 2 * 2 * 23 * 16 * 4));
        let bank = KvBank::new(plan, &size).unwrap();
        let mut stack = [boxed(bank.clone())];
        for window in [0, 1, 2] {
            toy.attend(&toy.qkv(window, 2), &halves(window as usize, None), &mut stack).unwrap();
            assert_eq!(bank.held() > 0, window > 0);
        }
        toy.attend(&toy.qkv(2, 2), &halves(2, Some(1)), &mut stack).unwrap();
        assert_eq!(bank.held(), 0);
    }

    #[test]
    fn planned_bytes_are_held_bytes_and_the_budget_is_kept() {
        let toy = Toy::default();
        for (purpose, layers, dtype, rows, need) in [
            // keys and values, layers, halves, tokens, heads x width, bytes
            (hand_over("all"), "1-2", DType::F32, 1, 2 * 2 * 2 * 23 * 16 * 4),
            (hand_over("0,1"), "all", DType::BF16, 1, 2 * 4 * 2 * 23 * 16 * 2),
            (anchor("0,2-5", "1-"), "3", DType::BF16, 3, 2 * 2 * 2 * 12 * 16 * 2),
        ] {
            let size = size(&toy, 3);
            let plan = plan(purpose, layers, dtype, 1 << 20);
            assert_eq!(plan.bytes(&size), need);
            let bank = KvBank::new(plan.clone(), &size).unwrap();
            for window in 0..rows {
                let state = toy.input(window as u64, 2);
                toy.forward(pass(0), &state, &halves(window, None), vec![], &mut [boxed(bank.clone())]).unwrap();
            }
            assert_eq!(bank.held(), need);
            let peak = plan.peak(&size);
            assert!(KvBank::new(BankPlan { budget: peak, ..plan.clone() }, &size).is_ok());
            let error = KvBank::new(BankPlan { budget: peak - 1, ..plan }, &size).unwrap_err().to_string();
            assert!(error.contains(&format!("need {peak} bytes, {} are allowed", peak - 1)), "{error}");
        }
    }

    #[test]
    fn a_new_step_starts_empty_and_plans_are_held_to() {
        let toy = Toy::default();
        let bank = KvBank::new(plan(hand_over("all"), "1-2", DType::BF16, 1 << 20), &size(&toy, 2)).unwrap();
        let (mut stack, rows) = ([boxed(bank.clone())], toy.input(1, 2));
        let mut run = |step, branches: &[Branch]| {
            toy.forward(pass(step), &rows, branches, Vec::new(), &mut stack).map_err(|error| error.to_string())
        };
        run(4, &halves(0, None)).unwrap();
        run(4, &halves(1, Some(0))).unwrap();
        run(4, &halves(1, None)).unwrap();
        let error = run(5, &halves(2, Some(1))).unwrap_err();
        assert!(error.contains("the bank has nothing of window 1"), "{error}");
        let error = run(6, &[branch(COND, 0, 0, None), branch(COND, 0, 1, None)]).unwrap_err();
        assert!(error.contains("window 0 has two rows for one place"), "{error}");
        run(7, &halves(0, None)).unwrap();
        let error = run(7, &halves(1, None)).unwrap_err(); // window 0 was not taken out
        assert!(error.contains("were planned"), "{error}");
    }
}
