//! A bounded store of keys and values for references that are not in the batch: an earlier chunk of a long video, a first
//! frame, rows that go through the network in another pass of the same step.
//!
//! Rows that meet in one pass need none of this ([`super::row_gather`]). The bank is for the rest: one pass records the
//! keys and values of chosen layers and frames, a later pass of the same step recalls them, in place of its own (text
//! included, as DiTCtrl shares) or after its own (frames only, as anchors are attended to). Entries are kept by kind of
//! site, layer and half of the guidance; a new step starts with an empty bank, and so does a pass that records.
//!
//! The need is computed when the bank is made and refused above the budget; nothing is ever evicted. Banked keys carry
//! the rotary positions they had in their own window: the reader sees them at those local positions, which is what
//! DiTCtrl's sharing means. They are not rotated on by the distance between the windows.

use super::when::Ranges;
use crate::attention::{AttentionProcessor, AttentionSite, Branch, Guidance, Next, Pass, Qkv, SiteKind};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// How banked keys and values meet a row's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// They replace them; text is banked too.
    Replace,
    /// They follow them; text is not banked.
    Append,
}

/// What the bank holds.
#[derive(Debug, Clone)]
pub struct BankPlan {
    pub recall: Recall,
    pub layers: Ranges,
    /// Frames of the token grid.
    pub frames: Ranges,
    /// What entries are stored as; the network's own type makes recalling exact.
    pub dtype: DType,
    /// Where entries are stored.
    pub device: Device,
    /// Most bytes it may hold.
    pub budget: usize,
}

/// The network it is for.
#[derive(Debug, Clone, Copy)]
pub struct BankSize {
    pub layers: usize,
    /// Halves of the guidance that are recorded: 1 or 2.
    pub halves: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub text: usize,
    /// Frames, height and width of the token grid.
    pub grid: (usize, usize, usize),
}

impl BankPlan {
    /// Tokens of one entry.
    fn tokens(&self, text: usize, (frames, height, width): (usize, usize, usize)) -> usize {
        let text = if self.recall == Recall::Replace { text } else { 0 };
        text + self.frames.below(frames).count() * height * width
    }

    /// Bytes of the full bank.
    pub fn bytes(&self, size: &BankSize) -> usize {
        let entries = 2 * self.layers.below(size.layers).count() * size.halves; // keys and values
        entries * self.tokens(size.text, size.grid) * size.heads * size.head_dim * self.dtype.size_in_bytes()
    }
}

/// What the bank does in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    #[default]
    Off,
    Record,
    Recall,
}

type Key = (SiteKind, usize, Guidance);

#[derive(Debug)]
struct State {
    plan: BankPlan,
    planned: usize,
    access: Access,
    step: Option<usize>,
    entries: HashMap<Key, (Tensor, Tensor)>, // each [1, N, L, D]
}

/// The bank and its processor in one. Clones share: one goes into the stack, the pipeline keeps another.
#[derive(Debug, Clone)]
pub struct KvBank(Rc<RefCell<State>>);

impl KvBank {
    /// # Errors
    /// When the full bank would not fit into the budget; the message has both numbers.
    pub fn new(plan: BankPlan, size: &BankSize) -> Result<Self> {
        let planned = plan.bytes(size);
        if planned > plan.budget {
            let layers = plan.layers.below(size.layers).count();
            bail!(
                "keys and values of {layers} layers need {planned} bytes, more than the {} allowed: choose fewer layers or frames",
                plan.budget
            )
        }
        let state = State { plan, planned, access: Access::Off, step: None, entries: HashMap::new() };
        Ok(Self(Rc::new(RefCell::new(state))))
    }

    /// What the following passes do; to be said before their hooks are made.
    pub fn set(&self, access: Access) {
        self.0.borrow_mut().access = access;
    }

    /// Bytes of the full bank.
    pub fn planned(&self) -> usize {
        self.0.borrow().planned
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.borrow().held()
    }

    pub fn clear(&self) {
        self.0.borrow_mut().entries.clear();
    }
}

impl State {
    fn held(&self) -> usize {
        let bytes = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        self.entries.values().map(|(k, v)| bytes(k) + bytes(v)).sum()
    }

