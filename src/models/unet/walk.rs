//! A pass through a UNet's layers: what each row is at a place of it, and how rows go through a layer in groups.

use super::temporal::TransformerTemporal;
use super::transformer::{Place, Texts, Transformer2D};
use crate::attention::{Feature, Hooks, Layout, Reuse, Row, SiteKind, Time, inner_ranges};
use crate::models::blocks2d::{ResnetBlock2D, Upsample2D};
use candle_core::{Result, Tensor, TensorId, bail};
use std::collections::BTreeMap;
use std::ops::Range;

/// A row inside the network.
#[derive(Debug, Clone)]
struct State {
    /// `[F, C, H, W]`.
    hidden: Tensor,
    /// What the way down has kept, in its order.
    skips: Vec<Tensor>,
    /// `[T, Lt, Dt]`.
    context: Tensor,
    /// What that was given as.
    given: TensorId,
    /// Which of its texts each frame reads, where there are several.
    frame_texts: Option<Vec<usize>>,
    /// The activated embedding of its time `[1, E]`, or of those of its frames `[F, E]`.
    time: Tensor,
}

/// A pass.
pub(super) struct Walk<'h, 'a> {
    states: Vec<State>,
    hooks: &'h mut Hooks<'a>,
    network: usize,
    layers: usize,
}

/// Some rows that go through a layer together.
struct Group {
    rows: Vec<usize>,
    /// Their ranges of the batch.
    inner: Vec<Range<usize>>,
    /// Frames of the longest.
    frames: usize,
}

impl<'h, 'a> Walk<'h, 'a> {
    /// `network` is its index in the run ([`crate::attention::Site`]), `layers` its attention layers. `hidden`: the rows after
    /// the first convolution. `embed` makes the activated embedding `[1, E]` of a time.
    ///
    /// # Errors
    /// When a row has a part that the network does not take, or other times than frames, and those of a control.
    pub fn new(
        rows: &[Row],
        hidden: Vec<Tensor>,
        hooks: &'h mut Hooks<'a>,
        (network, layers): (usize, usize),
        embed: impl Fn(f64) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut known: Vec<(f64, Tensor)> = Vec::new();
        let mut embedded = |time: f64| match known.iter().find(|(other, _)| other.to_bits() == time.to_bits()) {
            Some((_, embedding)) => Ok::<_, candle_core::Error>(embedding.clone()),
            None => {
                known.push((time, embed(time)?));
                Ok(known[known.len() - 1].1.clone())
            }
        };
        let mut states = Vec::with_capacity(rows.len());
        for (row, hidden) in rows.iter().zip(hidden) {
            if row.added.is_some() {
                bail!("this network takes latents, a time and a text; a row has something else")
            }
            let frames = row.latents.dim(0)?;
            let time = match &row.time {
                Time::One(time) => embedded(*time)?,
                Time::Frames(times) if times.len() == frames && frames > 0 => {
                    Tensor::cat(&times.iter().map(|&time| embedded(time)).collect::<Result<Vec<_>>>()?, 0)?
                }
                Time::Frames(times) => bail!("{} times for a row of {frames} latent frames", times.len()),
            };
            let context = row.context.to_dtype(hidden.dtype())?;
            let (context, texts) = match &row.frame_texts {
                None => (context.unsqueeze(0)?, 1),
                Some(_) => (context.clone(), context.dim(0)?),
            };
            let frame_texts = row.frame_texts.clone();
            if frame_texts.as_ref().is_some_and(|of| of.len() != frames || of.iter().any(|&text| text >= texts)) {
                bail!("texts of {:?} for {frames} latent frames, of which some have none", row.context.dims())
            }
            states.push(State { hidden, skips: Vec::new(), context, given: row.context.id(), frame_texts, time });
        }
        Ok(Self { states, hooks, network, layers })
    }

    /// The rows' hidden states, and what the way down has kept of them; ends the pass.
    pub fn finish(mut self) -> Result<Vec<(Tensor, Vec<Tensor>)>> {
        self.fork(self.layers)?;
        Ok(self.states.into_iter().map(|state| (state.hidden, state.skips)).collect())
    }

