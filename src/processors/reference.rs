//! A subject that frames look at: reference attention of DreamVideo-2 (arXiv 2410.13830, section 4.1), masked (section 4.3). What an attention
//! layer gives, `u`, becomes `u + M RA(u, us)`: `us` is what the same layer gave of the subject, and `M` weighs cells by where the subject is to be.
//! The layers that look are handed in, as is what was kept of the subject; [`Witness`] is how it is kept.

use crate::attention::{AttentionProcessor, Feature, FeatureSite, Layout, SiteKind};
use candle_core::{Result, Tensor};

/// What `u` `[F, n, C]` of a layer (its index and kind) finds in the subject, in the shape of `u`.
pub type Seeker = Box<dyn Fn(usize, SiteKind, &Tensor) -> Result<Tensor>>;

/// The weights of a grid of so many rows and columns, `[F, rows columns, 1]`, or of one frame for all; none where all are 1.
pub type Weights = Box<dyn FnMut((usize, usize)) -> Result<Option<Tensor>>>;

/// Frames look at the subject.
pub struct Reference {
    seeker: Seeker,
    weights: Weights,
}

impl Reference {
    pub fn new(seeker: Seeker, weights: Weights) -> Self {
        Self { seeker, weights }
    }
}

/// Whether a feature is one that reference attention is behind.
fn looks(site: &FeatureSite) -> Option<SiteKind> {
    match (site.feature, site.layout, site.site.network) {
        (Feature::Attended(kind @ (SiteKind::SelfSpatial | SiteKind::Cross)), Layout::Tokens, 0) => Some(kind),
        _ => None,
    }
}

impl AttentionProcessor for Reference {
    fn inject(&mut self, hidden: Tensor, site: &FeatureSite) -> Result<Tensor> {
        let Some(kind) = looks(site) else { return Ok(hidden) };
        let (_, height, width) = site.site.grid;
        let weights = (self.weights)((height, width))?;
        let mut parts = Vec::with_capacity(site.site.rows.len());
        for inner in site.site.inner {
            let part = hidden.narrow(0, inner.start, inner.len())?;
            let found = (self.seeker)(site.site.layer, kind, &part)?;
            let found = match &weights {
                Some(weights) => found.broadcast_mul(&weights.to_dtype(found.dtype())?)?,
                None => found,
            };
            parts.push((part + found)?);
        }
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Tensor::cat(&parts, 0) }
    }
}

/// Is told the layer, its kind and what it gives.
type Tell = dyn FnMut(usize, SiteKind, &Tensor) -> Result<()>;

/// Tells what each attention layer gives, `[F, n, C]` of the only row of a pass.
pub struct Witness {
    tell: Box<Tell>,
}

impl Witness {
    pub fn new(tell: Box<Tell>) -> Self {
        Self { tell }
    }
}

impl AttentionProcessor for Witness {
    fn inject(&mut self, hidden: Tensor, site: &FeatureSite) -> Result<Tensor> {
        if let Some(kind) = looks(site) {
            (self.tell)(site.site.layer, kind, &hidden)?;
        }
        Ok(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processors::testing::*;
    use crate::processors::toy_unet::ToyUnet;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What is found is so much of `u` itself, under these weights.
    fn reference(share: f64, weights: Option<f64>) -> Reference {
        let weights: Weights = Box::new(move |(height, width)| {
            let whole = |weight| Tensor::full(weight as f32, (1, height * width, 1), &candle_core::Device::Cpu);
            weights.map(whole).transpose()
        });
        Reference::new(Box::new(move |_, _, u| u * share), weights)
    }

    #[test]
    fn what_is_found_is_added_by_its_weight_in_any_micro_batch() {
        let mut unet = ToyUnet::default();
        let (rows, branches) = (unet.input(41, 4), windows(2));
        let run = |unet: &ToyUnet, control: Option<Reference>| {
            let mut stack: Vec<_> = control.map(boxed).into_iter().collect();
            unet.forward(pass(0), &rows, &branches, vec![], &mut stack).unwrap()
        };
        let plain = run(&unet, None);
        for nothing in [reference(0.0, None), reference(0.5, Some(0.0))] {
            run(&unet, Some(nothing)).iter().zip(&plain).for_each(|(got, plain)| assert_same(got, plain));
        }
        let whole = run(&unet, Some(reference(0.5, None)));
        assert!(whole.iter().zip(&plain).all(|(got, plain)| distance(got, plain) > 1e-3));
        run(&unet, Some(reference(0.5, Some(1.0)))).iter().zip(&whole).for_each(|(got, whole)| assert_same(got, whole));
        let half = run(&unet, Some(reference(1.0, Some(0.5))));
        half.iter().zip(&whole).for_each(|(got, whole)| assert_near(got, whole, 1e-5));
        for micro_batch in [2, 3, 4] {
            unet.batch(micro_batch, 1 << 28);
            run(&unet, Some(reference(0.5, None)))
                .iter()
                .zip(&whole)
                .for_each(|(got, whole)| assert_near(got, whole, 1e-5));
        }
    }

    #[test]
    fn a_witness_sees_both_kinds_of_every_layer_and_changes_nothing() {
        let unet = ToyUnet::default();
        let (rows, branches) = (unet.input(42, 1), [branch(COND, 0, 0, None)]);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let told = seen.clone();
        let witness = Witness::new(Box::new(move |layer, kind, u| {
            told.borrow_mut().push((layer, kind, u.rank()));
            Ok(())
        }));
        let plain = unet.forward(pass(0), &rows, &branches, vec![], &mut []).unwrap();
        let got = unet.forward(pass(0), &rows, &branches, vec![], &mut [boxed(witness)]).unwrap();
        assert_same(&got[0], &plain[0]);
        let seen = seen.borrow();
        let of = |kind| seen.iter().filter(|(_, own, _)| *own == kind).map(|(layer, ..)| *layer).collect::<Vec<_>>();
        assert!(!seen.is_empty() && seen.iter().all(|(.., rank)| *rank == 3));
        assert_eq!(of(SiteKind::SelfSpatial), of(SiteKind::Cross));
    }
}
