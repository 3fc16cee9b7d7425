//! Keys and values shared between windows (DiTCtrl, arXiv 2412.18597): a window attends to those of the window before it, of
//! an edit the edited version to its source's. With a subject, foreground reads foreground and background reads background
//! ([`super::key_mask`]). Rows that meet in a pass share in it ([`super::row_gather`]), others through a bank
//! ([`super::kv_bank`]).

use super::attention_map::{AttentionMap, AttentionMaps};
use super::builder::Builder;
use super::control::{Control, Kind, Parameter, Values};
use super::key_mask::KeyMask;
use super::row_gather::RowGather;
use crate::attention::SiteKind;
use anyhow::Result;

pub static CONTROL: Control = Control {
    name: "kv-share",
    sites: &[SiteKind::Joint, SiteKind::SelfSpatial],
    help: "a window attends to the keys and values of the window before it (edit: the target to the source's)",
    parameters: &[
        Parameter {
            name: "subject",
            kind: Kind::Words,
            help: "words that part foreground from background: mask-guided sharing",
            ..Parameter::PLAIN
        },
        Parameter {
            name: "threshold",
            kind: Kind::Number(0.0..=1.0),
            default: "0.3",
            help: "share of a frame's peak from which a place is foreground",
            of: Some("subject"),
            ..Parameter::PLAIN
        },
    ],
    joins_windows: true,
    build,
    ..Control::PLAIN
};

/// The share of a frame's peak from which a place belongs to the subject, in DiTCtrl's code and paper.
pub const THRESHOLD: f64 = 0.3;

/// Takes the words of the subject and its threshold out of a specification that names them.
///
/// # Errors
/// When the values are another control's.
pub fn take_subject(values: &mut Values) -> Result<Option<(Vec<String>, f64)>> {
    let threshold = values.number("threshold")?;
    Ok(values.take_words("subject").map(|words| (words, threshold)))
}

fn build(values: &Values, builder: &mut Builder) -> Result<()> {
    let bank = builder.setting().bank(builder.layers())?;
    let banked = bank.is_some();
    match bank {
        Some(bank) => builder.add(bank),
        None => builder.add(RowGather::kv_sharing()),
    }
    let subject = builder.setting().subject(values.words("subject")?, values.number("threshold")?)?;
    if let Some(subject) = subject {
        let maps = AttentionMaps::default();
        builder.record(AttentionMap::new(&maps, subject.words));
        let mask = KeyMask::new(&maps, subject.threshold);
        builder.add(if banked { mask.with_bank() } else { mask });
    }
    Ok(())
}
