//! How much arithmetic a job takes: multiply-adds of the matrix products and convolutions, which are nearly all of it; and
//! how long that takes at the speed of a machine.

use super::{Job, Segment};
use crate::guidance;
use crate::models::cogvideox::vae::VaeConfig;
use crate::run::Speed;

/// Widths from which matrix products count as wide, channels from which convolutions do.
const WIDE: (usize, usize) = (512, 65);

/// Multiply-adds of one kind of operation at small sizes and at large ones.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Kinds {
    pub small: f64,
    pub wide: f64,
}

/// The work of the transformer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Denoising {
    pub linear: Kinds,
    pub attention: f64,
    /// Passes of the rows of a window through a layer, all halves of guidance as one.
    pub layer_windows: f64,
}

impl Denoising {
    pub fn total(&self) -> f64 {
        self.linear.small + self.linear.wide + self.attention
    }

    pub fn seconds(&self, speed: &Speed) -> f64 {
        self.linear.small / speed.linear
            + self.linear.wide / speed.linear_wide
            + self.attention / speed.attention
            + self.layer_windows * speed.layer
    }
}

/// All steps of a job.
pub fn denoising(job: &Job) -> Denoising {
    let config = &job.transformer;
    let (depth, dim) = (config.num_layers as f64, config.inner_dim() as f64);
    let rule = job.rule();
    // no rule's halves depend on the timestep
    let step = |index| guidance::Step { index, count: job.steps, timestep: 0.0, table: job.table };
    let rows: f64 = (0..job.steps).map(|index| rule.halves(&step(index)).len() as f64).sum();
    // an edit's source is denoised beside it while it is needed
    let source = job.controls.edit.as_ref().map_or(0, |edit| edit.source_steps(job.steps));
    let again = (1.0 + twice(job)) * (1.0 + source as f64 / job.steps as f64);
    let mut work = Denoising::default();
    for window in job.segments.iter().flat_map(|segment| &segment.plan.windows) {
        let tokens = tokens(job, window.len) as f64;
        // projections (4 D^2) and feed-forward (8 D^2) for each token; attention (2 L D)
        let linear = rows * again * depth * tokens * 12.0 * dim * dim;
        match config.inner_dim() >= WIDE.0 {
            true => work.linear.wide += linear,
            false => work.linear.small += linear,
        }
        work.attention += rows * again * depth * 2.0 * tokens * tokens * dim;
        work.layer_windows += job.steps as f64 * again * depth;
    }
    work
}

/// Passes of windows through layers as the method's own program makes them: every pair of joined windows as a batch, so
/// inner windows twice in every layer of every step.
pub fn reference_layer_windows(job: &Job) -> f64 {
    let of_segment = |segment: &Segment| match segment.plan.windows.len() {
        windows if job.controls.sharing.is_some() && windows > 1 => 2 * (windows - 1),
        windows => windows,
    };
    let windows: usize = job.segments.iter().map(of_segment).sum();
    (windows * job.steps * job.transformer.num_layers) as f64
}

/// The share of the work that is done twice because a window is source and target: of steps times layers, for inner windows.
fn twice(job: &Job) -> f64 {
    let Some(sharing) = &job.controls.sharing else { return 0.0 };
    let depth = job.transformer.num_layers;
    let layers = (0..job.steps).filter_map(|step| Some(depth - sharing.at(step)?.start())).sum::<usize>();
    let inner = |segment: &Segment| {
        segment.plan.windows.windows(2).filter(|pair| pair.iter().all(|window| window.joined)).count()
    };
    let windows: usize = job.segments.iter().map(|segment| segment.plan.windows.len()).sum();
    let inner: usize = job.segments.iter().map(inner).sum();
    layers as f64 / (job.steps * depth) as f64 * inner as f64 / windows as f64
}

/// Tokens of one row of a window of so many latent frames, those of the text included.
pub fn tokens(job: &Job, frames: usize) -> usize {
    let (_, height, width) = job.latents;
    let patch = job.transformer.patch_size.pow(2) * job.transformer.patch_size_t.unwrap_or(1);
    job.transformer.max_text_seq_length + frames * height * width / patch
}

/// The work of the decoder.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Decoding {
    pub conv: Kinds,
    pub chunks: f64,
}

impl Decoding {
    pub fn total(&self) -> f64 {
        self.conv.small + self.conv.wide
    }

    pub fn seconds(&self, speed: &Speed) -> f64 {
        self.conv.small / speed.conv + self.conv.wide / speed.conv_wide + self.chunks * speed.chunk
    }
}

/// The whole video of a job.
pub fn decoding(job: &Job) -> Decoding {
    let (_, height, width) = job.latents;
    let mut work = Decoding::default();
    for segment in &job.segments {
        let frames = segment.plan.keep - segment.padding;
        let Kinds { small, wide } = decoder(&job.vae, frames, height * width, true);
        let pictures = job.pictures() as f64;
        work.conv.small += pictures * small;
        work.conv.wide += pictures * wide;
        work.chunks += pictures * job.decode.chunks(frames).len() as f64;
    }
    work
}

/// Of the decoder for some latent frames of `cells`: its 3x3x3 convolutions, two in each residual block, at the sizes of its
/// blocks, and the 3x3 one after each enlargement. `begins`: the first of them stays one frame.
pub fn decoder(config: &VaeConfig, frames: usize, cells: usize, begins: bool) -> Kinds {
    let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
    let doublings = config.temporal_ratio().ilog2() as usize;
    let (mut frames, mut cells) = (frames as f64, cells as f64);
    let mut kinds = Kinds::default();
    let mut add = |from: usize, to: usize, times: f64| {
        let work = times * (from * to) as f64;
        match from.max(to) >= WIDE.1 {
            true => kinds.wide += work,
            false => kinds.small += work,
        }
    };
    let mut before = channels[0];
    add(config.latent_channels, before, 27.0 * frames * cells);
    add(before, before, 4.0 * 27.0 * frames * cells);
    for (block, &channels) in channels.iter().enumerate() {
        add(before, channels, 27.0 * frames * cells);
        add(channels, channels, (2 * config.layers_per_block + 1) as f64 * 27.0 * frames * cells);
        if block + 1 < config.block_out_channels.len() {
            cells *= 4.0;
            add(channels, channels, 9.0 * frames * cells);
            if block < doublings {
                frames = 2.0 * frames - if begins { 1.0 } else { 0.0 };
            }
        }
        before = channels;
    }
    add(before, config.out_channels, 27.0 * frames * cells);
    kinds
}

/// What follows the last step, in steps: decoding.
pub fn after(job: &Job, speed: &Speed) -> f64 {
    let step = denoising(job).seconds(speed) / job.steps as f64 / job.segments.len() as f64;
    let pixels = (job.width * job.height * job.frames) as f64;
    (decoding(job).seconds(speed) + pixels * speed.pixel) / step
}
