//! Windows longer than those a model was trained on, by damping what is far apart (UltraViCo, arXiv 2511.20123; written from its
//! rule): the logit of a video query in latent frame i and a video key in latent frame j, where it is positive and `|i - j|` is more
//! than half of the model's own window, is multiplied by `alpha`. Text, and what is near, stay as they are.
//!
//! The kernel does it while it goes through the keys (`nn::scores`); no tensor of queries by keys exists.

use super::control::{Control, Kind, Parameter};
use crate::attention::{AttentionProcessor, AttentionSite, Next, Qkv, SiteKind};
use crate::nn::scores::{Damp, NONE, Scores};
use candle_core::{Result, Tensor, bail};
use std::sync::Arc;

pub static CONTROL: Control = Control {
    name: "ultravico",
    sites: &[SiteKind::Joint],
    help: "attention between frames farther apart than half a window is damped (UltraViCo); --long ultravico says it",
    parameters: &[
        Parameter {
            name: "alpha",
            kind: Kind::Number(0.0..=1.0),
            default: "0.9",
            help: "what positive logits are multiplied by",
            ..Parameter::PLAIN
        },
        Parameter {
            name: "window",
            kind: Kind::Count("latent frames"),
            default: "13",
            help: "the model's own window",
            ..Parameter::PLAIN
        },
        Parameter {
            name: "patch",
            kind: Kind::Count("latent frames"),
            default: "1",
            help: "latent frames that one token stands for",
            ..Parameter::PLAIN
        },
    ],
    build: |values, builder| {
        let (alpha, window) = (values.number("alpha")?, values.count("window")?);
        builder.add(UltraViCo { alpha, reach: window as f64 / 2.0, patch: values.count("patch")?.max(1), known: None });
        Ok(())
    },
    ..Control::PLAIN
};

/// See the module.
struct UltraViCo {
    alpha: f64,
    /// Latent frames.
    reach: f64,
    patch: usize,
    /// What was said of the last number of queries and keys: all layers have the same.
    known: Option<((usize, usize), Damp)>,
}

impl UltraViCo {
    fn damp(&mut self, qkv: &Qkv, site: &AttentionSite) -> Result<Damp> {
        let (queries, keys) = (qkv.q.dim(2)?, qkv.k.dim(2)?);
        if let Some((_, damp)) = self.known.as_ref().filter(|(known, _)| *known == (queries, keys)) {
            return Ok(damp.clone());
        }
        let (frames, height, width) = site.grid;
        let of = |video: std::ops::Range<usize>, count: usize| -> Result<Arc<[u32]>> {
            if video.len() != frames * height * width {
                bail!("{}: {} video tokens are no grid of {:?}", site.path, video.len(), site.grid)
            }
            let frame = |token: usize| match token.checked_sub(video.start) {
                Some(token) if token < video.len() => (token / (height * width) * self.patch) as u32,
                _ => NONE,
            };
            Ok((0..count).map(frame).collect())
        };
        let damp = Damp {
            alpha: self.alpha,
            reach: self.reach,
            queries: of(site.video_queries(queries)?, queries)?,
            keys: of(site.video_keys(keys)?, keys)?,
        };
        self.known = Some(((queries, keys), damp.clone()));
        Ok(damp)
    }
}

impl AttentionProcessor for UltraViCo {
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        let last = (site.grid.0.saturating_sub(1) * self.patch) as f64;
        if site.kind != SiteKind::Joint || self.alpha == 1.0 || last <= self.reach {
            return next.attend(qkv, site);
        }
        let damp = Some(self.damp(&qkv, site)?);
        next.attend(Qkv { scores: Scores { damp, ..qkv.scores }, ..qkv }, site)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use candle_core::Device;

    fn control(alpha: f64, reach: f64) -> Box<dyn AttentionProcessor> {
        boxed(UltraViCo { alpha, reach, patch: 1, known: None })
    }

    #[test]
    fn far_positive_scores_are_damped_and_nothing_else_is() {
        for text_behind in [false, true] {
            let toy = Toy { text_behind, grid: (4, 2, 3), ..Toy::default() };
            let (qkv, branches) = (toy.qkv(41, 2), [branch(UNCOND, 0, 0, None), branch(COND, 0, 0, None)]);
            let got = toy.attend(&qkv, &branches, &mut [control(0.6, 1.0)]).unwrap();
            let scores = dense_scores(&qkv);
            let (b, n, l, _) = scores.dims4().unwrap();
            let mut all = values(&scores);
            for matrix in all.chunks_mut(l * l) {
                for (i, query) in toy.video_range().enumerate() {
                    for (j, key) in toy.video_range().enumerate() {
                        let score = &mut matrix[query * l + key];
                        if (i / 6).abs_diff(j / 6) > 1 && *score > 0.0 {
                            *score *= 0.6;
                        }
                    }
                }
            }
            let p = Tensor::from_vec(all, (b, n, l, l), &Device::Cpu).unwrap();
            let p = candle_nn::ops::softmax_last_dim(&p).unwrap();
            assert_near(&got, &p.matmul(&qkv.v.contiguous().unwrap()).unwrap(), 2e-6);
            assert!(distance(&got, &toy.plain(&qkv)) > 1e-3);
        }
    }

    #[test]
    fn one_and_short_windows_are_plain_bit_for_bit() {
        let toy = Toy::default(); // three frames
        let (qkv, branches) = (toy.qkv(42, 1), [branch(COND, 0, 0, None)]);
        for control in [control(1.0, 0.5), control(0.5, 2.0)] {
            assert_same(&toy.attend(&qkv, &branches, &mut [control]).unwrap(), &toy.plain(&qkv));
        }
    }
}
