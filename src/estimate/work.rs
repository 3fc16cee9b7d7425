//! How much arithmetic a stage takes: multiply-adds of the matrix products and convolutions, which are nearly all of it; and
//! how long that takes at the speed of a machine.

use crate::guidance;
use crate::job::{Job, Maps, Segment, Stage};
use crate::models::architecture::{Kinds, RowWork};
use crate::models::rife;
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
    fn add(&mut self, times: f64, linear: &Kinds, attention: f64) {
        self.linear.small += times * linear.small;
        self.linear.wide += times * linear.wide;
        self.attention += times * attention;
    }

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

/// All steps that a stage takes.
pub fn denoising(stage: &Stage) -> Denoising {
    let (Some(streaming), Some(beside)) = (&stage.method.streaming, stage.model.architecture.streaming()) else {
        return of_windows(stage);
    };
    let mut others = stage.clone();
    let mut work = Denoising::default();
    if let (Some(first), true) = (stage.of_first_chunk(), streaming.first.is_some()) {
        work = of_windows(&Stage { segments: vec![others.segments.remove(0)], ..first });
    }
    let (_, height, width) = stage.size.latents;
    let (own, row) = (of_windows(&others), beside.row_work((height, width)));
    let (rows, chunks) = (rows(&others), others.segments.len() as f64);
    work.add(1.0, &own.linear, own.attention);
    work.add(chunks * rows, &row.linear, row.attention);
    work.layer_windows += own.layer_windows + chunks * (stage.sampler.steps * row.layers) as f64;
    work
}

/// Rows of a window over all steps.
fn rows(stage: &Stage) -> f64 {
    let rule = stage.rule();
    // no rule's halves depend on the timestep
    let step = |index| guidance::Step { index, count: stage.sampler.steps, timestep: 0.0, table: stage.sampler.table };
    let first = stage.input.first_step(stage.sampler.steps);
    let is_computed = |index: &usize| stage.cache.as_ref().is_none_or(|cache| cache.computed[*index]);
    (first..stage.sampler.steps).filter(is_computed).map(|index| rule.halves(&step(index)).len() as f64).sum()
}

/// Rows of steps that take what others have kept.
fn taken_rows(stage: &Stage) -> f64 {
    let Some(cache) = &stage.cache else { return 0.0 };
    let halves = stage.rule().most_halves(stage.sampler.steps) as f64;
    let first = stage.input.first_step(stage.sampler.steps);
    cache.computed.iter().skip(first).filter(|&&computed| !computed).count() as f64 * halves
}

fn of_windows(stage: &Stage) -> Denoising {
    let (_, height, width) = stage.size.latents;
    let (rows, taken, computed) = (rows(stage), taken_rows(stage), stage.computed_steps() as f64);
    // an edit's source is denoised beside it while it is needed
    let source = stage.controls.edit.as_ref().map_or(0, |edit| edit.source_steps(stage.sampler.steps));
    // a pass that sees where the foreground is comes before
    let watched = Maps::of_foreground(stage).ok().flatten();
    let watched = watched.map_or(0, |maps| maps.until(stage.sampler.steps) - stage.first_step());
    let watched = watched as f64 / stage.sampler.steps as f64;
    let looks = stage.sampler.looks() as f64;
    let again = looks * (1.0 + watched + twice(stage)) * (1.0 + source as f64 / stage.sampler.steps as f64);
    let mut work = Denoising::default();
    for window in stage.segments.iter().flat_map(|segment| &segment.plan.windows) {
        let architecture = &stage.model.architecture;
        let mut row = architecture.row_work(window.len, (height, width));
        if let Some(stretches) = stage.method.free_noise.and_then(|method| method.windows(window.len)) {
            let more = architecture.stretches_work(window.len, stretches, (height, width));
            row.linear.small += more.linear.small;
            row.linear.wide += more.linear.wide;
            row.attention += more.attention;
        }
        work.add(rows * again, &row.linear, row.attention);
        work.layer_windows += computed * again * row.layers as f64;
        if let (Some(placed), Some(own)) = (&stage.method.placed, stage.model.architecture.subject()) {
            if placed.picture.is_some() {
                work.attention += rows * own.reference_work(window.len, (height, width));
            }
            if let (Some(_), Some(control)) = (&placed.boxes, own.box_control()) {
                let row = control.row_work(stage.model.architecture.text().length, window.len, (height, width));
                work.add(rows, &row.linear, row.attention);
                work.layer_windows += computed * row.layers as f64;
            }
        }
        let partly = architecture.taken_work(window.len, (height, width));
        work.add(taken, &partly.linear, partly.attention);
        for input in &stage.method.control_inputs {
            let text = stage.model.architecture.text().length;
            let row = input.model.architecture.row_work(text, window.len, (height, width));
            work.add(rows, &row.linear, row.attention);
            work.linear.small += input.model.architecture.hint_work(window.len, (height, width));
            work.layer_windows += computed * row.layers as f64;
        }
    }
    work
}

