//! Which rows go through the network together, and which of its outputs are estimates of which window.
//!
//! A pass is one window: a row for each half of the guidance. Windows go one after the other, so memory does not grow
//! with the video.
//!
//! Where keys and values are shared (DiTCtrl, arXiv 2412.18597; spec/ditctrl.md 3 and 4) the windows are walked in the same
//! way. The reference runs every adjacent pair as a batch, so an inner window twice in every step, once as the source of the
//! next window and once as the target of the one before. Both times it is the same up to the first sharing layer; so here a
//! window passes those layers once and its rows part before that layer: a plain row, whose keys and values a bank hands on to
//! the next window, and a shared row, which reads what the window before left there. In steps without sharing nothing parts.
//! A plain row whose estimate nobody needs (the paper's blend has one for each window) ends after the last sharing layer.
//!
//! Where a timeline reads a companion (an edited version its source, a video a reference picture), a window and the
//! companion's go through the network together, every row beside the row of the companion that it refers to. A companion
//! that nobody reads at a step is walked like any other timeline.
//!
//! Frames of an image model attend to the first one (Text2Video-Zero): it is a window of its own, whose rows refer to none; the
//! rows of all others refer to it by way of a bank.

use crate::attention::{Branch, Fork, Half, Reference};
use crate::job::Timeline;
use crate::timeline;
use std::ops::RangeInclusive;

/// One forward pass of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPlan {
    /// The rows the pass begins with.
    pub rows: Vec<Branch>,
    pub forks: Vec<Fork>,
    /// What the rows it ends with are good for.
    pub estimates: Vec<WindowRows>,
}

/// An estimate of one window, from rows of the network's output.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowRows {
    pub timeline: usize,
    pub window: usize,
    /// How it was made; none where it stands for all estimates of its window, because nothing is shared.
    pub kind: Option<timeline::Estimate>,
    /// One for each half of the step.
    pub rows: Vec<usize>,
}

/// The passes of a step, in order. `halves`: those that the guidance needs. `layers`: the first and the last of those in
/// which joined windows share at this step. `entering`: by timeline and window, the estimates that enter the blend.
pub fn passes<'a>(
    timelines: &[Timeline],
    step: usize,
    halves: &[Half],
    layers: Option<RangeInclusive<usize>>,
    entering: impl Fn(usize, usize) -> &'a [timeline::Estimate],
) -> Vec<RowPlan> {
    let one = |index: usize, window: usize| match &layers {
        Some(layers) => shared(timelines, (index, window), halves, layers.clone(), entering(index, window)),
        None => plain(timelines, (index, window), halves),
    };
    let alive = |timeline: &Timeline| step < timeline.steps;
    let read: Vec<usize> =
        timelines.iter().filter(|timeline| alive(timeline)).filter_map(|timeline| timeline.read_at(step)).collect();
    let mut passes = Vec::new();
    for (index, timeline) in timelines.iter().enumerate().filter(|(_, timeline)| alive(timeline)) {
        let windows = timeline.plan.windows.len();
        if let Some(companion) = timeline.read_at(step) {
            let last = timelines[companion].plan.windows.len() - 1;
            passes.extend((0..windows).map(|window| {
                let mut pass = one(companion, window.min(last));
                if window > last {
                    pass.estimates.clear(); // they have come
                }
                beside(timelines, pass, (index, window), halves.len())
            }));
        } else if !read.contains(&index) && timeline.time.is_none() {
            passes.extend((0..windows).map(|window| one(index, window)));
        }
    }
    for pass in &mut passes {
        pass.estimates.retain(|estimate| timelines[estimate.timeline].time.is_none());
    }
    passes
}

/// The row of a window for a half, that refers to no other but an anchor.
fn branch(timelines: &[Timeline], (timeline, window): (usize, usize), half: Half) -> Branch {
    let before: usize = timelines[..timeline].iter().map(|timeline| timeline.plan.texts.len()).sum();
    let prompt = before + timelines[timeline].plan.windows[window].text;
    let anchored = timelines[timeline].anchored && window > 0;
    let reference = anchored.then_some(Reference::Banked { timeline, window: 0 });
    Branch { timeline, reference, ..Branch::new(half, window, prompt) }
}