    /// Keeps the rows as they are for the way up.
    pub fn keep(&mut self) {
        self.states.iter_mut().for_each(|state| state.skips.push(state.hidden.clone()));
    }

    /// Keeps the rows as they are for steps that follow, where those take them.
    pub fn keep_deep(&mut self) -> Result<()> {
        if self.network > 0 || self.hooks.reuse() != Reuse::Keep {
            return Ok(());
        }
        self.hooks.keep(&self.states.iter().map(|state| state.hidden.clone()).collect::<Vec<_>>())
    }

    /// The rows as an earlier step kept them.
    pub fn take_deep(&mut self) -> Result<()> {
        for (row, state) in self.states.iter_mut().enumerate() {
            state.hidden = self.hooks.taken(row, &state.hidden)?;
        }
        Ok(())
    }

    /// A residual block; with `skip` of what was kept last, too.
    pub fn resnet(&mut self, resnet: &ResnetBlock2D, skip: bool) -> Result<()> {
        if skip {
            for state in &mut self.states {
                let Some(kept) = state.skips.pop() else { bail!("the way up takes more than the way down has kept") };
                state.hidden = Tensor::cat(&[&state.hidden, &kept], 1)?;
            }
        }
        for group in self.groups()? {
            let time = self.times(&group)?;
            let x = self.join(&group, |state| &state.hidden)?;
            self.part(&group, &resnet.forward(&x, Some(&time))?, |state| &mut state.hidden)?;
        }
        Ok(())
    }

    /// A place of attention.
    pub fn attend(&mut self, transformer: &Transformer2D) -> Result<()> {
        self.fork(transformer.layer)?;
        for group in self.groups()? {
            let texts = self.texts(&group)?;
            let x = self.join(&group, |state| &state.hidden)?;
            let place = group.place(self.network, self.layers);
            let x = transformer.forward(&x, &texts, place, self.hooks)?;
            self.part(&group, &x, |state| &mut state.hidden)?;
        }
        Ok(())
    }

    /// A place of attention in time: rows of as many frames together.
    pub fn attend_in_time(&mut self, transformer: &TransformerTemporal) -> Result<()> {
        for group in self.groups()? {
            for same in group.of_equal_frames() {
                let x = self.join(&same, |state| &state.hidden)?;
                let positions = x.dim(2)? * x.dim(3)?;
                let inner = inner_ranges(same.rows.iter().map(|_| positions));
                let place = Place { inner: &inner, ..same.place(self.network, self.layers) };
                let x = transformer.forward(&x, place, self.hooks)?;
                self.part(&same, &x, |state| &mut state.hidden)?;
            }
        }
        Ok(())
    }

    /// Row by row.
    pub fn each(&mut self, work: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
        for state in &mut self.states {
            state.hidden = work(&state.hidden)?;
        }
        Ok(())
    }

    /// Enlarges the rows to the size of what was kept last and not yet taken.
    pub fn enlarge(&mut self, upsample: &Upsample2D) -> Result<()> {
        for state in &mut self.states {
            let (_, _, h, w) = state.hidden.dims4()?;
            let size = match state.skips.last() {
                Some(kept) => (kept.dim(2)?, kept.dim(3)?),
                None => (2 * h, 2 * w),
            };
            state.hidden = upsample.forward(&state.hidden, size)?;
        }
        Ok(())
    }

    /// Offers all that the way down has kept to the controls.
    pub fn offer_skips(&mut self) -> Result<()> {
        let count = self.states.first().map_or(0, |state| state.skips.len());
        for group in self.groups()? {
            for index in 0..count {
                self.offer(&group, Feature::Skip(index), "skips", move |state| &mut state.skips[index])?;
            }
        }
        Ok(())
    }

    /// Offers what the middle gives.
    pub fn offer_mid(&mut self) -> Result<()> {
        for group in self.groups()? {
            self.offer(&group, Feature::Mid, "mid_block", |state| &mut state.hidden)?;
        }
        Ok(())
    }

