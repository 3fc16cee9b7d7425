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
//! An edit has two timelines on one axis ([`ChunkPlan::twice`]): the video as it was, and its edited version. Where the
//! edited one reads keys and values of the other, a window and its edited twin go through the network together, every row of
//! the twin beside the row it stands for.

use crate::attention::{Branch, Fork, Half, Reference};
use crate::timeline::{self, ChunkPlan};
use std::ops::RangeInclusive;

/// The timelines of a plan at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    One,
    /// A video and its edited version.
    Two {
        /// Whether the edited version reads keys and values of the other.
        reading: bool,
        /// Whether the other is still wanted, to be read or to be seen. One that is not goes on with the estimates of the
        /// edited version.
        source: bool,
    },
}

/// The passes of a step, in order. `halves`: those that the guidance needs. `layers`: the first and the last of those in which joined windows share at this step.
/// `entering`: by window, the estimates that enter the blend.
pub fn passes<'a>(
    plan: &ChunkPlan,
    lines: Lines,
    halves: &[Half],
    layers: Option<RangeInclusive<usize>>,
    entering: impl Fn(usize) -> &'a [timeline::Estimate],
) -> Vec<RowPlan> {
    let one = |window: usize| match &layers {
        Some(layers) => shared(plan, window, halves, layers.clone(), entering(window)),
        None => plain(plan, window, halves),
    };
    let count = plan.windows.len();
    match lines {
        Lines::One | Lines::Two { reading: false, source: true } => (0..count).map(one).collect(),
        Lines::Two { reading: true, .. } => (0..count / 2).map(|window| paired(plan, one(window))).collect(),
        Lines::Two { reading: false, source: false } => (count / 2..count)
            .map(|window| {
                let mut pass = one(window);
                let source = window - count / 2;
                pass.estimates.extend(pass.estimates.clone().into_iter().map(|e| WindowRows { window: source, ..e }));
                pass
            })
            .collect(),
    }
}

/// A pass over a window, with its edited twin: every row has one, on the twin's latents and text, that refers to it.
fn paired(plan: &ChunkPlan, pass: RowPlan) -> RowPlan {
    let (windows, texts) = (plan.windows.len() / 2, plan.texts.len() / 2);
    let twin = |row: usize, branch: &Branch| Branch {
        window: branch.window + windows,
        prompt: branch.prompt + texts,
        reference: Some(Reference::Row(row)),
        ..branch.clone()
    };
    let RowPlan { mut rows, mut forks, mut estimates } = pass;
    let mut before = rows.len(); // rows of the window itself
    rows.extend(rows.clone().iter().enumerate().map(|(row, branch)| twin(row, branch)));
    for fork in &mut forks {
        let own = fork.rows.clone();
        fork.rows.extend(own.iter().enumerate().map(|(row, (from, branch))| (from + before, twin(row, branch))));
        before = own.len();
    }
    estimates.extend(estimates.clone().into_iter().map(|e| WindowRows {
        window: e.window + windows,
        rows: e.rows.iter().map(|row| row + before).collect(),
        ..e
    }));
    RowPlan { rows, forks, estimates }
}

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
    pub window: usize,
    /// How it was made; none where it stands for all estimates of its window, because nothing is shared.
    pub kind: Option<timeline::Estimate>,
    /// One for each half of the step.
    pub rows: Vec<usize>,
}

/// A pass over one window that shares nothing.
fn plain(plan: &ChunkPlan, window: usize, halves: &[Half]) -> RowPlan {
    let prompt = plan.windows[window].text;
    let rows: Vec<Branch> = halves.iter().map(|&half| Branch { half, window, prompt, reference: None }).collect();
    let estimate = WindowRows { window, kind: None, rows: (0..rows.len()).collect() };
    RowPlan { rows, forks: Vec::new(), estimates: vec![estimate] }
}