    fn record(&mut self, qkv: &Qkv, site: &AttentionSite) -> Result<()> {
        let (frames, height, width) = site.grid;
        let keys = site.video_keys(qkv.k.dim(2)?)?;
        if keys.len() != frames * height * width {
            bail!("{}: {} video keys are no grid of {:?}", site.path, keys.len(), site.grid)
        }
        let text = if self.plan.recall == Recall::Replace { site.text.clone() } else { 0..0 };
        let video = self.plan.frames.below(frames).flat_map(|frame| {
            let start = keys.start + frame * height * width;
            start..start + height * width
        });
        let tokens: Vec<u32> = text.chain(video).map(|token| token as u32).collect();
        let tokens = Tensor::new(tokens, qkv.k.device())?;
        for (index, branch) in site.batch().enumerate() {
            let take = |x: &Tensor| {
                let x = x.narrow(0, index, 1)?.contiguous()?.index_select(&tokens, 2)?;
                x.to_dtype(self.plan.dtype)?.to_device(&self.plan.device)
            };
            let entry = (take(&qkv.k)?, take(&qkv.v)?);
            if self.entries.insert((site.kind, site.layer, branch.guidance), entry).is_some() {
                bail!("{}: two rows of one half of the guidance for one place in the bank", site.path)
            }
        }
        if self.held() > self.planned {
            bail!("{}: the bank holds {} bytes, {} were planned", site.path, self.held(), self.planned)
        }
        Ok(())
    }

    fn recall(&self, qkv: Qkv, site: &AttentionSite) -> Result<Qkv> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for branch in site.batch() {
            let Some((k, v)) = self.entries.get(&(site.kind, site.layer, branch.guidance)) else {
                bail!("{}: the bank has nothing of layer {} for {:?}", site.path, site.layer, branch.guidance)
            };
            keys.push(k);
            values.push(v);
        }
        let gather = |entries: &[&Tensor], own: &Tensor| {
            let banked = Tensor::cat(entries, 0)?.to_device(own.device())?.to_dtype(own.dtype())?;
            match self.plan.recall {
                Recall::Replace => Ok(banked),
                Recall::Append => Tensor::cat(&[own, &banked], 2),
            }
        };
        Ok(Qkv { k: gather(&keys, &qkv.k)?, v: gather(&values, &qkv.v)?, ..qkv })
    }
}

impl AttentionProcessor for KvBank {
    fn begin(&mut self, pass: &Pass, _branches: &[Branch]) -> Result<()> {
        let mut state = self.0.borrow_mut();
        if state.step.replace(pass.step) != Some(pass.step) || state.access == Access::Record {
            state.entries.clear();
        }
        Ok(())
    }

    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        let mut state = self.0.borrow_mut();
        if state.access == Access::Off || !state.plan.layers.contains(site.layer) {
            drop(state);
            return next.attend(qkv, site);
        }
        if site.rows_per_branch != 1 || (!site.text.is_empty() && site.text.start != 0) {
            bail!("{}: the bank is for sites with one row per branch and the text in front", site.path)
        }
        let qkv = match state.access {
            Access::Recall => state.recall(qkv, site)?,
            _ => {
                state.record(&qkv, site)?;
                qkv
            }
        };
        drop(state);
        next.attend(qkv, site)
    }
}

#[cfg(test)]
mod tests {
    use super::super::row_gather::RowGather;
    use super::super::testing::*;
    use super::super::when::When;
    use super::*;
    use crate::attention::Guidance::{Cond, Uncond};

    fn size(toy: &Toy) -> BankSize {
        let Toy { layers, heads, width, text, grid, .. } = *toy;
        BankSize { layers, halves: 2, heads, head_dim: width, text, grid }
    }

    fn bank(toy: &Toy, recall: Recall, layers: &str, frames: &str, dtype: DType) -> KvBank {
        let (layers, frames) = (layers.parse().unwrap(), frames.parse().unwrap());
        let plan = BankPlan { recall, layers, frames, dtype, device: Device::Cpu, budget: 1 << 20 };
        KvBank::new(plan, &size(toy)).unwrap()
    }

    fn halves(window: usize) -> [Branch; 2] {
        [branch(Uncond, window, window, None), branch(Cond, window, window, None)]
    }

