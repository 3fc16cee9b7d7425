//! Scales what words contribute, after the softmax (Prompt-to-Prompt's attention re-weighting, as DiTCtrl,
//! arXiv 2412.18597, uses it in an MM-DiT).
//!
//! With P the probabilities, J the tokens of the words and s their factor: `P[video, J]` and `P[J, video]` are multiplied
//! by s, and P V is taken **without normalising again**. s may be 0 or negative. Text tokens keep their mutual weights.
//!
//! No dense P is needed:
//! - video rows: `A + sum over j of (s_j - 1) P[v, j] V_j`, with A the plain attention and a few probed columns;
//! - rows J: `s A_j + (1 - s) T_j`, with T_j the part of A_j that comes from text keys, so the text columns of a few rows.
//!
//! Both are exact. The probabilities are those of the keys this control is given, so behind K/V sharing they are the
//! source's (DiTCtrl's first two steps), behind a key mask those of the kept keys.

use super::builder::Builder;
use super::control::{Control, Kind, Order, Parameter, Values};
use super::word::{Keys, Word};
use crate::attention::{AttentionProcessor, AttentionSite, Branch, Next, Qkv, SiteKind};
use candle_core::{DType, Result, Tensor, bail};
use std::collections::BTreeMap;
use std::ops::Range;

/// See the module.
pub struct Reweight {
    words: Vec<(Word, f64)>,
    keys: Option<Keys>,
}

pub static CONTROL: Control = Control {
    name: "reweight",
    sites: &[SiteKind::Joint, SiteKind::Cross],
    help: "scales what words contribute after the softmax; 0 removes, 1 changes nothing; see also vidgen edit",
    parameters: &[Parameter {
        name: "words",
        kind: Kind::Factors,
        help: "WORDS:FACTOR, several between commas: night:0.5,moon:2",
        required: true,
        ..Parameter::PLAIN
    }],
    order: Order::Last("it scales what is really attended to"),
    build,
    ..Control::PLAIN
};

fn build(values: &Values, builder: &mut Builder) -> anyhow::Result<()> {
    let words = values.factors("words")?.iter().map(|of| Ok((builder.word(&of.words)?, of.factor)));
    let words = words.collect::<anyhow::Result<Vec<(Word, f64)>>>()?;
    let keys = builder.setting().keys(words.iter().map(|(word, _)| word.clone()).collect());
    let reweight = Reweight::new(words);
    builder.add(match keys {
        Some(keys) => reweight.with_keys(keys),
        None => reweight,
    });
    Ok(())
}

/// Token positions and their factors.
type Factors = BTreeMap<u32, f64>;

impl Reweight {
    /// Each word with its factor. Rows whose conditioning does not have the word stay as they are: leave out the source's
    /// to reweight the target alone (see [`Keys::own_only`] where keys are shared). Factors of words that share a token multiply.
    pub fn new(words: Vec<(Word, f64)>) -> Self {
        Self { words, keys: None }
    }

