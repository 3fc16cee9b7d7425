//! The embedded time of a row, by stretches of its tokens.

use crate::attention::{Row, Time};
use candle_core::{Result, Tensor, bail};

/// Activated time embeddings of a micro-batch, `[1, E]` where its rows have one time and `[B, E]` where they differ: that of
/// the text, and those of the video's tokens in order, each with the number of tokens it is for.
///
/// A text has no time of its own; it is modulated by that of the noisiest frame, which is the only one where all frames
/// share theirs. Tokens of a temporal patch likewise.
#[derive(Debug, Clone)]
pub(super) struct Times {
    pub text: Tensor,
    pub video: Vec<(usize, Tensor)>,
}

/// The times of the rows of a pass: each different one embedded once, and which of them each row has.
pub(super) struct RowTimes {
    times: Vec<Times>,
    of: Vec<usize>,
}

impl RowTimes {
    /// `grid`: frames of tokens, and tokens of each. `embed` makes the activated embedding `[1, E]` of one time.
    ///
    /// # Errors
    /// When a row's times are not one for each of its latent frames.
    pub fn new(rows: &[Row], grid: (usize, usize), embed: impl Fn(f64) -> Result<Tensor>) -> Result<Self> {
        let by_frame = rows.iter().any(|row| matches!(row.time, Time::Frames(_)));
        let (mut seen, mut times, mut of) = (Vec::<&Time>::new(), Vec::new(), Vec::with_capacity(rows.len()));
        for row in rows {
            let found = seen.iter().position(|time| **time == row.time);
            of.push(found.unwrap_or(seen.len()));
            if found.is_none() {
                seen.push(&row.time);
                times.push(Times::of(row, grid, by_frame, &embed)?);
            }
        }
        Ok(Self { times, of })
    }

    /// The rows change as a fork says.
    pub fn fork(&mut self, sources: &[usize]) {
        self.of = sources.iter().map(|&row| self.of[row]).collect();
    }

    /// Those of one row.
    pub fn row(&self, row: usize) -> &Times {
        &self.times[self.of[row]]
    }

    /// Those of some rows together.
    pub fn group(&self, rows: &[usize]) -> Result<Times> {
        let first = self.of[rows[0]];
        if rows.iter().all(|&row| self.of[row] == first) {
            return Ok(self.times[first].clone());
        }
        let cat = |part: &dyn Fn(&Times) -> Tensor| {
            Tensor::cat(&rows.iter().map(|&row| part(self.row(row))).collect::<Vec<_>>(), 0)
        };
        let text = cat(&|times| times.text.clone())?;
        let video = self.times[first].video.iter().enumerate();
        let video = video.map(|(index, (tokens, _))| Ok((*tokens, cat(&|times| times.video[index].1.clone())?)));
        let video = video.collect::<Result<Vec<_>>>()?;
        Ok(Times { text, video })
    }
}

impl Times {
    fn of(
        row: &Row,
        (frames, tokens): (usize, usize),
        by_frame: bool,
        embed: &impl Fn(f64) -> Result<Tensor>,
    ) -> Result<Self> {
        let times = match &row.time {
            Time::One(time) => {
                let text = embed(*time)?;
                let stretch = if by_frame { tokens } else { frames * tokens };
                let video = vec![(stretch, text.clone()); if by_frame { frames } else { 1 }];
                return Ok(Self { text, video });
            }
            Time::Frames(times) => times,
        };
        let latent_frames = row.latents.dim(0)?;
        if times.len() != latent_frames || frames == 0 {
            bail!("{} times for a row of {latent_frames} latent frames", times.len())
        }
        let noisiest = |times: &[f64]| times.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let video = times.chunks(latent_frames / frames).map(|times| Ok((tokens, embed(noisiest(times))?)));
        let video = video.collect::<Result<_>>()?;
        Ok(Self { text: embed(noisiest(times))?, video })
    }
}
