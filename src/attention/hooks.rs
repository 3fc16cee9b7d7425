//! What a network is handed for one forward pass: the rows and their forks, the stack of processors, the kernel.

use super::{
    AttentionProcessor, AttentionSite, Branch, Feature, FeatureSite, Kept, KeptRow, Layout, Pass, Qkv, Queries, Reuse,
    Row, Site, Stretch,
};
use crate::nn::sdpa::Sdpa;
use candle_core::{DType, Result, Tensor, bail};

/// A change of rows before a layer: row `i` continues with the state of the old row `rows[i].0`, as the branch `rows[i].1`.
///
/// DiTCtrl's shared and plain passes of one window are equal up to the first sharing layer; a plan says so with a fork
/// there, and nothing in a model has to know why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The layer before which the rows change; the number of layers for rows that change before the output.
    pub layer: usize,
    pub rows: Vec<(usize, Branch)>,
}

/// The state of the seam during one forward pass.
pub struct Hooks<'a> {
    pass: Pass,
    branches: Vec<Branch>,
    forks: Vec<Fork>,
    stack: &'a mut [Box<dyn AttentionProcessor>],
    kernel: Sdpa,
    micro_batch: usize,
    kept: Option<(&'a mut Kept, Reuse)>,
}

impl<'a> Hooks<'a> {
    /// `forks` in rising order of layers; `micro_batch` is the number of rows that may share a batch beyond those that
    /// must (rows meet when one refers to the other).
    pub fn new(
        pass: Pass,
        branches: Vec<Branch>,
        forks: Vec<Fork>,
        stack: &'a mut [Box<dyn AttentionProcessor>],
        kernel: Sdpa,
        micro_batch: usize,
    ) -> Result<Self> {
        let mut hooks = Self { pass, branches, forks, stack, kernel, micro_batch: micro_batch.max(1), kept: None };
        hooks.forks.reverse(); // taken from the end
        hooks.check()?;
        Ok(hooks)
    }

    /// Tells the stack what the network is given. A network calls it before anything else.
    ///
    /// # Errors
    /// When there is not one row for each branch, or a control refuses.
    pub fn begin(&mut self, rows: &[Row]) -> Result<()> {
        if rows.len() != self.branches.len() {
            bail!("{} rows are given for {} of the pass", rows.len(), self.branches.len())
        }
        self.stack.iter_mut().try_for_each(|processor| processor.begin(&self.pass, &self.branches, rows))
    }

    /// With what is kept from step to step, and what this pass does with it.
    pub fn with_kept(mut self, kept: &'a mut Kept, reuse: Reuse) -> Self {
        self.kept = (reuse != Reuse::Off).then_some((kept, reuse));
        self
    }

    /// What the network is to do with what is kept.
    pub fn reuse(&self) -> Reuse {
        self.kept.as_ref().map_or(Reuse::Off, |(_, reuse)| *reuse)
    }

    /// What an earlier step kept for a row, in the dtype of `like`.
    ///
    /// # Errors
    /// Where nothing was kept for it.
    pub fn taken(&self, row: usize, like: &Tensor) -> Result<Tensor> {
        match &self.kept {
            Some((kept, _)) => kept.get(KeptRow::of(&self.branches[row]), like),
            None => bail!("nothing is kept in this run"),
        }
    }

    /// Keeps a tensor for each row of the output. Of rows of one window, those that read no other one's keys count.
    pub fn keep(&mut self, tensors: &[Tensor]) -> Result<()> {
        let Some((kept, _)) = &mut self.kept else { return Ok(()) };
        if tensors.len() != self.branches.len() {
            bail!("{} tensors are kept for {} rows", tensors.len(), self.branches.len())
        }
        let mut rows: Vec<_> = self.branches.iter().zip(tensors).collect();
        rows.sort_by_key(|(branch, _)| branch.reference.is_none()); // stable
        let mut done = Vec::with_capacity(rows.len());
        for (branch, tensor) in rows.into_iter().rev() {
            let row = KeptRow::of(branch);
            if !done.contains(&row) {
                kept.put(row, tensor)?;
                done.push(row);
            }
        }
        Ok(())
    }

    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// The rows as they are at this point of the pass; after the last layer, those of the network's output.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// Asked before every layer, and once more before the output: the old row that each new row continues, or `None` when the rows stay.
    pub fn fork(&mut self, layer: usize) -> Result<Option<Vec<usize>>> {
        let Some(fork) = self.forks.pop_if(|fork| fork.layer <= layer) else { return Ok(None) };
        let (sources, branches): (Vec<_>, Vec<_>) = fork.rows.into_iter().unzip();
        if let Some(row) = sources.iter().find(|&&row| row >= self.branches.len()) {
            bail!("fork before layer {layer} continues row {row} of {}", self.branches.len())
        }
        self.branches = branches;
        self.check()?;
        for processor in self.stack.iter_mut() {
            processor.fork(&sources, &self.branches)?;
        }
        Ok(Some(sources))
    }

