//! Stable Diffusion 1.x and 2.x (arXiv 2112.10752) as video models: diffusers' folders of pictures, whose networks take the frames
//! of a video as a batch. Beside them the folders of ModelScope's text-to-video model (arXiv 2308.06571), which have the same
//! parts but for layers in time in the UNet, and those of StreamingT2V (arXiv 2403.14773), which have several such UNets, and
//! of DreamVideo-2 (arXiv 2410.13830), which put a subject into the video.

mod architecture;
mod original;
mod original_control;
mod streaming;
mod subject;
mod text_to_video;

pub use architecture::FAMILY;
pub use original::original;
pub use original_control::original_control;
pub use streaming::STREAMING;
pub use subject::SUBJECT;
pub use text_to_video::TEXT_TO_VIDEO;