/// A pass over one window of a step that shares in `layers` (the first and the last of those that do). `entering`: the
/// estimates of the window that enter the blend.
fn shared(
    plan: &ChunkPlan,
    window: usize,
    halves: &[Half],
    layers: RangeInclusive<usize>,
    entering: &[timeline::Estimate],
) -> RowPlan {
    let alone = plain(plan, window, halves);
    if !plan.windows[window].joined {
        return alone; // at most it is read
    }
    let read = plan.windows.get(window + 1).is_some_and(|next| next.joined);
    let finished = entering.contains(&timeline::Estimate::Plain);
    let reference = Some(Reference::Banked { window: window - 1 });
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
        Some(WindowRows { window, kind: Some(kind), rows })
    };
    let estimates = entering.iter().filter_map(estimate).collect();
    RowPlan { rows: alone.rows, forks, estimates }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Blend, BlendMode};

    const HALVES: &[Half] = &[Half::UNCOND, Half::COND];

    fn plan(windows: usize) -> ChunkPlan {
        ChunkPlan::even(&[windows], 5, 2, 0)
    }

    /// Rows after the fork before layer 3, rows at the end, and estimates as whether they are shared, and their rows.
    fn parts(plan: &ChunkPlan, window: usize, mode: BlendMode) -> (usize, usize, Vec<(bool, Vec<usize>)>) {
        let blend = Blend::new(plan, mode);
        let rows = shared(plan, window, HALVES, 3..=4, blend.estimates(window));
        let after = rows.forks.first().map_or(rows.rows.len(), |fork| fork.rows.len());
        let end = rows.forks.last().map_or(rows.rows.len(), |fork| fork.rows.len());
        assert!(rows.forks.iter().zip([3, 5]).all(|(fork, layer)| fork.layer == layer));
        let kind = |estimate: &WindowRows| estimate.kind == Some(timeline::Estimate::Shared);
        (after, end, rows.estimates.iter().map(|e| (kind(e), e.rows.clone())).collect())
    }

    #[test]
    fn rows_part_where_a_window_is_both_source_and_target() {
        let (repo, paper) = (BlendMode::Repo, BlendMode::Paper);
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
        let blend = Blend::new(&plan, BlendMode::Repo);
        let rows = |halves: &[Half]| {
            let rows = shared(&plan, 1, halves, 3..=4, blend.estimates(1));
            let estimates = rows.estimates.iter().map(|estimate| estimate.rows.clone()).collect::<Vec<_>>();
            (rows.rows.len(), rows.forks[0].rows.len(), estimates)
        };
        assert_eq!(rows(&[Half::COND]), (1, 2, vec![vec![0], vec![1]]));
        let three = [Half::NONE, Half::UNCOND, Half::COND];
        assert_eq!(rows(&three), (3, 6, vec![vec![0, 2, 4], vec![1, 3, 5]]));
    }

    #[test]
    fn every_row_of_an_edited_window_stands_beside_the_one_it_reads() {
        let once = plan(3);
        let plan = once.twice(1);
        for (mode, forked) in [(BlendMode::Repo, vec![4]), (BlendMode::Paper, vec![4, 2])] {
            let blend = Blend::lines(&plan, mode, 2);
            let reading = Lines::Two { reading: true, source: true };
            let passes = passes(&plan, reading, HALVES, Some(3..=4), |window| blend.estimates(window));
            assert_eq!(passes.len(), 3, "a pass has both versions of a window");
            let pass = &passes[1];
            assert_eq!(pass.rows.len(), 4);
            assert_eq!(pass.forks.iter().map(|fork| fork.rows.len() / 2).collect::<Vec<_>>(), forked);
            let stages = pass.forks.iter().map(|fork| fork.rows.iter().map(|(_, branch)| branch.clone()).collect());
            for rows in std::iter::once(pass.rows.clone()).chain(stages) {
                let (sources, twins) = rows.split_at(rows.len() / 2);
                for (row, (source, twin)) in sources.iter().zip(twins).enumerate() {
                    assert_eq!((twin.window, twin.prompt), (source.window + 3, source.prompt + once.texts.len()));
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
                assert_eq!((twin.window, &twin.rows), (source.window + 3, &rows));
            }
        }
    }

    #[test]
    fn a_source_that_is_not_wanted_any_more_costs_nothing() {
        let plan = plan(3).twice(1);
        let blend = Blend::lines(&plan, BlendMode::Repo, 2);
        let of = |source| {
            passes(&plan, Lines::Two { reading: false, source }, HALVES, None, |window| blend.estimates(window))
        };
        assert_eq!(of(true).len(), 6);
        let alone = of(false);
        assert_eq!(alone.len(), 3);
        for (window, pass) in alone.iter().enumerate() {
            assert!(pass.rows.iter().all(|row| row.window == window + 3 && row.reference.is_none()));
            assert_eq!(pass.estimates.iter().map(|estimate| estimate.window).collect::<Vec<_>>(), [window + 3, window]);
        }
    }

    #[test]
    fn windows_that_are_not_joined_read_nothing() {
        let mut plan = plan(4);
        plan.windows[2].joined = false;
        for mode in [BlendMode::Repo, BlendMode::Paper] {
            let blend = Blend::new(&plan, mode);
            let rows = shared(&plan, 2, HALVES, 3..=4, blend.estimates(2));
            assert_eq!(rows, super::plain(&plan, 2, HALVES));
            // nobody reads window 1
            let rows = shared(&plan, 1, HALVES, 3..=4, blend.estimates(1));
            assert_eq!(rows.forks.len(), 1);
            assert_eq!(rows.forks[0].rows.len(), if mode == BlendMode::Repo { 4 } else { 2 });
        }
        assert_eq!(shared(&ChunkPlan::single(5), 0, HALVES, 3..=4, &[timeline::Estimate::Plain]).forks, []);
    }
}
