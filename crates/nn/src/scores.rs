//! What happens to the scores `q k^T scale` before the softmax, said in a few numbers, so that no tensor of queries by keys has to
//! exist: a table by sorts of queries and a few keys is added ([`Bias`]); scores between frames far apart are damped ([`Damp`]).

use candle_core::{D, DType, Result, Tensor, bail};
use std::sync::Arc;

/// A query to whose scores nothing is added.
pub const NONE: u32 = u32::MAX;

/// Less than any score: what stands for minus infinity, which no difference may be taken of.
const LEAST: f32 = -1e30;

/// What happens to scores; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    pub bias: Option<Bias>,
    pub damp: Option<Damp>,
}

/// Scores between a query and a key whose frames lie more than `reach` apart, where they are positive, are multiplied by `alpha`
/// (UltraViCo, arXiv 2511.20123). It comes after the bias.
#[derive(Debug, Clone)]
pub struct Damp {
    pub alpha: f64,
    pub reach: f64,
    /// The frame of each query and of each key, or [`NONE`] where it has none.
    pub queries: Arc<[u32]>,
    pub keys: Arc<[u32]>,
}

impl Scores {
    /// Whether nothing happens to them.
    pub fn is_plain(&self) -> bool {
        self.bias.is_none() && self.damp.is_none()
    }

    /// Those of some entries of the batch.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.narrow(start, len)).transpose()?;
        Ok(Self { bias, damp: self.damp.clone() })
    }

    /// Those of some of the queries, in this order, on all keys.
    pub fn of_queries(&self, queries: impl IntoIterator<Item = usize> + Clone) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.select(queries.clone(), bias.first)).transpose()?;
        let damp = |damp: &Damp| {
            Ok::<_, candle_core::Error>(Damp { queries: chosen(&damp.queries, queries.clone())?, ..damp.clone() })
        };
        Ok(Self { bias, damp: self.damp.as_ref().map(damp).transpose()? })
    }

    /// Those on some of the keys, in this order, among which those with a bias begin at `first`.
    pub fn of_keys(&self, keys: impl IntoIterator<Item = usize>, first: usize) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| Bias { first, ..bias.clone() });
        let damp = |damp: &Damp| Ok::<_, candle_core::Error>(Damp { keys: chosen(&damp.keys, keys)?, ..damp.clone() });
        Ok(Self { bias, damp: self.damp.as_ref().map(damp).transpose()? })
    }

    /// Refuses what is of other sizes than the tensors it is used with.
    pub(crate) fn check(&self, q: &Tensor, k: &Tensor) -> Result<()> {
        if let Some(bias) = &self.bias {
            bias.check(q, k)?;
        }
        match &self.damp {
            Some(damp) if damp.queries.len() != q.dim(2)? || damp.keys.len() != k.dim(2)? => {
                bail!(
                    "frames of {} queries and {} keys beside {:?} and {:?}",
                    damp.queries.len(),
                    damp.keys.len(),
                    q.dims(),
                    k.dims()
                )
            }
            _ => Ok(()),
        }
    }

    /// The plain version: the scores `[B, N, len, keys]` of `len` queries from `start` on, changed.
    pub(crate) fn apply(&self, mut scores: Tensor, start: usize) -> Result<Tensor> {
        let (_, _, len, keys) = scores.dims4()?;
        if let Some(bias) = &self.bias {
            scores = scores.to_dtype(DType::F32)?.broadcast_add(&bias.over_keys(start, len, keys)?)?;
        }
        let Some(damp) = &self.damp else { return Ok(scores) };
        let factors: Vec<f32> = damp.queries[start..start + len]
            .iter()
            .flat_map(|&query| damp.keys.iter().map(move |&key| damp.factor(query, key)))
            .collect();
        let factors = Tensor::from_vec(factors, (len, keys), scores.device())?.to_dtype(scores.dtype())?;
        let positive = scores.relu()?;
        // s - relu(s) is what is negative of it
        (&scores - &positive)? + positive.broadcast_mul(&factors)?
    }
}

impl Damp {
    /// What a positive score is multiplied by.
    pub(crate) fn factor(&self, query: u32, key: u32) -> f32 {
        let apart = query != NONE && key != NONE && f64::from(query.abs_diff(key)) > self.reach;
        if apart { self.alpha as f32 } else { 1.0 }
    }
}

