//! The seam between networks and controls.
//!
//! A network calls [`Hooks::begin`] with its rows, [`Hooks::attend`] where it would call the attention kernel,
//! [`Hooks::context`] before it projects a text to keys and values, [`Hooks::in_stretches`] around attention in time, [`Hooks::inject`] at its feature sites and
//! [`Hooks::fork`] between its blocks, and knows nothing else. A control is an [`AttentionProcessor`]: middleware around
//! the kernel that sees queries, keys and values after qk-norm and RoPE, and where in the run it is. It owns neither the
//! projections nor the softmax.
//!
//! **The batch axis is the branch axis.** All rows that need each other go through the network together, layer by layer,
//! and each row is described by data, a [`Branch`]. Sharing keys and values between rows is then a gather on the batch
//! axis, with no state between layers. Relations are decided by the planner and carried as data; processors obey.
//!
//! Where frames or positions are rows of the batch (a UNet), a row of the pass is a range of it ([`Site::inner`]). Rows may
//! differ in frames: a row of one frame stands beside rows of many. Where frames are the sequence (temporal attention),
//! rows of different frame counts go through in calls of their own.
//!
//! No tensor of L x L elements ever exists: masks are key subsets, reweighting is a low-rank correction, attention maps
//! are a few probed columns.

mod hooks;
mod kept;
mod row;

pub use hooks::{Fork, Hooks, Next};
pub use kept::{Change, Kept, KeptRow, Reuse};
pub use row::{Added, Half, Row, Time};

use crate::nn::scores::Scores;
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// Whose keys and values a sharing control reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reference {
    /// Those of a row of this pass, which is then always in the same micro-batch.
    Row(usize),
    /// Those that an earlier pass put into a bank for a window of a timeline; of the same half.
    Banked { timeline: usize, window: usize },
}

/// What one row of a pass is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Which conditions it sees.
    pub half: Half,
    /// Index of the timeline among those that are denoised together.
    pub timeline: usize,
    /// Index of the window in the timeline's plan.
    pub window: usize,
    /// Index of the conditioning among those of all timelines; rows that do not see it keep the prompt of their window.
    pub prompt: usize,
    /// Whose keys and values a sharing control reads, if any.
    pub reference: Option<Reference>,
}

impl Branch {
    /// A row of the first timeline that refers to no other.
    pub fn new(half: Half, window: usize, prompt: usize) -> Self {
        Self { half, timeline: 0, window, prompt, reference: None }
    }

    /// The row of this pass that this one refers to.
    pub fn reference_row(&self) -> Option<usize> {
        match self.reference {
            Some(Reference::Row(row)) => Some(row),
            _ => None,
        }
    }
}

/// Where in the run a forward pass stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Denoising step, from 0.
    pub step: usize,
    pub steps: usize,
}

/// The kinds of attention a network can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// Text and video tokens in one sequence (MM-DiT).
    Joint,
    /// Tokens of one frame among themselves.
    SelfSpatial,
    /// Video queries on text keys.
    Cross,
    /// Frames of one position among themselves.
    Temporal,
}

/// What a network says of a place in itself, for one micro-batch of rows.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// Index of the network in the run: 0 is the denoiser, others are networks beside it (a ControlNet).
    pub network: usize,
    /// Counts the sites of this kind from 0.
    pub layer: usize,
    pub layers: usize,
    pub kind: SiteKind,
    /// Weight prefix, for messages.
    pub path: &'a str,
    /// Range of the text tokens on the key axis; the rest is the latent grid in frame, row, column order.
    pub text: Range<usize>,
    /// Frames, height and width of the token grid; frames of the longest row where rows differ in them.
    pub grid: (usize, usize, usize),
    /// For each of `rows` its range of the batch axis: one entry in joint attention, its frames where frames attend each
    /// within itself, its positions in temporal attention.
    pub inner: &'a [Range<usize>],
    /// The rows of the pass that this micro-batch holds, in batch order. A row's reference is always among them, unless a
    /// control has taken the batch apart for the controls after it.
    pub rows: &'a [usize],
}

/// The ranges of the batch axis that rows of these sizes have, one after the other: [`Site::inner`].
pub fn inner_ranges(sizes: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |size| {
        end += size;
        end - size..end
    };
    sizes.into_iter().map(range).collect()
}

/// Which of the network's queries an attention call holds. The network asks for all; a control that splits them says so,
/// that the controls after it know which tokens they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// As the network made them: on the key axis' own layout in self-attention, video tokens in cross-attention.
    All,
    /// The text tokens alone, all of them, in order.
    Text,
    /// Some or all of the video tokens, in order.
    Video,
}

/// One attention call as a processor sees it: the network's [`Site`] and where the run stands.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSite<'a> {
    pub site: &'a Site<'a>,
    pub queries: Queries,
    /// All rows of the pass as they are at this layer; indexed by the values of `site.rows`.
    pub branches: &'a [Branch],
    pub pass: &'a Pass,
}

impl<'a> std::ops::Deref for AttentionSite<'a> {
    type Target = Site<'a>;
    fn deref(&self) -> &Site<'a> {
        self.site
    }
}

