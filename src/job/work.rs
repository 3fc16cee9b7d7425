//! How much arithmetic a job takes: multiply-adds of the matrix products and convolutions, which are nearly all of it; and
//! how long that takes at the speed of a machine.

use super::{Job, Segment};
use crate::guidance;
use crate::models::architecture::Kinds;
use crate::run::Speed;

/// The work of the denoiser.
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
    let (_, height, width) = job.latents;
    let rule = job.rule();
    // no rule's halves depend on the timestep
    let step = |index| guidance::Step { index, count: job.steps, timestep: 0.0, table: job.table };
    let rows: f64 = (0..job.steps).map(|index| rule.halves(&step(index)).len() as f64).sum();
    // an edit's source is denoised beside it while it is needed
    let source = job.controls.edit.as_ref().map_or(0, |edit| edit.source_steps(job.steps));
    let again = (1.0 + twice(job)) * (1.0 + source as f64 / job.steps as f64);
    let mut work = Denoising::default();
    for window in job.segments.iter().flat_map(|segment| &segment.plan.windows) {
        let row = job.architecture.row_work(window.len, (height, width));
        work.linear.small += rows * again * row.linear.small;
        work.linear.wide += rows * again * row.linear.wide;
        work.attention += rows * again * row.attention;
        work.layer_windows += job.steps as f64 * again * row.layers as f64;
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
    (windows * job.steps * job.architecture.main_sites().layers) as f64
}

/// The share of the work that is done twice because a window is source and target: of steps times layers, for inner windows.
fn twice(job: &Job) -> f64 {
    let Some(sharing) = &job.controls.sharing else { return 0.0 };
    let depth = job.architecture.main_sites().layers;
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
    job.architecture.tokens(frames, (height, width))
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
        let Kinds { small, wide } = job.architecture.decoding_work(frames, height * width, true);
        let shown = job.shown() as f64;
        work.conv.small += shown * small;
        work.conv.wide += shown * wide;
        work.chunks += shown * job.decode.chunks(frames).len() as f64;
    }
    work
}

/// What follows the last step, in steps: decoding.
pub fn after(job: &Job, speed: &Speed) -> f64 {
    let step = denoising(job).seconds(speed) / job.steps as f64 / job.segments.len() as f64;
    let pixels = (job.width * job.height * job.frames) as f64;
    (decoding(job).seconds(speed) + pixels * speed.pixel) / step
}