    /// Behind K/V sharing between texts in which the words stand elsewhere, or not at all: the keys scaled are those where
    /// `keys` says that they stand. Without this they are taken to stand where they do in the row's own text.
    pub fn with_keys(mut self, keys: Keys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Factors by the tokens of the row's own text, and by those of the text whose keys it attends to; without those of
    /// factor 1.
    fn factors(&self, branch: &Branch, site: &AttentionSite) -> Result<(Factors, Factors)> {
        let own: Vec<&[u32]> = self.words.iter().map(|(word, _)| word.of(branch)).collect();
        let rows = self.of(&own, site)?;
        let columns = match &self.keys {
            Some(keys) if !(keys.own_only && rows.is_empty()) => {
                let text = keys.text(branch, site);
                self.of(&keys.words.iter().map(|word| word.at(text)).collect::<Vec<_>>(), site)?
            }
            _ => rows.clone(),
        };
        Ok((rows, columns))
    }

    /// `positions`: by word.
    fn of(&self, positions: &[&[u32]], site: &AttentionSite) -> Result<Factors> {
        let mut factors = Factors::new();
        for ((word, factor), positions) in self.words.iter().zip(positions) {
            for &position in *positions {
                if position as usize >= site.text.len() {
                    bail!("'{}' is said to be token {position} of a text of {}", word.text, site.text.len())
                }
                *factors.entry(position).or_insert(1.0) *= factor;
            }
        }
        factors.retain(|_, factor| *factor != 1.0);
        Ok(factors)
    }
}

impl AttentionProcessor for Reweight {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        let factors = if site.text.is_empty() {
            Vec::new()
        } else {
            site.batch().map(|branch| self.factors(branch, site)).collect::<Result<Vec<_>>>()?
        };
        let idle = |(rows, columns): &(Factors, Factors)| rows.is_empty() && columns.is_empty();
        if factors.iter().all(idle) {
            return next.attend(qkv, site);
        }
        let plain = next.attend(qkv.clone(), site)?;
        let rows = factors.iter().enumerate().map(|(index, factors)| {
            let inner = &site.inner[index];
            let plain = plain.narrow(0, inner.start, inner.len())?;
            if idle(factors) {
                return Ok(plain);
            }
            reweight(&qkv.narrow(inner)?, &plain, factors, site, next)
        });
        Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
    }
}