    #[test]
    fn sharing_through_the_bank_equals_sharing_in_the_batch() {
        let toy = Toy::default();
        let rows = toy.rows(31, 4); // uncond source, cond source, uncond target, cond target
        let mut met = [halves(0), halves(1)].concat();
        (met[2].reference, met[3].reference) = (Some(0), Some(1));
        let share = When::new(Ranges::all(), "2-3".parse().unwrap(), &[], RowGather::kv_sharing());
        let together = toy.forward(pass(0), &rows, &met, Vec::new(), &mut [boxed(share)]).unwrap();

        let bank = bank(&toy, Recall::Replace, "2-3", "all", DType::F32);
        let mut stack = [boxed(bank.clone())];
        bank.set(Access::Record);
        let source = toy.forward(pass(0), &rows[..2], &halves(0), Vec::new(), &mut stack).unwrap();
        assert_eq!(bank.held(), bank.planned());
        bank.set(Access::Recall);
        let target = toy.forward(pass(0), &rows[2..], &halves(1), Vec::new(), &mut stack).unwrap();
        for (got, expected) in source.iter().chain(&target).zip(&together) {
            assert_near(got, expected, 1e-5);
        }
        bank.set(Access::Off);
        let plain = toy.forward(pass(0), &rows[2..], &halves(1), Vec::new(), &mut stack).unwrap();
        assert!(distance(&plain[0], &target[0]) > 1e-2);
    }

    #[test]
    fn appended_frames_are_keys_after_a_rows_own() {
        let toy = Toy::default();
        let bank = bank(&toy, Recall::Append, "0", "0,2", DType::F32);
        let mut stack = [boxed(bank.clone())];
        let (first, second) = (toy.qkv(1, 2), toy.qkv(2, 2));
        bank.set(Access::Record);
        assert_same(&toy.attend(&first, &halves(0), &mut stack).unwrap(), &toy.plain(&first));
        bank.set(Access::Recall);
        let got = toy.attend(&second, &halves(1), &mut stack).unwrap();
        let with = |own: &Tensor, x: &Tensor| {
            let frame = |frame: usize| x.narrow(2, 5 + 6 * frame, 6).unwrap();
            Tensor::cat(&[own, &frame(0), &frame(2)], 2).unwrap()
        };
        let expected = Qkv { k: with(&second.k, &first.k), v: with(&second.v, &first.v), ..second };
        assert_same(&got, &toy.plain(&expected));
        assert_eq!(bank.held(), bank.planned());
    }

    #[test]
    fn planned_bytes_are_held_bytes_and_the_budget_is_kept() {
        let toy = Toy::default();
        let of = |recall, layers, frames, dtype| bank(&toy, recall, layers, frames, dtype).planned();
        // keys and values, layers, halves, tokens, heads x width, bytes
        assert_eq!(of(Recall::Replace, "1-2", "all", DType::F32), 2 * 2 * 2 * 23 * 16 * 4);
        assert_eq!(of(Recall::Append, "1-", "0", DType::BF16), 2 * 3 * 2 * 6 * 16 * 2);
        let plan = |budget| BankPlan {
            recall: Recall::Replace,
            layers: Ranges::all(),
            frames: Ranges::all(),
            dtype: DType::BF16,
            device: Device::Cpu,
            budget,
        };
        let need = 2 * 4 * 2 * 23 * 16 * 2;
        assert!(KvBank::new(plan(need), &size(&toy)).is_ok());
        let error = KvBank::new(plan(need - 1), &size(&toy)).unwrap_err().to_string();
        assert!(error.contains(&format!("need {need} bytes, more than the {} allowed", need - 1)), "{error}");

        let bank = KvBank::new(plan(need), &size(&toy)).unwrap();
        bank.set(Access::Record);
        let rows = toy.rows(1, 2);
        toy.forward(pass(0), &rows, &halves(0), Vec::new(), &mut [boxed(bank.clone())]).unwrap();
        assert_eq!(bank.held(), need);
        bank.clear();
        assert_eq!(bank.held(), 0);
    }

    #[test]
    fn a_new_step_starts_empty() {
        let toy = Toy::default();
        let bank = bank(&toy, Recall::Replace, "1", "all", DType::BF16);
        let (mut stack, rows) = ([boxed(bank.clone())], toy.rows(1, 2));
        bank.set(Access::Record);
        for _ in 0..2 {
            toy.forward(pass(4), &rows, &halves(0), Vec::new(), &mut stack).unwrap();
            assert_eq!(bank.held(), bank.planned());
        }
        bank.set(Access::Recall);
        toy.forward(pass(4), &rows, &halves(1), Vec::new(), &mut stack).unwrap();
        let error = toy.forward(pass(5), &rows, &halves(1), Vec::new(), &mut stack).unwrap_err().to_string();
        assert!(error.contains("the bank has nothing of layer 1"), "{error}");
        bank.set(Access::Record);
        let same = [branch(Cond, 0, 0, None), branch(Cond, 1, 1, None)];
        let error = toy.forward(pass(5), &rows, &same, Vec::new(), &mut stack).unwrap_err().to_string();
        assert!(error.contains("two rows of one half"), "{error}");
    }
}
