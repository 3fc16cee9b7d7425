//! What a network beside the denoiser gives for its features: a ControlNet's residuals, which are added, or the features of StreamingT2V's CAM
//! (arXiv 2403.14773), which the denoiser's own read. The network itself is not known here: a source gives what it has for the rows of a
//! pass, which it is shown before the first layer.

use crate::attention::{AttentionProcessor, Branch, Feature, FeatureSite, Layout, Pass, Row};
use candle_core::{Result, Tensor, bail};

/// What there is for the features of one row, `[F, C, H, W]` each; what is read rather than added may have other frames.
#[derive(Debug, Clone, Default)]
pub struct FeatureResiduals {
    /// To what the way down keeps, in its order.
    pub skips: Vec<Tensor>,
    /// To what the middle gives.
    pub mid: Option<Tensor>,
}

/// Gives the residuals of a pass, one entry for each of its rows. It may run a network of its own on them.
pub type Source = Box<dyn FnMut(&Pass, &[Branch], &[Row]) -> Result<Vec<FeatureResiduals>>>;

/// A feature `[F, C, H, W]` of the denoiser with what there is for it.
pub type Reader = Box<dyn Fn(Feature, &Tensor, &Tensor) -> Result<Tensor>>;

/// Brings them into the denoiser's skips and its middle.
pub struct Residual {
    source: Source,
    reader: Reader,
    rows: Vec<FeatureResiduals>,
}

impl Residual {
    /// They are added.
    pub fn new(source: Source) -> Self {
        Self::read(source, Box::new(added))
    }

    /// `reader` makes one of both.
    pub fn read(source: Source, reader: Reader) -> Self {
        Self { source, reader, rows: Vec::new() }
    }
}

fn added(feature: Feature, hidden: &Tensor, residual: &Tensor) -> Result<Tensor> {
    if residual.dims() != hidden.dims() {
        let (wanted, found) = (hidden.dims(), residual.dims());
        bail!("residuals of {found:?} for features {feature:?} of {wanted:?}")
    }
    hidden + residual.to_dtype(hidden.dtype())?
}

impl AttentionProcessor for Residual {
    fn begin(&mut self, pass: &Pass, branches: &[Branch], rows: &[Row]) -> Result<()> {
        self.rows = (self.source)(pass, branches, rows)?;
        if self.rows.len() != rows.len() {
            bail!("residuals for {} of {} rows", self.rows.len(), rows.len())
        }
        Ok(())
    }

