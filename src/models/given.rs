//! What a network can be told of a video beside its text: frames that are given, and numbers of the clip.

use std::fmt;

/// How a network takes given frames.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum GivenFrames {
    /// Not at all.
    #[default]
    No,
    /// The first one alone, as latents beside the noise on the channel axis, with zeros for all others.
    Beside,
    /// Any of them, in the place of noise, as far as it was trained.
    InPlace(InPlace),
}

/// Given frames in the place of noise.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InPlace {
    /// The names of what it was trained for ([`Task`]).
    pub tasks: Vec<String>,
    /// Whether training left given frames out at times, so that guidance may.
    pub drops: bool,
    /// The time that given frames are told; none where that is the time of all others.
    pub time: Option<f64>,
}

/// What is made of given frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A clip of a text alone.
    Text,
    /// A clip that begins with a given frame.
    Image,
    /// A clip that begins with so many.
    Predict(usize),
    /// A clip with given frames at other places.
    Between,
    /// A clip of which every other frame is given.
    Twice,
    /// A clip of frames that are far from each other.
    Keyframes,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Text => f.write_str("t2v"),
            Self::Image => f.write_str("ti2v"),
            Self::Predict(count) => write!(f, "predict{count}"),
            Self::Between => f.write_str("interp"),
            Self::Twice => f.write_str("tup2"),
            Self::Keyframes => f.write_str("keyframes"),
        }
    }
}

impl InPlace {
    /// Whether it was trained for a task.
    pub fn has(&self, task: Task) -> bool {
        self.tasks.contains(&task.to_string())
    }

    /// How many given frames a clip may begin with, where it was trained to go on from some: the least of those.
    pub fn predicts(&self) -> Option<usize> {
        let counts = self.tasks.iter().filter_map(|task| task.strip_prefix("predict")?.parse().ok());
        counts.filter(|&count: &usize| count > 0).min()
    }
}

/// A clip as a network is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clip {
    /// Pixels.
    pub height: usize,
    pub width: usize,
    /// Frames of video.
    pub frames: usize,
    /// Whether they are far from each other.
    pub keyframes: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_have_the_names_of_configurations() {
        let tasks = ["t2v", "ti2v", "predict4", "predict2", "predictx", "predict0"].map(str::to_owned).to_vec();
        let given = InPlace { tasks, ..InPlace::default() };
        assert!(given.has(Task::Text) && given.has(Task::Predict(4)) && !given.has(Task::Predict(3)));
        assert!(!given.has(Task::Between) && !given.has(Task::Twice) && !given.has(Task::Keyframes));
        assert_eq!(given.predicts(), Some(2));
        assert_eq!(InPlace::default().predicts(), None);
    }
}