/// A pass over a companion's window, with one over a window of a timeline that reads it: every row of the companion has one
/// of the reader beside it, that refers to it.
fn beside(timelines: &[Timeline], pass: RowPlan, reader: (usize, usize), halves: usize) -> RowPlan {
    let twin =
        |row: usize, of: &Branch| Branch { reference: Some(Reference::Row(row)), ..branch(timelines, reader, of.half) };
    let RowPlan { mut rows, mut forks, mut estimates } = pass;
    let mut before = rows.len(); // rows of the companion itself
    rows.extend(rows.clone().iter().enumerate().map(|(row, of)| twin(row, of)));
    for fork in &mut forks {
        let own = fork.rows.clone();
        fork.rows.extend(own.iter().enumerate().map(|(row, (from, of))| (from + before, twin(row, of))));
        before = own.len();
    }
    let (timeline, window) = reader;
    if estimates.is_empty() {
        estimates.push(WindowRows { timeline, window, kind: None, rows: (before..before + halves).collect() });
        return RowPlan { rows, forks, estimates };
    }
    estimates.extend(estimates.clone().into_iter().map(|e| WindowRows {
        timeline,
        window,
        rows: e.rows.iter().map(|row| row + before).collect(),
        ..e
    }));
    RowPlan { rows, forks, estimates }
}

/// A pass over one window that shares nothing.
fn plain(timelines: &[Timeline], place: (usize, usize), halves: &[Half]) -> RowPlan {
    let rows: Vec<Branch> = halves.iter().map(|&half| branch(timelines, place, half)).collect();
    let (timeline, window) = place;
    let estimate = WindowRows { timeline, window, kind: None, rows: (0..rows.len()).collect() };
    RowPlan { rows, forks: Vec::new(), estimates: vec![estimate] }
}

