//! Tokens that are mixed into the text before each attention to it: APM of StreamingT2V (arXiv 2403.14773). The layers that mix are handed in.

use crate::attention::{AttentionProcessor, AttentionSite, Half, SiteKind};
use candle_core::{Result, Tensor};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A text `[L, D]` of attention `layer` with tokens `[I, D]` mixed in.
pub type Mixer = Box<dyn Fn(usize, &Tensor, &Tensor) -> Result<Tensor>>;

/// Tokens are mixed into the text before each attention to it.
pub struct Mix {
    /// Of the halves that see the text, and of those that do not.
    tokens: [Tensor; 2],
    mixer: Mixer,
    kept: Option<Kept>,
}

/// Mixed texts, by layer and, of each row, its prompt and whether it sees that: for passes that all have the same texts.
pub type Kept = Rc<RefCell<HashMap<(usize, Vec<(usize, bool)>), Tensor>>>;

impl Mix {
    /// `with_text`, `without`: `[I, D]`, for the halves of guidance.
    pub fn new(with_text: Tensor, without: Tensor, mixer: Mixer) -> Self {
        Self { tokens: [with_text, without], mixer, kept: None }
    }

    /// The same with texts that are mixed once and kept.
    pub fn keeping(self, kept: Kept) -> Self {
        Self { kept: Some(kept), ..self }
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
        let texts = site.rows.iter().map(|&row| (site.branches[row].prompt, site.branches[row].half.text));
        let key = (site.layer, texts.collect());
        if let Some(known) = self.kept.as_ref().and_then(|kept| kept.borrow().get(&key).cloned()) {
            return Ok(known);
        }
        let rows = site.rows.iter().enumerate();
        let mixed =
            rows.map(|(at, &row)| (self.mixer)(site.layer, &context.get(at)?, self.of(site.branches[row].half)));
        let mixed = Tensor::stack(&mixed.collect::<Result<Vec<_>>>()?, 0)?;
        if let Some(kept) = &self.kept {
            kept.borrow_mut().insert(key, mixed.clone());
        }
        Ok(mixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processors::testing::*;
    use crate::processors::toy_unet::ToyUnet;

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
        // kept texts are those that were mixed
        let kept = Kept::default();
        let again = |share: f64| {
            let [with, without] = [share, 0.25].map(|share| (rows[0].context.ones_like().unwrap() * share).unwrap());
            let mix = Mix::new(with, without, Box::new(|_, text, tokens| text + tokens)).keeping(kept.clone());
            unet.forward(pass(0), &rows, &branches, vec![], &mut [boxed(mix)]).unwrap()
        };
        let first = again(0.5);
        first.iter().zip(&again(0.75)).for_each(|(first, again)| assert_same(first, again));
        first.iter().zip(&run(Some([0.5, 0.25]))).for_each(|(first, plain)| assert_same(first, plain));
        let text = run(Some([0.5, 0.0]));
        for ((got, plain), branch) in text.iter().zip(&plain).zip(&branches) {
            assert_eq!(distance(got, plain) > 1e-3, branch.half.text, "{branch:?}");
        }
    }
}
