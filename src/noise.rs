//! All random numbers of the program: unit normal noise by (seed, stream, absolute latent frame, step).
//!
//! The value of a frame depends on these four numbers and on nothing else: not on the length of the video, the windows it
//! is cut into, the number of threads or the device (values are made on the CPU and uploaded).
//!
//! The algorithm, for anyone who needs the same values elsewhere:
//! 1. ChaCha with 8 rounds (Bernstein 2008), 64-bit block counter from 0, nonce 0. The key is seed, stream, frame and
//!    step, in this order, each a 64-bit little-endian integer; streams are numbered as in [`Stream`].
//! 2. The keystream read as 64-bit little-endian integers a, b, a, b, ...
//! 3. Each pair gives two values by Box and Muller (1958), in f64:
//!    `u = ((a >> 11) + 1) / 2^53` in (0, 1], `v = (b >> 11) / 2^53` in [0, 1), `r = sqrt(-2 ln u)`;
//!    `r cos(2 pi v)`, then `r sin(2 pi v)`. Logarithm, sine and cosine are those of `libm` (musl's), not the platform's.
//! 4. Rounded to f32. They fill a frame in channel, row, column order; of an odd count the last sine is left out.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "draws the random numbers")]

use candle_core::{Device, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use std::{f64::consts::TAU, ops::Range};

/// What noise is for. The numbers are part of the recipe: they must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Stream {
    /// The latents at the first step; the step is 0.
    Initial = 0,
    /// What a sampler adds at a step.
    Step = 1,
    /// Sampling from the autoencoder's distribution of a given video.
    Encode = 2,
    /// What a frame gets over latents that were moved to it; the step is 0.
    Frame = 3,
    /// In which order frames take noise that was used before ([`Noise::used_again`]): whole numbers; the frame is the first of
    /// the block, the step is 0.
    Order = 4,
    /// How many of its first frames a window leaves to the one before it ([`Noise::below`]); the frame is the window.
    Draw = 5,
}