/// A pass over one window of a step that shares in `layers` (the first and the last of those that do). `entering`: the
/// estimates of the window that enter the blend.
fn shared(
    timelines: &[Timeline],
    place: (usize, usize),
    halves: &[Half],
    layers: RangeInclusive<usize>,
    entering: &[timeline::Estimate],
) -> RowPlan {
    let alone = plain(timelines, place, halves);
    let (timeline, window) = place;
    let windows = &timelines[timeline].plan.windows;
    if !windows[window].joined {
        return alone; // at most it is read
    }
    let read = windows.get(window + 1).is_some_and(|next| next.joined);
    let finished = entering.contains(&timeline::Estimate::Plain);
    let reference = Some(Reference::Banked { timeline, window: window - 1 });
    let mut parted = Vec::new(); // by half: the plain row, the shared row
    for (row, branch) in alone.rows.iter().enumerate() {
        parted.extend((read || finished).then(|| (row, branch.clone())));
        parted.push((row, Branch { reference, ..branch.clone() }));
    }
    let mut forks = vec![Fork { layer: *layers.start(), rows: parted.clone() }];
    if read && !finished {
        let rest = parted.iter().enumerate().filter(|(_, (_, branch))| branch.reference.is_some());
        let rest: Vec<_> = rest.map(|(row, (_, branch))| (row, branch.clone())).collect();
        parted = rest.clone();
        forks.push(Fork { layer: layers.end() + 1, rows: rest });
    }
    let estimate = |&kind: &timeline::Estimate| {
        let shared = kind == timeline::Estimate::Shared;
        let row = |half: &Half| {
            parted.iter().position(|(_, branch)| (branch.half, branch.reference.is_some()) == (*half, shared))
        };
        let rows = halves.iter().map(row).collect::<Option<Vec<usize>>>()?;
        Some(WindowRows { timeline, window, kind: Some(kind), rows })
    };
    let estimates = entering.iter().filter_map(estimate).collect();
    RowPlan { rows: alone.rows, forks, estimates }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Reads, Sharing, TimelineRole};
    use crate::timeline::{Blend, BlendMode, ChunkPlan};

    const HALVES: &[Half] = &[Half::UNCOND, Half::COND];

    fn plan(windows: usize) -> ChunkPlan {
        ChunkPlan::even(&[windows], 5, 2, 0)
    }

    fn alone(plan: &ChunkPlan) -> [Timeline; 1] {
        [Timeline::output(plan.clone())]
    }

    /// A companion of `source` that is read in steps 1 and 2, and needed in steps 0 to 2.
    fn reading(source: ChunkPlan, output: ChunkPlan) -> [Timeline; 2] {
        let source = Timeline { role: TimelineRole::Companion, steps: 3, ..Timeline::output(source) };
        let (steps, layers) = ("1-2".parse().unwrap(), "all".parse().unwrap());
        let reads = Some(Reads { timeline: 0, sharing: Sharing { steps, layers, depth: 5 } });
        [source, Timeline { reads, ..Timeline::output(output) }]
    }

    /// Rows after the fork before layer 3, rows at the end, and estimates as whether they are shared, and their rows.
    fn parts(plan: &ChunkPlan, window: usize, mode: BlendMode) -> (usize, usize, Vec<(bool, Vec<usize>)>) {
        let blend = Blend::new(plan, mode);
        let rows = shared(&alone(plan), (0, window), HALVES, 3..=4, blend.estimates(window));
        let after = rows.forks.first().map_or(rows.rows.len(), |fork| fork.rows.len());
        let end = rows.forks.last().map_or(rows.rows.len(), |fork| fork.rows.len());
        assert!(rows.forks.iter().zip([3, 5]).all(|(fork, layer)| fork.layer == layer));
        let kind = |estimate: &WindowRows| estimate.kind == Some(timeline::Estimate::Shared);
        (after, end, rows.estimates.iter().map(|e| (kind(e), e.rows.clone())).collect())
    }

    #[test]
    fn rows_part_where_a_window_is_both_source_and_target() {
        let (repo, paper) = (BlendMode::Reference, BlendMode::Paper);
        let plan = plan(3);
        for mode in [repo, paper] {
            assert_eq!(parts(&plan, 0, mode), (2, 2, vec![(false, vec![0, 1])]));
            assert_eq!(parts(&plan, 2, mode), (2, 2, vec![(true, vec![0, 1])]));
        }
        assert_eq!(parts(&plan, 1, repo), (4, 4, vec![(false, vec![0, 2]), (true, vec![1, 3])]));
        assert_eq!(
            parts(&plan, 1, paper),
            (4, 2, vec![(true, vec![0, 1])]),
            "the source ends with the last sharing layer"
        );
    }

    #[test]
    fn there_are_as_many_rows_as_halves() {
        let plan = plan(3);
        let blend = Blend::new(&plan, BlendMode::Reference);
        let rows = |halves: &[Half]| {
            let rows = shared(&alone(&plan), (0, 1), halves, 3..=4, blend.estimates(1));
            let estimates = rows.estimates.iter().map(|estimate| estimate.rows.clone()).collect::<Vec<_>>();
            (rows.rows.len(), rows.forks[0].rows.len(), estimates)
        };
        assert_eq!(rows(&[Half::COND]), (1, 2, vec![vec![0], vec![1]]));
        let three = [Half::NONE, Half::UNCOND, Half::COND];
        assert_eq!(rows(&three), (3, 6, vec![vec![0, 2, 4], vec![1, 3, 5]]));
    }

    #[test]
    fn every_row_of_a_reader_stands_beside_the_one_it_reads() {
        let source = plan(3);
        let timelines = reading(source.clone(), source.on_prompts_from(1));
        for (mode, forked) in [(BlendMode::Reference, vec![4]), (BlendMode::Paper, vec![4, 2])] {
            let blend = Blend::new(&source, mode);
            let passes = passes(&timelines, 1, HALVES, Some(3..=4), |_, window| blend.estimates(window));
            assert_eq!(passes.len(), 3, "a pass has both versions of a window");
            let pass = &passes[1];
            assert_eq!(pass.rows.len(), 4);
            assert_eq!(pass.forks.iter().map(|fork| fork.rows.len() / 2).collect::<Vec<_>>(), forked);
            let stages = pass.forks.iter().map(|fork| fork.rows.iter().map(|(_, branch)| branch.clone()).collect());
            for rows in std::iter::once(pass.rows.clone()).chain(stages) {
                let (sources, twins) = rows.split_at(rows.len() / 2);
                for (row, (source, twin)) in sources.iter().zip(twins).enumerate() {
                    assert_eq!((source.timeline, source.window, source.prompt), (0, 1, 0));
                    assert_eq!((twin.timeline, twin.window, twin.prompt), (1, 1, 1));
                    assert_eq!((twin.half, twin.reference), (source.half, Some(Reference::Row(row))));
                    assert!(source.reference_row().is_none());
                }
            }
            let mut before = 2;
            for fork in &pass.forks {
                let (sources, twins) = fork.rows.split_at(fork.rows.len() / 2);
                assert!(sources.iter().zip(twins).all(|(source, twin)| source.0 + before == twin.0));
                before = sources.len();
            }
            let (sources, twins) = pass.estimates.split_at(pass.estimates.len() / 2);
            for (source, twin) in sources.iter().zip(twins) {
                let rows: Vec<usize> = source.rows.iter().map(|row| row + before).collect();
                assert_eq!((source.timeline, twin.timeline), (0, 1));
                assert_eq!((twin.window, &twin.rows), (source.window, &rows));
            }
        }
    }

    #[test]
    fn a_companion_that_is_not_needed_any_more_costs_nothing() {
        let timelines = reading(plan(3), plan(3));
        let blend = Blend::new(&plan(3), BlendMode::Reference);
        let of = |step| passes(&timelines, step, HALVES, None, |_, window| blend.estimates(window));
        assert_eq!([0, 1, 2, 3].map(|step| of(step).len()), [6, 3, 3, 3]);
        for (window, pass) in of(3).iter().enumerate() {
            assert!(pass.rows.iter().all(|row| (row.timeline, row.window, row.reference) == (1, window, None)));
            let estimates = pass.estimates.iter().map(|estimate| (estimate.timeline, estimate.window));
            assert_eq!(estimates.collect::<Vec<_>>(), [(1, window)]);
        }
    }

    #[test]
    fn a_clean_frame_stands_in_every_pass_and_is_not_estimated() {
        let mut timelines = reading(ChunkPlan::single(1), plan(3).on_prompts_from(1));
        timelines[0] = Timeline::reference(ChunkPlan::single(1), 0.0);
        let blend = Blend::new(&plan(3), BlendMode::Reference);
        for (step, rows) in [(0, 2), (1, 4)] {
            let passes = passes(&timelines, step, HALVES, None, |_, window| blend.estimates(window));
            assert_eq!(passes.len(), 3);
            for (window, pass) in passes.iter().enumerate() {
                let places: Vec<_> = pass.rows.iter().map(|row| (row.timeline, row.window)).collect();
                assert_eq!(places, [vec![(0, 0); rows - 2], vec![(1, window); 2]].concat());
                let rows = vec![rows - 2, rows - 1];
                assert_eq!(pass.estimates, [WindowRows { timeline: 1, window, kind: None, rows }]);
            }
        }
    }

    #[test]
    fn windows_that_are_not_joined_read_nothing() {
        let mut plan = plan(4);
        plan.windows[2].joined = false;
        for mode in [BlendMode::Reference, BlendMode::Paper] {
            let blend = Blend::new(&plan, mode);
            let rows = shared(&alone(&plan), (0, 2), HALVES, 3..=4, blend.estimates(2));
            assert_eq!(rows, super::plain(&alone(&plan), (0, 2), HALVES));
            // nobody reads window 1
            let rows = shared(&alone(&plan), (0, 1), HALVES, 3..=4, blend.estimates(1));
            assert_eq!(rows.forks.len(), 1);
            assert_eq!(rows.forks[0].rows.len(), if mode == BlendMode::Reference { 4 } else { 2 });
        }
        assert_eq!(
            shared(&alone(&ChunkPlan::single(5)), (0, 0), HALVES, 3..=4, &[timeline::Estimate::Plain]).forks,
            []
        );
    }
}
