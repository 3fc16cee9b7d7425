//! Cross-frame attention (Text2Video-Zero, arXiv 2303.13439): every frame attends to the keys and values of one frame of its
//! own branch.

use super::control::{Control, Kind, Parameter};
use super::row_gather::{Frame, RowGather};
use crate::attention::SiteKind;

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
        builder.add(RowGather::cross_frame(frame));
        Ok(())
    },
    ..Control::PLAIN
};
