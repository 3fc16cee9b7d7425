//! Features of a network beside the denoiser that the denoiser's own read, and tokens that are mixed into its text: CAM and APM of StreamingT2V
//! (arXiv 2403.14773). The networks themselves are not known here: sources give, for the rows of a pass, what there is to read, and the
//! layers that read it are handed in.

use super::residual::{FeatureResiduals, Source};
use crate::attention::{
    AttentionProcessor, AttentionSite, Branch, Feature, FeatureSite, Half, Layout, Pass, Row, SiteKind,
};
use candle_core::{Result, Tensor, bail};

/// A feature `[F, C, H, W]` after it has read the memory `[S, C, H, W]` of its place.
pub type Reader = Box<dyn Fn(Feature, &Tensor, &Tensor) -> Result<Tensor>>;

/// The denoiser's skips and its middle read a memory.
pub struct Memory {
    source: Source,
    reader: Reader,
    rows: Vec<FeatureResiduals>,
}

impl Memory {
    /// `source`: the memory of each row of a pass.
    pub fn new(source: Source, reader: Reader) -> Self {
        Self { source, reader, rows: Vec::new() }
    }
}

impl AttentionProcessor for Memory {
    fn begin(&mut self, pass: &Pass, branches: &[Branch], rows: &[Row]) -> Result<()> {
        self.rows = (self.source)(pass, branches, rows)?;
        if self.rows.len() != rows.len() {
            bail!("memories for {} of {} rows", self.rows.len(), rows.len())
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
            let part = hidden.narrow(0, inner.start, inner.len())?.contiguous()?;
            parts.push(match of_row(row) {
                None => part,
                Some(memory) => (self.reader)(site.feature, &part, memory)?,
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

/// A text `[L, D]` of attention `layer` with tokens `[I, D]` mixed in.
pub type Mixer = Box<dyn Fn(usize, &Tensor, &Tensor) -> Result<Tensor>>;

/// Tokens are mixed into the text before each attention to it.
pub struct Mix {
    /// Of the halves that see the text, and of those that do not.
    tokens: [Tensor; 2],
    mixer: Mixer,
}

impl Mix {
    /// `with_text`, `without`: `[I, D]`, for the halves of guidance.
    pub fn new(with_text: Tensor, without: Tensor, mixer: Mixer) -> Self {
        Self { tokens: [with_text, without], mixer }
    }

    fn of(&self, half: Half) -> &Tensor {
        &self.tokens[usize::from(!half.text)]
    }
}

impl AttentionProcessor for Mix {
    fn context(&mut self, context: Tensor, site: &AttentionSite) -> Result<Tensor> {
        if site.network != 0 || site.kind != SiteKind::Cross {
            return Ok(context);
        }
        let rows = site.rows.iter().enumerate();
        let mixed =
            rows.map(|(at, &row)| (self.mixer)(site.layer, &context.get(at)?, self.of(site.branches[row].half)));
        Tensor::stack(&mixed.collect::<Result<Vec<_>>>()?, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processors::testing::*;
    use crate::processors::toy_unet::ToyUnet;

    /// A memory that follows from the rows' own latents, and a reader that adds a factor of its mean over frames.
    fn memory(factor: f64) -> Memory {
        let source: Source = Box::new(|_, _, rows| {
            let memory = |row: &Row| {
                let whole = row.latents.mean_keepdim(0)?;
                let half = whole.avg_pool2d(2)?;
                Ok(FeatureResiduals { skips: vec![whole, half.clone()], mid: Some(half) })
            };
            rows.iter().map(memory).collect()
        });
        Memory::new(source, Box::new(move |_, x, memory| x.broadcast_add(&(memory * factor)?)))
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
    fn tokens_are_mixed_by_half() {
        let unet = ToyUnet::default();
        let (rows, branches) = (unet.input(32, 4), windows(2));
        let run = |share: Option<[f64; 2]>| {
            let mix = share.map(|share| {
                let [with, without] = share.map(|share| (rows[0].context.ones_like().unwrap() * share).unwrap());
                boxed(Mix::new(with, without, Box::new(|_, text, tokens| text + tokens)))
            });
            unet.forward(pass(0), &rows, &branches, vec![], &mut mix.into_iter().collect::<Vec<_>>()).unwrap()
        };
        let plain = run(None);
        run(Some([0.0; 2])).iter().zip(&plain).for_each(|(got, plain)| assert_same(got, plain));
        let text = run(Some([0.5, 0.0]));
        for ((got, plain), branch) in text.iter().zip(&plain).zip(&branches) {
            assert_eq!(distance(got, plain) > 1e-3, branch.half.text, "{branch:?}");
        }
    }
}
