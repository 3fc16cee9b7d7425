//! Cross-frame attention (Text2Video-Zero, arXiv 2303.13439): every frame attends to the keys and values of one frame of its
//! own branch. Where the frames of a branch go through in several chunks, the first frame's keys and values are kept in a bank
//! for the chunks that follow ([`super::kv_bank`]): computed once a step, they serve all chunks, of any length. The same in
//! networks beside the denoiser: a ControlNet's frames attend to its first frame.

use super::control::{Control, Kind, Parameter};
use super::row_gather::{Frame, RowGather};
use crate::attention::SiteKind;
use anyhow::bail;

pub static CONTROL: Control = Control {
    name: "cross-frame",
    sites: &[SiteKind::SelfSpatial],
    help: "every frame attends to the keys and values of one frame (Text2Video-Zero)",
    parameters: &[Parameter {
        name: "frame",
        kind: Kind::Choice(&["first", "previous"]),
        default: "first",
        help: "first or previous",
        ..Parameter::PLAIN
    }],
    build: |values, builder| {
        let frame = if values.choice("frame")? == "first" { Frame::First } else { Frame::Previous };
        builder.everywhere();
        let gather = RowGather::cross_frame(frame);
        match builder.setting().anchor(builder.layers())? {
            Some(_) if frame == Frame::Previous => {
                bail!("cross-frame:frame=previous needs all frames in one chunk; take frame=first or a larger chunk")
            }
            Some(bank) => {
                builder.add(bank);
                builder.add(gather.behind_bank());
            }
            None => builder.add(gather),
        }
        Ok(())
    },
    ..Control::PLAIN
};
