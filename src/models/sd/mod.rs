//! Stable Diffusion 1.x and 2.x (arXiv 2112.10752) as video models: diffusers' folders of pictures, whose networks take the frames
//! of a video as a batch.

mod architecture;
mod work;

pub use architecture::FAMILY;
