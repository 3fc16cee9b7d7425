//! Scaled dot-product attention without a full score tensor.
//!
//! Queries are taken in chunks so that no score tensor exceeds a byte budget (nor 2^31 elements, where candle's CUDA
//! kernels wrap around); the softmax runs in f32. On the CPU f32 takes `cpu::attention`, which needs no budget, and so
//! do f16 and bf16 on a GPU with the kernel of `cuda::attention`, or with FlashAttention where it is compiled in.

use super::cpu::{
    self,
    attention::{Attention, Found, Table},
};
use super::kernel::Kernel;
use super::scores::{Bias, Scores};
use super::size;
use candle_core::{D, DType, Result, Tensor};

/// Least keys that are worth rounding to bf16.
const FEW: usize = 33;

/// The attention kernel with its settings.
#[derive(Debug, Clone)]
pub struct Sdpa {
    /// Largest score tensor of the plain version, in bytes.
    pub budget: usize,
    /// What computes, where it can take the tensors; the plain version takes the others.
    pub kernel: Kernel,
    /// Whether a CPU that multiplies bf16 rounds f32 tensors to it, where there are many keys. Probed columns are computed in
    /// f32 all the same.
    pub bf16: bool,
}

impl Default for Sdpa {
    fn default() -> Self {
        Self { budget: 256 << 20, kernel: Kernel::default(), bf16: false }
    }
}

