//! Prompt-to-Prompt's word swap (Hertz et al. 2022, arXiv 2208.01626): the target uses the attention map of its source on
//! its own values. (`vidgen edit --swap` is DiTCtrl's form for joint attention, which shares keys and values instead.)

use super::control::Control;
use super::row_gather::RowGather;
use crate::attention::SiteKind;

pub static CONTROL: Control = Control {
    name: "word-swap",
    sites: &[SiteKind::Cross],
    help: "the target uses the source's attention map on its own values (Prompt-to-Prompt)",
    build: |_, builder| {
        builder.add(RowGather::word_swap());
        Ok(())
    },
    ..Control::PLAIN
};
