//! Which frames listen to which words: what [`super::relay`] is told of a run.

/// How the weight of a scene's words falls beside its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    pub inner: f64,
    /// Latent frames.
    pub tail: f64,
    pub epsilon: f64,
}

impl Profile {
    /// What is taken from the logits of a scene of the latent frames `[start, end)` at latent frame `frame`; infinite where its
    /// words are not heard at all.
    pub fn penalty(&self, (start, end): (usize, usize), frame: f64) -> f64 {
        let (first, last) = (start as f64, end as f64 - 1.0);
        let half = (last - first) / 2.0;
        let inner = self.inner * half;
        let beyond = ((frame - (first + last) / 2.0).abs() - inner).max(0.0);
        let sigma = (half - inner + self.tail) / (-2.0 * self.epsilon.ln()).sqrt();
        // a scene of one frame without a tail, at its frame
        if beyond == 0.0 { 0.0 } else { beyond * beyond / (2.0 * sigma * sigma) }
    }
}

/// A scene of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Its latent frames on the timeline, the second one excluded.
    pub time: (usize, usize),
}

/// Which frames listen to which tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The scenes of each conditioning of the plan; none of a text that all frames hear.
    pub texts: Vec<Vec<Route>>,
    /// By timeline and window, its first latent frame.
    pub starts: Vec<Vec<usize>>,
    /// Latent frames that one token stands for.
    pub patch: usize,
}
