//! The program as a process: what users type and what they get.

mod bad_input;
mod batch;
mod conventions;
mod ditctrl;
mod doctor;
mod documents;
mod download;
mod edit;
mod eval;
mod extend;
mod interpolate;
mod maps;
mod meant;
mod offload;
mod outputs;
mod parity;
mod pictures;
mod plan;
mod program;
mod reading;
mod recipes;
mod rerun;
mod resume;
mod stages;
mod storyboards;
mod zero_shot;