    /// Rows that go through a layer in one batch: rows that refer to each other always together, others as far as the
    /// micro-batch allows. Each row is in exactly one group; rows of a group rise.
    ///
    /// Groups are to be run in the order given, all of them before the next layer. Those that hold rows which see their
    /// text come first, so that what a control learns there at a layer is known when the others pass the same layer.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let count = self.branches.len();
        let mut leader: Vec<usize> = (0..count).collect();
        fn find(leader: &[usize], mut row: usize) -> usize {
            while leader[row] != row {
                row = leader[row];
            }
            row
        }
        for row in 0..count {
            if let Some(reference) = self.branches[row].reference_row() {
                let (a, b) = (find(&leader, row), find(&leader, reference));
                leader[a.max(b)] = a.min(b);
            }
        }
        let mut meeting: Vec<Vec<usize>> = vec![Vec::new(); count];
        for row in 0..count {
            meeting[find(&leader, row)].push(row);
        }
        let mut groups: Vec<Vec<usize>> = Vec::new();
        meeting.retain(|rows| !rows.is_empty());
        meeting.sort_by_key(|rows| !rows.iter().any(|&row| self.branches[row].half.text)); // stable
        for rows in meeting {
            match groups.last_mut() {
                Some(last) if last.len() + rows.len() <= self.micro_batch => last.extend(rows),
                _ => groups.push(rows),
            }
        }
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups
    }

    /// Attention of one micro-batch, through the stack to the kernel: `[B, N, L, D]`.
    pub fn attend(&mut self, qkv: Qkv, site: &Site) -> Result<Tensor> {
        let site = AttentionSite { site, queries: Queries::All, branches: &self.branches, pass: &self.pass };
        Next { rest: self.stack, kernel: &self.kernel }.attend(qkv, &site)
    }

    /// The text of one micro-batch past the stack, `[rows, L, D]`, before it is projected to keys and values.
    pub fn context(&mut self, context: Tensor, site: &Site) -> Result<Tensor> {
        let at = AttentionSite { site, queries: Queries::All, branches: &self.branches, pass: &self.pass };
        let shape = context.shape().clone();
        let context = self.stack.iter_mut().try_fold(context, |context, processor| processor.context(context, &at))?;
        if context.shape() != &shape {
            bail!("{}: a control made a text of {:?} into {:?}", site.path, shape, context.shape())
        }
        Ok(context)
    }

    /// What `see` makes of rows `x` `[B, F, D]` at a place of attention in time, whose first layer is at `site`: all frames at
    /// once, or, where a control says so, stretches of frames one after the other, of which each frame has the weighted mean
    /// of those it lies in. `see` is told how many frames it gets, which see each other.
    ///
    /// # Errors
    /// Those of `see`, and stretches that leave out a frame or go beyond the last.
    pub fn in_stretches(
        &mut self,
        x: &Tensor,
        site: &Site,
        mut see: impl FnMut(&Tensor, usize, &mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let frames = x.dim(1)?;
        let at = AttentionSite { site, queries: Queries::All, branches: &self.branches, pass: &self.pass };
        let Some(stretches) = self.stack.iter_mut().find_map(|processor| processor.stretches(frames, &at)) else {
            return see(x, frames, self);
        };
        let mut total = vec![0.0; frames];
        for Stretch { start, weights } in &stretches {
            if start + weights.len() > frames {
                bail!("{}: a stretch of {} frames from {start} of {frames}", site.path, weights.len())
            }
            total[*start..].iter_mut().zip(weights).for_each(|(total, weight)| *total += weight);
        }
        if let Some(frame) = total.iter().position(|&total| total <= 0.0) {
            bail!("{}: frame {frame} lies in no stretch", site.path)
        }
        let sum = Tensor::zeros(x.shape(), DType::F32, x.device())?;
        for Stretch { start, weights } in stretches {
            let count = weights.len();
            let shares = weights.iter().zip(&total[start..]).map(|(weight, total)| (weight / total) as f32);
            let shares = Tensor::from_vec(shares.collect::<Vec<_>>(), (count, 1), x.device())?;
            let seen = see(&x.narrow(1, start, count)?.contiguous()?, count, self)?;
            let part = seen.to_dtype(DType::F32)?.broadcast_mul(&shares)?;
            // in place: a sum of the whole for each stretch would be read and written once for each
            sum.slice_set(&(sum.narrow(1, start, count)? + part)?, 1, start)?;
        }
        sum.to_dtype(x.dtype())
    }

    /// Hidden states of one micro-batch past the stack, in `layout`.
    pub fn inject(&mut self, hidden: Tensor, feature: Feature, layout: Layout, site: &Site) -> Result<Tensor> {
        let at = FeatureSite { feature, layout, site, branches: &self.branches, pass: &self.pass };
        self.stack.iter_mut().try_fold(hidden, |hidden, processor| processor.inject(hidden, &at))
    }

    /// Closes the pass; gives back the rows of the output.
    pub fn finish(self) -> Result<Vec<Branch>> {
        if let Some(fork) = self.forks.last() {
            bail!("a fork before layer {} was never reached", fork.layer)
        }
        for processor in self.stack.iter_mut() {
            processor.end(&self.pass)?;
        }
        Ok(self.branches)
    }

    fn check(&self) -> Result<()> {
        let count = self.branches.len();
        match self.branches.iter().position(|branch| branch.reference_row().is_some_and(|row| row >= count)) {
            Some(row) => bail!("row {row} refers to a row that is not among the {count} of the pass"),
            None => Ok(()),
        }
    }
}

/// The rest of the stack, and at its end the kernel.
pub struct Next<'a> {
    rest: &'a mut [Box<dyn AttentionProcessor>],
    kernel: &'a Sdpa,
}

impl Next<'_> {
    pub fn attend(&mut self, qkv: Qkv, site: &AttentionSite) -> Result<Tensor> {
        match self.rest.split_first_mut() {
            Some((processor, rest)) => processor.attend(qkv, site, &mut Next { rest, kernel: self.kernel }),
            None => self.kernel.attend_with(&qkv.q, &qkv.k, &qkv.v, qkv.scale, &qkv.scores),
        }
    }

    /// Softmax probabilities of the keys `columns` (a u32 tensor `[J]`), normalised over all keys: `[B, N, L, J]` in f32.
    pub fn probe(&self, qkv: &Qkv, columns: &Tensor) -> Result<Tensor> {
        self.kernel.probe_with(&qkv.q, &qkv.k, qkv.scale, columns, &qkv.scores)
    }
}