impl Sdpa {
    /// `softmax(q k^T scale) v`: `[B, N, L, D]` with the L of `q`. On the CPU its storage is that of `[B, L, N, D]`, so
    /// joining the heads afterwards costs nothing; of `[L, B, N, D]` where the queries lie so, as frames do that attend to each
    /// other at each position.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(values) = self.on_gpu(q, k, v, scale)? {
            return Ok(values);
        }
        match self.fast(q, k, Some(v), scale, false, None, &Scores::default())? {
            Some(found) => heads(found, q, v),
            None => self.plain_attend(q, k, v, scale, &Scores::default()),
        }
    }

    /// [`Sdpa::attend`] with something done to the scores before the softmax.
    ///
    /// # Errors
    /// Those of it, and of `scores` that are of other sizes.
    pub fn attend_with(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, scores: &Scores) -> Result<Tensor> {
        if scores.is_plain() {
            return self.attend(q, k, v, scale);
        }
        scores.check(q, k)?;
        match (&scores.bias, &scores.damp) {
            // the keys with a bias apart, and the others in the kernel that knows none
            (Some(bias), None) if self.kernel != Kernel::Math && (self.bf16 || !q.device().is_cpu()) => {
                self.merged(q, k, v, scale, bias)
            }
            _ => match self.fast(q, k, Some(v), scale, false, None, scores)? {
                Some(found) => heads(found, q, v),
                None => self.plain_attend(q, k, v, scale, scores),
            },
        }
    }

    /// [`Sdpa::probe`] with something done to the scores before the softmax.
    ///
    /// # Errors
    /// Those of it, and of `scores` that are of other sizes.
    pub fn probe_with(&self, q: &Tensor, k: &Tensor, scale: f64, columns: &Tensor, scores: &Scores) -> Result<Tensor> {
        if scores.is_plain() {
            return self.probe(q, k, scale, columns);
        }
        scores.check(q, k)?;
        let chosen = if columns.device().is_cpu() { Some(columns.to_vec1::<u32>()?) } else { None };
        match chosen.map(|chosen| self.fast(q, k, None, scale, false, Some(&chosen), scores)).transpose()?.flatten() {
            Some(found) => {
                let (b, n, l, _) = q.dims4()?;
                Tensor::from_vec(found.probed, (b, n, l, columns.elem_count()), q.device())
            }
            None => self.plain_probe(q, k, scale, columns, scores),
        }
    }

    /// Attention whose keys with a bias, at one end of them, are attended to apart from the others: the two results are weighed by
    /// the sums of their exponentials.
    fn merged(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: &Bias) -> Result<Tensor> {
        let (own, keys) = (bias.keys(), k.dim(2)?);
        let rest = match (own.start, own.end) {
            (0, end) if end < keys => end..keys,
            (start, end) if end == keys && start > 0 => 0..start,
            _ => {
                let scores = Scores { bias: Some(bias.clone()), damp: None };
                return self.plain_attend(q, k, v, scale, &scores);
            }
        };
        let part = |x: &Tensor, range: &std::ops::Range<usize>| x.narrow(2, range.start, range.len())?.contiguous();
        let (others, sums) = self.attend_with_log_sum_exp(q, &part(k, &rest)?, &part(v, &rest)?, scale)?;
        let (kt, own_v) = (part(k, &own)?.transpose(2, 3)?.contiguous()?, part(v, &own)?.to_dtype(DType::F32)?);
        let (b, n, l, _) = q.dims4()?;
        let per_row = (b * n * own.len()).max(1);
        let rows = (self.budget / (4 * per_row)).min(size::MOST / per_row).clamp(1, l.max(1));
        let mut chunks = Vec::with_capacity(l.div_ceil(rows));
        for start in (0..l).step_by(rows) {
            let len = rows.min(l - start);
            let scores = (q.narrow(2, start, len)?.contiguous()?.matmul(&kt)? * scale)?.to_dtype(DType::F32)?;
            let scores = scores.broadcast_add(&bias.of_queries(start, len)?)?;
            let sums = (sums.narrow(2, start, len)? - scores.log_sum_exp(D::Minus1)?)?;
            let share = candle_nn::ops::sigmoid(&sums)?.unsqueeze(3)?; // of the others
            let values = softmax(&scores)?.matmul(&own_v)?;
            let others = others.narrow(2, start, len)?.to_dtype(DType::F32)?;
            let merged = (&values + share.broadcast_mul(&(others - &values)?)?)?;
            chunks.push(merged.to_dtype(v.dtype())?);
        }
        Tensor::cat(&chunks, 2)
    }

    /// [`Sdpa::attend`] and [`Sdpa::log_sum_exp`] at the cost of the first.
    pub fn attend_with_log_sum_exp(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<(Tensor, Tensor)> {
        #[cfg(feature = "cuda")]
        if let Some(both) = self.own_on_gpu(q, k, v, scale)? {
            return Ok(both);
        }
        match self.fast(q, k, Some(v), scale, true, None, &Scores::default())? {
            Some(found) => {
                let (b, n, l, _) = q.dims4()?;
                let sums = Tensor::from_vec(found.log_sums.clone(), (b, n, l), q.device())?;
                Ok((heads(found, q, v)?, sums))
            }
            None => Ok((self.plain_attend(q, k, v, scale, &Scores::default())?, self.plain_log_sum_exp(q, k, scale)?)),
        }
    }

    /// Softmax probabilities of the keys `columns` (a u32 tensor `[J]`), normalised over all keys: `[B, N, L, J]` in f32.
    pub fn probe(&self, q: &Tensor, k: &Tensor, scale: f64, columns: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.kernel != Kernel::Math
            && let Some(probed) = super::cuda::probe(q, k, scale, columns)?
        {
            return Ok(probed);
        }
        let chosen = if columns.device().is_cpu() { Some(columns.to_vec1::<u32>()?) } else { None };
        let nothing = Scores::default();
        let fast = |chosen: &[u32]| self.fast(q, k, None, scale, false, Some(chosen), &nothing);
        match chosen.as_deref().map(fast).transpose()?.flatten() {
            Some(found) => {
                let (b, n, l, _) = q.dims4()?;
                Tensor::from_vec(found.probed, (b, n, l, columns.elem_count()), q.device())
            }
            None => self.plain_probe(q, k, scale, columns, &nothing),
        }
    }

    /// Log-sum-exp of each query's scaled scores: `[B, N, L]` in f32.
    pub fn log_sum_exp(&self, q: &Tensor, k: &Tensor, scale: f64) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some((_, sums)) = self.own_on_gpu(q, k, k, scale)? {
            return Ok(sums);
        }
        match self.fast(q, k, None, scale, true, None, &Scores::default())? {
            Some(found) => {
                let (b, n, l, _) = q.dims4()?;
                Tensor::from_vec(found.log_sums, (b, n, l), q.device())
            }
            None => self.plain_log_sum_exp(q, k, scale),
        }
    }

    /// The chosen kernel of a GPU, where it can take the tensors.
    #[cfg(feature = "cuda")]
    fn on_gpu(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Option<Tensor>> {
        #[cfg(any(feature = "flash-attn", feature = "flash-attn-v3"))]
        {
            let half = matches!(q.dtype(), DType::F16 | DType::BF16);
            if half && matches!(self.kernel, Kernel::Flash2 | Kernel::Flash3) {
                // [B, L, N, D], with any strides but along D
                let [q, k, v] = [q, k, v].map(|x| x.transpose(1, 2)?.contiguous());
                let (q, k, v, scale) = (q?, k?, v?, scale as f32);
                #[cfg(feature = "flash-attn-v3")]
                if self.kernel == Kernel::Flash3 {
                    let values = candle_flash_attn_v3::flash_attn(&q, &k, &v, scale, false, false)?;
                    return values.transpose(1, 2).map(Some);
                }
                #[cfg(feature = "flash-attn")]
                return candle_flash_attn::flash_attn(&q, &k, &v, scale, false)?.transpose(1, 2).map(Some);
            }
        }
        Ok(self.own_on_gpu(q, k, v, scale)?.map(|(values, _)| values))
    }

    #[cfg(feature = "cuda")]
    fn own_on_gpu(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Option<(Tensor, Tensor)>> {
        if self.kernel == Kernel::Math { Ok(None) } else { super::cuda::attend(q, k, v, scale) }
    }

    fn plain_attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, scores: &Scores) -> Result<Tensor> {
        let v = v.contiguous()?;
        self.chunked(q, k, scale, scores, |scores| softmax(scores)?.to_dtype(v.dtype())?.matmul(&v))
    }

    fn plain_probe(&self, q: &Tensor, k: &Tensor, scale: f64, columns: &Tensor, scores: &Scores) -> Result<Tensor> {
        self.chunked(q, k, scale, scores, |scores| softmax(scores)?.index_select(columns, D::Minus1))
    }

    fn plain_log_sum_exp(&self, q: &Tensor, k: &Tensor, scale: f64) -> Result<Tensor> {
        self.chunked(q, k, scale, &Scores::default(), |scores| scores.to_dtype(DType::F32)?.log_sum_exp(D::Minus1))
    }

    /// The CPU's fast version, where the tensors allow it; shapes that do not fit are left to the plain one's message.
    #[allow(clippy::too_many_arguments)] // a kernel's operands
    fn fast(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: Option<&Tensor>,
        scale: f64,
        log_sums: bool,
        columns: Option<&[u32]>,
        scores: &Scores,
    ) -> Result<Option<Found>> {
        let mut tensors = vec![q, k];
        tensors.extend(v);
        if self.kernel == Kernel::Math || !tensors.iter().all(|x| cpu::takes(x)) {
            return Ok(None);
        }
        let table = scores.bias.as_ref().map(|bias| Ok::<_, candle_core::Error>((bias.on_host()?, bias.keys())));
        let table = table.transpose()?;
        cpu::with_views(&tensors, |views| {
            let bias = table.as_ref().map(|((values, sorts), keys)| Table {
                values,
                entry: values.len() / views[0].dims[0].max(1),
                first: keys.start,
                keys: keys.len(),
                sorts,
            });
            let damp = scores.damp.as_ref();
            let attention = Attention { q: views[0], k: views[1], v: views.get(2).copied(), scale, bias, damp };
            // blocks of keys are made in bf16 first, which a few are not worth
            let in_bf16 = self.bf16 && columns.is_none() && k.dim(2)? >= FEW && scores.is_plain();
            let in_bf16 = if in_bf16 { cpu::bf16::attend(&attention, log_sums) } else { None };
            Ok(in_bf16.or_else(|| attention.run(log_sums, columns)))
        })
    }

    /// Runs `each` on the scaled scores `[B, N, rows, Lk]` of one chunk of queries after the other; joins along axis 2.
    fn chunked(
        &self,
        q: &Tensor,
        k: &Tensor,
        scale: f64,
        scores: &Scores,
        each: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (b, n, l, _) = q.dims4()?;
        let keys = k.dim(2)?;
        let per_row = b * n * keys;
        let rows = (self.budget / (4 * per_row.max(1))).min(size::MOST / per_row.max(1)).clamp(1, l.max(1));
        size::check("the scores of one query", q.device(), &[b, n, keys])?;
        let kt = k.transpose(2, 3)?.contiguous()?;
        let mut chunks = Vec::with_capacity(l.div_ceil(rows));
        for start in (0..l).step_by(rows) {
            let q = q.narrow(2, start, rows.min(l - start))?.contiguous()?;
            chunks.push(each(&scores.apply((q.matmul(&kt)? * scale)?, start)?)?);
        }
        Tensor::cat(&chunks, 2)
    }
}