    fn inject(&mut self, hidden: Tensor, site: &FeatureSite) -> Result<Tensor> {
        if site.site.network != 0 || site.layout != Layout::Maps {
            return Ok(hidden);
        }
        let of_row = |row: usize| match site.feature {
            Feature::Skip(index) => self.rows[row].skips.get(index),
            Feature::Mid => self.rows[row].mid.as_ref(),
            _ => None,
        };
        let mut parts = Vec::with_capacity(site.site.rows.len());
        for (&row, inner) in site.site.rows.iter().zip(site.site.inner) {
            let part = hidden.narrow(0, inner.start, inner.len())?;
            parts.push(match of_row(row) {
                None => part,
                Some(other) => (self.reader)(site.feature, &part, other)?,
            });
        }
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Tensor::cat(&parts, 0) }
    }

    fn fork(&mut self, sources: &[usize], _branches: &[Branch]) -> Result<()> {
        self.rows = sources.iter().map(|&row| self.rows[row].clone()).collect();
        Ok(())
    }

    fn end(&mut self, _pass: &Pass) -> Result<()> {
        self.rows.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processors::testing::*;
    use crate::processors::toy_unet::ToyUnet;

    /// Residuals that follow from the rows' own latents, times a factor.
    fn source(factor: f64) -> Source {
        Box::new(move |_, branches, rows| {
            assert_eq!(branches.len(), rows.len());
            let residuals = |row: &Row| {
                let whole = (&row.latents * factor)?;
                let half = whole.avg_pool2d(2)?;
                Ok(FeatureResiduals { skips: vec![whole, half.clone()], mid: Some(half) })
            };
            rows.iter().map(residuals).collect()
        })
    }

    #[test]
    fn residuals_are_added_in_any_micro_batch_and_follow_their_rows() {
        let mut unet = ToyUnet::default();
        let (rows, branches) = (unet.input(21, 4), windows(2));
        let run = |unet: &ToyUnet, factor: Option<f64>, forks| {
            let mut stack: Vec<_> = factor.map(|factor| boxed(Residual::new(source(factor)))).into_iter().collect();
            unet.forward(pass(0), &rows, &branches, forks, &mut stack).unwrap()
        };
        let plain = run(&unet, None, vec![]);
        run(&unet, Some(0.0), vec![]).iter().zip(&plain).for_each(|(got, plain)| assert_same(got, plain));
        let added = run(&unet, Some(0.5), vec![]);
        assert!(added.iter().zip(&plain).all(|(added, plain)| distance(added, plain) > 1e-3));
        let forked = run(&unet, Some(0.5), vec![fork(2, 3)]);
        for micro_batch in [2, 3, 4] {
            unet.batch(micro_batch, 1 << 28);
            run(&unet, Some(0.5), vec![]).iter().zip(&added).for_each(|(got, added)| assert_near(got, added, 1e-5));
            let again = run(&unet, Some(0.5), vec![fork(2, 3)]);
            again.iter().zip(&forked).for_each(|(got, forked)| assert_near(got, forked, 1e-5));
        }
    }

    /// A memory that follows from the rows' own latents, and a reader that adds a factor of its mean over frames.
    fn memory(factor: f64) -> Residual {
        let source: Source = Box::new(|_, _, rows| {
            let memory = |row: &Row| {
                let whole = row.latents.mean_keepdim(0)?;
                let half = whole.avg_pool2d(2)?;
                Ok(FeatureResiduals { skips: vec![whole, half.clone()], mid: Some(half) })
            };
            rows.iter().map(memory).collect()
        });
        Residual::read(source, Box::new(move |_, x, memory| x.broadcast_add(&(memory * factor)?)))
    }

    #[test]
    fn memories_are_read_in_any_micro_batch() {
        let mut unet = ToyUnet::default();
        let (rows, branches) = (unet.input(31, 4), windows(2));
        let run = |unet: &ToyUnet, factor: Option<f64>| {
            let mut stack: Vec<_> = factor.map(|factor| boxed(memory(factor))).into_iter().collect();
            unet.forward(pass(0), &rows, &branches, vec![], &mut stack).unwrap()
        };
        let plain = run(&unet, None);
        run(&unet, Some(0.0)).iter().zip(&plain).for_each(|(got, plain)| assert_same(got, plain));
        let read = run(&unet, Some(0.5));
        assert!(read.iter().zip(&plain).all(|(read, plain)| distance(read, plain) > 1e-3));
        for micro_batch in [2, 3, 4] {
            unet.batch(micro_batch, 1 << 28);
            run(&unet, Some(0.5)).iter().zip(&read).for_each(|(got, read)| assert_near(got, read, 1e-5));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let unet = ToyUnet::default();
        let rows = unet.input(22, 1);
        let run = |source: Source| {
            let branches = [branch(COND, 0, 0, None)];
            let error = unet.forward(pass(0), &rows, &branches, vec![], &mut [boxed(Residual::new(source))]);
            error.unwrap_err().to_string()
        };
        assert!(run(Box::new(|_, _, _| Ok(Vec::new()))).contains("residuals for 0 of 1 rows"));
        let wrong = |_: &Pass, _: &[Branch], rows: &[Row]| {
            let mid = Some(rows[0].latents.narrow(2, 0, 1)?);
            Ok(vec![FeatureResiduals { skips: Vec::new(), mid }])
        };
        assert!(run(Box::new(wrong)).contains("features Mid"));
    }
}