/// The noise of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    pub seed: u64,
}

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The first `count` values of a frame.
    pub fn frame(&self, stream: Stream, frame: u64, step: u64, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        self.fill(stream, frame, step, &mut values);
        values
    }

    /// The noise of the latent frames `frames` with `(C, H, W)` each: `[F, C, H, W]` in f32.
    pub fn latents(
        &self,
        stream: Stream,
        frames: Range<usize>,
        step: u64,
        (c, h, w): (usize, usize, usize),
        device: &Device,
    ) -> Result<Tensor> {
        let count = c * h * w;
        let mut values = vec![0.0; frames.len() * count];
        if count > 0 {
            let frames = values.par_chunks_mut(count).zip(frames.clone().into_par_iter());
            frames.for_each(|(values, frame)| self.fill(stream, frame as u64, step, values));
        }
        Tensor::from_vec(values, (frames.len(), c, h, w), device) // [F, C, H, W]
    }

    /// For each of `frames` absolute frames the one whose noise it has, where only the first `window` have noise of their own
    /// (FreeNoise, arXiv 2310.15169): each block of `stride` frames after them has that of the `stride` frames `window` before
    /// it, shuffled (Fisher and Yates from the end, `n` taken below `i + 1` as the high half of `n (i + 1)`). `stride` is at
    /// least 1 and at most `window`.
    pub fn used_again(&self, frames: Range<usize>, window: usize, stride: usize) -> Vec<usize> {
        let mut sources: Vec<usize> = frames.clone().take(window).collect();
        let mut first = window;
        while first < frames.len() && (1..=window).contains(&stride) {
            let mut block = sources[first - window..first - window + stride].to_vec();
            let mut random = self.random(Stream::Order, (frames.start + first) as u64, 0);
            for i in (1..stride).rev() {
                let below = (u128::from(random.next_u64()) * (i as u128 + 1)) >> 64;
                block.swap(i, below as usize);
            }
            sources.extend(block);
            first += stride;
        }
        sources.truncate(frames.len());
        sources
    }

    /// A whole number from 0 to `end - 1`: `n` taken below `end` as the high half of `n end`. 0 where `end` is 0.
    pub fn below(&self, stream: Stream, frame: u64, step: u64, end: usize) -> usize {
        ((u128::from(self.random(stream, frame, step).next_u64()) * end as u128) >> 64) as usize
    }

    fn random(&self, stream: Stream, frame: u64, step: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (bytes, number) in key.chunks_exact_mut(8).zip([self.seed, stream as u64, frame, step]) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }

    fn fill(&self, stream: Stream, frame: u64, step: u64, values: &mut [f32]) {
        let mut random = self.random(stream, frame, step);
        const STEP: f64 = 1.0 / (1u64 << 53) as f64;
        for pair in values.chunks_mut(2) {
            let u = ((random.next_u64() >> 11) + 1) as f64 * STEP;
            let v = (random.next_u64() >> 11) as f64 * STEP;
            let radius = libm::sqrt(-2.0 * libm::log(u));
            let (sin, cos) = libm::sincos(TAU * v);
            pair[0] = (radius * cos) as f32;
            if let Some(second) = pair.get_mut(1) {
                *second = (radius * sin) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 1 << 15;

    fn correlation(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() / a.len() as f64
    }

    #[test]
    fn values_are_those_of_the_recipe() {
        // printed by tests/reference/noise.py, which has its own ChaCha
        let frame = |seed, stream, frame, step| Noise::new(seed).frame(stream, frame, step, 5);
        assert_eq!(frame(0, Stream::Initial, 0, 0), [-0.4045616, -0.43861607, 1.2628899, 1.1504623, 1.3425161]);
        assert_eq!(frame(42, Stream::Initial, 5, 0), [0.255481, -0.18364044, 0.17051592, -0.40638453, 0.75169706]);
        assert_eq!(frame(42, Stream::Step, 5, 49), [-0.6645084, -0.28624263, 1.0743467, -0.10810619, 0.032023143]);
        assert_eq!(
            frame(u64::MAX, Stream::Encode, 1 << 40, 7),
            [1.3691102, 1.5165108, 1.6650647, 0.51817185, 0.18422982]
        );
    }

    #[test]
    fn a_frame_depends_on_nothing_else() {
        let noise = Noise::new(7);
        let whole = noise.latents(Stream::Step, 0..9, 3, (2, 3, 5), &Device::Cpu).unwrap(); // [9, 2, 3, 5]
        assert_eq!(whole.dims(), [9, 2, 3, 5]);
        let part = noise.latents(Stream::Step, 4..6, 3, (2, 3, 5), &Device::Cpu).unwrap(); // [2, 2, 3, 5]
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&whole.narrow(0, 4, 2).unwrap()), values(&part));
        assert_eq!(values(&whole.get(8).unwrap()), noise.frame(Stream::Step, 8, 3, 30));
        // the beginning of a frame does not depend on its size
        assert_eq!(noise.frame(Stream::Step, 8, 3, 31)[..30], noise.frame(Stream::Step, 8, 3, 30));
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let alone = one.install(|| noise.latents(Stream::Step, 0..9, 3, (2, 3, 5), &Device::Cpu).unwrap());
        assert_eq!(values(&alone), values(&whole));
        assert_eq!(noise.latents(Stream::Step, 2..2, 0, (2, 3, 5), &Device::Cpu).unwrap().dims(), [0, 2, 3, 5]);
    }

    #[test]
    fn noise_is_used_again_in_blocks() {
        let noise = Noise::new(5);
        let sources = noise.used_again(100..126, 8, 3);
        assert_eq!((sources.len(), &sources[..8]), (26, &(100..108).collect::<Vec<_>>()[..]));
        let sorted = |frames: &[usize]| {
            let mut frames = frames.to_vec();
            frames.sort_unstable();
            frames
        };
        for first in (8..24).step_by(3) {
            assert_eq!(sorted(&sources[first..first + 3]), sorted(&sources[first - 8..first - 5]), "block at {first}");
        }
        // a longer video begins with the shorter one's, another seed has another order
        assert_eq!(noise.used_again(100..118, 8, 3), sources[..18]);
        assert_ne!(Noise::new(6).used_again(100..126, 8, 3), sources);
        assert_eq!(noise.used_again(0..5, 8, 3), [0, 1, 2, 3, 4]);
        assert!((0..30).any(|seed| Noise::new(seed).used_again(0..7, 4, 3)[4..] != [0, 1, 2]));
    }

    #[test]
    fn values_are_normal() {
        let values = Noise::new(42).frame(Stream::Initial, 0, 0, 8 * COUNT);
        let count = values.len() as f64;
        let moment = |power: i32| values.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / count;
        // five standard errors each: sqrt(1, 2, 15, 96 / count)
        let within =
            |got: f64, want: f64, variance: f64| assert!((got - want).abs() < 5.0 * (variance / count).sqrt(), "{got}");
        within(moment(1), 0.0, 1.0);
        within(moment(2), 1.0, 2.0);
        within(moment(3), 0.0, 15.0);
        within(moment(4), 3.0, 96.0);
        // shares beyond one and three standard deviations
        let beyond = |limit: f32| values.iter().filter(|x| x.abs() > limit).count() as f64 / count;
        within(beyond(1.0), 0.317311, 0.317311 * 0.682689);
        within(beyond(3.0), 0.002700, 0.002700);
    }

    #[test]
    fn streams_are_independent() {
        let base = Noise::new(42).frame(Stream::Initial, 0, 0, COUNT);
        let others = [
            Noise::new(43).frame(Stream::Initial, 0, 0, COUNT),
            Noise::new(42 << 32).frame(Stream::Initial, 0, 0, COUNT),
            Noise::new(42).frame(Stream::Step, 0, 0, COUNT),
            Noise::new(42).frame(Stream::Encode, 0, 0, COUNT),
            Noise::new(42).frame(Stream::Initial, 1, 0, COUNT),
            Noise::new(42).frame(Stream::Initial, 0, 1, COUNT),
            base[1..].iter().chain(&base[..1]).copied().collect(),
        ];
        let limit = 5.0 / (COUNT as f64).sqrt();
        for (index, other) in others.iter().enumerate() {
            let found = correlation(&base, other);
            assert!(found.abs() < limit, "{index}: {found}");
            // squares as well: the pairs of Box and Muller share their radius
            let square = |values: &[f32]| values.iter().map(|x| x * x - 1.0).collect::<Vec<_>>();
            let found = correlation(&square(&base), &square(other)) / 2.0;
            assert!(found.abs() < limit, "{index}, squares: {found}");
        }
        // seed, frame and step are different places of the key
        assert_ne!(Noise::new(1).frame(Stream::Initial, 2, 3, 4), Noise::new(1).frame(Stream::Initial, 3, 2, 4));
        assert_ne!(Noise::new(2).frame(Stream::Initial, 1, 0, 4), Noise::new(1).frame(Stream::Initial, 2, 0, 4));
    }
}