/// `[B, N, L, D]` from the numbers of `[B, L, N, D]`, or of `[L, B, N, D]`.
fn heads(found: Found, q: &Tensor, v: &Tensor) -> Result<Tensor> {
    let ((b, n, l, _), width) = (q.dims4()?, v.dim(3)?);
    if found.turned {
        return Tensor::from_vec(found.values, (l, b, n, width), q.device())?.permute((1, 2, 0, 3));
    }
    Tensor::from_vec(found.values, (b, l, n, width), q.device())?.transpose(1, 2)
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::on_each_isa;
    use crate::cpu::tests::{assert_close, random};
    use crate::scores::{Damp, NONE};

    fn check(what: &str, q: &Tensor, k: &Tensor, v: &Tensor) {
        let (sdpa, scale) = (Sdpa::default(), 3.0); // sharp enough that the largest score changes from block to block
        let want = sdpa.plain_attend(q, k, v, scale, &Scores::default()).unwrap();
        let got = sdpa.attend(q, k, v, scale).unwrap();
        let turned = q.dim(0).unwrap() > 1 && q.dim(2).unwrap() > 1 && q.stride()[2] > q.stride()[0];
        let order = if turned { [2, 0, 1, 3] } else { [0, 2, 1, 3] };
        assert!(got.permute(order).unwrap().is_contiguous(), "{what}");
        assert_close(what, &got, &want, 3e-6);
        let (got, sums) = sdpa.attend_with_log_sum_exp(q, k, v, scale).unwrap();
        assert_close(what, &got, &want, 3e-6);
        let want = sdpa.plain_log_sum_exp(q, k, scale).unwrap();
        assert_close(what, &sums, &want, 1e-6);
        assert_close(what, &sdpa.log_sum_exp(q, k, scale).unwrap(), &want, 1e-6);
        let keys = k.dim(2).unwrap() as u32;
        let columns: Vec<u32> = (0..keys.min(70)).map(|i| (i * 7) % keys).collect();
        let columns = Tensor::new(columns, q.device()).unwrap();
        let want = sdpa.plain_probe(q, k, scale, &columns, &Scores::default()).unwrap();
        assert_close(what, &sdpa.probe(q, k, scale, &columns).unwrap(), &want, 5e-6);
        check_with(what, &changed(q, keys as usize), q, k, v);
    }

    /// A bias for some keys at the beginning and a third of the queries, with minus infinities; and four frames of keys, of which two
    /// see those of the others damped.
    fn changed(q: &Tensor, keys: usize) -> [Scores; 3] {
        let (b, l) = (q.dim(0).unwrap(), q.dim(2).unwrap());
        let few = keys.div_ceil(3);
        let table = random(&[b, 2, few]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let table =
            table.into_iter().enumerate().map(|(i, x)| if i % 5 == 1 { f32::NEG_INFINITY } else { -3.0 * x.abs() });
        let table = Tensor::from_vec(table.collect::<Vec<_>>(), (b, 2, few), q.device()).unwrap();
        let sorts = (0..l as u32).map(|query| if query % 3 == 2 { NONE } else { query % 3 }).collect();
        let bias = Bias::new(&table, 0, sorts).unwrap();
        let frames = |count: usize| -> std::sync::Arc<[u32]> {
            (0..count).map(|token| if token < few { NONE } else { (4 * token / count) as u32 }).collect()
        };
        let damp = Damp { alpha: 0.6, reach: 1.0, queries: frames(l), keys: frames(keys) };
        let of = |bias, damp| Scores { bias, damp };
        [of(Some(bias.clone()), None), of(None, Some(damp.clone())), of(Some(bias), Some(damp))]
    }

    fn check_with(what: &str, scores: &[Scores], q: &Tensor, k: &Tensor, v: &Tensor) {
        let (sdpa, scale) = (Sdpa::default(), 3.0);
        let columns = Tensor::new(&[0_u32, k.dim(2).unwrap() as u32 - 1], q.device()).unwrap();
        for (index, scores) in scores.iter().enumerate() {
            let what = format!("{what}, changed {index}");
            let want = sdpa.plain_attend(q, k, v, scale, scores).unwrap();
            assert_close(&what, &sdpa.attend_with(q, k, v, scale, scores).unwrap(), &want, 3e-6);
            if let (Some(bias), None) = (&scores.bias, &scores.damp) {
                assert_close(&what, &sdpa.merged(q, k, v, scale, bias).unwrap(), &want, 3e-6);
            }
            let want = sdpa.plain_probe(q, k, scale, &columns, scores).unwrap();
            assert_close(&what, &sdpa.probe_with(q, k, scale, &columns, scores).unwrap(), &want, 5e-6);
        }
    }

    #[test]
    fn scores_of_other_sizes_are_refused() {
        let (sdpa, q) = (Sdpa::default(), random(&[1, 2, 6, 4]));
        let [bias, damp, _] = changed(&q, 6);
        for scores in [bias, damp] {
            for (queries, keys) in [(5, 6), (6, 1)] {
                let (q, k) = (q.narrow(2, 0, queries).unwrap(), q.narrow(2, 0, keys).unwrap());
                let error = sdpa.attend_with(&q, &k, &k, 1.0, &scores).unwrap_err().to_string();
                assert!(error.contains("beside"), "{error}");
            }
        }
        let table = Tensor::zeros((1, 2, 3), DType::F32, q.device()).unwrap();
        assert!(Bias::new(&table, 0, [0, 2].into()).unwrap_err().to_string().contains("sort 2"));
    }

    #[test]
    fn attention_equals_its_plain_version() {
        on_each_isa(|isa| {
            for (b, n, l, keys, d, dv) in [
                (1, 1, 1, 1, 1, 1),
                (2, 3, 97, 65, 8, 8),
                (1, 2, 48, 64, 16, 16),
                (1, 1, 200, 300, 64, 64),
                (2, 2, 17, 130, 13, 7),
                (1, 1, 5, 1, 64, 32),
                (1, 3, 33, 71, 12, 20),
                (1, 1, 4100, 70, 8, 8), // tasks of more queries
            ] {
                let what = format!("{isa:?} {b}x{n}x{l} on {keys}, {d} and {dv}");
                let (q, k, v) = (random(&[b, n, l, d]), random(&[b, n, keys, d]), random(&[b, n, keys, dv]));
                check(&what, &q, &k, &v);
                // As a network has them: heads and tokens exchanged, q, k and v from one tensor, keys shared by all rows.
                let qkv = random(&[b, l, 3, n, d]);
                let part = |i| qkv.narrow(2, i, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
                check(&what, &part(0), &part(1), &part(2));
                // and frames that attend to each other at each position
                let qkv = random(&[l, b, 3, n, d]);
                let part = |i| qkv.narrow(2, i, 1).unwrap().squeeze(2).unwrap().permute((1, 2, 0, 3)).unwrap();
                check(&what, &part(0), &part(1), &part(2));
                let [k, v] =
                    [k, v].map(|x| x.narrow(0, 0, 1).unwrap().broadcast_as((b, n, keys, x.dim(3).unwrap())).unwrap());
                check(&what, &q, &k, &v);
                check(&what, &random(&[b, n, d, l]).transpose(2, 3).unwrap(), &k, &v);
            }
        });
    }

    #[test]
    fn attention_in_bf16_is_that_of_the_rounded_tensors() {
        if cpu::bf16::name().is_none() {
            return eprintln!("not run: this CPU multiplies no bf16");
        }
        let (bf16, f32) = (Sdpa { bf16: true, ..Sdpa::default() }, Sdpa::default());
        for (b, n, l, keys, d, dv) in [
            (1, 1, 1, 1, 1, 1),
            (2, 3, 97, 65, 8, 8),
            (1, 2, 48, 64, 16, 16),
            (1, 1, 200, 300, 64, 64),
            (2, 2, 17, 131, 13, 7),
            (1, 1, 5, 1, 64, 32),
            (1, 3, 33, 71, 12, 20),
            (1, 65, 2, 2100, 64, 64), // more heads than are rounded together
        ] {
            let what = format!("{b}x{n}x{l} on {keys}, {d} and {dv}");
            let round = |x: Tensor| x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
            let rounded = |dims: &[usize]| round(random(dims));
            let compare = |q: &Tensor, k: &Tensor, v: &Tensor| {
                // a scale whose product with the logarithm's base leaves queries as they are
                let scale = std::f64::consts::LN_2 * if d > 16 { 1.0 } else { 4.0 };
                let want = f32.plain_attend(q, k, v, scale, &Scores::default()).unwrap();
                let (got, sums) = bf16.attend_with_log_sum_exp(q, k, v, scale).unwrap();
                assert_close(&what, &got, &want, 4e-3); // exponentials are rounded to three digits
                assert_close(&what, &bf16.attend(q, k, v, scale).unwrap(), &got, 0.0);
                assert_close(&what, &sums, &f32.plain_log_sum_exp(q, k, scale).unwrap(), 1e-4);
            };
            let (q, k, v) = (rounded(&[b, n, l, d]), rounded(&[b, n, keys, d]), rounded(&[b, n, keys, dv]));
            compare(&q, &k, &v);
            let qkv = rounded(&[b, l, 3, n, d]);
            let part = |i| qkv.narrow(2, i, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
            compare(&part(0), &part(1), &part(2));
            let qkv = rounded(&[l, b, 3, n, d]);
            let part = |i| qkv.narrow(2, i, 1).unwrap().squeeze(2).unwrap().permute((1, 2, 0, 3)).unwrap();
            compare(&part(0), &part(1), &part(2));
            let turned = |x: Tensor| x.transpose(2, 3).unwrap();
            compare(
                &turned(rounded(&[b, n, d, l])),
                &turned(rounded(&[b, n, d, keys])),
                &turned(rounded(&[b, n, dv, keys])),
            );
        }
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        let (sdpa, q) = (Sdpa::default(), random(&[1, 2, 3, 4]));
        assert!(sdpa.attend(&q, &random(&[1, 2, 3, 5]), &q, 1.0).is_err());
        assert!(sdpa.attend(&q, &q, &random(&[1, 2, 4, 4]), 1.0).is_err());
        assert!(sdpa.probe(&q, &q, 1.0, &Tensor::new(&[3_u32], q.device()).unwrap()).is_err());
    }
}