    fn offer(
        &mut self,
        group: &Group,
        feature: Feature,
        path: &str,
        part: impl Fn(&mut State) -> &mut Tensor,
    ) -> Result<()> {
        let maps = group.rows.iter().map(|&row| part(&mut self.states[row]).clone()).collect::<Vec<_>>();
        let maps = joined(&maps)?;
        let place = group.place(self.network, self.layers);
        // of the attention layers near it the last on the way down
        let site = place.site(SiteKind::SelfSpatial, 0, path, (maps.dim(2)?, maps.dim(3)?));
        let maps = self.hooks.inject(maps, feature, Layout::Maps, &site)?;
        self.part(group, &maps, part)
    }

    fn fork(&mut self, layer: usize) -> Result<()> {
        if let Some(sources) = self.hooks.fork(layer)? {
            self.states = sources.iter().map(|&row| self.states[row].clone()).collect();
        }
        Ok(())
    }

    fn groups(&self) -> Result<Vec<Group>> {
        let group = |rows: Vec<usize>| {
            let frames = rows.iter().map(|&row| self.states[row].hidden.dim(0)).collect::<Result<Vec<_>>>()?;
            let longest = frames.iter().copied().max().unwrap_or(0);
            Ok(Group { rows, inner: inner_ranges(frames), frames: longest })
        };
        self.hooks.groups().into_iter().map(group).collect()
    }

    /// The times of a group: one where they are the same, else one for each frame.
    fn times(&self, group: &Group) -> Result<Tensor> {
        let first = &self.states[group.rows[0]].time;
        if first.dim(0)? == 1 && group.rows.iter().all(|&row| self.states[row].time.id() == first.id()) {
            return Ok(first.clone());
        }
        let of_row = |(&row, inner): (&usize, &Range<usize>)| {
            let time = &self.states[row].time;
            if time.dim(0)? == 1 { time.repeat((inner.len(), 1)) } else { Ok(time.clone()) }
        };
        Tensor::cat(&group.rows.iter().zip(&group.inner).map(of_row).collect::<Result<Vec<_>>>()?, 0)
    }

    fn texts(&self, group: &Group) -> Result<Texts> {
        let texts = joined(&group.rows.iter().map(|&row| self.states[row].context.clone()).collect::<Vec<_>>())?;
        if group.rows.iter().all(|&row| self.states[row].frame_texts.is_none()) {
            return Ok(Texts::OfRows(texts, group.rows.iter().map(|&row| self.states[row].given).collect()));
        }
        let (mut before, mut of_frames) = (0, Vec::new());
        for (&row, inner) in group.rows.iter().zip(&group.inner) {
            let State { context, frame_texts, .. } = &self.states[row];
            let text = |frame: usize| (before + frame_texts.as_ref().map_or(0, |texts| texts[frame])) as u32;
            of_frames.extend((0..inner.len()).map(text));
            before += context.dim(0)?;
        }
        let of_frames = Tensor::new(of_frames, texts.device())?;
        Ok(Texts::OfFrames(texts, of_frames))
    }

    fn join(&self, group: &Group, part: impl Fn(&State) -> &Tensor) -> Result<Tensor> {
        joined(&group.rows.iter().map(|&row| part(&self.states[row]).clone()).collect::<Vec<_>>())
    }

    fn part(&mut self, group: &Group, x: &Tensor, part: impl Fn(&mut State) -> &mut Tensor) -> Result<()> {
        for (&row, inner) in group.rows.iter().zip(&group.inner) {
            *part(&mut self.states[row]) = x.narrow(0, inner.start, inner.len())?;
        }
        Ok(())
    }
}

impl Group {
    /// Its rows, those of as many frames together.
    fn of_equal_frames(&self) -> Vec<Self> {
        let mut same: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (&row, inner) in self.rows.iter().zip(&self.inner) {
            same.entry(inner.len()).or_default().push(row);
        }
        let group = |(frames, rows): (usize, Vec<usize>)| {
            let inner = inner_ranges(rows.iter().map(|_| frames));
            Self { rows, inner, frames }
        };
        same.into_iter().map(group).collect()
    }

    fn place(&self, network: usize, layers: usize) -> Place<'_> {
        Place { network, layers, rows: &self.rows, inner: &self.inner, frames: self.frames }
    }
}

/// Rows as one batch.
fn joined(rows: &[Tensor]) -> Result<Tensor> {
    match rows {
        [row] => Ok(row.clone()),
        rows => Tensor::cat(rows, 0),
    }
}