impl AttentionSite<'_> {
    /// Text tokens among `count` queries; empty where the queries are video only.
    pub fn text_queries(&self, count: usize) -> Range<usize> {
        match (self.queries, self.kind) {
            (Queries::Text, _) => 0..count,
            (Queries::All, SiteKind::Joint) => self.text.clone(),
            _ => 0..0,
        }
    }

    /// Video tokens among `count` queries: what [`Self::text_queries`] leaves.
    ///
    /// # Errors
    /// When the text lies inside the video tokens, or beyond the queries.
    pub fn video_queries(&self, count: usize) -> Result<Range<usize>> {
        rest_of(&self.text_queries(count), count)
    }

    /// Video tokens among `count` keys: what [`Site::text`] leaves.
    ///
    /// # Errors
    /// When the text lies inside the video tokens, or beyond the keys.
    pub fn video_keys(&self, count: usize) -> Result<Range<usize>> {
        rest_of(&self.text, count)
    }

    /// The branch of each batch entry.
    pub fn batch(&self) -> impl Iterator<Item = &Branch> {
        self.rows.iter().map(|&row| &self.branches[row])
    }

    /// Position in this micro-batch of the row that `branch` refers to.
    pub fn reference_of(&self, branch: &Branch) -> Option<usize> {
        let reference = branch.reference_row()?;
        self.rows.iter().position(|&row| row == reference)
    }
}

/// `0..count` without `part`, which is at one of its ends.
fn rest_of(part: &Range<usize>, count: usize) -> Result<Range<usize>> {
    match (part.is_empty(), part.start, part.end) {
        (true, ..) => Ok(0..count),
        (_, 0, end) if end <= count => Ok(end..count),
        (_, start, end) if end == count => Ok(0..start),
        _ => bail!("text tokens {part:?} are at neither end of {count} tokens"),
    }
}

/// A place where a network offers its hidden states for an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// What an attention layer of this kind adds, after its output projection and before the residual.
    Attended(SiteKind),
    /// What the down path keeps for the up path; the network offers all of them after the whole down path.
    Skip(usize),
    /// After the middle block.
    Mid,
    /// After the block of this index.
    Block(usize),
}

/// What the axes of a feature are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[B, L, D]`
    Tokens,
    /// `[B, C, H, W]`, each frame an entry of the batch.
    Maps,
}

/// One feature site of a network as a processor sees it.
#[derive(Debug, Clone, Copy)]
pub struct FeatureSite<'a> {
    pub feature: Feature,
    pub layout: Layout,
    /// Network, grid, rows and their ranges of the batch. Its layer, kind and text are of this feature where an attention
    /// layer is offered, else of an attention layer near it.
    pub site: &'a Site<'a>,
    pub branches: &'a [Branch],
    pub pass: &'a Pass,
}

impl FeatureSite<'_> {
    /// Counts the features of this sort from 0: the attention layer of an attended output, else the feature's own index.
    pub fn number(&self) -> usize {
        match self.feature {
            Feature::Attended(_) => self.site.layer,
            Feature::Skip(index) | Feature::Block(index) => index,
            Feature::Mid => 0,
        }
    }
}

/// Queries, keys and values after qk-norm and RoPE, before scaling. Each is `[B, N, L, D]`, not necessarily contiguous;
/// keys and values may have another length than queries.
#[derive(Debug, Clone)]
pub struct Qkv {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    /// Factor on q·k, `1/sqrt(D)`.
    pub scale: f64,
    /// What happens to the scaled scores before the softmax. A control adds to it; what takes other keys or queries keeps it.
    pub scores: Scores,
}

impl Qkv {
    /// Those of some of the queries that follow each other.
    pub fn queries(&self, range: &Range<usize>) -> Result<Self> {
        let q = self.q.narrow(2, range.start, range.len())?;
        Ok(Self { q, scores: self.scores.of_queries(range.clone())?, ..self.clone() })
    }

    /// Those of some entries of the batch.
    pub fn narrow(&self, entries: &Range<usize>) -> Result<Self> {
        let narrow = |x: &Tensor| x.narrow(0, entries.start, entries.len());
        let scores = self.scores.narrow(entries.start, entries.len())?;
        Ok(Self { q: narrow(&self.q)?, k: narrow(&self.k)?, v: narrow(&self.v)?, scale: self.scale, scores })
    }
}

/// Frames that see each other in a place of attention in time, where not all frames do, and what each counts in the mean of all
/// stretches that it lies in.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// The first of them.
    pub start: usize,
    /// One for each of them, 0 where a frame is only seen.
    pub weights: Vec<f64>,
}

/// One control. All methods do nothing by default; a control overrides one, rarely two.
pub trait AttentionProcessor {
    /// Before the first layer of a pass; `rows[i]` is what the network is given for `branches[i]`.
    fn begin(&mut self, _pass: &Pass, _branches: &[Branch], _rows: &[Row]) -> Result<()> {
        Ok(())
    }

    /// The text a cross-attention layer is about to project to keys and values, `[rows, L, D]`, one entry for each of
    /// `site.rows`. Returns what is projected instead, in the same shape.
    fn context(&mut self, context: Tensor, _site: &AttentionSite) -> Result<Tensor> {
        Ok(context)
    }

    /// Around the kernel. May change `qkv` and call on, call several times and combine, or not call at all.
    /// Returns `[B, N, L, D]` with the L of the queries.
    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        next.attend(qkv, site)
    }

    /// The stretches in which the `frames` of a row see each other at a place of attention in time, which may have several
    /// layers of it: [`Hooks::in_stretches`]. None where all of them do; of several controls the first that says some counts.
    fn stretches(&mut self, _frames: usize, _site: &AttentionSite) -> Option<Vec<Stretch>> {
        None
    }

    /// At a feature site; returns the hidden states the network continues with, in the layout it came in.
    fn inject(&mut self, hidden: Tensor, _site: &FeatureSite) -> Result<Tensor> {
        Ok(hidden)
    }

    /// The rows of the pass changed: new row `i` continues the old row `sources[i]`, as `branches[i]`. For controls that
    /// keep something per row.
    fn fork(&mut self, _sources: &[usize], _branches: &[Branch]) -> Result<()> {
        Ok(())
    }

    /// After the last layer of a pass.
    fn end(&mut self, _pass: &Pass) -> Result<()> {
        Ok(())
    }
}
