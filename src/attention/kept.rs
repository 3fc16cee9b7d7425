//! What a network keeps of one step for steps in which it is not computed again.
//!
//! A network without a way down and up keeps what its stack of blocks adds to each row (its output less its input); one with
//! keeps the last deep feature of each row. Which steps are computed is the plan's affair ([`Reuse`]); the network asks the hooks what
//! to do in a pass, and knows no more.

use super::{Branch, Half};
use candle_core::{DType, Result, Tensor, bail};
use std::collections::BTreeMap;

/// What a pass does with what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reuse {
    /// It computes everything and keeps nothing.
    #[default]
    Off,
    /// It computes everything, and keeps it for steps that follow.
    Keep,
    /// It takes what was kept.
    Take,
}

/// A row, as far as one step's is another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeptRow {
    pub timeline: usize,
    pub window: usize,
    /// Whether it sees its text, and its image.
    pub half: (bool, bool),
}

impl KeptRow {
    pub fn of(branch: &Branch) -> Self {
        let Half { text, image } = branch.half;
        Self { timeline: branch.timeline, window: branch.window, half: (text, image) }
    }
}

/// How much what is kept changes from one step to the next, for rows of all windows together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Change {
    /// Sum over rows and tokens of the norm of what a step keeps over that of the step before, and their number.
    pub ratio: (f64, usize),
    /// Sums over rows of |this step's - the last one's|, and of |the last one's|.
    pub difference: (f64, f64),
}

/// Tensors kept by row.
#[derive(Debug, Default)]
pub struct Kept {
    rows: BTreeMap<KeptRow, Tensor>,
    /// What they are stored as; as they are where none is said.
    dtype: Option<DType>,
    /// Where changes are measured: those since the last call of [`Kept::changed`].
    change: Option<Change>,
}

impl Kept {
    /// `dtype`: what tensors are stored as.
    pub fn stored_as(dtype: DType) -> Self {
        Self { dtype: Some(dtype), ..Self::default() }
    }

    /// One that measures how what it is given changes.
    pub fn measuring() -> Self {
        Self { change: Some(Change::default()), ..Self::default() }
    }

    /// What was measured since the last call.
    pub fn changed(&mut self) -> Option<Change> {
        self.change.as_mut().map(std::mem::take)
    }

    /// Keeps a tensor for a row.
    pub fn put(&mut self, row: KeptRow, tensor: &Tensor) -> Result<()> {
        if let Some(change) = &mut self.change
            && let Some(before) = self.rows.get(&row).filter(|before| before.shape() == tensor.shape())
        {
            // tokens on all axes but the last
            let norm = |x: &Tensor| x.to_dtype(DType::F32)?.sqr()?.sum(candle_core::D::Minus1)?.sqrt()?.flatten_all();
            let ratio = (norm(tensor)? / (norm(before)? + 1e-12)?)?;
            change.ratio.0 += f64::from(ratio.sum_all()?.to_scalar::<f32>()?);
            change.ratio.1 += ratio.elem_count();
            let sum = |x: Tensor| x.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>();
            change.difference.0 += f64::from(sum((tensor - before)?)?);
            change.difference.1 += f64::from(sum(before.clone())?);
        }
        // a copy: a view would keep its whole batch alive
        let kept = tensor.to_dtype(self.dtype.unwrap_or(tensor.dtype()))?.force_contiguous()?;
        self.rows.insert(row, kept);
        Ok(())
    }

    /// What is kept for a row, in the dtype of `like`.
    ///
    /// # Errors
    /// A row of which nothing was kept.
    pub fn get(&self, row: KeptRow, like: &Tensor) -> Result<Tensor> {
        match self.rows.get(&row) {
            Some(kept) => kept.to_device(like.device())?.to_dtype(like.dtype()),
            None => bail!("no earlier step has kept anything for window {} of timeline {}", row.window, row.timeline),
        }
    }

    /// All of it, in the order of rows.
    pub fn rows(&self) -> impl Iterator<Item = (KeptRow, &Tensor)> {
        self.rows.iter().map(|(row, tensor)| (*row, tensor))
    }

    /// Takes over what a checkpoint held.
    pub fn restore(&mut self, rows: Vec<(KeptRow, Tensor)>) {
        self.rows = rows.into_iter().collect();
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.rows.values().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn row(window: usize) -> KeptRow {
        KeptRow::of(&Branch::new(Half::COND, window, 0))
    }

    #[test]
    fn rows_are_kept_in_the_dtype_asked_for() {
        let mut kept = Kept::stored_as(DType::BF16);
        let x = Tensor::new(&[[1f32, 2.0, 3.0]], &Device::Cpu).unwrap();
        kept.put(row(3), &x).unwrap();
        assert_eq!(kept.bytes(), 6);
        assert_eq!(kept.get(row(3), &x).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 2.0, 3.0]]);
        let error = kept.get(row(4), &x).unwrap_err().to_string();
        assert!(error.contains("window 4 of timeline 0"), "{error}");
        let all = kept.rows().map(|(row, tensor)| (row, tensor.clone())).collect();
        let mut other = Kept::default();
        other.restore(all);
        assert_eq!(other.bytes(), 6);
    }

    #[test]
    fn changes_are_measured_by_token() {
        let mut kept = Kept::measuring();
        let x = Tensor::new(&[[3f32, 4.0], [0.0, 2.0]], &Device::Cpu).unwrap();
        kept.put(row(0), &x).unwrap();
        assert_eq!(kept.changed(), Some(Change::default()));
        kept.put(row(0), &(x.clone() * 2.0).unwrap()).unwrap();
        let change = kept.changed().unwrap();
        assert!((change.ratio.0 - 4.0).abs() < 1e-6 && change.ratio.1 == 2);
        assert_eq!(change.difference, (9.0, 9.0));
    }
}
