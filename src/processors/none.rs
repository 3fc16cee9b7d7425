//! No control: what the recipe has by itself is left out.

use super::control::Control;
use crate::attention::SiteKind;

pub static CONTROL: Control = Control {
    name: "none",
    sites: &[SiteKind::Joint, SiteKind::SelfSpatial, SiteKind::Cross, SiteKind::Temporal],
    help: "leaves out the controls that the recipe has by itself",
    clears: true,
    ..Control::PLAIN
};
