//! Equality with the reference implementations on the same random weights; goldens come from `tests/reference/`.

mod attention;
mod clip;
mod faces;
mod i3d;
mod judge;
mod lpips;
mod rife;
mod scene_cuts;
mod schedulers;
mod sd;
mod stiv;
mod streaming;
mod subject;
mod text;
mod tiny;
mod transformer;
mod u2net;
mod unet3d;
mod vae;
mod vit;