/// The rows of one branch: `plain` is their attention, `[B, N, L, D]`.
fn reweight(
    qkv: &Qkv,
    plain: &Tensor,
    (own, keys): &(Factors, Factors),
    site: &AttentionSite,
    next: &Next,
) -> Result<Tensor> {
    let Qkv { q, v, .. } = qkv;
    let (device, dtype) = (q.device(), plain.dtype());
    let queries = q.dim(2)?;
    let (text, video) = (site.text_queries(queries), site.video_queries(queries)?);
    // P[:, columns] V[columns], the columns scaled: [B, N, rows, D] in f32
    let part = |queries: &Qkv, columns: Vec<u32>, weights: Option<Vec<f32>>| {
        let columns = Tensor::new(columns, device)?;
        let mut p = next.probe(queries, &columns)?;
        if let Some(weights) = weights {
            p = p.broadcast_mul(&Tensor::new(weights, device)?)?;
        }
        p.matmul(&v.contiguous()?.index_select(&columns, 2)?.to_dtype(DType::F32)?)
    };
    let mut sides: Vec<(Range<usize>, Tensor)> = Vec::with_capacity(2);
    let weights = |factors: &Factors| factors.values().map(|factor| (factor - 1.0) as f32).collect::<Vec<_>>();
    if keys.is_empty() && !video.is_empty() {
        sides.push((video.clone(), plain.narrow(2, video.start, video.len())?));
    } else if !video.is_empty() {
        let columns = keys.keys().map(|position| site.text.start as u32 + position).collect();
        let plain = plain.narrow(2, video.start, video.len())?.to_dtype(DType::F32)?;
        let added = part(&qkv.queries(&video)?, columns, Some(weights(keys)))?;
        sides.push((video, (plain + added)?.to_dtype(dtype)?));
    }
    if own.is_empty() && !text.is_empty() {
        sides.push((text.clone(), plain.narrow(2, text.start, text.len())?));
    } else if !text.is_empty() {
        let rows = Tensor::new(own.keys().copied().collect::<Vec<_>>(), device)?; // of the text
        let of_rows = |x: &Tensor| x.narrow(2, text.start, text.len())?.contiguous()?.index_select(&rows, 2);
        let scores = qkv.scores.of_queries(own.keys().map(|&row| text.start + row as usize))?;
        let of_text = Qkv { q: of_rows(q)?, scores, ..qkv.clone() };
        let from_text = part(&of_text, site.text.clone().map(|token| token as u32).collect(), None)?;
        let weights = Tensor::new(weights(own), device)?.unsqueeze(1)?; // [J, 1]
        let added = (of_rows(plain)?.to_dtype(DType::F32)? - from_text)?.broadcast_mul(&weights)?;
        let plain = plain.narrow(2, text.start, text.len())?.contiguous()?;
        sides.push((text, plain.index_add(&rows, &added.to_dtype(dtype)?, 2)?));
    }
    sides.sort_by_key(|(range, _)| range.start);
    Tensor::cat(&sides.into_iter().map(|(_, side)| side).collect::<Vec<_>>(), 2)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::when::Ranges;
    use super::*;
    use crate::attention::{Site, SiteKind, inner_ranges};
    use candle_core::Device;

    fn word(positions: &[&[u32]]) -> Word {
        Word { text: "night".into(), positions: positions.iter().map(|list| list.to_vec()).collect() }
    }

    /// Dense P scaled, then multiplied by V; `factors` over the positions of the text. All rows.
    fn dense(toy: &Toy, qkv: &Qkv, factors: &[(u32, f64)]) -> Tensor {
        let (b, n, l, _) = qkv.q.dims4().unwrap();
        let (text, video) = (toy.text_range(), toy.video_range());
        let mut p = dense_probabilities(qkv).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for row in p.chunks_mut(l * l) {
            for &(position, factor) in factors {
                let token = text.start + position as usize;
                for other in video.clone() {
                    row[other * l + token] *= factor as f32;
                    row[token * l + other] *= factor as f32;
                }
            }
        }
        let p = Tensor::from_vec(p, (b, n, l, l), &Device::Cpu).unwrap();
        p.matmul(&qkv.v.contiguous().unwrap()).unwrap()
    }

    #[test]
    fn the_cheap_form_equals_the_dense_form() {
        let branches = [branch(UNCOND, 0, 0, None), branch(COND, 0, 0, None)];
        for text_behind in [false, true] {
            let toy = Toy { text_behind, ..Toy::default() };
            let qkv = toy.qkv(21, 2);
            for factor in [0.0, 0.5, 2.0, -5.0, 1.0 + 1e-3] {
                let words = vec![(word(&[&[1, 3]]), factor), (word(&[&[4]]), -0.5), (word(&[&[3]]), 3.0)];
                let got = toy.attend(&qkv, &branches, &mut [boxed(Reweight::new(words))]).unwrap();
                let expected = dense(&toy, &qkv, &[(1, factor), (3, 3.0 * factor), (4, -0.5)]);
                let size = values(&expected).into_iter().fold(0f32, |size, x| size.max(x.abs()));
                assert_near(&got, &expected, 2e-6 * size.max(1.0));
                assert!(distance(&got, &toy.plain(&qkv)) > 0.05);
            }
        }
    }

    #[test]
    fn a_factor_of_one_is_plain_and_other_prompts_stay_bit_for_bit() {
        let toy = Toy::default();
        let qkv = toy.qkv(22, 2);
        let branches = [branch(COND, 0, 0, None), branch(COND, 0, 1, Some(0))];
        let got = toy.attend(&qkv, &branches, &mut [boxed(Reweight::new(vec![(word(&[&[1], &[2]]), 1.0)]))]).unwrap();
        assert_same(&got, &toy.plain(&qkv));
        let undone = vec![(word(&[&[1], &[2]]), 2.0), (word(&[&[1], &[2]]), 0.5)];
        let got = toy.attend(&qkv, &branches, &mut [boxed(Reweight::new(undone))]).unwrap();
        assert_same(&got, &toy.plain(&qkv));
        let got = toy.attend(&qkv, &branches, &mut [boxed(Reweight::new(vec![(word(&[&[], &[2]]), 0.0)]))]).unwrap();
        let row = |x: &Tensor, row| x.narrow(0, row, 1).unwrap();
        assert_same(&row(&got, 0), &row(&toy.plain(&qkv), 0));
        assert_near(&row(&got, 1), &row(&dense(&toy, &qkv, &[(2, 0.0)]), 1), 2e-6);
    }

    #[test]
    fn the_keys_of_another_text_are_scaled_where_its_words_stand() {
        let toy = Toy::default();
        let qkv = toy.qkv(22, 2);
        let branches = [branch(COND, 0, 0, None), branch(COND, 0, 1, Some(0))];
        let (one, both) = (word(&[&[], &[2]]), word(&[&[4], &[2]]));
        let run_on = |own: &Word, own_only: bool, keys: Option<(&str, &str, Word)>| {
            let mut reweight = Reweight::new(vec![(own.clone(), 0.25)]);
            if let Some((steps, layers, word)) = keys {
                let (rows, none) =
                    ((steps.parse().unwrap(), layers.parse().unwrap()), (Ranges::none(), Ranges::none()));
                let keys = Keys { rows, banked: none, texts: Vec::new(), words: vec![word], own_only };
                reweight = reweight.with_keys(keys);
            }
            toy.attend(&qkv, &branches, &mut [boxed(reweight)]).unwrap().narrow(0, 1, 1).unwrap()
        };
        let run = |keys| run_on(&one, true, keys);
        let own = run(None);
        // the toy's attention is at step 3, layer 0
        for (steps, layers) in [("0-2", "all"), ("all", "1-")] {
            assert_same(&run(Some((steps, layers, both.clone()))), &own);
        }
        let (text, video) = (toy.text_range(), toy.video_range());
        let part = |x: &Tensor, range: &Range<usize>| x.narrow(2, range.start, range.len()).unwrap();
        let of_source = dense(&toy, &qkv, &[(4, 0.25)]).narrow(0, 1, 1).unwrap();
        let got = run(Some(("3", "0", both)));
        assert_near(&part(&got, &video), &part(&of_source, &video), 2e-6);
        assert_same(&part(&got, &text), &part(&own, &text));
        let plain = toy.plain(&qkv).narrow(0, 1, 1).unwrap();
        let got = run(Some(("3", "0", word(&[&[], &[2]]))));
        assert_same(&part(&got, &video), &part(&plain, &video));
        assert_same(&part(&got, &text), &part(&own, &text));
        // a word that only the text of the keys has
        let first = word(&[&[4], &[]]);
        assert_same(&run_on(&first, true, Some(("3", "0", first.clone()))), &plain);
        let got = run_on(&first, false, Some(("3", "0", first.clone())));
        assert_near(&part(&got, &video), &part(&of_source, &video), 2e-6);
        assert_same(&part(&got, &text), &part(&plain, &text));
    }

    #[test]
    fn cross_attention_has_no_text_rows() {
        let toy = Toy { text: 7, ..Toy::default() };
        let all = toy.qkv(23, 4);
        let part = |x: &Tensor, from: usize, len: usize| x.narrow(2, from, len).unwrap();
        let qkv = Qkv { q: part(&all.q, 7, 6), k: part(&all.k, 0, 7), v: part(&all.v, 0, 7), ..all };
        let inner = inner_ranges([2, 2]);
        let site = Site { kind: SiteKind::Cross, inner: &inner, text: 0..7, ..toy.site(0, &[0, 1]) };
        let branches = [branch(UNCOND, 0, 0, None), branch(COND, 0, 0, None)];
        let mut stack = [boxed(Reweight::new(vec![(word(&[&[2, 6]]), 0.25)]))];
        let got = toy.hooks(&branches, &mut stack).attend(qkv.clone(), &site).unwrap();
        let factors = Tensor::new(&[1f32, 1.0, 0.25, 1.0, 1.0, 1.0, 0.25], &Device::Cpu).unwrap();
        let p = dense_probabilities(&qkv).broadcast_mul(&factors).unwrap();
        assert_near(&got, &p.matmul(&qkv.v.contiguous().unwrap()).unwrap(), 1e-6);
    }

    #[test]
    fn a_position_beyond_the_text_is_an_error() {
        let toy = Toy::default();
        let mut stack = [boxed(Reweight::new(vec![(word(&[&[5]]), 0.5)]))];
        let error = toy.attend(&toy.qkv(1, 1), &[branch(COND, 0, 0, None)], &mut stack).unwrap_err().to_string();
        assert!(error.contains("'night' is said to be token 5 of a text of 5"), "{error}");
    }
}