/// What a step that is not computed takes of one that is.
pub fn taken_cost(stage: &Stage) -> f64 {
    let (_, height, width) = stage.size.latents;
    let frames = stage.segments.iter().flat_map(|s| &s.plan.windows).map(|window| window.len).max().unwrap_or(0);
    let all = |work: RowWork| work.linear.small + work.linear.wide + work.attention;
    let architecture = &stage.model.architecture;
    let (whole, partly) =
        (architecture.row_work(frames, (height, width)), architecture.taken_work(frames, (height, width)));
    // what stands before the blocks and behind them
    (all(partly) / all(whole).max(1.0)).max(0.02)
}

/// Passes of windows through layers as the method's own program makes them: every pair of joined windows as a batch, so
/// inner windows twice in every layer of every step.
pub fn reference_layer_windows(stage: &Stage) -> f64 {
    if stage.method.streaming.is_some() {
        return denoising(stage).layer_windows;
    }
    let of_segment = |segment: &Segment| match segment.plan.windows.len() {
        windows if stage.controls.sharing.is_some() && windows > 1 => 2 * (windows - 1),
        windows => windows,
    };
    let windows: usize = stage.segments.iter().map(of_segment).sum();
    (windows * stage.sampler.steps * stage.model.architecture.main_sites().layers) as f64
}

/// The share of the work that is done twice because a window is source and target: of steps times layers, for inner windows.
fn twice(stage: &Stage) -> f64 {
    let Some(sharing) = &stage.controls.sharing else { return 0.0 };
    let depth = stage.model.architecture.main_sites().layers;
    let layers = (0..stage.sampler.steps).filter_map(|step| Some(depth - sharing.at(step)?.start())).sum::<usize>();
    let inner = |segment: &Segment| {
        segment.plan.windows.windows(2).filter(|pair| pair.iter().all(|window| window.joined)).count()
    };
    let windows: usize = stage.segments.iter().map(|segment| segment.plan.windows.len()).sum();
    let inner: usize = stage.segments.iter().map(inner).sum();
    layers as f64 / (stage.sampler.steps * depth) as f64 * inner as f64 / windows as f64
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

/// The whole video of a stage.
pub fn decoding(stage: &Stage) -> Decoding {
    let (_, height, width) = stage.size.latents;
    let mut work = Decoding::default();
    if stage.method.keyframes {
        return work; // the next stage has them in its clips
    }
    for segment in &stage.segments {
        let frames = segment.plan.keep - segment.padding;
        let Kinds { small, wide } = stage.model.architecture.decoding_work(frames, height * width, true);
        let shown = stage.shown() as f64;
        work.conv.small += shown * small;
        work.conv.wide += shown * wide;
        work.chunks += shown * stage.decode.chunks(frames).len() as f64;
    }
    work
}

/// Multiply-adds of the frames put between those that are made.
pub fn interpolation(job: &Job) -> f64 {
    let size = job.last().size;
    let made = job.last().frames();
    (job.output.frames(made) - made) as f64 * rife::work(size.width, size.height)
}

/// What follows the last step, in steps: decoding.
pub fn after(stage: &Stage, speed: &Speed) -> f64 {
    let step = denoising(stage).seconds(speed) / stage.sampler.steps as f64 / stage.segments.len() as f64;
    let pixels = (stage.size.width * stage.size.height * stage.frames()) as f64;
    (decoding(stage).seconds(speed) + pixels * speed.pixel) / step
}