fn chosen(frames: &[u32], tokens: impl IntoIterator<Item = usize>) -> Result<Arc<[u32]>> {
    let frame = |token: usize| match frames.get(token) {
        Some(&frame) => Ok(frame),
        None => bail!("token {token} of {}", frames.len()),
    };
    tokens.into_iter().map(frame).collect()
}

/// An addition to scores.
#[derive(Debug, Clone)]
pub struct Bias {
    /// `[B, S, J]` in f32: for each entry of the batch, by sort of query and key.
    table: Tensor,
    /// The first of the J keys, which follow each other.
    first: usize,
    /// The sort of each query, or [`NONE`].
    sorts: Arc<[u32]>,
}

impl Bias {
    /// `table`: `[B, S, J]`, minus infinity where a key is not to be seen; `first`: the first of the J keys; `sorts`: for each
    /// query the row of the table that is added to its scores, or [`NONE`].
    ///
    /// # Errors
    /// A sort that the table does not have.
    pub fn new(table: &Tensor, first: usize, sorts: Arc<[u32]>) -> Result<Self> {
        let (_, rows, _) = table.dims3()?;
        if let Some(sort) = sorts.iter().find(|&&sort| sort != NONE && sort as usize >= rows) {
            bail!("a query of sort {sort} and a bias for {rows}")
        }
        let table = table.to_dtype(DType::F32)?.maximum(f64::from(LEAST))?.contiguous()?;
        Ok(Self { table, first, sorts })
    }

    /// Keys that it is for.
    pub fn keys(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.table.dims()[2]
    }

    /// Of some entries of the batch.
    fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        Ok(Self { table: self.table.narrow(0, start, len)?.contiguous()?, ..self.clone() })
    }

    /// With other entries of the batch in the place of these.
    pub fn gather(&self, entries: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { table: entries(&self.table)?.contiguous()?, ..self.clone() })
    }

    /// For some of the queries, in this order; the keys that it is for begin at `first` among those they see.
    ///
    /// # Errors
    /// A query that there is not.
    fn select(&self, queries: impl IntoIterator<Item = usize>, first: usize) -> Result<Self> {
        Ok(Self { table: self.table.clone(), first, sorts: chosen(&self.sorts, queries)? })
    }

    /// Refuses a bias of other sizes than the tensors it is used with.
    fn check(&self, q: &Tensor, k: &Tensor) -> Result<()> {
        let (b, _, l, _) = q.dims4()?;
        if self.table.dims()[0] != b || self.sorts.len() != l || self.keys().end > k.dim(2)? {
            bail!(
                "a bias for {} entries, {} queries and the keys {:?} beside {:?} and {:?}",
                self.table.dims()[0],
                self.sorts.len(),
                self.keys(),
                q.dims(),
                k.dims()
            )
        }
        Ok(())
    }

    /// The table as numbers of the host, and the sorts.
    pub(crate) fn on_host(&self) -> Result<(Vec<f32>, &[u32])> {
        Ok((self.table.flatten_all()?.to_vec1()?, &self.sorts))
    }

    /// What is added to the scores of `len` queries from `start` on: `[B, 1, len, J]`.
    pub(crate) fn of_queries(&self, start: usize, len: usize) -> Result<Tensor> {
        let (b, rows, keys) = self.table.dims3()?;
        // one more sort, to which nothing is added
        let zeros = Tensor::zeros((b, 1, keys), DType::F32, self.table.device())?;
        let table = Tensor::cat(&[&self.table, &zeros], 1)?;
        let sorts = self.sorts[start..start + len].iter().map(|&sort| sort.min(rows as u32));
        let sorts = Tensor::from_iter(sorts, self.table.device())?;
        table.index_select(&sorts, 1)?.unsqueeze(1)
    }

    /// The same over all of `keys` keys: `[B, 1, len, keys]`.
    fn over_keys(&self, start: usize, len: usize, keys: usize) -> Result<Tensor> {
        let own = self.keys();
        self.of_queries(start, len)?.pad_with_zeros(D::Minus1, own.start, keys - own.end)
    }
}
